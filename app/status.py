"""How things are: the agents, the daemon, its routines. Frozen values, each declared here alone.

JSON, OpenAPI, the pages, the terminal and Prometheus are made of them; see `app.facts`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

from app.facts import JSON, fact
from app.figures import Gauge, StateGauge
from app.reasons import Reason
from app.tones import Tone

if TYPE_CHECKING:
    from collections.abc import Mapping

Isolation = Literal["loop", "thread", "process"]

PAUSED_BY_OPERATOR = "paused by an operator"


class AgentState(StrEnum):
    """What an agent is about, those that need a look first."""

    tone: Tone
    works: bool
    """Whether it does tasks, or will without anybody's help."""
    derived: bool
    """Whether no agent reports it: it is made of what else is known of one that runs."""

    def __new__(
        cls,
        value: str,
        tone: Tone,
        works: bool = False,  # noqa: FBT001, FBT002
        derived: bool = False,  # noqa: FBT001, FBT002
    ) -> AgentState:
        """Make a member of its value and what belongs to it."""
        state = str.__new__(cls, value)
        state._value_ = value
        state.tone, state.works, state.derived = tone, works, derived
        return state

    UNKNOWN = "unknown", Tone.BAD, False, True
    """Its daemon ended without a word."""
    STALE = "stale", Tone.BAD, False, True
    """The store has had no heartbeat of it for too long."""
    CRASHED = "crashed", Tone.BAD
    BACKING_OFF = "backing_off", Tone.WARN
    STOPPED = "stopped", Tone.OFF
    PAUSED = "paused", Tone.WARN, False, True
    """It runs and takes no tasks."""
    WAITING = "waiting", Tone.WARN, True, True
    """It runs, and its calls of the model do not succeed."""
    STOPPING = "stopping", Tone.WARN
    DRAINING = "draining", Tone.WARN
    RESTARTING = "restarting", Tone.WARN, True
    STARTING = "starting", Tone.WARN, True
    RUNNING = "running", Tone.GOOD, True
    STANDBY = "standby", Tone.OFF, True
    """Another daemon runs it, or may."""
    DISABLED = "disabled", Tone.OFF

    @property
    def rank(self) -> int:
        """Where it stands in a list, what needs a look first."""
        return list(AgentState).index(self)

    @property
    def words(self) -> str:
        """The state in words."""
        return self.value.replace("_", " ")

    @classmethod
    def __get_pydantic_json_schema__(cls, _core: object, _handler: object) -> dict[str, JSON]:
        """Return what `status` can be, which is no derived state."""
        return {"type": "string", "enum": [state for state in cls if not state.derived]}


def _is_given(value: object, _now: float) -> float:
    return float(value is not None)


def _moment(age: float | None, now: float) -> float | None:
    return None if age is None else now - age


@fact
class AgentHealth:
    """How an agent is doing just now: what its run says of itself."""

    doing: str | None = None
    """What it does, in words."""
    store_error: str | None = None
    """Why it waits for the store, where it does."""
    task_id: str | None = None
    """The task that it works on."""
    step: int = 0
    """The turn of the conversation."""
    heartbeat_age: Annotated[
        float | None,
        Gauge(
            "actp_agent_last_heartbeat_timestamp_seconds",
            "When an agent's loop last turned.",
            _moment,
        ),
    ] = None
    """Seconds since its own loop turned."""
    progress_age: float | None = None
    """Seconds since it took a step."""
    paused: Annotated[
        str | None, Gauge("actp_agent_paused", "1 for an agent that takes no tasks.", _is_given)
    ] = None
    """Why it takes no tasks, where it does not."""
    paused_until: datetime | None = None
    """When that ends by itself."""
    throttled_until: datetime | None = None
    """Until when the model's API has it wait."""
    throttled_for: float | None = None
    """Seconds for which the model's API still has it wait."""
    throttled_age: Annotated[
        float | None,
        Gauge(
            "actp_agent_throttled",
            "1 for an agent that waits because its calls of the model do not succeed.",
            _is_given,
        ),
    ] = None
    """Seconds for which no call of the model has succeeded."""
    throttled_why: str | None = None
    """What the last of these calls came to."""
    tasks_done: int = 0
    """Tasks that this run has finished well."""
    tasks_failed: int = 0
    """Tasks that failed in this run."""
    last_run_at: datetime | None = None
    """When the last task of this run ended."""

    def state(self, reported: AgentState) -> AgentState:
        """Return what an agent is about that reports this state and is doing so."""
        if reported is AgentState.RUNNING and self.paused is not None:
            return AgentState.PAUSED
        if reported is AgentState.RUNNING and self.throttled_age is not None:
            return AgentState.WAITING
        return reported

    @property
    def held(self) -> bool:
        """Whether an operator paused it."""
        return self.paused == PAUSED_BY_OPERATOR


