"""How asyncio code is cancelled, and what becomes of code that ignores it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading

import pytest
import trio
from asyncio_code import fail

from actp_supervise import SupervisionError, open_supervisor
from actp_supervise.bridge import CancellationIgnored, asyncio_child


async def cancelled_after(seconds: float, child) -> bool:
    with trio.move_on_after(seconds) as scope:
        await child()
    return scope.cancelled_caught


async def test_cancellation_arrives_once_and_clean_up_may_wait(isolation, clock):
    record = []

    async def code():
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            record.append("cancelled")
            await asyncio.sleep(0.02)
            record.append("cleaned up")
            raise

    assert await cancelled_after(0.1, asyncio_child(code, isolation=isolation))
    assert record == ["cancelled", "cleaned up"]


async def test_code_that_returns_when_cancelled_still_ends_as_cancelled(isolation, clock):
    async def code():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)

    assert await cancelled_after(0.1, asyncio_child(code, isolation=isolation))


async def test_cancellation_waits_for_no_thread_of_the_code(isolation):
    record = []
    released = threading.Event()

    async def code():
        try:
            await asyncio.to_thread(released.wait, 30)
        except asyncio.CancelledError:
            record.append("cancelled")
            released.set()
            raise

    assert await cancelled_after(0.1, asyncio_child(code, isolation=isolation))
    assert record == ["cancelled"]


async def test_background_tasks_are_there_while_the_cancelled_code_cleans_up(isolation, clock):
    record = []

    async def helper(requests):
        while True:
            (await requests.get()).set_result("answer")

    async def code():
        requests = asyncio.Queue()
        task = asyncio.create_task(helper(requests))
        try:
            await asyncio.sleep(1000)
        finally:
            reply = asyncio.get_running_loop().create_future()
            await requests.put(reply)
            record.append((await reply, task.done()))

    assert await cancelled_after(0.1, asyncio_child(code, isolation=isolation))
    assert record == [("answer", False)]


async def test_an_error_in_clean_up_takes_the_place_of_the_cancellation(isolation, clock):
    async def code():
        try:
            await asyncio.sleep(1000)
        finally:
            raise ValueError("in clean-up")

    with pytest.raises(ValueError, match="in clean-up") as caught:
        await cancelled_after(0.1, asyncio_child(code, isolation=isolation))

    assert isinstance(caught.value.__context__, asyncio.CancelledError)


async def test_a_child_cancelled_before_it_begins_runs_nothing(isolation, clock):
    record = []

    async def code():
        record.append("ran")

    for _ in range(20):  # a thread might begin before it is told
        with trio.CancelScope() as scope:
            scope.cancel()
            await asyncio_child(code, isolation=isolation)()
        assert scope.cancelled_caught

    assert record == []


@pytest.mark.parametrize("steps", range(12))
async def test_a_cancellation_is_never_too_early_to_be_heard(autojump_clock, steps):
    async def code():
        await asyncio.sleep(1000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(asyncio_child(code))
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    assert trio.current_time() == 0


async def test_a_cancelled_error_that_nobody_sent_is_a_crash(isolation, clock):
    with pytest.raises(SupervisionError, match="nobody had cancelled it") as caught:
        await asyncio_child(fail, isolation=isolation)(asyncio.CancelledError())

    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


async def test_code_cancelled_by_a_task_of_its_own_is_a_crash(isolation, clock):
    async def code():
        task = asyncio.current_task()
        asyncio.get_running_loop().call_later(0.01, task.cancel)
        await asyncio.sleep(1000)

    with pytest.raises(SupervisionError, match="nobody had cancelled it"):
        await asyncio_child(code, isolation=isolation)()


# Code that ignores its cancellation, in Trio's thread.


async def stubborn() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1)


async def test_code_that_swallows_its_cancellation_is_closed_after_cancel_timeout(autojump_clock):
    with pytest.raises(
        CancellationIgnored, match=r"2\.0 s .* stubborn \(test_bridge_cancellation\.py:\d+\)"
    ):
        await cancelled_after(10, asyncio_child(stubborn, cancel_timeout=2.0))

    assert trio.current_time() == 12.0


async def test_closing_such_code_leaves_the_rest_of_the_tree_alone(autojump_clock):
    record = []

    async def sibling():
        while True:
            await asyncio.sleep(1)
            record.append(trio.current_time())

    async with open_supervisor(shutdown_timeout=1.0) as supervisor:
        supervisor.start_soon(asyncio_child(stubborn, cancel_timeout=2.0), name="stubborn")
        supervisor.start_soon(asyncio_child(sibling), name="sibling")
        await trio.sleep(5.5)
        await supervisor.stop("stubborn")
        assert trio.current_time() == 8.5
        assert "CancellationIgnored" in supervisor["stubborn"].last_error
        await trio.sleep(1)
        assert record == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
        await supervisor.shutdown()


async def test_a_left_behind_task_that_will_not_end_is_closed_too(autojump_clock):
    async def code():
        asyncio.create_task(stubborn())  # noqa: RUF006
        await asyncio.sleep(5)

    with pytest.raises(CancellationIgnored, match="stubborn"):
        await asyncio_child(code, cancel_timeout=2.0)()

    assert trio.current_time() == 7.0


async def test_the_time_to_end_is_one_for_all_that_the_run_has_left(autojump_clock):
    async def code():
        asyncio.create_task(stubborn())  # noqa: RUF006
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1.5)

    with pytest.raises(CancellationIgnored):
        await cancelled_after(10, asyncio_child(code, cancel_timeout=2.0))

    assert trio.current_time() == 12.0


async def test_closing_code_closes_its_async_generators_and_logs_nothing(autojump_clock, caplog):
    async def generator():
        yield 1
        yield 2

    kept = generator()

    async def code():
        await anext(kept)
        await stubborn()

    with pytest.raises(CancellationIgnored):
        await cancelled_after(10, asyncio_child(code))
    gc.collect()

    assert caplog.records == []


async def test_closing_runs_the_codes_finally_blocks(autojump_clock):
    record = []

    async def code():
        try:
            await stubborn()
        finally:
            record.append("finally")

    with pytest.raises(CancellationIgnored):
        await cancelled_after(10, asyncio_child(code))

    assert record == ["finally"]


async def test_closing_code_whose_clean_up_awaits_runs_its_other_blocks(autojump_clock):
    record = []

    async def code():
        try:
            try:
                await stubborn()
            finally:
                await asyncio.sleep(1)
        finally:
            record.append("outer")

    with pytest.raises(CancellationIgnored):
        await cancelled_after(10, asyncio_child(code))

    assert record == ["outer"]


async def test_a_task_that_code_starts_while_it_is_closed_is_closed_too(autojump_clock):
    async def clean_up():
        await asyncio.sleep(1000)

    async def code():
        try:
            await stubborn()
        finally:
            await asyncio.shield(asyncio.create_task(clean_up()))

    with trio.fail_after(100), pytest.raises(CancellationIgnored):
        await cancelled_after(10, asyncio_child(code, cancel_timeout=2.0))

    assert trio.current_time() == 12.0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("pause", [0, 1])
async def test_code_that_swallows_even_its_closing_runs_no_more(autojump_clock, pause):
    record = []

    async def code():
        while True:
            with contextlib.suppress(BaseException):
                record.append("turn")
                await asyncio.sleep(pause)

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def child():
            with pytest.raises(CancellationIgnored), scope:
                await asyncio_child(code, cancel_timeout=0)()

        scope = trio.CancelScope()
        while not record:
            await trio.lowlevel.checkpoint()
        scope.cancel()
    turns = len(record)
    await trio.sleep(100)

    assert len(record) == turns
    gc.collect()  # here and not in some other test, the coroutine complains of its end


async def test_code_that_swallows_even_its_closing_can_be_forgotten(autojump_clock):
    """It was closed once more when it was collected, and there awaited and failed for ever."""
    kept = []

    async def swallows_all():
        while True:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(1)

    async def code():
        kept.append(swallows_all())
        await kept[0]

    with pytest.raises(CancellationIgnored):
        await cancelled_after(0.5, asyncio_child(code, cancel_timeout=0.5))
    kept.clear()
    gc.collect()


async def test_an_async_generator_that_will_not_end_is_closed_too(autojump_clock):
    async def generator():
        try:
            yield 1
        finally:
            await asyncio.sleep(1000)

    kept = generator()

    async def code():
        await anext(kept)

    with pytest.raises(CancellationIgnored):
        await asyncio_child(code, cancel_timeout=2.0)()

    assert trio.current_time() == 2.0


async def test_code_ended_by_force_is_not_reported_as_overdue(autojump_clock):
    events = []
    async with open_supervisor(on_event=events.append, shutdown_timeout=0) as supervisor:
        supervisor.start_soon(asyncio_child(stubborn))
        await trio.sleep(1.5)
        await supervisor.shutdown()

    assert [type(event).__name__ for event in events] == [
        "ChildStarted",
        "StopRequested",
        "ChildStopped",
        "SupervisorStopped",
    ]
