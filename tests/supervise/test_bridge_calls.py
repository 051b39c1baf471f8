"""From asyncio code to Trio and back: `run_in_trio`, and `current_child` in asyncio's terms."""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import ContextVar

import pytest
import trio

from actp_supervise import ChildState, Restart, SupervisionError, current_child, open_supervisor
from actp_supervise.bridge import (
    AsyncioStopSignal,
    CancellationIgnored,
    asyncio_child,
    run_in_trio,
)
from actp_supervise.bridge.view import CancelOnStop

variable = ContextVar("variable", default="unset")


# run_in_trio.


async def test_run_in_trio_passes_arguments_and_the_result(isolation, clock):
    record = []

    async def in_trio(first, *, second):
        await trio.sleep(0.01)
        return first, second

    async def code():
        record.append(await run_in_trio(in_trio, 1, second=2))

    await asyncio_child(code, isolation=isolation)()

    assert record == [(1, 2)]


async def test_a_call_from_a_step_goes_and_comes_without_trios_queue_of_callbacks(autojump_clock):
    steps = []

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task):
            steps.append(task.name)

    async def code():
        trio.lowlevel.add_instrument(counted)
        for _ in range(50):
            await run_in_trio(trio.sleep, 1.0)
        trio.lowlevel.remove_instrument(counted)

    counted = Steps()
    await asyncio_child(code)()

    assert sum("run_sync_soon" in name for name in steps) <= 2
    assert len(steps) < 50 * 6


async def test_a_call_that_is_begun_out_of_a_step_is_made_too(isolation, clock):
    """As the clean-up of a coroutine does that garbage collection closes."""
    begun = []

    async def in_trio():
        begun.append(trio.lowlevel.in_trio_task())

    async def code():
        call = run_in_trio(in_trio)
        asyncio.get_running_loop().call_soon(call.send, None)
        while not begun:  # noqa: ASYNC110  (it is set in Trio)
            await asyncio.sleep(0.01)
        call.close()

    await asyncio_child(code, isolation=isolation)()

    assert begun == [True]


async def test_run_in_trio_passes_errors_with_their_type(isolation, clock):
    error = KeyError("from Trio")
    record = []

    async def in_trio():
        raise error

    async def code():
        with pytest.raises(KeyError) as caught:
            await run_in_trio(in_trio)
        record.append(caught.value)

    await asyncio_child(code, isolation=isolation)()

    assert record == [error]


async def test_an_exit_inside_run_in_trio_is_an_error_of_the_child(isolation, clock):
    async def in_trio():
        raise SystemExit(3)

    with pytest.raises(SupervisionError, match=r"SystemExit\(3\)"):
        await asyncio_child(run_in_trio, isolation=isolation)(in_trio)


async def test_calls_run_side_by_side(isolation, clock):
    record = []

    async def meet(mine, other):
        mine.set()
        await other.wait()

    async def code():
        one, two = trio.Event(), trio.Event()
        await asyncio.gather(run_in_trio(meet, one, two), run_in_trio(meet, two, one))
        record.append("met")

    await asyncio_child(code, isolation=isolation)()

    assert record == ["met"]


async def test_cancelling_the_caller_cancels_the_trio_task_and_waits_for_it(isolation, clock):
    record = []

    async def in_trio():
        try:
            await trio.sleep(1000)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.02)
            record.append("trio ended")

    async def code():
        try:
            async with asyncio.timeout(0.05):
                await run_in_trio(in_trio)
        except TimeoutError:
            record.append("timed out")

    await asyncio_child(code, isolation=isolation)()

    assert record == ["trio ended", "timed out"]


async def test_a_result_that_comes_in_spite_of_the_cancellation_is_dropped(isolation, clock):
    record = []

    async def in_trio():
        with trio.CancelScope(shield=True):
            await trio.sleep(0.05)
        return "result"

    async def code():
        task = asyncio.create_task(run_in_trio(in_trio))
        await asyncio.sleep(0.01)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            record.append(task.cancelled())

    await asyncio_child(code, isolation=isolation)()

    assert record == [True]


async def test_an_error_that_comes_in_spite_of_the_cancellation_is_raised(isolation, clock):
    async def in_trio():
        try:
            await trio.sleep(1000)
        finally:
            raise KeyError

    async def code():
        task = asyncio.create_task(run_in_trio(in_trio))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(KeyError):
        await asyncio_child(code, isolation=isolation)()


async def test_cancelling_the_child_cancels_its_calls_and_clean_up_may_call_again(isolation, clock):
    record = []

    async def in_trio():
        try:
            await trio.sleep(1000)
        finally:
            record.append("call cancelled")

    async def give_back():
        await trio.sleep(0.01)
        record.append("given back")

    async def code():
        try:
            await run_in_trio(in_trio)
        finally:
            await run_in_trio(give_back)

    with trio.move_on_after(0.1) as scope:
        await asyncio_child(code, isolation=isolation)()

    assert scope.cancelled_caught
    assert record == ["call cancelled", "given back"]


