"""What calls of the model cost: set aside before each call, and booked after it."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from app.store.protocol import CostEntry, TaskCost

from .budget import Budget
from .handle import finish_anyway
from .prices import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from app.store.protocol import Reservation

    from .approvals import Gate
    from .contract import AgentContext
    from .replies import Reply

CALL_TIMEOUT: Final = 1800.0
"""Seconds that one call of the model may take."""

CHARACTERS_PER_TOKEN: Final = 3
"""For the estimate of a prompt that is not sent yet: rather too few, so that it is high enough."""

Request = dict[str, Any]
"""The parameters of `messages.create`, as the API has them."""


class Books:
    """The costs of calls on behalf of one task, or of none.

    Args:
        context: The agent's.
        task_id: The task on which the calls are booked, if it is one.
        gate: Asks a person where the task's budget is spent.
    """

    def __init__(self, context: AgentContext, task_id: str | None, gate: Gate) -> None:
        self.context = context
        self.task_id = task_id
        self._budget = Budget(context, task_id, gate, lifetime=CALL_TIMEOUT + 60.0)
        self._booked: list[CostEntry] = []

    @property
    def cost(self) -> TaskCost:
        """What was booked here."""
        entries = self._booked
        return TaskCost(
            calls=len(entries),
            input_tokens=sum(entry.input_tokens for entry in entries),
            output_tokens=sum(entry.output_tokens for entry in entries),
            cache_read_tokens=sum(entry.cache_read_tokens for entry in entries),
            cache_write_tokens=sum(
                entry.cache_write_5m_tokens + entry.cache_write_1h_tokens for entry in entries
            ),
            cost_usd=sum(entry.cost_usd for entry in entries),
            estimated_usd=sum(entry.cost_usd for entry in entries if entry.estimated),
        )

    async def open(self, request: Request, now: datetime, *, held: int = 0) -> OpenEntry:
        """Set aside what a call may cost. Raises as `Budget.reserve`.

        Args:
            request: What the API is asked.
            now: The present moment.
            held: Tokens of the prompt that the API has already and that are not in the request.
        """
        reservation = await self._budget.reserve(
            request["model"],
            self._most_it_costs(request, now, held=held),
            now,
            least=self._most_it_costs(request, now, with_prompt=False),
        )
        return OpenEntry(self, reservation, now)

    @asynccontextmanager
    async def call(self, request: Request, now: datetime) -> AsyncIterator[OpenEntry]:
        """Set aside what a call may cost, for the block that makes it. Raises as `open`.

        A block that is left before the call was settled leaves it booked at what it may have cost.
        """
        entry = await self.open(request, now)
        try:
            yield entry
        except asyncio.CancelledError:
            # It may be billed. Should there be no time for this, the reservation lapses into it.
            await entry.fail(may_cost=True)
            raise

    async def release(self, reservation: Reservation) -> None:
        """Release money whose call came to nothing."""
        await self._budget.release(reservation)

    async def book(self, entry: CostEntry) -> None:
        """Write an entry down."""
        await self.context.store.record_cost(entry, reservation=entry.id)
        self._booked.append(entry)
        self.context.activity.spent_usd += entry.cost_usd

    def _most_it_costs(
        self, request: Request, now: datetime, *, with_prompt: bool = True, held: int = 0
    ) -> float:
        prompt = 0
        if with_prompt:
            prompt = held + len(json.dumps(request, default=str)) // CHARACTERS_PER_TOKEN
        usage = Usage(cache_write_5m_tokens=prompt, output_tokens=request["max_tokens"])
        return self.context.prices.price(request["model"], usage, now.date()).usd


class OpenEntry:
    """A call for which money is set aside, until it is settled, once.

    Args:
        books: Where it is booked.
        reservation: What is set aside.
        now: When that was.
    """

    def __init__(self, books: Books, reservation: Reservation, now: datetime) -> None:
        self._books = books
        self._reservation = reservation
        self._now = now
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self.is_settled = False
        self.partial: Usage | None = None
        """What a call whose reply was lost has used at least; None where it is not known."""

    async def settle(self, reply: Reply) -> float:
        """Book the call by its reply; return how much."""
        return await self._book(reply.usage, reply)

    async def fail(self, *, may_cost: bool) -> float:
        """Book a call without a reply at what it may have cost, if it may; return how much."""
        if self.is_settled:
            return 0.0
        if not may_cost:
            self.is_settled = True
            await self._books.release(self._reservation)
            return 0.0
        return await self._book(self.partial, None)

    async def _book(self, usage: Usage | None, reply: Reply | None) -> float:
        if self.is_settled:
            return 0.0
        self.is_settled = True
        context, reservation = self._books.context, self._reservation
        model = reservation.model if reply is None else reply.model
        used = usage or Usage()
        price = context.prices.price(model, used, self._now.date())
        entry = CostEntry(
            id=reservation.id,
            agent_id=context.agent_id,
            run_id=context.run_id,
            task_id=self._books.task_id,
            model=model,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            cache_read_tokens=used.cache_read_tokens,
            cache_write_5m_tokens=used.cache_write_5m_tokens,
            cache_write_1h_tokens=used.cache_write_1h_tokens,
            cost_usd=reservation.amount_usd if usage is None else price.usd,
            priced=price.known,
            estimated=reply is None,
            request_id=None if reply is None else reply.request_id,
            duration=self._clock() - self._began,
        )
        await finish_anyway(self._books.book(entry))
        return entry.cost_usd
