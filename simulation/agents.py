"""The four agents as they ship, in a world where any code may have a fault.

A fault shows where an agent calls the store, before the call or after it: it crashes, hangs, blocks
the loop, does not let itself be cancelled, or leaves a task behind.
"""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from actp_supervise.service import fields_of
from app.agents.acquisition import AcquisitionDomainAgent
from app.agents.base import DomainAgent
from app.agents.content import ContentCreationDomainAgent
from app.agents.revenue import RevenueAnalyticsDomainAgent
from app.agents.social import SocialMediaDomainAgent
from app.agents.tools import JSON, Call, current_call, tool
from app.store.protocol import Before

from .life import current_life
from .plan import POISON, What

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.agents.contract import AgentContext
    from app.store.verbs import Arguments, R, Verb

    from .outside import Outside

CLASSES = {
    "SOCIAL_MEDIA_AGENT_": "simulation.agents:Social",
    "CONTENT_AGENT_": "simulation.agents:Content",
    "ACQUISITION_AGENT_": "simulation.agents:Acquisition",
    "REVENUE_AGENT_": "simulation.agents:Revenue",
}
"""The classes by the prefix of their agent's variables."""


class SimulatedBug(RuntimeError):
    """An agent's code has a fault."""


class Faulty(Before):
    """The store, called by code that has faults."""

    def __init__(self, context: AgentContext) -> None:
        super().__init__(context.store)
        self._life = current_life.get()
        self._faults = self._life.faults_of(context.agent_id)
        self._agent_id = context.agent_id
        self._is_poisoned = False
        """Whether the task in hand makes the agent crash, however often it is tried."""

    @override
    async def perform(self, verb: Verb[R], arguments: Arguments) -> R:
        before = self._life.rng.random() < 0.5
        if before:
            await self._fail(verb.name)
        if self._is_poisoned and verb.name.startswith("record"):
            raise SimulatedBug("this task cannot be done")
        answer = await super().perform(verb, arguments)
        if verb.name == "claim_task" and answer is not None:
            self._is_poisoned = getattr(answer, "goal", "") == POISON
        if not before:
            await self._fail(verb.name)
        return answer

    async def _fail(self, verb: str) -> None:
        if not self._faults or verb == "ping":  # by which a paused agent looks at the clock
            return
        what, seconds = self._faults.popleft()
        self._life.note(f"{self._agent_id} {what} at {verb}")
        match what:
            case What.CRASH:
                raise SimulatedBug(f"at {verb}")
            case What.HANG:
                with self._hanging():
                    await asyncio.get_running_loop().create_future()
            case What.BLOCK:
                self._life.block(seconds)
            case What.SWALLOW:
                with self._hanging():
                    await _stay()
            case What.LEAK:
                self._life.leaked = asyncio.ensure_future(asyncio.sleep(1e9))
            case _:
                pass

    @contextmanager
    def _hanging(self) -> Iterator[None]:
        """Tell the rules that the agent hangs, until something cancels it.

        That is its run's end, or the end of a task's lease or of a tool's time.
        """
        routine = fields_of(copy_context()).get("routine")
        name = None if routine is None else str(routine)
        rules = self._life.world.rules
        rules.hung(self._life, self._agent_id, name)
        try:
            yield
        finally:
            rules.freed(self._life, self._agent_id, name)


async def _stay() -> None:
    for _ in range(5):
        try:
            await asyncio.sleep(1e9)
        except asyncio.CancelledError:  # noqa: ASYNC103  (that is the fault)
            await asyncio.sleep(0)
    raise SimulatedBug("after it had swallowed its cancellation")


class _Simulated(DomainAgent):
    max_tokens: ClassVar[int] = 400
    """So few that a small budget lasts for some calls, and is used up on most days."""

    def __init__(self, context: AgentContext) -> None:
        super().__init__(dataclasses.replace(context, store=Faulty(context)))
        self._life = current_life.get()

    # What these do outside is counted there.

    @tool(effect="keyed", target=("target",))
    async def ring_bell(self, target: str) -> JSON:
        """Ring a bell.

        Args:
            target: Where.
        """
        call = await self._begin()
        self._outside.ring(call.task_id or call.key, call.key, target)
        await self._end()
        return {"rang": target}

    @tool
    async def deliver_parcel(self, target: str) -> JSON:
        """Deliver a parcel.

        Args:
            target: Where.
        """
        call = await self._begin()
        receipt = self._outside.deliver(call.task_id or call.key, call.key)
        await self._end()
        return {"delivered": target, "receipt": receipt}

    @tool(approve=True)
    async def sign_contract(self, partner: str) -> JSON:
        """Sign a contract.

        Args:
            partner: With whom.
        """
        call = await self._begin()
        self._outside.sign(call.task_id or call.key, call.key, {"partner": partner})
        await self._end()
        return {"signed": partner}

    @property
    def _outside(self) -> Outside:
        return self._life.world.rules.outside

    async def _begin(self) -> Call:
        call = current_call()
        await asyncio.sleep(self._life.rng.uniform(0.0, 10.0))
        if self._life.is_dead:
            raise SimulatedBug("this process is dead")
        self._life.note(f"{self.agent_id} acts outside for task {call.task_id}")
        return call

    async def _end(self) -> None:
        await asyncio.sleep(self._life.rng.uniform(0.0, 40.0))


class Social(_Simulated, SocialMediaDomainAgent):
    """The social media agent."""


class Content(_Simulated, ContentCreationDomainAgent):
    """The content agent."""


class Acquisition(_Simulated, AcquisitionDomainAgent):
    """The acquisition agent."""


class Revenue(_Simulated, RevenueAnalyticsDomainAgent):
    """The revenue agent."""
