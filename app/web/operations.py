"""What can be asked of the daemon over HTTP, as a table: the API's description is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel

from app.web.inputs import EventFilter, TaskFilter, TaskRequest, TurnFilter

HTML: Final = "text/html"
PROMETHEUS: Final = "text/plain"
EVENT_STREAM: Final = "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one address."""

    id: str
    tag: str
    summary: str
    details: str = ""
    answers: dict[int, str]
    """Status -> a field of `shapes.Answers`, or a media type; of those that are no problem."""
    problems: tuple[int, ...] = ()
    """Statuses of problems, besides those that every request may meet."""
    query: type[BaseModel] | None = None
    flags: tuple[tuple[str, str], ...] = ()
    """Other parameters of the query, with what they mean."""
    headers: tuple[str, ...] = ()
    """Header fields that it reads: names in `HEADERS`."""
    body: type[BaseModel] | None = None
    changes: bool = False
    """Whether it changes something, so that the checks for that apply."""
    pages: bool = False
    """Whether its problems are pages too."""


HEADERS: Final = {
    "Idempotency-Key": (
        "Makes it safe to ask again after a lost answer: the same key gives the same task.",
        {"type": "string", "pattern": "^[!-~]{1,255}$"},
    ),
    "Last-Event-ID": (
        "The id of the last event that was received, to go on after it.",
        {"type": "string"},
    ),
}

PATH_PARAMETERS: Final = {
    "agents/<agent_id>": ("The agent.", "content"),
    "tasks/<task_id>": ("The task.", "0f9d2b52-6c3e-5d0b-9d43-0b0f6d1c8b57"),
    "jobs/<name>": ("The job.", "revenue.run_cost_audit"),
    "static/<name>": ("The file.", "style.css"),
}
"""The end of an address and its variable -> what it names, with an example."""

TAGS: Final = {
    "Health": "Is all well? For load balancers, monitoring and people.",
    "Agents": "The agents of this daemon, what they do, and commands to them.",
    "Tasks": "The queue: what agents are to do, do, and have done.",
    "Scheduler": "The agents' routines and when they run.",
    "Live": "What happens, as it happens.",
    "Pages": "The same for people.",
}

_AGENT_GONE = (404, 409, 503)


def _command(action: str, summary: str, details: str = "") -> Operation:
    return Operation(
        id=f"{action}_agent",
        tag="Agents",
        summary=summary,
        details=details,
        answers={202: "agent_command"},
        problems=_AGENT_GONE,
        changes=True,
    )


def _agent(operation_id: str) -> Operation:
    return Operation(
        id=operation_id,
        tag="Agents",
        summary="One agent, with its runs, tools and spend",
        answers={200: "agent"},
        problems=(404, 503),
    )


def _page(operation_id: str, summary: str, *problems: int) -> Operation:
    return Operation(
        id=operation_id,
        tag="Pages",
        summary=summary,
        answers={200: HTML},
        problems=problems,
        pages=True,
    )


