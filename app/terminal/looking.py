"""What a command that only looks sees: the running daemon, or the store where none answers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, TypeVar

from actp_supervise.service import shorten
from app.listing import never_used, where
from app.running import with_store_of_running
from app.store.open import open_store
from app.terminal.api import AddressUnknownError, open_api
from app.terminal.errors import DaemonAwayError, RefusedError
from app.terminal.output import MOST_ON_LINE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.settings import Settings
    from app.store.protocol import Store
    from app.terminal.api import Api

T = TypeVar("T")

NOT_FOUND: Final = 404


async def look(
    settings: Settings,
    ask: Callable[[Api], Awaitable[T]],
    read: Callable[[Store], Awaitable[T]],
) -> T:
    """Return what the daemon answers; where none does, what the store says, with a word on stderr.

    Args:
        settings: Where they are.
        ask: Asks the daemon.
        read: Reads the same from the store.

    Raises:
        DaemonError: If the daemon refuses, or none answers and no store is there.
        StoreError: If none answers and the store cannot be read.
    """
    try:
        async with open_api(settings) as api:
            return await ask(api)
    except (DaemonAwayError, AddressUnknownError) as error:
        of_running = with_store_of_running(settings)
        if never_used(of_running):
            raise
        text = f"-- {shorten(str(error), MOST_ON_LINE)}. The store says ({where(of_running)}):"
        print(text, file=sys.stderr)
    async with open_store(of_running) as store:
        return await read(store)


async def found_or_none(ask: Awaitable[T]) -> T | None:
    """Return what the daemon answers; None where it says that it is not there."""
    try:
        return await ask
    except RefusedError as error:
        if error.status == NOT_FOUND:
            return None
        raise
