"""The addresses of the HTTP API: each parses what it gets, calls the daemon, and answers."""

from __future__ import annotations

import dataclasses
import logging
import re
import uuid
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from quart import Response, request
from werkzeug.exceptions import MethodNotAllowed

from app.health import served_by, why_unserved
from app.logged_lines import LogLine
from app.status import AgentState, AgentStatus, Alive, Health, HealthState, JobStatus
from app.store.protocol import (
    NOT_OVER,
    TO_BE_RETRIED,
    ApprovalRow,
    ApprovalStatus,
    StoreError,
    TaskRow,
    TaskStatus,
    Turn,
    WorkerRow,
)
from app.web import guard
from app.web.inputs import (
    ApprovalFilter,
    BulkRequest,
    Decision,
    LogFilter,
    Said,
    TaskFilter,
    TaskRequest,
    TimeOfRoutine,
    TurnFilter,
    is_id,
    parse_body,
    parse_query,
)
from app.web.next_page import link_to_next
from app.web.problem_details import FieldError
from app.web.problems import Problem, unprocessable
from app.web.routes import ViewT, get, post, put
from app.web.shapes import (
    Action,
    AgentCommand,
    AgentDetail,
    JobCommand,
    PostedTask,
    Ready,
    SupervisorNode,
    TaskNumber,
    restart_of,
)
from app.web.spending import Spending
from app.web.task_search import find_tasks, which_tasks
from app.web.views import STORE_TIMEOUT, answer, json_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from app.daemon import Daemon
    from app.web.commands import Commands
    from app.web.spend import DaySpend

logger = logging.getLogger(__name__)

_IDEMPOTENCY: Final = uuid.UUID("5f2a1c0e-3b0d-5c57-9d0b-6f6b8f1f7c11")
"""Where ids of tasks made from an Idempotency-Key live."""


_AGENT_GONE: Final = (404, 409, 503)

OPERATOR: Final = "an operator"
"""Who says something where nobody gives a name."""


def _command(action: Action, summary: str, details: str = "") -> Callable[[ViewT], ViewT]:
    return post(
        f"/agents/<agent_id>/{action}",
        summary,
        id=f"{action}_agent",
        details=details,
        answers={202: AgentCommand},
        problems=(400, 422, *_AGENT_GONE),
        body=Said,
        needs_body=False,
    )


def _one_agent(rule: str, **facts: str) -> Callable[[ViewT], ViewT]:
    return get(
        rule, "One agent, with its runs, tools and spend", AgentDetail, problems=(404, 503), **facts
    )


