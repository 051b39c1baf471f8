"""Is all well? One word for the daemon, and why it is not a better one. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from actp_supervise.service import shorten
from app.agents.activity import PAUSED_BY_OPERATOR, WAITING_FOR_STORE
from app.web.words import error_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEALTHY: Final = "healthy"
DEGRADED: Final = "degraded"
"""Something needs a look, but work gets done or will."""
CRITICAL: Final = "critical"
"""No agent can work, or one keeps all from it."""

LONG_WITHOUT_MODEL: Final = 60.0
"""Seconds without a call of the model that succeeds from which an agent needs a look."""

TOO_LONG_WITHOUT_MODEL: Final = 300.0
"""Seconds of that after which an agent counts as one that cannot work."""

_FINE: Final = frozenset({"running", "starting", "restarting", "standby"})


def overall(
    statuses: Mapping[str, Mapping[str, Any]],
    *,
    store_error: str | None = None,
    stopping: bool = False,
    blocked: str | None = None,
    notes: Sequence[str] = (),
) -> tuple[str, list[str]]:
    """Return the daemon's state and the reasons why it is not healthy.

    An agent that somebody disabled is nobody's trouble, and one that an operator paused is no
    reason to call him. A store that is away is never critical,
    for agents wait for it and lose nothing.

    Args:
        statuses: What `AgentSupervisor.get_status` says.
        store_error: Why the store cannot be reached; None where it can.
        stopping: Whether the daemon was asked to stop.
        blocked: What blocked the loop that all share; None if it turns.
        notes: What else is not as it should be.
    """
    enabled = {agent_id: status for agent_id, status in statuses.items() if status["enabled"]}
    faults = {agent_id: _fault(status) for agent_id, status in enabled.items()}
    reasons = [f"{agent_id} {fault}" for agent_id, fault in faults.items() if fault is not None]
    # It may answer the daemon, and lack just what an agent needs.
    of_agents = (status.get("store_error") for status in enabled.values())
    store_error = store_error or next(filter(None, of_agents), None)
    if store_error is not None:
        reasons.append(f"the store is away: {store_error}")
    if blocked is not None:
        reasons.insert(0, blocked)
    reasons += notes
    if stopping:
        return DEGRADED, ["the daemon is stopping", *reasons]
    wanted = [status for status in enabled.values() if status["paused"] != PAUSED_BY_OPERATOR]
    nobody_works = wanted and not any(map(_can_work, wanted))
    if nobody_works or blocked is not None:
        return CRITICAL, reasons
    return (DEGRADED if reasons else HEALTHY), reasons


def _can_work(status: Mapping[str, Any]) -> bool:
    """Whether it works, or will without anybody's help: a budget is back tomorrow."""
    is_paused = status["paused"] and not status.get("paused_until")
    waits = status.get("throttled_age") or 0.0
    return status["status"] in _FINE and not is_paused and waits < TOO_LONG_WITHOUT_MODEL


def _fault(status: Mapping[str, Any]) -> str | None:
    """Say what is wrong with an agent."""
    faults = [_pause(status), _trouble(status)]
    return " and ".join(filter(None, faults)) or None


def _pause(status: Mapping[str, Any]) -> str | None:
    if not status["paused"]:
        return None
    by_operator = status["paused"] == PAUSED_BY_OPERATOR
    return f"is {PAUSED_BY_OPERATOR}" if by_operator else f"is paused: {status['paused']}"


def _trouble(status: Mapping[str, Any]) -> str | None:
    if status["doing"] == WAITING_FOR_STORE:
        return "is waiting for the store"
    if status["status"] in _FINE:
        waits = status.get("throttled_age") or 0.0
        why = status.get("throttled_why")
        return f"has waited long for Claude: {why}" if waits >= LONG_WITHOUT_MODEL else None
    if status["restart_in"] is not None:
        # Not when: that changes by the second, and stands beside this wherever it is shown.
        error = shorten(error_line(status["last_error"] or ""), 200)
        return f"crashed and waits for its restart: {error}"
    return f"is {status['status'].replace('_', ' ')}"
