"""A database of its own for each test that asks for a `store`; clocks; agents at work."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock

from app.store.protocol import Store
from app.store.sqlite import open_sqlite_store
from app.store.supabase import open_supabase_store
from simulation.store import Memory, open_memory_store

if TYPE_CHECKING:
    from pathlib import Path

    from agents_at_work import Office

OpenStore = Callable[[], Awaitable[Store]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the contract of the store on both kinds, and all else on the quicker one."""
    if "database" in metafunc.fixturenames:
        of_the_store = metafunc.module.__name__.startswith("test_store")
        kinds = ["sqlite", "memory", "supabase"] if of_the_store else ["sqlite"]
        metafunc.parametrize("database", kinds, indirect=True)


@pytest.fixture
def memory() -> Memory:
    """The database of a store in memory."""
    return Memory()


@pytest.fixture
def database(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[], AbstractAsyncContextManager[Store]]:
    """What opens a store on one new database of the kind under test."""
    if request.param == "sqlite":
        return lambda: open_sqlite_store(tmp_path / "store.db")
    if request.param == "memory":
        return partial(open_memory_store, request.getfixturevalue("memory"))
    project = request.getfixturevalue("project")
    return lambda: open_supabase_store(project.url, project.service_key)


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


@pytest.fixture
async def at_work(store: Store) -> AsyncIterator[Office]:
    """An office on the test's store."""
    from agents_at_work import office  # whose imports take seconds

    async with office(store) as place:
        yield place


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """Virtual time that stands still while a thread works for the store, however long it takes."""
    clock = MockClock(autojump_threshold=0)
    run_sync = trio.to_thread.run_sync
    working = 0

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal working
        working += 1
        clock.autojump_threshold = math.inf
        try:
            return await run_sync(*args, **options)
        finally:
            working -= 1
            if not working:
                clock.autojump_threshold = 0

    monkeypatch.setattr(trio.to_thread, "run_sync", counted)
    return clock


@pytest.fixture
def fast_clock() -> MockClock:
    """A clock on which a second lasts 20 ms, for limits that are tried out on real sockets."""
    return MockClock(rate=50)
