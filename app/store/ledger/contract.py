"""What the model has cost, and what of a budget is set aside."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from app.store.verbs import Noun, Seconds, verb


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEntry:
    """The usage of one call of the model and its price (`anthropic_cost_log`)."""

    id: str
    agent_id: str
    run_id: str | None
    task_id: str | None
    model: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cost_usd: float
    priced: bool = True
    """False where no row of the price table named the model, and the dearest was taken."""
    request_id: str | None = None
    estimated: bool = False
    """True of a call whose answer was lost: this is the most that it may have cost."""
    duration: float | None = None
    """Seconds that the call took; for those who watch the daemon, as no store keeps it."""
    created_at: datetime | None = None
    """Set by the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSum:
    """Spend of one agent with one model on one day (UTC)."""

    agent_id: str
    model: str
    day: date
    calls: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A call of the model that is about to be made, and the most that it may cost."""

    id: str
    """Also the id of the entry by which it is settled."""
    agent_id: str
    run_id: str | None
    task_id: str | None
    model: str
    amount_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may be spent, in USD; None for any amount."""

    task: float | None = None
    """By one task, in all its attempts."""
    agent: float | None = None
    """By one agent, since the day began."""
    total: float | None = None
    """By all agents together, since the day began."""


class Scope(StrEnum):
    """Whose limit is reached."""

    TASK = "task"
    AGENT = "agent"
    TOTAL = "total"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """The answer to `reserve`."""

    over: Scope | None = None
    """The limit that the call would exceed; None where it is within all of them."""
    spent: float = 0.0
    """What is spent of that limit."""
    held: float = 0.0
    """What other calls hold of it just now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCost:
    """What a task has cost in all its attempts."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0
    estimated_usd: float = 0.0
    """Of that, what calls may have cost whose answer was lost."""


def first_whole_day(since: datetime) -> date:
    """Return the first day (UTC) that begins at a moment or later."""
    return (since.astimezone(UTC) + timedelta(days=1, microseconds=-1)).date()


class Ledger(Noun):
    """Costs (`anthropic_cost_log`) and the money that is set aside for calls under way.

    A reservation that is not settled within its lifetime belongs to a daemon that died during the
    call. Each `reserve` books these at their whole amount, as estimated.
    """

    @verb
    async def record_cost(self, entry: CostEntry, *, reservation: str | None = None) -> None:
        """Log a usage; in the same step the reservation that it settles is dropped.

        An entry whose id is there already is left as it is, unless that one is estimated and this
        one is not.
        """

    @verb
    async def costs(self, *, since: datetime, agent_id: str | None = None) -> list[CostSum]:
        """Return spend by agent, model and UTC day since a moment."""

    @verb
    async def reserve(
        self, call: Reservation, *, since: datetime, limits: Limits, lifetime: Seconds
    ) -> Reserved:
        """Set money aside for a call, if with it every limit is kept; the narrowest is asked first.

        Args:
            call: The call; one that was granted is granted again, and where it is over meanwhile
                nothing is set aside for it.
            since: When the day began.
            limits: What may be spent, open reservations included.
            lifetime: Seconds after which the call counts as lost.
        """

    @verb
    async def release_budget(self, reservation: str) -> None:
        """Drop a reservation whose call came to nothing."""

    @verb
    async def settle_task(self, task_id: str) -> TaskCost:
        """Book the open calls of a task as lost, and return what it has cost.

        For the worker that has just claimed the task, or is done with it: another that was cut off
        during a call may have been billed for it. If that one comes back, its exact entry takes
        the place of the estimated one.
        """
