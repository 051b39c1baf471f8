"""The shapes of the answers, for the API's description; `views.plain` makes the answers."""

from __future__ import annotations

from copy import deepcopy
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.store.protocol import RunRow, TaskRow, ToolStats, Turn, WorkerRow
from app.web.spend import DaySpend

REFERENCE: Final = "#/components/schemas/{model}"


class Shape(BaseModel):
    """An object of which every field is always there, and no other."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
    )


class Health(Shape):
    """How the daemon is."""

    status: Literal["healthy", "degraded", "critical"]
    agents: int
    """How many are enabled."""
    uptime: float
    """Seconds since it started."""
    reasons: list[str]
    """Why it is not healthy."""


class Alive(Shape):
    """The daemon answers."""

    status: Literal["alive"]


class Ready(Shape):
    """Tasks can be taken."""

    status: Literal["ready"]
    checks: Annotated[dict[str, Literal["ok"]], Field(json_schema_extra={"optional": True})]
    """Each check that was made, where `?verbose` asks for them."""


class AgentHealth(BaseModel):
    """How an agent is doing just now. What only a run of it knows is left out where it has none."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    doing: str | None
    """What it does, in words."""
    store_error: str | None = None
    """Why it waits for the store, where it does."""
    task_id: str | None
    """The task that it works on."""
    heartbeat_age: float | None
    """Seconds since its own loop turned."""
    paused: str | None
    """Why it takes no tasks, where it does not."""
    paused_until: datetime | None = None
    """When that ends by itself."""
    throttled_until: datetime | None
    """Until when the model's API has it wait."""
    step: int = 0
    """The turn of the conversation."""
    progress_age: float | None = None
    """Seconds since it took a step."""
    throttled_for: float | None = None
    """Seconds for which the model's API still has it wait."""
    throttled_age: float | None = None
    """Seconds for which no call of the model has succeeded."""
    throttled_why: str | None = None
    """What the last of these calls came to."""
    tasks_done: int = 0
    """Tasks that this run has finished well."""
    tasks_failed: int = 0
    """Tasks that failed in this run."""


class Agent(Shape):
    """An agent as it is listed."""

    agent_id: str
    status: Literal[
        "starting", "running", "standby", "backing_off", "restarting", "draining", "stopping",
        "stopped", "crashed", "disabled",
    ]  # fmt: skip
    pid: int | None
    """Of the process in which it runs, the daemon's or its own; null while it does not run."""
    uptime: float
    """Seconds that its present run has lasted."""
    restarts: int
    crashes: int
    """Since the daemon started."""
    restart_in: float | None
    """Seconds until it is started again, where it waits for that."""
    error_count: int
    """Crashes in the last 24 hours."""
    last_error: str | None
    """The traceback of its last crash."""
    last_run_at: datetime | None
    """When its last task ended."""
    enabled: bool
    why_disabled: str | None
    isolation: Literal["loop", "thread", "process"]
    single: bool
    """Whether only one daemon at a time runs it."""
    runs_on: str | None
    """The daemon that has it, where it is single and another one has."""
    model: str
    class_: Annotated[str, Field(alias="class")]
    """The import path of its class."""
    poll_interval: float
    """Seconds between two looks at the queue."""
    health: AgentHealth


class AgentDetail(Agent):
    """An agent with what it has done."""

    runs: list[RunRow]
    """Its last 20, the newest first."""
    tool_stats: list[ToolStats]
    """Of the last 24 hours."""
    spend: list[DaySpend]
    """Of the last 14 days of UTC, the oldest first."""


class AgentCommand(Shape):
    """A command to an agent that was taken."""

    agent_id: str
    action: Literal["restart", "stop", "start", "pause", "resume"]
    status: str
    """What the agent's status was when it was asked."""


class JobCommand(Shape):
    """A job that was asked to run."""

    name: str
    action: Literal["run"]


class JobRun(Shape):
    """How one run of a job went."""

    scheduled_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    """Null while it runs."""
    outcome: str | None
    """Such as succeeded, failed, missed or interrupted; null while it runs."""
    error: str | None


class Job(Shape):
    """A job of the scheduler: one routine of one agent."""

    name: str
    agent_id: str
    method: str
    schedule: str
    """When it runs, in words."""
    cron: str
    """The same as a cron expression."""
    timezone: str
    next_run_time: datetime | None
    last_run: JobRun | None
    running: bool
    paused: bool
    disabled: str | None
    """Why it never runs, where it does not."""


class ChildNode(Shape):
    """A child of a supervisor."""

    kind: Literal["child"]
    name: str
    state: str
    restart: str
    """When it is started again after it ended."""
    restarts: int
    crashes: int
    last_error: str | None
    started_at: float | None
    """By the daemon's own clock, as `time` is."""
    uptime: float
    restart_at: float | None
    """When it is started again, by the same clock, where it waits for that."""
    overdue: bool
    """Whether it was told to end and is still there."""
    time: float
    """What the daemon's clock, which counts seconds, said at this moment."""
    children: list[SupervisorNode]


class SupervisorNode(Shape):
    """A supervisor and all below it."""

    kind: Literal["supervisor"]
    name: str
    state: str
    strategy: str
    children: list[ChildNode]
    """In the order in which they are started."""


class Fault(Shape):
    """What is wrong with one field of a request."""

    field: str
    """Its name; nested ones as `context.items.0`. Empty for the whole body."""
    detail: str


class Problem(Shape):
    """Why a request was not done (RFC 9457)."""

    type: Literal["about:blank"]
    title: str
    """What the status means."""
    status: int
    detail: str
    """One sentence for people."""
    errors: Annotated[list[Fault], Field(json_schema_extra={"optional": True})]
    """What is wrong with which field; with 422 only."""


class Answers(Shape):
    """Everything that is answered as JSON, by name."""

    health: Health
    alive: Alive
    ready: Ready
    tree: SupervisorNode
    workers: list[WorkerRow]
    agents: list[Agent]
    agent: AgentDetail
    agent_command: AgentCommand
    task: TaskRow
    tasks: list[TaskRow]
    turns: list[Turn]
    jobs: list[Job]
    job: Job
    job_command: JobCommand
    problem: Problem


def answers() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of each of `Answers` by name, and those that they refer to."""
    schema = Answers.model_json_schema(mode="serialization", ref_template=REFERENCE)
    return plain_schema(schema["properties"]), plain_schema(schema["$defs"])


def plain_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return pydantic's schema without its titles, and with what is optional said to be."""
    plain: dict[str, Any] = deepcopy(schema)
    _simplify(plain)
    return plain


def _simplify(schema: Any) -> None:  # noqa: ANN401  (JSON)
    if isinstance(schema, list):
        for item in schema:
            _simplify(item)
    elif isinstance(schema, dict):
        if isinstance(schema.get("title"), str):
            del schema["title"]
        for name, each in schema.get("properties", {}).items():
            if each.pop("optional", False):
                schema["required"].remove(name)
        for item in schema.values():
            _simplify(item)