OPERATIONS: Final[dict[str, Operation]] = {
    "GET /health": Operation(
        id="health",
        tag="Health",
        summary="How the daemon is, and why",
        details="200 while it is healthy or degraded, 503 when it is critical.",
        answers={200: "health", 503: "health"},
    ),
    "GET /livez": Operation(
        id="livez",
        tag="Health",
        summary="Whether the daemon answers at all",
        answers={200: "alive"},
    ),
    "GET /readyz": Operation(
        id="readyz",
        tag="Health",
        summary="Whether tasks can be taken",
        answers={200: "ready"},
        problems=(503,),
        flags=(("verbose", "Lists the checks."),),
    ),
    "GET /tree": Operation(
        id="tree",
        tag="Health",
        summary="Everything that runs, as the tree of supervisors that it is",
        answers={200: "tree"},
    ),
    "GET /workers": Operation(
        id="workers",
        tag="Health",
        summary="The daemons that share the store",
        answers={200: "workers"},
        problems=(503,),
    ),
    "GET /agents": Operation(
        id="agents",
        tag="Agents",
        summary="All agents",
        details="Works while the store is away.",
        answers={200: "agents"},
    ),
    "GET /agents/<agent_id>": _agent("agent"),
    "GET /agents/<agent_id>/status": _agent("agent_status"),
    "POST /agents/<agent_id>/restart": _command(
        "restart",
        "Restart an agent",
        "The restart has begun. Asked again while it goes on, it is the same one.",
    ),
    "GET /agents/<agent_id>/restart": Operation(
        id="restart_agent_by_link",
        tag="Agents",
        summary="The same, for what can only follow a link",
        details="Prefer POST. It obeys the same rules; HEAD restarts nothing.",
        answers={202: "agent_command"},
        problems=_AGENT_GONE,
        changes=True,
    ),
    "POST /agents/<agent_id>/stop": _command(
        "stop", "Stop an agent", "It finishes what it does and stays stopped until it is started."
    ),
    "POST /agents/<agent_id>/start": _command("start", "Start an agent that was stopped"),
    "POST /agents/<agent_id>/pause": _command(
        "pause",
        "Let an agent take no new task",
        "What is in flight goes on. It lasts over restarts, until it is resumed.",
    ),
    "POST /agents/<agent_id>/resume": _command("resume", "Let an agent take tasks again"),
    "POST /agents/task": Operation(
        id="post_task",
        tag="Tasks",
        summary="Post a task",
        details="Its agent begins at once if it is idle.",
        answers={201: "task"},
        problems=(400, 409, 422, 503),
        headers=("Idempotency-Key",),
        body=TaskRequest,
        changes=True,
    ),
    "GET /tasks": Operation(
        id="tasks",
        tag="Tasks",
        summary="Tasks, the newest first",
        answers={200: "tasks"},
        problems=(422, 503),
        query=TaskFilter,
    ),
    "GET /tasks/<task_id>": Operation(
        id="task",
        tag="Tasks",
        summary="One task",
        answers={200: "task"},
        problems=(404, 503),
    ),
    "GET /tasks/<task_id>/turns": Operation(
        id="turns",
        tag="Tasks",
        summary="The conversation about a task, turn by turn",
        details="The oldest first; `after` gives those behind one that is known.",
        answers={200: "turns"},
        problems=(404, 422, 503),
        query=TurnFilter,
    ),
    "POST /tasks/<task_id>/cancel": Operation(
        id="cancel_task",
        tag="Tasks",
        summary="Cancel a task",
        details="200 when it is cancelled, 202 when its agent was asked to end it.",
        answers={200: "task", 202: "task"},
        problems=(404, 409, 503),
        changes=True,
    ),
    "POST /tasks/<task_id>/retry": Operation(
        id="retry_task",
        tag="Tasks",
        summary="Queue a task again that failed or was cancelled",
        answers={200: "task"},
        problems=(404, 409, 503),
        changes=True,
    ),
    "GET /scheduler/jobs": Operation(
        id="jobs",
        tag="Scheduler",
        summary="Every job",
        answers={200: "jobs"},
    ),
    "POST /scheduler/jobs/<name>/run": Operation(
        id="run_job",
        tag="Scheduler",
        summary="Run a job now, besides its schedule",
        answers={202: "job_command"},
        problems=(404, 409),
        changes=True,
    ),
    "POST /scheduler/jobs/<name>/pause": Operation(
        id="pause_job",
        tag="Scheduler",
        summary="Let a job's times pass",
        details="Until it is resumed, or the daemon starts anew.",
        answers={200: "job"},
        problems=(404,),
        changes=True,
    ),
    "POST /scheduler/jobs/<name>/resume": Operation(
        id="resume_job",
        tag="Scheduler",
        summary="Let a job run at its times again",
        answers={200: "job"},
        problems=(404,),
        changes=True,
    ),
    "GET /events": Operation(
        id="events",
        tag="Live",
        summary="What happens, as server-sent events",
        details="Begins with now, unless `recent` or `Last-Event-ID` says otherwise.",
        answers={200: EVENT_STREAM},
        problems=(422, 503),
        query=EventFilter,
        headers=("Last-Event-ID",),
    ),
    "GET /metrics": Operation(
        id="metrics",
        tag="Live",
        summary="Figures for Prometheus",
        answers={200: PROMETHEUS},
    ),
    "GET /openapi.json": Operation(
        id="openapi",
        tag="Pages",
        summary="This description, for programs (OpenAPI 3.1)",
        answers={200: "application/json"},
    ),
    "GET /api": _page("api_page", "This description, for people"),
    "GET /": Operation(
        id="overview_page",
        tag="Pages",
        summary="The overview",
        answers={200: HTML},
        flags=(("agent", "Limits the events to those of one agent."),),
    ),
    "GET /ui/agents/<agent_id>": _page("agent_page", "The page of an agent", 404, 503),
    "GET /ui/tasks": Operation(
        id="tasks_page",
        tag="Pages",
        summary="The tasks",
        answers={200: HTML},
        problems=(422, 503),
        query=TaskFilter,
        pages=True,
    ),
    "GET /ui/tasks/<task_id>": _page("task_page", "The page of a task", 404, 503),
    "GET /static/<name>": Operation(
        id="asset",
        tag="Pages",
        summary="A file of the pages",
        answers={200: "*/*", 304: ""},
        problems=(404,),
    ),
}
"""Method and address, as the routes have them -> what is done there."""

UNDESCRIBED: Final = frozenset({"GET /agents/task"})
"""Routes that only refuse a method."""
