"""Is all well? One word for the daemon, and why it is not a better one. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from actp_supervise.service import shorten
from app.agents.activity import WAITING_FOR_STORE
from app.status import AgentState, HealthState
from app.web.words import error_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from app.status import AgentHealth, AgentStatus

LONG_WITHOUT_MODEL: Final = 60.0
"""Seconds without a call of the model that succeeds from which an agent needs a look."""

TOO_LONG_WITHOUT_MODEL: Final = 300.0
"""Seconds of that after which an agent counts as one that cannot work."""


def overall(
    statuses: Mapping[str, AgentStatus],
    *,
    store_error: str | None = None,
    stopping: bool = False,
    blocked: str | None = None,
    notes: Sequence[str] = (),
) -> tuple[HealthState, list[str]]:
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
    enabled = {agent_id: status for agent_id, status in statuses.items() if status.enabled}
    faults = {agent_id: _fault(status) for agent_id, status in enabled.items()}
    reasons = [f"{agent_id} {fault}" for agent_id, fault in faults.items() if fault is not None]
    for status in enabled.values():
        reasons += _faults_of_parts(status)
    # It may answer the daemon, and lack just what an agent needs.
    of_agents = (status.health.store_error for status in enabled.values())
    store_error = store_error or next(filter(None, of_agents), None)
    if store_error is not None:
        reasons.append(f"the store is away: {store_error}")
    if blocked is not None:
        reasons.insert(0, blocked)
    reasons += notes
    if stopping:
        return HealthState.DEGRADED, ["the daemon is stopping", *reasons]
    wanted = [status for status in enabled.values() if not status.health.held]
    nobody_works = wanted and not any(map(_can_work, wanted))
    if nobody_works or blocked is not None:
        return HealthState.CRITICAL, reasons
    return (HealthState.DEGRADED if reasons else HealthState.HEALTHY), reasons


def _can_work(status: AgentStatus) -> bool:
    """Whether it works, or will without anybody's help: a budget is back tomorrow."""
    health = status.health
    is_paused = health.paused is not None and health.paused_until is None
    waits = health.throttled_age or 0.0
    return status.status.works and not is_paused and waits < TOO_LONG_WITHOUT_MODEL


def _fault(status: AgentStatus) -> str | None:
    """Return what is wrong with an agent, if something is."""
    faults = [_pause(status.health), _trouble(status)]
    return " and ".join(filter(None, faults)) or None


def _faults_of_parts(status: AgentStatus) -> Iterator[str]:
    """Say which workers of an agent wait for their restart while others work, and which tools."""
    for problem in status.problems:
        yield f"{status.agent_id}: {problem}"
    if status.status is AgentState.RUNNING and len(status.workers) > 1:
        for worker in status.workers:
            if worker.restart_in is not None:
                error = shorten(error_line(status.last_error or ""), 200)
                yield (
                    f"{status.agent_id}: worker {worker.number} of {len(status.workers)} crashed "
                    f"and waits for its restart: {error}"
                )


def _pause(health: AgentHealth) -> str | None:
    if health.paused is None:
        return None
    return f"is {health.paused}" if health.held else f"is paused: {health.paused}"


def _trouble(status: AgentStatus) -> str | None:
    health = status.health
    if health.doing == WAITING_FOR_STORE:
        return "is waiting for the store"
    if status.status.works:
        waits = health.throttled_age or 0.0
        if waits < LONG_WITHOUT_MODEL:
            return None
        return f"has waited long for Claude: {health.throttled_why}"
    if status.restart_in is not None:
        # Not when: that changes by the second, and stands beside this wherever it is shown.
        error = shorten(error_line(status.last_error or ""), 200)
        return f"crashed and waits for its restart: {error}"
    return f"is {status.status.words}"
