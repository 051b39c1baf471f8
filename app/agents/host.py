"""Where an agent's code runs: its instance, and the sign of life that its own loop gives."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .contract import make_agent
from .handle import end

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .activity import Activity
    from .contract import Agent, AgentContext

T = TypeVar("T")

BEAT_INTERVAL: Final = 1.0
"""Seconds between two signs of life."""


async def run_agent(cls: type[Agent], context: AgentContext, poll_interval: float) -> None:
    """Make an instance of an agent and run it until it ends; in asyncio.

    Args:
        cls: Its class.
        context: What it is given.
        poll_interval: Seconds between two looks for work.
    """
    agent = make_agent(cls, context)
    await _alive(agent.run_as_daemon(poll_interval), context.activity)


async def run_routine(cls: type[Agent], context: AgentContext, method: str) -> Any:  # noqa: ANN401  (the routine's)
    """Make an instance of an agent, and have it do one routine; in asyncio.

    Args:
        cls: Its class.
        context: What it is given.
        method: The routine's name; it has to be there.

    Returns:
        What the routine returned.
    """
    agent = make_agent(cls, context)
    return await _alive(getattr(agent, method)(), context.activity)


async def _alive(work: Coroutine[Any, Any, T], activity: Activity) -> T:
    """Do the work, and vouch beside it for the loop in which it runs."""
    beating = asyncio.ensure_future(_beat(activity))
    try:
        return await work
    finally:
        if inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
            work.close()
        await end(beating)


async def _beat(activity: Activity) -> None:
    while True:
        activity.beat()
        await asyncio.sleep(BEAT_INTERVAL)
