"""The pages for a person: each gathers what is known, and shows the rest as missing.

What the daemon itself knows is shown whether the store is there or not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, urlencode

import trio
from quart import request

from app.agents.days import start_of_day
from app.store.protocol import (
    FINAL_STATUSES,
    NOT_OVER,
    TO_BE_RETRIED,
    AgentRow,
    ApprovalRow,
    ApprovalStatus,
    CostSum,
    MemoryRow,
    RunRow,
    StoreError,
    TaskRow,
    TaskStatus,
    TaskSum,
    ToolCall,
    ToolStats,
    Turn,
    WorkerRow,
)
from app.web.charts import day_edges, last_days, spend_charts, task_charts
from app.web.inputs import TaskFilter, is_id, parse_query
from app.web.overview import (
    Action,
    AgentLine,
    actions_elsewhere,
    agent_lines,
    next_first,
    node,
    routine_actions,
    summary,
    task_actions,
)
from app.web.page import Kept, Rendered, Templates
from app.web.problems import NOTHING_HERE, SOMETHING_WRONG, Problem, answer_http_error
from app.web.routes import get, page, routes_of
from app.web.shapes import restart_of
from app.web.spend import DaySpend, bars
from app.web.spending import Spending
from app.web.task_search import find_tasks
from app.web.transcript import transcript
from app.web.views import STORE_TIMEOUT
from app.web.words import as_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from quart import Response
    from werkzeug.datastructures import MultiDict
    from werkzeug.exceptions import InternalServerError, NotFound

    from actp_supervise.clock import WallClock
    from app.daemon import Daemon
    from app.event_log import LoggedEvent
    from app.status import AgentStatus
    from app.web.login import LoginNeeded

T = TypeVar("T")

EVENTS_SHOWN: Final = 50
"""Events that a page lists, the newest first."""

LINES_SHOWN: Final = 100
"""Log lines that an agent's page lists, the newest."""

LATEST_TASKS: Final = 8
"""Tasks that the first page and an agent's list."""

LONGEST_TRANSCRIPT: Final = 500
"""Turns of a conversation that are shown."""

MOST_APPROVALS: Final = 100
"""Approvals that wait, and that were decided, which their page lists."""

BAR_WIDTH: Final = 20.0
"""Units of the plot that a day takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownOfAll:
    """What the store knows that the overview shows; None for what it refused."""

    counts: Mapping[str, Mapping[TaskStatus, int]] | None
    oldest: Mapping[str, float] | None
    costs: Sequence[CostSum] | None
    latest: Sequence[TaskRow] | None
    workers: Sequence[WorkerRow] | None
    registered: Sequence[AgentRow] | None
    approvals: int | None
    """How many wait for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownOfAgent:
    """What the store knows of an agent; None for what it refused."""

    runs: Sequence[RunRow] | None
    tools: Sequence[ToolStats] | None
    days: Sequence[DaySpend] | None
    memories: Sequence[MemoryRow] | None
    latest: Sequence[TaskRow] | None
    rows: Sequence[AgentRow] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownOfTask:
    """What the store knows of the conversation about a task; None for what it refused."""

    turns: Sequence[Turn] | None
    calls: Sequence[ToolCall] | None
    approvals: Sequence[ApprovalRow] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownOfDays:
    """What the store knows of the last days; None for what it refused."""

    history: Sequence[TaskSum] | None
    costs: Sequence[CostSum] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownOfApprovals:
    """What the store knows of approvals; None for what it refused."""

    waiting: Sequence[ApprovalRow] | None
    latest: Sequence[ApprovalRow] | None


