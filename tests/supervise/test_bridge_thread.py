"""Asyncio code in a thread of its own. Its time is real, so the waits here are short."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading

import pytest
import trio

from actp_supervise import ChildState, Restart, current_child, open_supervisor
from actp_supervise.bridge import CancellationIgnored, asyncio_child, run_in_trio
from actp_supervise.child import record_of
from actp_supervise.events import ChildStarted


@pytest.fixture
def released():
    """What a test's blocking code waits for; set at the end, so that no thread stays behind."""
    event = threading.Event()
    yield event
    event.set()


async def test_code_that_blocks_delays_nobody(released):
    async def code():
        assert released.wait(30)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(asyncio_child(code, isolation="thread"))
        for _ in range(5):
            await trio.sleep(0.01)
        released.set()


async def test_code_that_blocks_sees_that_it_is_asked_to_stop(released):
    record = []

    async def code():
        child = current_child()
        while not child.stopping:
            released.wait(0.005)
        record.append("stopped")

    async with open_supervisor() as supervisor:
        supervisor.start_soon(asyncio_child(code, isolation="thread"))
        await trio.sleep(0.05)
        await supervisor.shutdown()

    assert record == ["stopped"]


async def test_stuck_code_is_left_in_its_thread_and_the_error_says_where(released):
    async def code():
        released.wait(30)

    start = trio.current_time()
    with (
        pytest.raises(CancellationIgnored, match=r"0\.2 s .*thread: .*code \(test_bridge_thread"),
        trio.move_on_after(0.1),
    ):
        await asyncio_child(code, isolation="thread", cancel_timeout=0.2)()

    assert trio.current_time() - start >= 0.3


async def test_code_that_swallows_its_cancellation_is_left_in_its_thread(released):
    async def stubborn():
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    with (
        pytest.raises(CancellationIgnored, match=r"stubborn \(test_bridge_thread"),
        trio.move_on_after(0.1),
    ):
        await asyncio_child(stubborn, isolation="thread", cancel_timeout=0.1)()


async def test_code_whose_left_behind_thread_is_stuck_is_left_too(released):
    async def code():
        asyncio.get_running_loop().run_in_executor(None, released.wait, 30)
        await asyncio.sleep(0.01)

    with pytest.raises(CancellationIgnored, match="left in its thread"):
        await asyncio_child(code, isolation="thread", cancel_timeout=0.1)()


async def test_code_left_in_its_thread_reaches_neither_trio_nor_the_next_run(released):
    record = []
    ended = trio.Event()
    token = trio.lowlevel.current_trio_token()

    async def code():
        child = current_child()
        released.wait(30)
        child.beat()
        try:
            await run_in_trio(trio.sleep, 0)
        except RuntimeError as error:
            record.append(str(error))
        token.run_sync_soon(ended.set)

    codes = iter([asyncio_child(code, isolation="thread", cancel_timeout=0.1), trio.sleep_forever])

    async def run_the_next():
        await next(codes)()

    async with open_supervisor(shutdown_timeout=0) as supervisor:
        async with supervisor.subscribe() as events:
            child = supervisor.start_soon(run_the_next, watchdog=0.4)
            async for event in events:
                if isinstance(event, ChildStarted) and event.restarts == 1:
                    break
        beat_due = record_of(child).run.watch.beat_due
        released.set()
        await ended.wait()
        assert record_of(child).run.watch.beat_due == beat_due
        await supervisor.shutdown()

    assert record == ["run_in_trio(): the run of this child is over"]


async def test_an_error_of_code_left_in_its_thread_is_logged(released, caplog):
    ended = threading.Event()

    async def code():
        try:
            released.wait(30)
            raise ValueError("too late")
        finally:
            asyncio.get_running_loop().call_soon(ended.set)

    with pytest.raises(CancellationIgnored), trio.move_on_after(0.1):
        await asyncio_child(code, isolation="thread", cancel_timeout=0.1)()
    released.set()
    await trio.to_thread.run_sync(ended.wait, 30)

    assert "too late" in caplog.text


async def test_cancellation_ends_a_waiting_thread_at_once():
    async def code():
        await asyncio.sleep(1000)

    with trio.move_on_after(0.1) as scope:
        await asyncio_child(code, isolation="thread", cancel_timeout=30)()  # else it is ignored

    assert scope.cancelled_caught


async def test_the_loop_is_asyncios_own_even_where_trio_asyncio_is_imported():
    record = []

    async def code():
        record.append(type(asyncio.get_running_loop()))

    await asyncio_child(code, isolation="thread")()

    assert record == [asyncio.SelectorEventLoop]


async def test_children_in_threads_use_up_no_threads_of_others():
    count = trio.to_thread.current_default_thread_limiter().total_tokens + 1
    barrier = threading.Barrier(count)

    async def code():
        barrier.wait(30)

    async with open_supervisor() as supervisor:
        for n in range(count):
            supervisor.start_soon(
                asyncio_child(code, isolation="thread"), name=str(n), restart=Restart.TRANSIENT
            )
        await trio.to_thread.run_sync(int)

    assert all(child.state is ChildState.FINISHED for child in supervisor.children)


# Threads that the code starts itself, by `asyncio.to_thread`.


async def test_calls_in_threads_work_and_are_waited_for_at_the_end():
    done = []

    async def code():
        assert await asyncio.to_thread(lambda a, b: a + b, 1, b=2) == 3
        with pytest.raises(KeyError):
            await asyncio.to_thread({}.__getitem__, "nothing")
        many = [asyncio.to_thread(done.append, n) for n in range(100)]
        await asyncio.gather(*many)
        asyncio.get_running_loop().run_in_executor(None, let_go_and_note)

    def let_go_and_note():
        threading.Event().wait(0.05)
        done.append("at the end")

    await asyncio_child(code, isolation="thread")()
    assert sorted(done[:-1]) == list(range(100))
    assert done[-1] == "at the end"


async def test_a_call_that_is_cancelled_before_its_turn_is_never_made():
    made = []
    block = threading.Event()

    async def code():
        tasks = [asyncio.create_task(asyncio.to_thread(block.wait, 30)) for _ in range(32)]
        await asyncio.sleep(0)
        late = asyncio.create_task(asyncio.to_thread(made.append, "made"))
        await asyncio.sleep(0)
        late.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await late
        block.set()
        await asyncio.gather(*tasks)

    await asyncio_child(code, isolation="thread")()
    assert made == []


def test_a_call_that_is_stuck_in_a_thread_does_not_keep_the_program_from_ending():
    program = """
import asyncio, sys, threading, trio
from actp_supervise import open_supervisor
from actp_supervise.bridge import asyncio_child

async def code():
    print("stuck", flush=True)
    await asyncio.to_thread(threading.Event().wait)

async def main():
    async with open_supervisor() as supervisor:
        supervisor.start_soon(asyncio_child(code, isolation="thread", cancel_timeout=0.1))
        await trio.sleep(0.3)
        await supervisor.shutdown()
    print("left", flush=True)

trio.run(main)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout == "stuck\nleft\n"


def test_calls_for_which_there_was_no_thread_take_no_place_from_later_ones():
    program = """
import asyncio, threading, trio
from actp_supervise.bridge import asyncio_child

async def code():
    threading.stack_size(1 << 46)  # for which there is no room: no thread can be started
    calls = [asyncio.to_thread(int) for _ in range(100)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    print(*{type(each).__name__ for each in ended})
    threading.stack_size(0)
    print(await asyncio.wait_for(asyncio.to_thread(int, 7), 30))

trio.run(asyncio_child(code, isolation="thread"))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "RuntimeError\n7\n"