@fact
class WorkerStatus:
    """One of an agent's workers, each of which does a task at a time."""

    number: int
    """From 1."""
    status: AgentState
    run_id: str | None = None
    """Its present run; null while it does not run."""
    pid: int | None = None
    """Of the process in which it runs."""
    uptime: float = 0.0
    """Seconds that its present run has lasted."""
    restarts: int = 0
    """Its further runs since the agent was started."""
    restart_in: float | None = None
    """Seconds until it is started again, where it waits for that."""
    spent_usd: float = 0.0
    """What its present run has spent on calls of the model, in US dollars."""
    health: AgentHealth

    @property
    def state(self) -> AgentState:
        """What it is about, a pause and a wait for the model included."""
        return self.health.state(self.status)


@fact
class AgentStatus:
    """An agent as it is listed."""

    agent_id: str
    status: Annotated[
        AgentState, StateGauge("actp_agent_state", "1 for the state that an agent is in.")
    ]
    pid: int | None = None
    """Of the process in which it runs, the daemon's or its own; null while it does not run."""
    uptime: Annotated[float, Gauge("actp_agent_uptime_seconds", "Time since an agent started.")] = (
        0.0
    )
    """Seconds that its present run has lasted."""
    restarts: Annotated[
        int, Gauge("actp_agent_restarts", "Further runs of an agent.", counts_up=True)
    ] = 0
    crashes: Annotated[
        int, Gauge("actp_agent_crashes", "Crashes since the daemon started.", counts_up=True)
    ] = 0
    """Since the daemon started."""
    restart_in: float | None = None
    """Seconds until it is started again, where it waits for that."""
    error_count: Annotated[
        int, Gauge("actp_agent_recent_crashes", "Crashes in the last 24 hours.")
    ] = 0
    """Crashes in the last 24 hours."""
    last_error: str | None = None
    """The traceback of its last crash."""
    last_run_at: datetime | None = None
    """When its last task ended."""
    enabled: bool = True
    why_disabled: str | None = None
    paused_by: str | None = None
    """Who paused it, in all daemons; null where nobody has."""
    paused_at: datetime | None = None
    isolation: Isolation = "loop"
    single: bool = False
    """Whether only one daemon at a time runs it."""
    runs_on: str | None = None
    """The daemon that has it, where it is single and another one has."""
    model: str
    class_: str
    """The import path of its class."""
    poll_interval: float
    """Seconds between two looks at the queue."""
    health: AgentHealth
    """Of all its workers together."""
    problems: tuple[str, ...] = ()
    """Which of its tools do not work now, and why."""
    workers: tuple[WorkerStatus, ...] = ()
    workers_running: Annotated[
        int, Gauge("actp_agent_workers", "Workers of an agent that run.")
    ] = 0
    """How many of its workers run."""
    workers_busy: Annotated[
        int, Gauge("actp_agent_workers_busy", "Workers of an agent that do a task.")
    ] = 0
    """How many of its workers do a task."""

    @property
    def state(self) -> AgentState:
        """What it is about, a pause and a wait for the model included."""
        return self.health.state(self.status)


