"""What the tree and the health of the daemon add to its events; tasks are `observed_store`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from actp_supervise import events as ev
from app.routine import TREE_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from app.event_log import EventLog

LOOK_EVERY: Final = 0.5
"""Seconds between two looks whether something has changed."""

_UNTOLD: Final = (ev.ChildReady, ev.StopRequested, ev.SupervisorStopped)
"""What says nothing new to somebody who watches."""


def tell_of_tree(events: EventLog, agent_ids: Iterable[str]) -> Callable[[ev.Event], None]:
    """Return what publishes the events of the tree."""
    known = frozenset(agent_ids)

    def on_event(event: ev.Event) -> None:
        # Routines are the scheduler's children, and are told of as what they are.
        if isinstance(event, _UNTOLD) or TREE_NAME in event.path:
            return
        name = event.path[-1]
        facts = event.to_dict()
        fields = {key: value for key, value in facts.items() if key not in _OWN}
        events.publish(
            event.action,
            f"{name} {_in_words(event)}",
            agent_id=name if name in known else None,
            path="/".join(event.path),
            **fields,
        )

    return on_event


_OWN: Final = frozenset({"action", "path", "time", "sequence", "traceback"})


def _in_words(event: ev.Event) -> str:
    match event:
        case ev.ChildStarted(restarts=restarts):
            return f"started again, for the {restarts}. time" if restarts else "started"
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
        case _:
            return event.action.removeprefix("child_").replace("_", " ")


async def tell_of_changes(
    events: EventLog,
    *,
    health: Callable[[], Mapping[str, Any]],
    statuses: Callable[[], Mapping[str, Mapping[str, Any]]],
) -> None:
    """Publish each change of the daemon's health and of an agent's status, for ever.

    Args:
        events: Where to.
        health: Tells how the daemon is.
        statuses: Tells how each agent is.
    """
    told: dict[str, str] = {}
    told_health = ""
    while True:
        for agent_id, status in statuses().items():
            word = "paused" if status["paused"] else status["status"]
            if told.get(agent_id, word) != word:
                text = f"{agent_id} is {word.replace('_', ' ')}"
                events.publish("agent_status", text, agent_id=agent_id, status=word)
            told[agent_id] = word
        now = health()
        if told_health not in ("", now["status"]):
            reasons = "; ".join(now["reasons"])
            text = now["status"] + (f": {reasons}" if reasons else "")
            events.publish("health_changed", text, status=now["status"], reasons=now["reasons"])
        told_health = now["status"]
        await trio.sleep(LOOK_EVERY)