async def test_no_call_outlives_its_run(isolation, clock):
    record = []

    async def in_trio():
        try:
            await trio.sleep(1000)
        finally:
            record.append("call cancelled")

    async def code():
        future = asyncio.ensure_future(run_in_trio(in_trio))
        await asyncio.sleep(0.01)
        assert not future.done()

    await asyncio_child(code, isolation=isolation)()

    assert record == ["call cancelled"]


async def test_a_call_that_will_not_end_is_waited_for_when_its_code_was_closed(autojump_clock):
    async def in_trio():
        with trio.CancelScope(shield=True):
            await trio.sleep(10)

    with pytest.raises(CancellationIgnored), trio.move_on_after(1):
        await asyncio_child(run_in_trio, cancel_timeout=2.0)(in_trio)

    assert trio.current_time() == 10


async def test_context_variables_go_into_a_call(isolation, clock):
    record = []

    async def in_trio():
        record.append(variable.get())

    async def code():
        variable.set("set in asyncio")
        await run_in_trio(in_trio)

    await asyncio_child(code, isolation=isolation)()

    assert record == ["set in asyncio"]


async def test_in_a_call_the_child_is_trios_again_and_may_open_a_subtree(isolation, clock):
    record = []

    async def subtree():
        async with open_supervisor(name="inner", shutdown_timeout=0) as inner:
            inner.start_soon(trio.sleep_forever, name="leaf")
            await trio.lowlevel.checkpoint()
            record.append(outer.tree().children[0].children[0].name)
            await inner.shutdown()

    async def code():
        await run_in_trio(subtree)
        await run_in_trio(outer.shutdown)

    async with open_supervisor() as outer:
        outer.start_soon(asyncio_child(code, isolation=isolation), name="code")

    assert record == ["inner"]


async def test_a_call_cannot_call_as_asyncio_code_does(isolation, clock):
    async def in_trio():
        await run_in_trio(trio.sleep, 0)

    with pytest.raises(RuntimeError, match="only in the asyncio code"):
        await asyncio_child(run_in_trio, isolation=isolation)(in_trio)


async def test_run_in_trio_outside_a_child_is_an_error():
    with pytest.raises(RuntimeError, match="only in the asyncio code"):
        await run_in_trio(trio.sleep, 0)


async def test_a_call_from_a_loop_of_another_thread_works(isolation):
    record = []

    async def code():
        record.append(await run_in_trio(trio.to_thread.run_sync, lambda: "from Trio"))

    async def outer():
        def run():
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(code())

        await asyncio.to_thread(run)

    await asyncio_child(outer, isolation=isolation)()

    assert record == ["from Trio"]


# current_child.


async def test_current_child_knows_its_name(isolation, clock):
    record = []

    async def code():
        record.append(current_child().name)

    async with open_supervisor() as supervisor:
        supervisor.start_soon(
            asyncio_child(code, isolation=isolation), name="agent", restart=Restart.TRANSIENT
        )

    assert record == ["agent"]


async def test_outside_a_supervisor_there_is_no_current_child(isolation, clock):
    async def code():
        with pytest.raises(RuntimeError, match="only inside a supervised child"):
            current_child()

    await asyncio_child(code, isolation=isolation)()


async def test_beats_keep_the_watchdog_quiet_and_their_lack_does_not(isolation, clock):
    async def code():
        for _ in range(6):
            await asyncio.sleep(0.05)
            current_child().beat()
        await asyncio.sleep(1000)

    start = trio.current_time()
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(
            asyncio_child(code, isolation=isolation), restart=Restart.TEMPORARY, watchdog=0.2
        )

    assert child.state is ChildState.FAILED
    assert "Stalled" in child.last_error
    assert trio.current_time() - start == pytest.approx(0.5, abs=0 if isolation == "loop" else 0.4)


async def test_a_helper_thread_of_the_code_may_beat(isolation):
    async def code():
        await asyncio.to_thread(current_child().beat)

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(
            asyncio_child(code, isolation=isolation), restart=Restart.TEMPORARY, watchdog=10.0
        )

    assert child.state is ChildState.FINISHED


async def test_stopping_is_set_and_wakes_who_waits_for_it(isolation, clock):
    record = []

    async def code():
        child = current_child()
        record.append((bool(child.stopping), child.stopping.is_set()))
        await child.stopping.wait()
        record.append((bool(child.stopping), child.stopping.is_set()))

    async with open_supervisor() as supervisor:
        supervisor.start_soon(asyncio_child(code, isolation=isolation))
        await trio.sleep(0.1)
        await supervisor.shutdown()

    assert record == [(False, False), (True, True)]


