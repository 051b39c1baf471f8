"""A database of its own for each test that asks for a `store`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from app.store.protocol import Store
from app.store.sqlite import open_sqlite_store

if TYPE_CHECKING:
    from pathlib import Path

OpenStore = Callable[[], Awaitable[Store]]


@pytest.fixture(params=["sqlite"])
def database(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[], AbstractAsyncContextManager[Store]]:
    """What opens a store on one new database of the kind under test."""
    return lambda: open_sqlite_store(tmp_path / "store.db")


@pytest.fixture
async def open_store(
    database: Callable[[], AbstractAsyncContextManager[Store]],
) -> AsyncIterator[OpenStore]:
    """Open one more store on the test's database, as another daemon would."""
    async with AsyncExitStack() as stack:

        async def open_another() -> Store:
            return await stack.enter_async_context(database())

        yield open_another


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()
