"""The hands that the file gives an agent, open for one of its runs: where the agent itself runs.

In the daemon for one that shares its process, and in the agent's process for one that has its own.
So what an agent does with its tools ends with it, and the tools' secrets are where it is.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from app.hands import Hands, Wanted

    from .spec import WantedHand

SERVERS_TIMEOUT: Final = 15.0
"""Seconds that a run waits for its MCP servers before it begins without those that are away."""


def wanted_of(hands: Iterable[WantedHand]) -> list[Wanted]:
    """Return the hands that an agent asks for, as they are opened."""
    from app.hands import Wanted

    return [
        Wanted(
            name=hand.name,
            options=hand.options,
            optional=hand.optional,
            for_model=hand.for_model,
        )
        for hand in hands
    ]


@asynccontextmanager
async def open_own_hands(
    wanted: Sequence[Wanted], variables: Mapping[str, str], opened: Callable[[Hands], object]
) -> AsyncIterator[Hands | None]:
    """Open the hands of an agent for the time of the block; None where it has none.

    Args:
        wanted: The hands.
        variables: The variables of the environment that they may use.
        opened: Told as soon as they are open, when a server may still be away.

    Raises:
        SetUpError: If one cannot be set up as it is configured.
    """
    if not wanted:
        yield None
        return
    from app.hands import open_hands

    async with open_hands(wanted, variables) as hands:
        opened(hands)
        # A conversation keeps the tools that it began with, so servers get time to be there.
        with trio.move_on_after(SERVERS_TIMEOUT):
            while hands.problems:  # noqa: ASYNC110  (no event tells)
                await trio.sleep(0.1)
        yield hands