async def test_code_that_begins_after_the_ask_is_woken_too(isolation, clock):
    record = []

    async def code():
        await current_child().stopping.wait()
        record.append("woken")

    async def child():
        await current_child().stopping.wait()
        await asyncio_child(code, isolation=isolation)()

    async with open_supervisor() as supervisor:
        supervisor.start_soon(child)
        await trio.sleep(0.1)
        await supervisor.shutdown()

    assert record == ["woken"]


@pytest.mark.parametrize("form", ["with", "async with"])
async def test_cancel_on_stop_ends_the_idle_wait_and_not_the_work(isolation, clock, form):
    record = []

    async def work():
        await asyncio.sleep(0.3)
        record.append("worked")

    async def code():
        child = current_child()
        task = asyncio.create_task(work())
        if form == "with":
            with child.cancel_on_stop() as scope:
                await asyncio.sleep(1000)
        else:
            async with child.cancel_on_stop() as scope:
                await asyncio.sleep(1000)
        record.append(scope.cancelled_caught)
        await task

    async with open_supervisor() as supervisor:
        supervisor.start_soon(asyncio_child(code, isolation=isolation))
        await trio.sleep(0.1)
        await supervisor.shutdown()

    assert record == [True, "worked"]


async def test_cancel_on_stop_entered_too_late_ends_the_first_wait(isolation, clock):
    record = []

    async def code():
        child = current_child()
        await child.stopping.wait()
        with child.cancel_on_stop() as scope:
            await asyncio.sleep(1000)
        record.append(scope.cancelled_caught)

    async with open_supervisor() as supervisor:
        supervisor.start_soon(asyncio_child(code, isolation=isolation))
        await trio.sleep(0.1)
        await supervisor.shutdown()

    assert record == [True]


async def test_cancel_on_stop_around_no_wait_cancels_nothing_after_it(isolation, clock):
    record = []

    async def code():
        child = current_child()
        await child.stopping.wait()
        with child.cancel_on_stop() as scope:
            pass
        await asyncio.sleep(0.01)
        record.append(scope.cancelled_caught)

    async with open_supervisor() as supervisor:
        supervisor.start_soon(asyncio_child(code, isolation=isolation))
        await trio.sleep(0.1)
        await supervisor.shutdown()

    assert record == [False]


async def test_a_block_of_cancel_on_stop_that_was_left_cancels_nothing(isolation, clock):
    record = []

    async def code():
        child = current_child()
        with child.cancel_on_stop():
            pass
        await child.stopping.wait()
        await asyncio.sleep(0.01)
        record.append("worked")

    async with open_supervisor() as supervisor:
        supervisor.start_soon(asyncio_child(code, isolation=isolation))
        await trio.sleep(0.1)
        await supervisor.shutdown()

    assert record == ["worked"]


async def test_an_error_in_a_block_of_cancel_on_stop_is_raised(isolation, clock):
    async def code():
        with current_child().cancel_on_stop():
            try:
                await asyncio.sleep(1000)
            finally:
                raise ValueError("in clean-up")

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(asyncio_child(code, isolation=isolation))
        await trio.sleep(0.1)
        await supervisor.shutdown()

    assert "ValueError: in clean-up" in child.last_error


@pytest.mark.parametrize("asked_first", [True, False])
async def test_code_asked_and_cancelled_at_once_is_cancelled(isolation, clock, asked_first):
    record = []

    async def code():
        signal = AsyncioStopSignal()
        task = asyncio.current_task()
        both = [signal.wake, task.cancel]
        for callback in both if asked_first else reversed(both):
            asyncio.get_running_loop().call_soon(callback)
        with contextlib.suppress(asyncio.CancelledError):
            with CancelOnStop(signal):
                await asyncio.sleep(1000)
            record.append("went on")
        record.append(task.cancelling())

    await asyncio_child(code, isolation=isolation)()

    assert record == [1]


async def test_cancel_on_stop_keeps_no_cancellation_of_another(isolation, clock):
    record = []

    async def code():
        child = current_child()
        task = asyncio.current_task()
        asyncio.get_running_loop().call_later(0.01, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            with child.cancel_on_stop():
                await asyncio.sleep(1000)
            record.append("went on")
        record.append("cancelled")

    async with open_supervisor() as supervisor:
        supervisor.start_soon(asyncio_child(code, isolation=isolation), restart=Restart.TEMPORARY)

    assert record == ["cancelled"]


async def test_code_that_goes_on_when_asked_is_cancelled_after_shutdown_timeout(isolation, clock):
    record = []

    async def code():
        try:
            await asyncio.sleep(1000)
        finally:
            record.append(current_child().stopping.is_set())

    async with open_supervisor(shutdown_timeout=0.1) as supervisor:
        supervisor.start_soon(asyncio_child(code, isolation=isolation))
        await trio.sleep(0.1)
        start = trio.current_time()
        await supervisor.shutdown()

    assert record == [True]
    assert trio.current_time() - start == pytest.approx(0.1, abs=0 if isolation == "loop" else 0.4)