class Pages:
    """What a browser is shown.

    Args:
        daemon: The running daemon's parts.
        wall_clock: Tells the time of day; the daemon's, which follows the store's, where not
            given.
    """

    def __init__(self, daemon: Daemon, wall_clock: WallClock | None = None) -> None:
        self._daemon = daemon
        self._wall_clock = daemon.clock if wall_clock is None else wall_clock
        self._templates = Templates(daemon.redact, demo=daemon.settings.demo)
        self._kept = Kept()
        self._spending = Spending(daemon.settings.timezone)

    async def nowhere(self, error: NotFound) -> Response:
        """Answer where there is nothing: a browser with a page, a program with a problem."""
        accepted = request.accept_mimetypes.best_match(["application/problem+json", "text/html"])
        if request.url_rule is not None or accepted != "text/html":
            return await answer_http_error(error)
        return self._render("error.html", 404, detail=NOTHING_HERE).response()

    async def login(self, error: LoginNeeded) -> Response:
        """Answer who may not read: a browser with a page that asks for the token."""
        accepted = request.accept_mimetypes.best_match(["application/problem+json", "text/html"])
        if request.method != "GET" or accepted != "text/html":
            return error.response()
        response = self._templates.render("login.html", error.status).response()
        response.headers.update(error.headers)
        return response

    async def broken(self, error: InternalServerError) -> Response:
        """Answer for a page that failed, as is logged by now: with a page if one can be made."""
        rule = request.url_rule
        parts: tuple[type[object], ...] = (Pages, *Pages.__subclasses__())
        if rule is not None and rule.rule in {
            route.rule for part in parts for route, _ in routes_of(part)
        }:
            # What every page shows may be what failed.
            with suppress(Exception):
                return self._render("error.html", 500, detail=SOMETHING_WRONG).response()
        return await answer_http_error(error)

    @get("/static/<name>", "A file of the pages", answers={200: "*/*", 304: ""}, problems=(404,))
    async def _asset(self, name: str) -> Response:
        return await self._templates.asset(name, request)

    @page(
        "/",
        "The overview",
        id="overview_page",
        flags=(("agent", "Limits the events to those of one agent."),),
    )
    async def _index(self) -> Response:
        agent_id = request.args.get("agent")
        if agent_id not in self._daemon.supervisor.get_status():
            agent_id = None
        steps = "steps" in request.args
        return await self._page(
            f"/?agent={agent_id}&{steps=}", partial(self._render_index, agent_id, steps)
        )

    @page("/ui/agents/<agent_id>", "The page of an agent", 404, 503, id="agent_page")
    async def _agent(self, agent_id: str) -> Response:
        steps = "steps" in request.args
        return await self._page(
            f"agent {agent_id} {steps=}", partial(self._render_agent, agent_id, steps)
        )

    @page("/ui/tasks", "The tasks", 422, 503, id="tasks_page", query=TaskFilter)
    async def _tasks(self) -> Response:
        return await self._page(
            f"tasks {request.query_string!r}", partial(self._render_tasks, request.args)
        )

    @page("/ui/tasks/<task_id>", "The page of a task", 404, 503, id="task_page")
    async def _task(self, task_id: str) -> Response:
        return await self._page(f"task {task_id}", partial(self._render_task, task_id))

    @page(
        "/ui/approvals", "What waits for approval, and what was decided", 503, id="approvals_page"
    )
    async def _approvals(self) -> Response:
        return await self._page("approvals", self._render_approvals)

    @page("/ui/charts", "Tasks, waits and spend of the last days", 503, id="charts_page")
    async def _charts(self) -> Response:
        return await self._page("charts", self._render_charts)

    async def _page(self, address: str, render: Callable[[], Awaitable[Rendered]]) -> Response:
        async def render_whatever_happens() -> Rendered:
            try:
                return await render()
            except Problem as problem:
                return self._render("error.html", problem.status, detail=problem.detail)
            except StoreError:
                detail = "The store cannot be reached just now, and it alone knows this."
                return self._render("error.html", 503, detail=detail)

        return (await self._kept.get(address, render_whatever_happens)).response()

    def _render(self, template: str, status: int = 200, **state: Any) -> Rendered:  # noqa: ANN401
        daemon = self._daemon
        return self._templates.render(
            template,
            status,
            now=self._wall_clock.now(),
            worker_id=daemon.settings.worker_id,
            health=daemon.health(),
            stopping=daemon.stopping,
            timezone=daemon.settings.timezone,
            task_actions=task_actions,
            **state,
        )

    async def _render_index(self, agent_id: str | None, steps: bool) -> Rendered:  # noqa: FBT001
        daemon, store, now = self._daemon, self._daemon.store, self._wall_clock.now()
        today = start_of_day(now, daemon.settings.timezone)
        known = await self._ask(
            KnownOfAll,
            counts=store.count_tasks,
            oldest=store.oldest_queued,
            costs=partial(store.costs, since=today),
            latest=partial(store.tasks, limit=LATEST_TASKS),
            workers=store.live_workers,
            registered=store.agents,
            approvals=store.count_waiting_approvals,
        )
        spent: dict[str, float] = defaultdict(float)
        costs = known.costs if known else None
        for cost in costs or ():
            spent[cost.agent_id] += cost.cost_usd
        statuses = daemon.supervisor.get_status()
        budgets = {agent.agent_id: agent.daily_budget_usd for agent in daemon.settings.agents}
        agents = agent_lines(
            statuses.values(), now, spent=None if costs is None else spent, budgets=budgets
        )
        oldest = (known and known.oldest) or {}
        limits = [agent.budget for agent in agents if agent.status.enabled]
        return self._render(
            "index.html",
            agents=agents,
            summary=summary(agents),
            spent=None if costs is None else sum(spent.values()),
            budget=sum(filter(None, limits)) if limits and all(limits) else None,
            tree=node(daemon.tree(), now),
            jobs=[(job, routine_actions(job)) for job in next_first(daemon.routines.jobs())],
            known=known,
            oldest={agent_id: now - timedelta(seconds=age) for agent_id, age in oldest.items()},
            up_since=now - timedelta(seconds=daemon.uptime),
            elsewhere=_elsewhere(statuses, (known and known.registered) or ()),
            store=daemon.store.where,
            events=self._events(agent_id, steps=steps),
            chosen=agent_id,
            steps=steps,
            address=addresses("/", agent=agent_id, steps="yes" if steps else None),
        )

    async def _render_agent(self, agent_id: str, steps: bool) -> Rendered:  # noqa: FBT001
        daemon, store, now = self._daemon, self._daemon.store, self._wall_clock.now()
        statuses = daemon.supervisor.get_status()
        if agent_id not in statuses:
            raise Problem(404, f"There is no such agent; known are {', '.join(statuses)}.")
        known = await self._ask(
            KnownOfAgent,
            runs=partial(store.runs, agent_id),
            tools=partial(store.tool_stats, agent_id),
            days=partial(self._spending.by_day, store, now, agent_id),
            memories=partial(store.recall, agent_id),
            latest=partial(store.tasks, agent_type=agent_id, limit=LATEST_TASKS),
            rows=store.agents,
        )
        rows = (known and known.rows) or ()
        budgets = {agent.agent_id: agent.daily_budget_usd for agent in daemon.settings.agents}
        days = list((known and known.days) or ())
        spent = days[-1].cost_usd if days else None
        (agent,) = agent_lines(
            [statuses[agent_id]],
            now,
            spent=None if spent is None else {agent_id: spent},
            budgets=budgets,
        )
        return self._render(
            "agent.html",
            agent=agent,
            jobs=[
                (job, routine_actions(job))
                for job in next_first(daemon.routines.jobs())
                if job.agent_id == agent_id
            ],
            known=known,
            restart=next((restart_of(row) for row in rows if row.agent_id == agent_id), None),
            tools=daemon.supervisor.tools(agent_id),
            lines=daemon.lines.of(agent_id, limit=LINES_SHOWN),
            days=days,
            bars=bars(days, BAR_WIDTH),
            events=self._events(agent_id, steps=steps),
            steps=steps,
            address=addresses(f"/ui/agents/{quote(agent_id, safe='')}"),
        )

    async def _render_tasks(self, args: MultiDict[str, str]) -> Rendered:
        wanted = parse_query(TaskFilter, args)
        daemon = self._daemon
        page = await self._in_time(
            partial(
                find_tasks,
                daemon.store,
                wanted,
                timezone=daemon.settings.timezone,
                redact=daemon.redact,
            )
        )
        agent_ids = list(daemon.supervisor.get_status())
        repeated = wanted.model_dump(include={"agent_type", "status", "limit"}, exclude_unset=True)
        if not page.tasks and wanted.agent_type not in agent_ids:  # then it may be anything
            repeated.pop("agent_type", None)
        return self._render(
            "tasks.html",
            tasks=page.tasks,
            next=page.next,
            wanted=wanted,
            searched=bool({"q", "since", "until"} & wanted.model_fields_set),
            not_over=NOT_OVER,
            to_be_retried=TO_BE_RETRIED,
            address=addresses("/ui/tasks", **repeated),
            agent_ids=agent_ids,
        )

    async def _render_approvals(self) -> Rendered:
        store = self._daemon.store
        known = await self._ask(
            KnownOfApprovals,
            waiting=partial(store.approvals, status=ApprovalStatus.WAITING, limit=MOST_APPROVALS),
            latest=partial(store.approvals, limit=MOST_APPROVALS),
        )
        if known is None or known.waiting is None or known.latest is None:
            raise StoreError("the store does not answer in time")
        return self._render(
            "approvals.html",
            waiting=list(reversed(known.waiting)),
            decided=[row for row in known.latest if row.status is not ApprovalStatus.WAITING],
        )

    async def _render_charts(self) -> Rendered:
        store, zone = self._daemon.store, self._daemon.settings.timezone
        now = self._wall_clock.now()
        days = last_days(now, zone)
        edges = day_edges(days, zone)
        known = await self._ask(
            KnownOfDays,
            history=partial(store.task_history, edges),
            costs=partial(self._spending.costs, store, now),
        )
        if known is None:
            raise StoreError("the store does not answer in time")
        groups = [
            ("Tasks", None if known.history is None else task_charts(known.history, days, zone)),
            ("Spend", None if known.costs is None else spend_charts(known.costs, days)),
        ]
        return self._render("charts.html", days=days, groups=groups)

    async def _render_task(self, task_id: str) -> Rendered:
        store = self._daemon.store
        task = await self._in_time(partial(store.task, task_id)) if is_id(task_id) else None
        if task is None:
            raise Problem(404, "There is no such task.")
        known = await self._ask(
            KnownOfTask,
            turns=partial(store.turns, task_id, limit=LONGEST_TRANSCRIPT),
            calls=partial(store.tool_calls, task_id=task_id, limit=LONGEST_TRANSCRIPT),
            approvals=partial(store.approvals, task_id=task_id),
        )
        turns, calls = (known.turns, known.calls) if known else (None, None)
        steps = transcript(turns or [], reversed(calls or []))
        status = self._daemon.supervisor.get_status().get(task.agent_type)
        return self._render(
            "task.html",
            task=task,
            steps=steps,
            known=turns is not None,
            approvals=list(reversed((known and known.approvals) or [])),
            doing=status.health.doing if status and status.health.task_id == task_id else None,
            agent=status and AgentLine(status=status, now=self._wall_clock.now()),
            agents=self._agents_by_name(),
            final=task.status in FINAL_STATUSES,
            has_secret=self._has_secret(task),
        )

    def _agents_by_name(self) -> list[AgentLine]:
        statuses, now = self._daemon.supervisor.get_status(), self._wall_clock.now()
        return [AgentLine(status=statuses[name], now=now) for name in sorted(statuses)]

    def _has_secret(self, task: TaskRow) -> bool:
        shown = f"{task.goal}\n{as_json(task.context)}"
        return self._daemon.redact(shown) != shown

    def _events(self, agent_id: str | None, *, steps: bool) -> list[LoggedEvent]:
        log = self._daemon.events
        events = [
            event
            for event in (log.recent() if steps else log.without_steps())
            if agent_id is None or event.agent_id == agent_id
        ]
        return events[: -EVENTS_SHOWN - 1 : -1]

    async def _ask(self, kind: type[T], **questions: Callable[[], Awaitable[object]]) -> T | None:
        """Ask the store several things at once.

        Args:
            kind: What the answers make; a field is None for what the store refused, as where a
                table is missing.
            questions: What to ask, by the fields of `kind`.

        Returns:
            The answers; None where the store answers nothing in time.
        """
        answers: dict[str, object] = dict.fromkeys(questions)

        async def ask(name: str, question: Callable[[], Awaitable[object]]) -> None:
            with suppress(StoreError):
                answers[name] = await question()

        with trio.move_on_after(STORE_TIMEOUT):
            async with trio.open_nursery() as nursery:
                for name, question in questions.items():
                    nursery.start_soon(ask, name, question)
        return None if all(answer is None for answer in answers.values()) else kind(**answers)

    async def _in_time(self, question: Callable[[], Awaitable[T]]) -> T:
        """Ask the store one thing without which there is nothing to show."""
        with trio.move_on_after(STORE_TIMEOUT):
            return await question()
        raise StoreError("the store does not answer in time")


def _elsewhere(
    here: Mapping[str, AgentStatus], registered: Sequence[AgentRow]
) -> dict[str, tuple[Action, ...]]:
    """Return what can be done about the agents that only other daemons run."""
    return {
        row.agent_id: actions_elsewhere(row.agent_id, paused=row.paused_at is not None)
        for row in registered
        if row.agent_id not in here
        or not here[row.agent_id].enabled
        or here[row.agent_id].runs_on is not None
    }


def addresses(path: str, **query: object) -> Callable[..., str]:
    """Return what makes a page's address with some of its query changed; None leaves one out."""

    def address(**changes: object) -> str:
        shown = {name: value for name, value in (query | changes).items() if value is not None}
        return f"{path}?{urlencode(shown)}" if shown else path

    return address
