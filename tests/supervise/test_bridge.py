"""Asyncio code as a child: how it runs and ends, and which of its errors are the child's."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
from contextvars import ContextVar

import pytest
import trio
from asyncio_code import fail, raises

from actp_supervise import Restart, current_child, open_supervisor
from actp_supervise.bridge import asyncio_child

variable = ContextVar("variable", default="unset")


# How it runs and ends.


async def test_the_code_gets_the_arguments_and_the_run_ends_when_it_returns(isolation, clock):
    record = []

    async def code(first, *, second):
        await asyncio.sleep(0.01)
        record.append((first, second))

    await asyncio_child(code, isolation=isolation)(1, second=2)

    assert record == [(1, 2)]


async def test_an_error_of_the_code_leaves_the_child_bare(isolation, clock):
    error = ValueError("broken")

    with pytest.raises(ValueError, match="broken") as caught:
        await asyncio_child(fail, isolation=isolation)(error)

    assert caught.value is error


async def test_each_run_has_a_loop_of_its_own(isolation, clock):
    loops = set()

    async def code():
        loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0.01)

    child = asyncio_child(code, isolation=isolation)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(child)

    assert len(loops) == 10


async def test_a_restart_ends_what_the_last_run_left_behind(isolation, clock):
    record = []

    async def background(run):
        try:
            await asyncio.sleep(1000)
        finally:
            record.append(f"background {run} ended")

    async def code():
        run = len(record)
        record.append(f"run {run} began")
        asyncio.get_running_loop().call_later(0.05, record.append, f"callback {run}")
        task = asyncio.create_task(background(run))
        await asyncio.sleep(0.01)
        assert not task.done()
        if run == 0:
            raise ValueError

    async with open_supervisor() as supervisor:
        supervisor.start_soon(asyncio_child(code, isolation=isolation), restart=Restart.TRANSIENT)
    await trio.sleep(0.1)

    assert record == ["run 0 began", "background 0 ended", "run 2 began", "background 2 ended"]


def test_the_child_is_named_after_the_code(isolation):
    assert asyncio_child(fail, isolation=isolation).__name__ == "fail"
    assert asyncio_child(functools.partial(fail, None), isolation=isolation).__name__ == "fail"


async def test_context_variables_go_in_and_do_not_come_back(isolation, clock):
    record = []

    async def code():
        record.append(variable.get())
        variable.set("inside")

    variable.set("outside")
    await asyncio_child(code, isolation=isolation)()

    assert record == ["outside"]
    assert variable.get() == "outside"


async def test_async_generators_are_finalized_before_the_run_ends(isolation, clock):
    record = []

    async def generator():
        try:
            yield 1
        finally:
            await asyncio.sleep(0.01)
            record.append("finalized")

    kept = generator()

    async def code():
        await anext(kept)

    await asyncio_child(code, isolation=isolation)()

    assert record == ["finalized"]


async def test_a_task_that_a_generator_starts_at_its_end_is_ended_too(isolation, clock):
    record = []

    async def background():
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.01)
            record.append("ended")

    async def generator():
        try:
            yield 1
        finally:
            asyncio.create_task(background())  # noqa: RUF006
            await asyncio.sleep(0.01)

    kept = generator()

    async def code():
        await anext(kept)

    await asyncio_child(code)()

    assert record == ["ended"]


async def test_asyncio_subprocesses_work(isolation):
    record = []

    async def code():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print(42)", stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        record.append((output, process.returncode))

    await asyncio_child(code, isolation=isolation)()

    assert record == [(b"42\n", 0)]


async def test_task_status_reports_readiness_to_start(isolation, clock):
    async def code(*, task_status):
        task_status.started("ready")
        await current_child().stopping.wait()

    async with open_supervisor() as supervisor:
        assert await supervisor.start(asyncio_child(code, isolation=isolation)) == "ready"
        await supervisor.shutdown()


async def test_an_error_of_task_status_is_a_crash_of_the_child(isolation, clock):
    async def code(*, task_status):
        task_status.started()
        task_status.started()
        await asyncio.sleep(1000)

    async with trio.open_nursery() as nursery:
        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="twice")):
            async with trio.open_nursery() as inner:
                await inner.start(asyncio_child(code, isolation=isolation))
        nursery.cancel_scope.cancel()


# Errors that nobody looks at.


async def test_an_error_in_a_background_task_is_a_crash_of_the_child(isolation, clock):
    record = []

    async def code():
        asyncio.create_task(fail(ValueError("in the background")))  # noqa: RUF006
        try:
            await asyncio.sleep(1000)
        finally:
            record.append("cleaned up")

    with pytest.raises(ValueError, match="in the background"):
        await asyncio_child(code, isolation=isolation)()

    assert record == ["cleaned up"]


async def test_an_error_in_a_callback_is_a_crash_of_the_child(isolation, clock):
    async def code():
        asyncio.get_running_loop().call_later(0.01, raises, ValueError("in a callback"))
        await asyncio.sleep(1000)

    with pytest.raises(ValueError, match="in a callback"):
        await asyncio_child(code, isolation=isolation)()


async def test_an_error_of_a_task_that_is_cancelled_at_the_end_is_a_crash(isolation, clock):
    async def background():
        try:
            await asyncio.sleep(1000)
        finally:
            raise ValueError("in clean-up")

    async def code():
        task = asyncio.create_task(background())
        await asyncio.sleep(0.01)
        assert not task.done()

    with pytest.raises(ValueError, match="in clean-up"):
        await asyncio_child(code, isolation=isolation)()


async def test_several_errors_are_raised_together(isolation, clock):
    async def code():
        asyncio.create_task(fail(ValueError()))  # noqa: RUF006
        try:
            await asyncio.sleep(1000)
        finally:
            raise KeyError

    with pytest.RaisesGroup(ValueError, KeyError):
        await asyncio_child(code, isolation=isolation)()


async def test_an_error_of_one_connection_is_logged_and_no_crash(isolation, clock, caplog):
    async def code():
        asyncio.get_running_loop().call_exception_handler(
            {"message": "reset", "exception": OSError("by peer"), "transport": None}
        )
        await asyncio.sleep(0.01)

    await asyncio_child(code, isolation=isolation)()

    assert "reset" in caplog.text


async def test_a_warning_of_the_loop_is_logged_and_no_crash(isolation, clock, caplog):
    async def code():
        asyncio.get_running_loop().call_exception_handler({"message": "unclosed session"})
        await asyncio.sleep(0.01)

    await asyncio_child(code, isolation=isolation)()

    assert "unclosed session" in caplog.text


class Turns(trio.abc.Instrument):
    """Counts the turns of Trio in a block."""

    def __init__(self):
        self.number = 0

    def before_io_wait(self, timeout):
        self.number += 1

    def __enter__(self):
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *exc):
        trio.lowlevel.remove_instrument(self)


async def test_all_callbacks_that_are_ready_are_called_in_one_turn_of_trio(autojump_clock):
    turns = Turns()

    async def code():
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        with turns:
            for number in range(100):
                loop.call_soon(done.set if number == 99 else int)
            await done.wait()

    await asyncio_child(code, isolation="loop")()

    assert turns.number < 10


async def test_turns_that_follow_each_other_share_one_of_trio_and_leave_others_theirs(
    autojump_clock,
):
    turns = Turns()

    async def code():
        with turns:
            for _ in range(80):
                await asyncio.sleep(0)

    await asyncio_child(code, isolation="loop")()

    assert 5 < turns.number < 20
