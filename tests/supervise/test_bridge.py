"""Asyncio code as a child: how it ends, what it may do wrong, what it cannot do to others."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from contextvars import ContextVar

import pytest
import trio
import trio_asyncio
from trio.testing import MockClock

from actp_supervise import Restart, SupervisionError, current_child, open_supervisor
from actp_supervise.bridge import CancellationIgnored, asyncio_child, run_in_trio

variable = ContextVar("variable", default="unset")


@pytest.fixture(params=["loop", "thread"])
def isolation(request):
    return request.param


@pytest.fixture
def clock(isolation):
    """Virtual time where the loop follows it; a thread has real time, so its waits are short."""
    return MockClock(autojump_threshold=0) if isolation == "loop" else None


async def fail(error: BaseException) -> None:
    raise error


def raises(error: BaseException) -> None:
    raise error


async def cancelled_after(seconds: float, child) -> bool:
    with trio.move_on_after(seconds) as scope:
        await child()
    return scope.cancelled_caught


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


# Cancellation.


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


# What would end the whole program.


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_an_exit_in_the_code_is_an_error_of_the_child(isolation, clock, error):
    with pytest.raises(SupervisionError, match="ends this child alone") as caught:
        await asyncio_child(fail, isolation=isolation)(error)

    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_an_exit_in_a_background_task_is_an_error_of_the_child(isolation, clock, error):
    record = []

    async def code():
        task = asyncio.create_task(fail(error))
        try:
            await asyncio.sleep(1000)
        finally:
            record.append(task.done())

    with pytest.raises(SupervisionError, match="ends this child alone"):
        await asyncio_child(code, isolation=isolation)()

    assert record == [True]


@pytest.mark.parametrize("how", ["call_soon", "call_later", "call_at", "call_soon_threadsafe"])
async def test_an_exit_in_a_callback_is_an_error_of_the_child(isolation, clock, how):
    record = []

    async def code():
        loop = asyncio.get_running_loop()
        when = {"call_later": [0.01], "call_at": [loop.time() + 0.01]}.get(how, [])
        getattr(loop, how)(*when, raises, SystemExit(3))
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.01)
            record.append("cleaned up")

    with pytest.raises(SupervisionError, match=r"SystemExit\(3\)"):
        await asyncio_child(code, isolation=isolation)()

    assert record == ["cleaned up"]


@pytest.mark.parametrize("kind", ["reader", "writer"])
async def test_an_exit_in_a_callback_of_a_socket_is_an_error_of_the_child(isolation, kind):
    record = []

    async def code():
        here, there = socket.socketpair()
        with here, there:
            there.send(b"x")
            loop = asyncio.get_running_loop()
            getattr(loop, f"add_{kind}")(here, raises, SystemExit(3))
            try:
                await asyncio.sleep(1000)
            finally:
                getattr(loop, f"remove_{kind}")(here)
                await asyncio.sleep(0.01)
                record.append("cleaned up")

    with pytest.raises(SupervisionError, match=r"SystemExit\(3\)"):
        await asyncio_child(code, isolation=isolation)()

    assert record == ["cleaned up"]


async def test_what_breaks_the_loop_itself_is_an_error_of_the_child(autojump_clock):
    record = []

    async def exit_in_trio():
        raise SystemExit(3)

    async def code():
        trio_asyncio.run_trio_task(exit_in_trio)
        try:
            await asyncio.sleep(1000)
        finally:
            record.append("ended")

    with pytest.raises(SupervisionError, match=r"SystemExit\(3\)"):
        await asyncio_child(code)()

    assert record == ["ended"]


async def test_stopping_the_loop_is_an_error_of_the_child(isolation, clock):
    async def code():
        asyncio.get_running_loop().stop()
        await asyncio.sleep(1000)

    with pytest.raises(RuntimeError, match="stop"):
        await asyncio_child(code, isolation=isolation)()


async def test_a_signal_handler_is_refused_and_the_programs_stays(isolation, clock):
    before = signal.getsignal(signal.SIGTERM)

    async def code():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)

    with pytest.raises(RuntimeError, match=r"add_signal_handler|main thread"):
        await asyncio_child(code, isolation=isolation)()

    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("where", ["asyncio", "Trio"])
def test_ctrl_c_ends_the_program_and_is_no_error_of_the_child(where):
    record = []

    async def interrupt():
        signal.raise_signal(signal.SIGINT)
        record.append("not interrupted")

    async def code():
        await (interrupt() if where == "asyncio" else run_in_trio(interrupt))
        try:
            await asyncio.sleep(1000)
        finally:
            record.append("cancelled")

    async def main():
        async with open_supervisor(shutdown_timeout=0) as supervisor:
            supervisor.start_soon(asyncio_child(code))

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)

    assert record == ["not interrupted", "cancelled"]


# Code that ignores its cancellation, in Trio's thread.


async def stubborn() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1)


async def test_code_that_swallows_its_cancellation_is_closed_after_cancel_timeout(autojump_clock):
    with pytest.raises(CancellationIgnored, match=r"2\.0 s .* stubborn \(test_bridge\.py:\d+\)"):
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


# What is needed, and when it has to be imported.


def run_python(code: str, **modules: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=50,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, *modules.values()])},
    )
    return result.stdout + result.stderr


def test_importing_the_bridge_does_not_import_trio_asyncio():
    code = "import actp_supervise.bridge, sys; print('trio_asyncio' in sys.modules)"

    assert run_python(code) == "False\n"


def test_importing_trio_asyncio_too_late_is_refused_and_the_culprit_named(tmp_path):
    (tmp_path / "culprit.py").write_text("from asyncio import get_running_loop\n")
    code = (
        "import culprit\n"
        "from actp_supervise.bridge import asyncio_child\n"
        "try: asyncio_child(print)\n"
        "except RuntimeError as error: print(error)\n"
        "asyncio_child(print, isolation='thread')\n"
    )

    output = run_python(code, path=str(tmp_path))

    assert output.startswith(
        "isolation='loop' cannot work: culprit took asyncio's get_running_loop"
    )
    assert output.endswith("or use isolation='thread'\n")
    assert run_python("import trio_asyncio\n" + code, path=str(tmp_path)) == ""


def test_get_event_loop_may_be_taken_before_trio_asyncio_is_imported(tmp_path):
    (tmp_path / "early.py").write_text("from asyncio import get_event_loop\n")
    code = (
        "import early, trio\n"
        "from actp_supervise.bridge import asyncio_child\n"
        "async def code(): print(early.get_event_loop().is_running())\n"
        "trio.run(asyncio_child(code))\n"
    )

    assert run_python(code, path=str(tmp_path)) == "True\n"


def test_without_trio_asyncio_a_thread_works_and_a_loop_says_what_to_do():
    code = (
        "import sys; sys.modules['trio_asyncio'] = None\n"
        "import asyncio, trio\n"
        "from actp_supervise.bridge import asyncio_child, run_in_trio\n"
        "try: asyncio_child(print)\n"
        "except RuntimeError as error: print(error)\n"
        "async def code(): print(await run_in_trio(trio.to_thread.run_sync, lambda: 'works'))\n"
        "trio.run(asyncio_child(code, isolation='thread'))\n"
    )

    missing, works = run_python(code).splitlines()

    assert "install actp-supervise[asyncio]" in missing
    assert works == "works"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"isolation": "process"}, ValueError, "'loop' or 'thread', not 'process'"),
        ({"cancel_timeout": -1}, ValueError, "cancel_timeout must be"),
    ],
)
def test_a_bad_option_is_refused_at_the_call(options, error, message):
    with pytest.raises(error, match=message):
        asyncio_child(stubborn, **options)


def test_a_coroutine_object_is_refused():
    with pytest.raises(TypeError, match="not a coroutine object"):
        asyncio_child(stubborn())