class Api:
    """What answers at each address.

    Args:
        daemon: The running daemon's parts.
        commands: Takes what lasts longer than a request.
    """

    def __init__(self, daemon: Daemon, commands: Commands) -> None:
        self._daemon = daemon
        self._commands = commands
        self._spending = Spending(daemon.settings.timezone)

    @get(
        "/health",
        "How the daemon is, and why",
        details="200 while it is healthy or degraded, 503 when it is critical.",
        answers={200: Health, 503: Health},
    )
    async def _health(self) -> Response:
        health = self._daemon.health()
        return answer(health, 503 if health.status is HealthState.CRITICAL else 200)

    @get("/livez", "Whether the daemon answers at all", Alive)
    async def _livez(self) -> Response:
        return answer(Alive())

    @get(
        "/readyz",
        "Whether tasks can be taken",
        Ready,
        problems=(503,),
        flags=(("verbose", "Lists the checks."),),
    )
    async def _readyz(self) -> Response:
        checks = await self._readiness()
        wrong = [name for name, fault in checks.items() if fault is not None]
        if wrong:
            raise Problem(503, "Not ready: " + ", ".join(f"{n} ({checks[n]})" for n in wrong) + ".")
        if "verbose" not in request.args:
            return answer(Ready())
        return answer(Ready(checks=dict.fromkeys(checks, "ok")))

    async def _readiness(self) -> dict[str, str | None]:
        """Return each check with what is wrong, None where nothing is."""
        store: str | None = "does not answer"
        with trio.move_on_after(STORE_TIMEOUT):
            try:
                await self._daemon.store.ping()
                is_away = self._daemon.records.away_because is not None
                store = "cannot be written to" if is_away else None
            except StoreError:
                store = "cannot be reached"
        return {"daemon": self._phase(), "store": store}

    def _phase(self) -> str | None:
        """Return what the daemon is about when it is not simply running."""
        if self._daemon.stopping:
            return "is stopping"
        statuses = self._daemon.supervisor.get_status().values()
        starting = any(status.status is AgentState.STARTING for status in statuses)
        return "is starting" if starting else None

    @get("/tree", "Everything that runs, as the tree of supervisors that it is", SupervisorNode)
    async def _tree(self) -> Response:
        return answer(self._daemon.tree().to_dict())

    @get("/workers", "The daemons that share the store", list[WorkerRow], problems=(503,))
    async def _workers(self) -> Response:
        return answer(await self._daemon.store.live_workers())

    @get("/agents", "All agents", list[AgentStatus], details="Works while the store is away.")
    async def _agents(self) -> Response:
        return answer(list(self._daemon.supervisor.get_status().values()))

    @_one_agent("/agents/<agent_id>")
    @_one_agent("/agents/<agent_id>/status", id="agent_status")
    async def _agent(self, agent_id: str) -> Response:
        status = self._status(agent_id)
        runs = await self._daemon.store.runs(agent_id)
        tools = await self._daemon.store.tool_stats(agent_id)
        spend = await self._spend(agent_id)
        known = {field.name: getattr(status, field.name) for field in dataclasses.fields(status)}
        has = list(self._daemon.supervisor.tools(agent_id))
        rows = await self._daemon.store.agents()
        restart = next((restart_of(row) for row in rows if row.agent_id == agent_id), None)
        return answer(
            AgentDetail(
                **known, restart=restart, runs=runs, tool_stats=tools, tools=has, spend=spend
            )
        )

    async def _spend(self, agent_id: str) -> list[DaySpend]:
        store = self._daemon.store
        return await self._spending.by_day(store, await store.ping(), agent_id)

    @get(
        "/agents/<agent_id>/log",
        "What an agent's code has logged, or its process printed, line by line",
        list[LogLine],
        id="agent_log",
        details="The newest that are kept, the oldest of them first; in this daemon alone.",
        problems=(404, 422),
        query=LogFilter,
    )
    async def _log(self, agent_id: str) -> Response:
        wanted = parse_query(LogFilter, request.args)
        self._status(agent_id)
        return answer(self._daemon.lines.of(agent_id, after=wanted.after, limit=wanted.limit))

    @_command(
        "restart",
        "Restart an agent",
        "The restart has begun. Asked again while it goes on, it is the same one. One that only "
        "other daemons run is restarted by them, within seconds.",
    )
    async def _restart(self, agent_id: str) -> Response:
        by = await _said_by()
        if not self._is_here(agent_id):
            ask = partial(self._daemon.store.set_needs_restart, value=True, by=by)
            return await self._tell_elsewhere("restart", agent_id, ask)
        restart = partial(self._daemon.supervisor.restart_as_told, by=by)
        return self._command("restart", agent_id, restart)

    @get(
        "/agents/<agent_id>/restart",
        "The same, for what can only follow a link",
        id="restart_agent_by_link",
        details="Prefer POST. The same rules hold. Neither a HEAD nor a browser restarts anything.",
        answers={202: AgentCommand},
        problems=_AGENT_GONE,
        changes=True,
    )
    async def _restart_by_get(self, agent_id: str) -> Response:
        if request.method != "GET":  # HEAD comes with GET, and must not change anything
            raise MethodNotAllowed(["GET", "POST"])
        guard.check_no_browser(request)
        guard.check_change(request, self._daemon.settings.api_token)
        return await self._restart(agent_id)

    @_command(
        "stop", "Stop an agent", "It finishes what it does and stays stopped until it is started."
    )
    async def _stop(self, agent_id: str) -> Response:
        await _said_by()
        return self._command("stop", agent_id, self._daemon.supervisor.stop_agent)

    @_command("start", "Start an agent that was stopped")
    async def _start(self, agent_id: str) -> Response:
        await _said_by()
        return self._command("start", agent_id, self._daemon.supervisor.start_agent)

    @_command(
        "pause",
        "Let an agent take no new task",
        "What is in flight goes on. It lasts over restarts, until it is resumed. While the "
        "database is away it holds here at once, and is forgotten where the daemon ends before "
        "that is back.",
    )
    async def _pause(self, agent_id: str) -> Response:
        by = await _said_by() or OPERATOR
        if not self._is_here(agent_id):
            hold = partial(self._daemon.store.set_paused, by=by)
            return await self._tell_elsewhere("pause", agent_id, hold)
        pause = partial(self._daemon.supervisor.pause_agent, by=by)
        return await self._hold("pause", agent_id, pause)

    @_command("resume", "Let an agent take tasks again")
    async def _resume(self, agent_id: str) -> Response:
        await _said_by()
        if not self._is_here(agent_id):
            release = partial(self._daemon.store.set_paused, by=None)
            return await self._tell_elsewhere("resume", agent_id, release)
        health = self._status(agent_id).health
        if health.paused is not None and not health.held:
            detail = (
                f"Agent {agent_id!r} paused itself: {health.paused}. Restarted, it tries again."
            )
            raise Problem(409, detail)
        return await self._hold("resume", agent_id, self._daemon.supervisor.resume_agent)

    def _command(
        self, action: Action, agent_id: str, command: Callable[[str], Awaitable[object]]
    ) -> Response:
        """Begin a command to an agent and answer at once."""
        status = self._commandable(agent_id)
        self._commands.begin(f"{action} {agent_id}", partial(command, agent_id))
        return _accepted(action, agent_id, status)

    async def _hold(
        self, action: Action, agent_id: str, hold: Callable[[str], Awaitable[object]]
    ) -> Response:
        """Pause or resume an agent: here at once, elsewhere within seconds."""
        status = self._commandable(agent_id)
        logger.info("Asked over HTTP: %s %s", action, agent_id, extra={"action": "command"})
        await hold(agent_id)
        return _accepted(action, agent_id, status)

    def _is_here(self, agent_id: str) -> bool:
        """Return whether this daemon is to run an agent, and no other one has it alone."""
        status = self._daemon.supervisor.get_status().get(agent_id)
        return status is not None and status.enabled and status.runs_on is None

    async def _tell_elsewhere(
        self, action: Action, agent_id: str, tell: Callable[[str], Awaitable[bool]]
    ) -> Response:
        """Tell an agent something that other daemons run; they hear of it with their next beat."""
        registered = {agent.agent_id: agent for agent in await self._daemon.store.agents()}
        workers = await self._daemon.store.live_workers()
        others = [each for each in workers if each.worker_id != self._daemon.settings.worker_id]
        # One that no other daemon has is as it is here: unknown, or disabled.
        if agent_id not in registered or not any(agent_id in each.agents for each in others):
            self._commandable(agent_id)
        elif await tell(agent_id):
            logger.info("Asked over HTTP: %s %s", action, agent_id, extra={"action": "command"})
            return _accepted(action, agent_id, _reported(registered[agent_id].status))
        raise Problem(409, f"Agent {agent_id!r} is not registered any more.")

    def _commandable(self, agent_id: str) -> AgentState:
        """Return the status of an agent that can be told something."""
        status = self._status(agent_id)
        if not status.enabled:
            raise Problem(409, f"Agent {agent_id!r} is disabled: {status.why_disabled}.")
        if self._daemon.stopping:
            raise Problem(503, "The daemon is stopping.")
        return status.status

    def _status(self, agent_id: str) -> AgentStatus:
        statuses = self._daemon.supervisor.get_status()
        if agent_id not in statuses:
            raise Problem(404, f"There is no such agent; known are {', '.join(statuses)}.")
        return statuses[agent_id]

    @post(
        "/agents/task",
        "Post a task",
        tag="Tasks",
        details="Its agent begins at once if idle; `warning` says why no daemon will do it. "
        "200 with the task that has its `unique_key`.",
        answers={200: TaskRow, 201: PostedTask},
        problems=(400, 409, 422, 503),
        headers=("Idempotency-Key",),
        body=TaskRequest,
    )
    async def _post_task(self) -> Response:
        wanted = parse_body(TaskRequest, await json_body())
        task_id = _task_id(request.headers.get("Idempotency-Key"))
        store, supervisor = self._daemon.store, self._daemon.supervisor
        local = supervisor.get_status()
        known = local.keys() | {agent.agent_id for agent in await store.agents()}
        if wanted.agent_type not in known:
            detail = f"Unknown agent; known are {', '.join(sorted(known))}"
            raise unprocessable([FieldError(field="agent_type", detail=detail)])
        task = await store.add_task(
            task_id,
            wanted.agent_type,
            wanted.goal,
            context=wanted.context,
            priority=wanted.priority,
            max_attempts=wanted.max_attempts,
            not_before=wanted.not_before,
            timeout=wanted.timeout,
            unique_key=wanted.unique_key,
        )
        if task.id != task_id:  # one of its kind waits or runs
            return answer(task, 200, Location=f"/tasks/{task.id}")
        # When it may begin changes with each attempt.
        if any(getattr(task, name) != value for name, value in wanted if name != "not_before"):
            raise Problem(409, "That Idempotency-Key came with another task before.")
        self._wake(task)
        known_of_it = {each.name: getattr(task, each.name) for each in dataclasses.fields(task)}
        warning = await self._why_unserved(task)
        if warning is not None:
            self._daemon.work.note_unserved(task.agent_type)
        posted = PostedTask(**known_of_it, warning=warning)
        return answer(posted, 201, Location=f"/tasks/{task.id}")

    async def _why_unserved(self, task: TaskRow) -> str | None:
        """Return why no daemon does a queued task; None where one does."""
        agent_id = task.agent_type
        why = why_unserved(agent_id, self._daemon.supervisor.get_status().get(agent_id))
        if why is None or task.status is not TaskStatus.QUEUED:
            return None
        try:
            workers = await self._daemon.store.live_workers()
        except StoreError:  # the task is queued, and that is what counts
            workers = []
        # This daemon's own row may be older than what it says of itself.
        others = [each for each in workers if each.worker_id != self._daemon.settings.worker_id]
        if served_by(agent_id, others):
            return None
        return f"Nobody does it as things are: {why}. It waits in the queue."

    @get("/agents/task", refuses=True)
    async def _post_only(self) -> Response:
        raise MethodNotAllowed(["POST"])

    @get(
        "/tasks",
        "Tasks, the newest first",
        list[TaskRow],
        details='Page by page: the address of the next one is in `Link`, as `rel="next"`.',
        problems=(422, 503),
        query=TaskFilter,
        has_pages=True,
    )
    async def _tasks(self) -> Response:
        wanted, daemon = parse_query(TaskFilter, request.args), self._daemon
        page = await find_tasks(
            daemon.store, wanted, timezone=daemon.settings.timezone, redact=daemon.redact
        )
        return answer(page.tasks, 200, **link_to_next("/tasks", wanted, page.next))

    @get("/tasks/<task_id>", "One task", TaskRow, problems=(404, 503))
    async def _task(self, task_id: str) -> Response:
        return answer(await self._found(self._daemon.store.task, task_id))

    @get(
        "/tasks/<task_id>/turns",
        "The conversation about a task, turn by turn",
        list[Turn],
        details="The oldest first; `after` gives those behind one that is known.",
        problems=(404, 422, 503),
        query=TurnFilter,
    )
    async def _turns(self, task_id: str) -> Response:
        wanted = parse_query(TurnFilter, request.args)
        await self._found(self._daemon.store.task, task_id)
        return answer(await self._daemon.store.turns(task_id, **dict(wanted)))

    @post(
        "/tasks/<task_id>/cancel",
        "Cancel a task",
        details="200 when it is cancelled, 202 when its agent was asked to end it.",
        answers={200: TaskRow, 202: TaskRow},
        problems=(404, 409, 503),
    )
    async def _cancel_task(self, task_id: str) -> Response:
        task = await self._found(self._daemon.store.cancel_task, task_id)
        if task.status is TaskStatus.CANCELLED:
            return answer(task)
        if task.cancel_requested and task.status is TaskStatus.RUNNING:
            self._wake(task)
            return answer(task, 202, Location=f"/tasks/{task.id}")
        raise Problem(409, f"The task is over: it {task.status}.")

    @post(
        "/tasks/<task_id>/retry",
        "Queue a task again that failed or was cancelled",
        TaskRow,
        problems=(404, 409, 503),
    )
    async def _retry_task(self, task_id: str) -> Response:
        task = await self._found(self._daemon.store.retry_task, task_id)
        if task.status is not TaskStatus.QUEUED:
            raise Problem(
                409, f"Only what failed or was cancelled is retried; it is {task.status}."
            )
        self._wake(task)
        return answer(task)

    @post(
        "/tasks/retry",
        "Queue tasks again that failed or were cancelled",
        tag="Tasks",
        details="All that the filter fits; an empty one fits all.",
        answers={200: TaskNumber},
        problems=(400, 422, 503),
        body=BulkRequest,
    )
    async def _retry_tasks(self) -> Response:
        return await self._in_bulk(self._daemon.store.retry_tasks, TO_BE_RETRIED)

    @post(
        "/tasks/cancel",
        "Cancel tasks that wait, and ask agents to end those that run",
        tag="Tasks",
        details="All that the filter fits; an empty one fits all.",
        answers={200: TaskNumber},
        problems=(400, 422, 503),
        body=BulkRequest,
    )
    async def _cancel_tasks(self) -> Response:
        return await self._in_bulk(self._daemon.store.cancel_tasks, NOT_OVER)

    async def _in_bulk(
        self, verb: Callable[..., Awaitable[int]], among: Sequence[TaskStatus]
    ) -> Response:
        wanted = parse_body(BulkRequest, await json_body())
        which = which_tasks(wanted, self._daemon.settings.timezone)
        if wanted.dry_run:
            tasks = await self._daemon.store.count_matching(which, among, limit=wanted.limit)
        else:
            tasks = await verb(which, limit=wanted.limit)
        return answer(TaskNumber(tasks=tasks))

    async def _found(
        self, verb: Callable[[str], Awaitable[TaskRow | None]], task_id: str
    ) -> TaskRow:
        task = await verb(task_id) if is_id(task_id) else None
        if task is None:
            raise Problem(404, "There is no such task.")
        return task

    def _wake(self, task: TaskRow) -> None:
        """Wake the agent that is to do the task, if it runs in this daemon."""
        if task.agent_type in self._daemon.supervisor.get_status():
            self._daemon.supervisor.notify_task(task.agent_type)

    @get(
        "/approvals",
        "Approvals, the newest first",
        list[ApprovalRow],
        problems=(422, 503),
        query=ApprovalFilter,
    )
    async def _approvals(self) -> Response:
        wanted = parse_query(ApprovalFilter, request.args)
        return answer(await self._daemon.store.approvals(**dict(wanted)))

    @get("/approvals/<approval_id>", "One approval", ApprovalRow, problems=(404, 503))
    async def _approval(self, approval_id: str) -> Response:
        store = self._daemon.store
        return answer(_there(await store.approval(approval_id) if is_id(approval_id) else None))

    @post(
        "/approvals/<approval_id>",
        "Approve or deny",
        ApprovalRow,
        details="The first decision stands: the same again is answered alike, another is a 409.",
        problems=(400, 404, 409, 422, 503),
        body=Decision,
    )
    async def _decide(self, approval_id: str) -> Response:
        wanted = parse_body(Decision, await json_body())
        if wanted.arguments is not None and not wanted.approve:
            detail = "Goes with approve: true; what is denied is not called"
            raise unprocessable([FieldError(field="arguments", detail=detail)])
        store = self._daemon.store
        before = _there(await store.approval(approval_id) if is_id(approval_id) else None)
        changed = wanted.arguments if wanted.arguments != before.arguments else None
        by = wanted.by or "API"
        row = _there(
            await store.decide_approval(
                approval_id,
                approve=wanted.approve,
                decided_by=by,
                comment=wanted.comment or None,
                arguments=changed,
            )
        )
        _check_decided(row, wanted, by)
        if row.agent_id in self._daemon.supervisor.get_status():
            self._daemon.supervisor.notify_task(row.agent_id)
        return answer(row)

    @get("/scheduler/jobs", "Every job", list[JobStatus])
    async def _jobs(self) -> Response:
        return answer(self._daemon.routines.jobs())

    @put(
        "/scheduler/jobs/<name>",
        "Have a job run at other times",
        JobStatus,
        details="Kept in the store until the file of agents gives the job another time.",
        body=TimeOfRoutine,
        problems=(400, 404, 422, 503),
    )
    async def _set_time(self, name: str) -> Response:
        self._job(name)
        wanted = parse_body(TimeOfRoutine, await json_body())
        try:
            await self._daemon.routines.set_time(name, wanted.cron, wanted.by)
        except ValueError as error:
            raise unprocessable([FieldError(field="cron", detail=str(error))]) from None
        return answer(self._job(name))

    @post(
        "/scheduler/jobs/<name>/run",
        "Run a job now, besides its schedule",
        answers={202: JobCommand},
        problems=(404, 409),
    )
    async def _run_job(self, name: str) -> Response:
        job = self._job(name)
        if job.disabled:
            raise Problem(409, f"Job {name!r} is disabled: {job.disabled}.")
        run = partial(self._daemon.routines.run_now, name)
        if job.running or not self._commands.begin(f"run {name}", run):
            raise Problem(409, f"Job {name!r} runs just now, and not twice at once.")
        return answer(JobCommand(name=name), 202, Location="/scheduler/jobs")

    @post(
        "/scheduler/jobs/<name>/pause",
        "Let a job's times pass",
        JobStatus,
        details="In every daemon and over their restarts, until it is resumed.",
        problems=(400, 404, 422, 503),
        body=Said,
        needs_body=False,
    )
    async def _pause_job(self, name: str) -> Response:
        self._job(name)
        await self._daemon.routines.pause(name, await _said_by() or OPERATOR)
        return answer(self._job(name))

    @post(
        "/scheduler/jobs/<name>/resume",
        "Let a job run at its times again",
        JobStatus,
        problems=(400, 404, 422, 503),
        body=Said,
        needs_body=False,
    )
    async def _resume_job(self, name: str) -> Response:
        self._job(name)
        await _said_by()
        await self._daemon.routines.resume(name)
        return answer(self._job(name))

    def _job(self, name: str) -> JobStatus:
        jobs = {job.name: job for job in self._daemon.routines.jobs()}
        if name not in jobs:
            raise Problem(404, f"There is no such job; known are {', '.join(jobs)}.")
        return jobs[name]


