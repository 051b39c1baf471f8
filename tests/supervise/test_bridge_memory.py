"""What asyncio code leaves in memory, and what garbage collection may do to its loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import traceback
import weakref

import pytest
import trio

from actp_supervise import Restart, open_supervisor
from actp_supervise.bridge import asyncio_child


@pytest.fixture(autouse=True)
def quick_collections():
    """Leave what was there before out of each collection: it takes most of the time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@contextlib.contextmanager
def at_each_collection(callback):
    """Collect garbage as often as Python can, and call `callback` each time: at any line at all."""

    def collecting(phase, _info):
        lines = {frame.f_code.co_name for frame, _ in traceback.walk_stack(None)}
        # While MockClock decides to jump it does not see what is added.
        if phase == "start" and "_autojump" not in lines:
            callback()

    thresholds = gc.get_threshold()
    gc.callbacks.append(collecting)
    gc.set_threshold(1)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(collecting)


async def test_a_run_leaves_nothing_in_memory(isolation, clock):
    loops = []

    async def code():
        loops.append(weakref.ref(asyncio.get_running_loop()))
        asyncio.create_task(asyncio.sleep(1000))  # noqa: RUF006
        await asyncio.sleep(0.01)
        raise ValueError

    async def child():
        with contextlib.suppress(ValueError):
            await asyncio_child(code, isolation=isolation)()
        for _ in range(10):  # a worker thread lets go of its last call when it gets the next
            if isolation == "thread":
                await trio.to_thread.run_sync(gc.collect)
            gc.collect()
        assert [ref() for ref in loops] == [None]

    async with open_supervisor() as supervisor:
        supervisor.start_soon(child, restart=Restart.TRANSIENT)


async def test_time_outs_that_are_no_longer_needed_are_forgotten(isolation, clock):
    record = []

    async def code():
        loop = asyncio.get_running_loop()
        due = loop.time() + 0.05
        loop.call_at(due, record.append, "due")
        for _ in range(2_000):
            await asyncio.wait_for(asyncio.sleep(0), 3_600)
        gc.collect()
        kept = sum(isinstance(each, asyncio.TimerHandle) for each in gc.get_objects())
        record.append(kept < 300)
        await asyncio.sleep(0.1)

    await asyncio_child(code, isolation=isolation)()

    assert sorted(record, key=str) == [True, "due"]


@pytest.mark.parametrize("isolation", ["loop"], indirect=True)
async def test_what_is_added_during_a_collection_is_called_at_once(isolation, clock):
    added, called = {}, {}

    async def add_during(nth):
        loop = asyncio.get_running_loop()
        collections = itertools.count(1)
        future = loop.create_future()

        def call():
            called[nth] = loop.time()
            future.set_result(None)

        def add():
            if next(collections) == nth:
                added[nth] = loop.time()
                loop.call_soon(call)

        with at_each_collection(add):
            await asyncio.wait([future], timeout=1)

    async def code():
        for nth in range(1, 100):
            await add_during(nth)
            await asyncio.sleep(1)

    await asyncio_child(code, isolation=isolation)()

    assert called == added
    assert len(added) > 20


async def test_a_task_that_is_collected_in_another_thread_does_not_stop_the_loop(isolation, clock):
    record = []

    async def helper(requests):
        try:
            await requests.get()
        finally:
            record.append("closed")

    async def code():
        asyncio.create_task(helper(asyncio.Queue()))  # noqa: RUF006
        await asyncio.sleep(0.01)
        await asyncio.to_thread(gc.collect)
        await asyncio.sleep(0.01)
        record.append("went on")

    await asyncio_child(code, isolation=isolation)()

    assert record == ["closed", "went on"]


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_a_task_that_is_woken_while_it_is_collected_is_no_crash(isolation):
    async def helper(requests):
        await requests.get()  # whose clean-up wakes the task, in its own thread

    async def code():
        for _ in range(30):
            asyncio.create_task(helper(asyncio.Queue()))  # noqa: RUF006
            await asyncio.sleep(0)
            await asyncio.to_thread(gc.collect)
        gc.collect()

    await asyncio_child(code, isolation=isolation)()
