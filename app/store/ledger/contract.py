"""What the model has cost, and what of a budget is set aside."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

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


def first_whole_day(since: datetime) -> date:
    """Return the first day (UTC) that begins at a moment or later."""
    return (since.astimezone(UTC) + timedelta(days=1, microseconds=-1)).date()


class Ledger(Noun):
    """Costs (`anthropic_cost_log`) and reservations of budgets."""

    @verb
    async def record_cost(self, entry: CostEntry, *, reservation: str | None = None) -> None:
        """Log a usage; in the same step the budget reservation it settles is dropped."""

    @verb
    async def costs(self, *, since: datetime, agent_id: str | None = None) -> list[CostSum]:
        """Return spend by agent, model and UTC day since a moment."""

    @verb
    async def reserve_budget(
        self,
        reservation: str,
        agent_id: str,
        *,
        since: datetime,
        limit: float,
        amount: float,
        lifetime: Seconds,
    ) -> bool:
        """Set `amount` aside if spend since `since`, open reservations and it stay within `limit`.

        A reservation that is never settled lapses after `lifetime` seconds.
        """

    @verb
    async def release_budget(self, reservation: str) -> None:
        """Drop a reservation whose call came to nothing."""
