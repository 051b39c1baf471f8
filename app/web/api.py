"""The addresses of the HTTP API: each parses what it gets, calls the daemon, and answers."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio
from quart import Response, request
from werkzeug.exceptions import MethodNotAllowed

from app.agents.activity import PAUSED_BY_OPERATOR
from app.agents.budget import start_of_day
from app.store.protocol import StoreError, TaskStatus
from app.web import guard
from app.web.inputs import TaskFilter, TaskRequest, TurnFilter, is_id, parse_body, parse_query
from app.web.problems import FieldError, Problem, unprocessable
from app.web.spend import DAYS, DaySpend, spend_by_day
from app.web.views import STORE_TIMEOUT, agent_summary, answer

if TYPE_CHECKING:
    from app.daemon import Daemon
    from app.store.protocol import TaskRow
    from app.web.commands import Commands

logger = logging.getLogger(__name__)

View = Callable[..., Awaitable[Response]]

_IDEMPOTENCY: Final = uuid.UUID("5f2a1c0e-3b0d-5c57-9d0b-6f6b8f1f7c11")
"""Where ids of tasks made from an Idempotency-Key live."""


class Api:
    """What answers at each address.

    Args:
        daemon: The running daemon's parts.
        commands: Takes what lasts longer than a request.
    """

    def __init__(self, daemon: Daemon, commands: Commands) -> None:
        self._daemon = daemon
        self._commands = commands

    def routes(self) -> tuple[tuple[str, str, View], ...]:
        """Return method, address and what answers there."""
        return (
            ("GET", "/health", self._health),
            ("GET", "/livez", self._live),
            ("GET", "/readyz", self._ready),
            ("GET", "/tree", self._tree),
            ("GET", "/workers", self._workers),
            ("GET", "/agents", self._agents),
            ("GET", "/agents/<agent_id>", self._agent),
            ("GET", "/agents/<agent_id>/status", self._agent),
            ("POST", "/agents/<agent_id>/restart", self._restart),
            ("GET", "/agents/<agent_id>/restart", self._restart_by_get),
            ("POST", "/agents/<agent_id>/stop", self._stop),
            ("POST", "/agents/<agent_id>/start", self._start),
            ("POST", "/agents/<agent_id>/pause", self._pause),
            ("POST", "/agents/<agent_id>/resume", self._resume),
            ("POST", "/agents/task", self._post_task),
            ("GET", "/agents/task", self._post_only),
            ("GET", "/tasks", self._tasks),
            ("GET", "/tasks/<task_id>", self._task),
            ("GET", "/tasks/<task_id>/turns", self._turns),
            ("POST", "/tasks/<task_id>/cancel", self._cancel_task),
            ("POST", "/tasks/<task_id>/retry", self._retry_task),
            ("GET", "/scheduler/jobs", self._jobs),
            ("POST", "/scheduler/jobs/<name>/run", self._run_job),
            ("POST", "/scheduler/jobs/<name>/pause", self._pause_job),
            ("POST", "/scheduler/jobs/<name>/resume", self._resume_job),
        )

    async def _health(self) -> Response:
        health = self._daemon.health()
        return answer(health, 503 if health["status"] == "critical" else 200)

    async def _live(self) -> Response:
        return answer({"status": "alive"})

    async def _ready(self) -> Response:
        checks = await self._readiness()
        wrong = [name for name, fault in checks.items() if fault is not None]
        if wrong:
            raise Problem(503, "Not ready: " + ", ".join(f"{n} ({checks[n]})" for n in wrong) + ".")
        ready: dict[str, Any] = {"status": "ready"}
        if "verbose" in request.args:
            ready["checks"] = dict.fromkeys(checks, "ok")
        return answer(ready)

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
        starting = any(status["status"] == "starting" for status in statuses)
        return "is starting" if starting else None

    async def _tree(self) -> Response:
        return answer(self._daemon.tree())

    async def _workers(self) -> Response:
        return answer(await self._daemon.store.live_workers())

    async def _agents(self) -> Response:
        statuses = self._daemon.supervisor.get_status()
        return answer([agent_summary(*item) for item in statuses.items()])

    async def _agent(self, agent_id: str) -> Response:
        summary = agent_summary(agent_id, self._status(agent_id))
        runs = await self._daemon.store.runs(agent_id)
        tools = await self._daemon.store.tool_stats(agent_id)
        spend = await self._spend(agent_id)
        return answer({**summary, "runs": runs, "tool_stats": tools, "spend": spend})

    async def _spend(self, agent_id: str) -> list[DaySpend]:
        now = await self._daemon.store.ping()
        since = start_of_day(now, UTC) - timedelta(days=DAYS - 1)
        costs = await self._daemon.store.costs(since=since, agent_id=agent_id)
        return spend_by_day(costs, now.astimezone(UTC).date())

    async def _restart(self, agent_id: str) -> Response:
        return self._command("restart", agent_id, self._daemon.supervisor.restart_agent)

    async def _restart_by_get(self, agent_id: str) -> Response:
        if request.method != "GET":  # HEAD comes with GET, and must not change anything
            raise MethodNotAllowed(["GET", "POST"])
        guard.check_change(request, self._daemon.settings.api_token)
        return await self._restart(agent_id)

    async def _stop(self, agent_id: str) -> Response:
        return self._command("stop", agent_id, self._daemon.supervisor.stop_agent)

    async def _start(self, agent_id: str) -> Response:
        return self._command("start", agent_id, self._daemon.supervisor.start_agent)

    async def _pause(self, agent_id: str) -> Response:
        return await self._hold("pause", agent_id, self._daemon.supervisor.pause_agent)

    async def _resume(self, agent_id: str) -> Response:
        paused = self._status(agent_id)["paused"]
        if paused not in (None, PAUSED_BY_OPERATOR):
            detail = f"Agent {agent_id!r} paused itself: {paused}. Restarted, it tries again."
            raise Problem(409, detail)
        return await self._hold("resume", agent_id, self._daemon.supervisor.resume_agent)

    def _command(
        self, action: str, agent_id: str, command: Callable[[str], Awaitable[object]]
    ) -> Response:
        """Begin a command to an agent and answer at once."""
        status = self._commandable(agent_id)
        self._commands.begin(f"{action} {agent_id}", partial(command, agent_id))
        return _accepted(action, agent_id, status)

    async def _hold(
        self, action: str, agent_id: str, hold: Callable[[str], Awaitable[object]]
    ) -> Response:
        """Pause or resume an agent: here at once, elsewhere within seconds."""
        status = self._commandable(agent_id)
        logger.info("Asked over HTTP: %s %s", action, agent_id, extra={"action": "command"})
        await hold(agent_id)
        return _accepted(action, agent_id, status)

    def _commandable(self, agent_id: str) -> str:
        """Return the status of an agent that can be told something."""
        status = self._status(agent_id)
        if not status["enabled"]:
            raise Problem(409, f"Agent {agent_id!r} is disabled: {status['why_disabled']}.")
        if self._daemon.stopping:
            raise Problem(503, "The daemon is stopping.")
        return str(status["status"])

    def _status(self, agent_id: str) -> dict[str, Any]:
        statuses = self._daemon.supervisor.get_status()
        if agent_id not in statuses:
            raise Problem(404, f"There is no agent {agent_id!r}; known are {', '.join(statuses)}.")
        return statuses[agent_id]

    async def _post_task(self) -> Response:
        wanted = parse_body(TaskRequest, await _json_body())
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
        )
        if any(getattr(task, name) != value for name, value in wanted):
            raise Problem(409, "That Idempotency-Key came with another task before.")
        self._wake(task)
        return answer(task, 201, Location=f"/tasks/{task.id}")

    async def _post_only(self) -> Response:
        raise MethodNotAllowed(["POST"])

    async def _tasks(self) -> Response:
        wanted = parse_query(TaskFilter, request.args)
        return answer(await self._daemon.store.tasks(**dict(wanted)))

    async def _task(self, task_id: str) -> Response:
        return answer(await self._found(self._daemon.store.task, task_id))

    async def _turns(self, task_id: str) -> Response:
        wanted = parse_query(TurnFilter, request.args)
        await self._found(self._daemon.store.task, task_id)
        return answer(await self._daemon.store.turns(task_id, **dict(wanted)))

    async def _cancel_task(self, task_id: str) -> Response:
        task = await self._found(self._daemon.store.cancel_task, task_id)
        if task.status is TaskStatus.CANCELLED:
            return answer(task)
        if task.cancel_requested and task.status is TaskStatus.RUNNING:
            self._wake(task)
            return answer(task, 202, Location=f"/tasks/{task.id}")
        raise Problem(409, f"The task is over: it {task.status}.")

    async def _retry_task(self, task_id: str) -> Response:
        task = await self._found(self._daemon.store.retry_task, task_id)
        if task.status is not TaskStatus.QUEUED:
            raise Problem(
                409, f"Only what failed or was cancelled is retried; it is {task.status}."
            )
        self._wake(task)
        return answer(task)

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

    async def _jobs(self) -> Response:
        return answer(self._daemon.routines.jobs())

    async def _run_job(self, name: str) -> Response:
        job = self._job(name)
        if job["disabled"]:
            raise Problem(409, f"Job {name!r} is disabled: {job['disabled']}.")
        run = partial(self._daemon.routines.run_now, name)
        if job["running"] or not self._commands.begin(f"run {name}", run):
            raise Problem(409, f"Job {name!r} runs just now, and not twice at once.")
        return answer({"name": name, "action": "run"}, 202, Location="/scheduler/jobs")

    async def _pause_job(self, name: str) -> Response:
        self._job(name)
        self._daemon.routines.pause(name)
        return answer(self._job(name))

    async def _resume_job(self, name: str) -> Response:
        self._job(name)
        self._daemon.routines.resume(name)
        return answer(self._job(name))

    def _job(self, name: str) -> dict[str, Any]:
        jobs = {job["name"]: job for job in self._daemon.routines.jobs()}
        if name not in jobs:
            raise Problem(404, f"There is no job {name!r}; known are {', '.join(jobs)}.")
        return jobs[name]


def _accepted(action: str, agent_id: str, status: str) -> Response:
    facts = {"agent_id": agent_id, "action": action, "status": status}
    return answer(facts, 202, Location=f"/agents/{agent_id}")


async def _json_body() -> bytes:
    if request.mimetype != "application/json":
        raise Problem(415, "The request body must be application/json.")
    return await request.get_data(cache=True, as_text=False, parse_form_data=False)


def _task_id(idempotency_key: str | None) -> str:
    """Make a task's id; the same key makes the same id, and the store keeps one task under it."""
    if idempotency_key is None:
        return str(uuid.uuid4())
    if not re.fullmatch(r"[!-~]{1,255}", idempotency_key):
        raise Problem(400, "An Idempotency-Key has 1 to 255 printable ASCII characters, no space.")
    return str(uuid.uuid5(_IDEMPOTENCY, idempotency_key))
