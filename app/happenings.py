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
from app.looks import USUAL, next_look
from app.routine import TREE_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from app.event_log import EventLog, LoggedEvent
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

    Nearly all that changes them is told as an event, so what is looked for without one can wait.
    The health is judged by all that is known of all agents, which takes a hundred times as long as
    to look at their states. So that is done more rarely, and at once when a state has changed.

    Args:
        events: Where to.
        health: Tells how the daemon is.
        states: Tells what each agent is about, a pause included.
        every: Seconds between two looks where something happens.
        health_every: Seconds between two looks at the health, and where nothing happens.
    """
    changes = _Changes(events, health, states)
    happened = trio.Event()

    def hear(_event: LoggedEvent) -> None:
        happened.set()

    events.listeners.append(hear)
    try:
        due = trio.current_time()
        while True:
            happened = trio.Event()
            begun = trio.current_time()
            if changes.tell_of_states() or begun >= due:
                changes.tell_of_health()
                due = next_look(health_every)
            with trio.move_on_at(due):
                await happened.wait()
                await trio.sleep_until(begun + every)
    finally:
        events.listeners.remove(hear)


class _Changes:
    """What has been told of the states and the health, and what differs from that."""

    def __init__(
        self,
        events: EventLog,
        health: Callable[[], Health],
        states: Callable[[], Mapping[str, AgentState]],
    ) -> None:
        self._events = events
        self._health = health
        self._states = states
        self._told: dict[str, AgentState] = {}
        self._told_health: tuple[HealthState, frozenset[Name]] | None = None

    def tell_of_states(self) -> bool:
        """Publish the changes of the agents' states, and return whether there are any."""
        told, self._told = self._told, dict(self._states())
        for agent_id, state in self._told.items():
            if told.get(agent_id, state) is not state:
                self._events.publish(
                    EventKind.AGENT_STATUS,
                    f"{agent_id} is {state.words}",
                    agent_id=agent_id,
                    status=state.value,
                )
        return told != self._told

    def tell_of_health(self) -> None:
        """Publish how the daemon is, if that has changed."""
        now = self._health()
        told = self._told_health
        self._told_health = now.status, frozenset(each.name for each in now.problems)
        if told not in (None, self._told_health):
            text = now.status + (f": {'; '.join(now.reasons)}" if now.reasons else "")
            self._events.publish(
                EventKind.HEALTH_CHANGED,
                text,
                status=now.status.value,
                reasons=list(now.reasons),
            )