def _there(row: ApprovalRow | None) -> ApprovalRow:
    if row is None:
        raise Problem(404, "There is no such approval.")
    return row


def _check_decided(row: ApprovalRow, wanted: Decision, by: str) -> None:
    """Refuse a decision that another one came before.

    Raises:
        Problem: 409.
    """
    status = ApprovalStatus.APPROVED if wanted.approve else ApprovalStatus.DENIED
    same = (row.status, row.comment, row.decided_by) == (status, wanted.comment or None, by)
    if same and wanted.arguments in (None, row.arguments):
        return
    when = "" if row.decided_at is None else f" at {row.decided_at:%Y-%m-%d %H:%M} UTC"
    whom = "" if row.decided_by is None else f" by {row.decided_by}"
    raise Problem(409, f"It was decided before: {row.status}{whom}{when}.")


def _reported(status: str) -> AgentState:
    """Return what the registry says of an agent; of a word that is none, that it is stopped."""
    known = {state.value: state for state in AgentState if not state.derived}
    return known.get(status, AgentState.STOPPED)


def _accepted(action: Action, agent_id: str, status: AgentState) -> Response:
    command = AgentCommand(agent_id=agent_id, action=action, status=status)
    return answer(command, 202, Location=f"/agents/{agent_id}")


async def _said_by() -> str | None:
    """Return who gives a command, where the request says."""
    body = await request.get_data(cache=True, as_text=False, parse_form_data=False)
    return parse_body(Said, body).by if body else None


def _task_id(idempotency_key: str | None) -> str:
    """Make a task's id; the same key makes the same id, and the store keeps one task under it."""
    if idempotency_key is None:
        return str(uuid.uuid4())
    if not re.fullmatch(r"[!-~]{1,255}", idempotency_key):
        raise Problem(400, "An Idempotency-Key has 1 to 255 printable ASCII characters, no space.")
    return str(uuid.uuid5(_IDEMPOTENCY, idempotency_key))