@fact
class ToolStatus:
    """A tool of an agent."""

    name: str
    """As the model knows it; that of an MCP server as `mcp__server__tool`."""
    source: str
    """`method` of the agent's class, `hand`, `mcp`, or `server`: Claude's API runs it itself."""
    effect: str | None
    """`read`, `keyed` or `once`; null where the API runs it."""
    approval: str
    """When a person has to approve a call: `always`, `never`, or `after reading` what others wrote.
    """
    description: str = ""
    """The first line of what the model is told of it."""


class HealthState(StrEnum):
    """Whether all is well."""

    tone: Tone

    def __new__(cls, value: str, tone: Tone) -> HealthState:
        """Make a member of its value and its tone."""
        state = str.__new__(cls, value)
        state._value_ = value
        state.tone = tone
        return state

    STARTING = "starting", Tone.WARN
    """Its code is still being loaded."""
    HEALTHY = "healthy", Tone.GOOD
    DEGRADED = "degraded", Tone.WARN
    """Something needs a look, but work gets done or will."""
    CRITICAL = "critical", Tone.BAD
    """No agent can work, or one keeps all from it."""


@fact
class Alive:
    """The daemon answers."""

    status: Literal["alive"] = "alive"


@fact
class Health:
    """How the daemon is."""

    status: HealthState
    agents: int
    """How many are enabled."""
    uptime: float
    """Seconds since it started."""
    reasons: tuple[str, ...]
    """Why it is not healthy."""
    problems: tuple[Reason, ...] = ()
    """The same as values: what, of whom, since when, and what to do."""


@fact
class JobRun:
    """How one run of a job went."""

    scheduled_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    """Null while it runs."""
    outcome: str | None
    """Such as succeeded, failed, missed or interrupted; null while it runs."""
    error: str | None


@fact
class JobStatus:
    """A job of the scheduler: one routine of one agent."""

    name: str
    agent_id: str
    method: str
    """The method that is called; of a goal, its name."""
    goal: str | None = None
    """What is to be reached, where no method is called."""
    schedule: str
    """When it runs, in words."""
    cron: str
    """The same as a cron expression."""
    configured: str
    """When it would run if that had not been changed, as a cron expression."""
    timezone: str
    next_run_time: datetime | None
    last_run: JobRun | None
    running: bool
    paused: bool
    paused_by: str | None = None
    """Who paused it, in all daemons; null where nobody has."""
    paused_at: datetime | None = None
    changed_by: str | None = None
    """Who gave it another time than is configured, where that is known."""
    changed_at: datetime | None = None
    disabled: str | None
    """Why it never runs, where it does not."""


_OUTCOMES = {
    "succeeded": Tone.GOOD,
    "missed": Tone.WARN,
    "interrupted": Tone.WARN,
    "failed": Tone.BAD,
    "timed_out": Tone.BAD,
    "waiting": Tone.WARN,
    "approved": Tone.GOOD,
    "denied": Tone.BAD,
    "expired": Tone.WARN,
}
"""What tasks, runs, routines and approvals come to."""

_TONES: Mapping[str, Tone] = {
    **_OUTCOMES,
    **{state.value: state.tone for state in (*AgentState, *HealthState)},
}


def tone_of(word: object) -> Tone:
    """Return the tone of a word for a state or an outcome.

    >>> tone_of("running").name, tone_of(AgentState.BACKING_OFF).name, tone_of("queued").name
    ('GOOD', 'WARN', 'OFF')
    """
    return _TONES.get(str(word), Tone.OFF)


def tone_of_facts(facts: Mapping[str, Any]) -> Tone:
    """Return the tone of what came of something, PLAIN where its facts do not tell."""
    if facts.get("failed") is True:
        return Tone.BAD
    word = facts.get("outcome") or facts.get("status")
    return Tone.PLAIN if word is None else tone_of(word)
