"""What we rely on of trio-asyncio and asyncio, of which they promise none: their insides.

Where one of these fails after an update, `actp_supervise/bridge/handles.py` is the file to mend;
``pyproject.toml`` says up to which version we know that they hold.
"""

from __future__ import annotations

import asyncio
import inspect

import trio
import trio.testing
import trio_asyncio


async def test_a_loop_of_trio_asyncio_has_a_queue_of_two_ends_that_can_be_replaced():
    async with trio_asyncio.open_loop() as loop:
        assert callable(loop._q_send.send_nowait)
        assert inspect.iscoroutinefunction(loop._q_recv.receive)
        assert callable(loop._q_recv.receive_nowait)


async def test_a_loop_of_trio_asyncio_keeps_its_timers_in_a_heap_and_tells_of_cancelled_ones():
    async with trio_asyncio.open_loop() as loop:
        later = loop.call_later(60, print)
        await trio.testing.wait_all_tasks_blocked()
        assert later in loop._timers
        told = []
        loop._timer_handle_cancelled = told.append
        later.cancel()
        assert told == [later]


async def test_a_loop_of_trio_asyncio_waits_at_its_end_for_the_generators_in_its_set():
    async with trio_asyncio.open_loop() as loop:
        loop._asyncgens.clear()


async def test_a_loop_of_trio_asyncio_can_be_kept_from_stopping_by_an_attribute_of_its_own():
    async with trio_asyncio.open_loop() as loop:
        loop.stop = print
        del loop.stop
        assert inspect.ismethod(loop.stop)


def test_an_executor_of_trio_asyncio_is_asked_by_an_async_method_submit():
    assert inspect.iscoroutinefunction(trio_asyncio.TrioExecutor.submit)


def test_a_task_can_be_taken_out_of_asyncio_s_list_and_then_ends_without_a_line_in_the_log():
    async def main():
        task = asyncio.ensure_future(asyncio.sleep(0))
        assert task._log_destroy_pending is True
        asyncio._unregister_task(task)
        assert task not in asyncio.all_tasks()
        asyncio._register_task(task)
        await task

    asyncio.run(main())


async def test_a_loop_of_trio_asyncio_looks_up_each_turn_as_an_attribute_of_its_own():
    async with trio_asyncio.open_loop() as loop:
        turns, usual = [], loop._main_loop_one

        async def turn(no_wait=False):
            turns.append(no_wait)
            await usual(no_wait=no_wait)

        loop._main_loop_one = turn
        called = trio.Event()
        loop.call_soon(int)  # ends the turn under way
        loop.call_soon(called.set)
        await called.wait()
        assert turns
        assert issubclass(trio_asyncio._handles.AsyncHandle, asyncio.Handle)
