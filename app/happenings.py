"""What the tree, the routines and the health add to the events; tasks are `observed_store`'s."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Final

import trio

from actp_supervise import events as ev
from actp_supervise.cron import ClockJumped, Run, RunFailed, RunFinished, RunMissed, RunStarted
from app.event_kinds import EventKind
from app.facts import LEFT_OUT, to_json
from app.looks import USUAL
from app.routine import TREE_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from app.event_log import EventLog
    from app.reasons import Name
    from app.status import AgentState, Health, HealthState

_UNTOLD: Final = (ev.ChildReady, ev.StopRequested, ev.SupervisorStopped)
"""What says nothing new to somebody who watches."""


def tell_of_tree(events: EventLog, agent_ids: Container[str]) -> Callable[[ev.Event], None]:
    """Return what publishes the events of the tree.

    Args:
        events: Where they are published.
        agent_ids: The names of the agents, looked at with each event.
    """

    def on_event(event: ev.Event) -> None:
        name = event.path[-1]
        if isinstance(event, RunStarted | RunFinished | RunFailed | RunMissed):
            _tell_of_routine(events, name, event.run)
            return
        # What runs a routine is a child too, of which all is said by that.
        is_of_run = TREE_NAME in event.path and not isinstance(event, ClockJumped)
        if is_of_run or isinstance(event, _UNTOLD):
            return
        agent_id = next((part for part in event.path if part in agent_ids), None)
        if agent_id is not None and name != agent_id:  # a worker of it, of which there are several
            name = f"{agent_id}'s {name}"
        facts = event.to_dict()
        fields = {key: value for key, value in facts.items() if key not in _OWN}
        events.publish(
            EventKind[event.action.upper()],
            f"{name} {_in_words(event)}",
            agent_id=agent_id,
            path="/".join(event.path),
            **fields,
        )

    return on_event


_OWN: Final = frozenset({"action", "path", "time", "sequence", "traceback"})


def _in_words(event: ev.Event) -> str:
    match event:
        case ev.ChildStarted(restarts=restarts):
            return f"started again (restart {restarts})" if restarts else "started"
        case ev.ChildCrashed():
            return f"crashed: {event.to_dict()['error']}"
        case ev.RestartScheduled(delay=delay):
            return f"restarts in {delay:.0f} s" if delay else "restarts at once"
        case ev.ChildStalled(watchdog=watchdog):
            return f"gave no sign of life for {watchdog:g} s"
        case ev.StopOverdue(overdue=overdue):
            return f"does not stop, {overdue:.0f} s after it was cancelled"
        case ev.ChildFailed():
            return f"failed for good: {event.to_dict()['error']}"
        case ClockJumped(seconds=seconds):
            return f"found the clock {seconds:+.0f} s away: it was set, or the machine slept"
        case _:
            return event.action.removeprefix("child_").replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutineFacts:
    """What is known of a routine that began, ended or was left out."""

    job: str
    scheduled_at: str
    """ISO 8601 in UTC."""
    late: Annotated[float | None, LEFT_OUT]
    """Seconds after it was due, where it began."""
    outcome: Annotated[str | None, LEFT_OUT]
    seconds: Annotated[float | None, LEFT_OUT]
    """That it took."""


def _tell_of_routine(events: EventLog, job: str, run: Run) -> None:
    began, ended = run.started_at, run.finished_at
    facts = RoutineFacts(
        job=job,
        scheduled_at=run.scheduled_at.astimezone(UTC).isoformat(),
        late=None if began is None else (began - run.scheduled_at).total_seconds(),
        outcome=None if run.outcome is None else str(run.outcome),
        seconds=(ended - began).total_seconds() if run.outcome and began and ended else None,
    )
    kind, text = EventKind.ROUTINE_STARTED, "started"
    if facts.outcome is not None:
        kind, text = EventKind.ROUTINE_FINISHED, facts.outcome.replace("_", " ")
        text += "" if run.error is None else f": {run.error}"
    events.publish(kind, f"{job} {text}", agent_id=job.partition(".")[0], **to_json(facts))


async def tell_of_changes(
    events: EventLog,
    *,
    health: Callable[[], Health],
    states: Callable[[], Mapping[str, AgentState]],
    every: float = USUAL.changes,
    health_every: float = USUAL.health,
) -> None:
    """Publish each change of an agent's state and of the daemon's health, for ever.

    The health is judged by all that is known of all agents, which takes a hundred times as long as
    to look at their states. So that is done more rarely, and at once when a state has changed.

    Args:
        events: Where to.
        health: Tells how the daemon is.
        states: Tells what each agent is about, a pause included.
        every: Seconds between two looks at the states.
        health_every: Seconds between two looks at the health, at most.
    """
    told: dict[str, AgentState] = {}
    told_health: tuple[HealthState, frozenset[Name]] | None = None
    due = trio.current_time()
    while True:
        for agent_id, state in (seen := states()).items():
            if told.get(agent_id, state) is not state:
                text = f"{agent_id} is {state.words}"
                events.publish(EventKind.AGENT_STATUS, text, agent_id=agent_id, status=state.value)
        if seen != told or trio.current_time() >= due:
            told = dict(seen)
            due = trio.current_time() + health_every
            now = health()
            health_now = now.status, frozenset(each.name for each in now.problems)
            if told_health not in (None, health_now):
                text = now.status + (f": {'; '.join(now.reasons)}" if now.reasons else "")
                events.publish(
                    EventKind.HEALTH_CHANGED,
                    text,
                    status=now.status.value,
                    reasons=list(now.reasons),
                )
            told_health = health_now
        await trio.sleep(every)
