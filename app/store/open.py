"""Which store is used: the one place that chooses."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from actp_supervise import Backoff
from actp_supervise.service import retry
from app.store.protocol import StoreUnavailable
from app.store.sqlite import open_sqlite_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from app.settings import Settings
    from app.store.protocol import Store

ResultT = TypeVar("ResultT")

STORE_BACKOFF: Final = Backoff(initial=0.5, factor=2.0, maximum=15.0)
"""How long a start waits between two tries while the store is away."""


def open_store(settings: Settings) -> AbstractAsyncContextManager[Store]:
    """Open the store that is configured, to be used in an ``async with``.

    Raises:
        StoreUnavailable: From entering, if it cannot be reached just now.
        WrongSettings: From entering, if the project's address or key will not do, or the tables
            are of another version than the program's.
        StoreError: From entering, if it cannot be opened: one line that says why.
    """
    if settings.supabase_url is None or settings.supabase_service_role_key is None:
        return open_sqlite_store(settings.db_path)
    return _open_supabase(settings.supabase_url, settings.supabase_service_role_key)


async def patiently(
    attempt: Callable[[], Awaitable[ResultT]], waiting: Callable[[StoreUnavailable, float], object]
) -> ResultT:
    """Return what `attempt` returns, trying again for as long as the store is away.

    Args:
        attempt: What needs the store.
        waiting: Told each time why and for how many seconds it waits.
    """

    async def pause(error: StoreUnavailable, seconds: float) -> None:
        waiting(error, seconds)
        await trio.sleep(seconds)

    return await retry(attempt, StoreUnavailable, backoff=STORE_BACKOFF, pause=pause)


@asynccontextmanager
async def open_patiently(
    open_store: Callable[[], AbstractAsyncContextManager[Store]],
    *,
    waiting: Callable[[StoreUnavailable, float], object],
) -> AsyncIterator[Store]:
    """Open a store, however long it is away. Raises as `open_store`.

    Args:
        open_store: Opens it, or raises that it is away.
        waiting: Told each time why and for how many seconds it waits.
    """
    async with AsyncExitStack() as stack:

        async def enter() -> Store:
            return await stack.enter_async_context(open_store())

        yield await patiently(enter, waiting)


@asynccontextmanager
async def _open_supabase(url: str, key: str) -> AsyncIterator[Store]:
    # Takes most of a second to import.
    from app.store.supabase import open_supabase_store

    async with open_supabase_store(url, key) as store:
        yield store
