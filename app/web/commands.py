"""Commands that outlast the request that asked for them."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

logger = logging.getLogger(__name__)


class Commands:
    """What was begun over HTTP and goes on; see `open_commands`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._under_way: set[str] = set()

    def begin(self, name: str, command: Callable[[], Awaitable[object]]) -> bool:
        """Carry out a command in the background, unless the same one is under way already.

        An error of it is logged, for whoever asked has had the answer.

        Returns:
            Whether it was begun.
        """
        if name in self._under_way:
            return False
        logger.info("Asked over HTTP: %s", name, extra={"action": "command"})
        self._under_way.add(name)
        self._nursery.start_soon(self._carry_out, name, command)
        return True

    async def _carry_out(self, name: str, command: Callable[[], Awaitable[object]]) -> None:
        try:
            await command()
        except Exception:
            logger.exception("Failed: %s", name, extra={"action": "command_failed"})
        finally:
            self._under_way.discard(name)


@asynccontextmanager
async def open_commands() -> AsyncIterator[Commands]:
    """Carry out commands for the time of the block; what is not done by then is cancelled."""
    async with trio.open_nursery() as nursery:
        yield Commands(nursery)
        nursery.cancel_scope.cancel(reason="the server stops")
