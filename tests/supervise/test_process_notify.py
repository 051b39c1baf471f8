"""What a process tells its supervisor by sd_notify: ready, alive, and its status."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest
import trio
from programs import Lines, sh, until

from actp_supervise import (
    ChildState,
    Restart,
    SupervisionError,
    current_child,
    open_supervisor,
)
from actp_supervise.process import STACK_LINES, ProcessExited, ProcessNotStarted, process_child

NOTIFY = """
import os, socket, sys, time
def notify(*messages):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        for message in messages:
            sock.sendto(message.encode(), os.environ["NOTIFY_SOCKET"])
"""


def python(script: str, **options):
    return process_child([sys.executable, "-u", "-c", NOTIFY + script], **options)


async def test_without_notify_it_is_ready_at_once_and_start_returns_its_number():
    lines = []
    async with open_supervisor() as supervisor:
        process = python("print(os.getpid()); time.sleep(1000)", on_output=lines.append)
        number = await supervisor.start(process, name="process")
        with trio.fail_after(60):
            while not lines:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert lines == [str(number)]
        await supervisor.shutdown()


async def test_with_notify_it_is_ready_when_it_says_so(tmp_path):
    go = tmp_path / "go"
    script = (
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        "notify('READY=1'); time.sleep(1000)"
    )

    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        started = trio.Event()

        @nursery.start_soon
        async def start():
            await supervisor.start(python(script, notify=True), name="process")
            started.set()

        await trio.sleep(0.1)
        assert not started.is_set()
        assert supervisor["process"].state is ChildState.STARTING
        go.touch()
        with trio.fail_after(60):
            await started.wait()
        assert supervisor["process"].state is ChildState.RUNNING
        await supervisor.shutdown()


async def test_ready_said_twice_or_among_other_lines_counts_once():
    script = "notify('STATUS=up\\nREADY=1\\n', 'READY=1', 'READY=0', ''); time.sleep(1000)"

    async with open_supervisor() as supervisor:
        await supervisor.start(python(script, notify=True), name="process")
        await trio.sleep(0.1)
        assert supervisor["process"].state is ChildState.RUNNING
        await supervisor.shutdown()


async def test_ready_said_just_before_the_end_is_heard():
    async with open_supervisor() as supervisor:
        for n in range(5):
            await supervisor.start(
                python("notify('READY=1')", notify=True), name=str(n), restart=Restart.TEMPORARY
            )


async def test_a_process_that_does_not_say_ready_in_time_is_killed():
    with pytest.raises(ProcessNotStarted, match=r"sent no READY=1 within 0\.2 s"):
        await python("time.sleep(1000)", notify=True, ready_timeout=0.2)()


async def test_a_process_that_fails_before_it_is_ready_raises_in_start():
    async with open_supervisor() as supervisor:
        with pytest.raises(ProcessExited, match="status 3"):
            await supervisor.start(python("sys.exit(3)", notify=True))


async def test_a_program_that_cannot_notify_is_ready_when_a_function_returns():
    lines = Lines()
    async with open_supervisor() as supervisor:
        for n in (1, 2):
            script = "sleep 0.2; echo up; sleep 1000"
            child = sh(script, on_output=lines, ready_when=partial(lines.until, n))
            await supervisor.start(child, name=str(n))
            assert len(lines) == n
        await supervisor.shutdown()


async def test_the_watchdog_begins_when_that_function_returns():
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(
            sh("sleep 1.2", ready_when=partial(trio.sleep, 1.0)),
            restart=Restart.TRANSIENT,
            watchdog=0.5,
        )

    assert (child.state, child.crashes) == (ChildState.FINISHED, 0)


async def test_a_program_that_is_not_ready_in_time_by_that_function_is_killed():
    with pytest.raises(ProcessNotStarted, match=r"'/bin/sh' was not ready within 0\.2 s"):
        await sh("sleep 1000", ready_when=trio.sleep_forever, ready_timeout=0.2)()


async def test_an_error_of_that_function_is_a_crash_and_ends_the_process():
    async def ready_when():
        raise ValueError("no such port")

    with pytest.raises(ValueError, match="no such port"):
        await sh("sleep 1000", ready_when=ready_when)()


async def test_its_beats_keep_the_watchdog_quiet_and_their_lack_does_not():
    script = (
        "notify('READY=1')\n"
        "for _ in range(5):\n"
        "    time.sleep(0.1)\n"
        "    notify('WATCHDOG=1')\n"
        "time.sleep(1000)"
    )

    async with open_supervisor() as supervisor:
        start = trio.current_time()
        child = supervisor.start_soon(
            python(script, notify=True), restart=Restart.TEMPORARY, watchdog=0.4
        )

    assert "Stalled" in child.last_error
    assert trio.current_time() - start >= 0.9


async def test_it_need_not_beat_before_it_is_ready():
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(
            python("time.sleep(1); notify('READY=1')", notify=True),
            restart=Restart.TRANSIENT,
            watchdog=0.3,
        )

    assert (child.state, child.crashes) == (ChildState.FINISHED, 0)


async def test_what_it_writes_may_be_its_beats():
    script = "for _ in range(6): time.sleep(0.1); print('on')"

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(
            python(script, on_output=lambda _: current_child().beat()),
            restart=Restart.TRANSIENT,
            watchdog=0.4,
        )

    assert child.state is ChildState.FINISHED


async def test_it_is_told_how_often_to_beat_where_it_has_a_watchdog():
    lines = []
    async with open_supervisor() as supervisor:
        for watchdog in (None, 7.5, math.inf):
            supervisor.start_soon(
                python(
                    "print(os.environ.get('WATCHDOG_USEC'))", notify=True, on_output=lines.append
                ),
                name=str(watchdog),
                restart=Restart.TEMPORARY,
                watchdog=watchdog,
            )

    assert sorted(lines) == ["7500000", "None", "None"]


async def test_who_starts_it_has_got_the_statuses_up_to_its_readiness():
    for _ in range(10):
        statuses = []
        async with open_supervisor() as supervisor:
            script = "notify('STATUS=one', 'STATUS=two\\nREADY=1'); time.sleep(1000)"
            await supervisor.start(python(script, notify=True, on_status=statuses.append))
            assert statuses == ["one", "two"]
            await supervisor.shutdown()


async def test_its_status_is_handed_on():
    statuses = []

    async def on_status(status):
        await trio.lowlevel.checkpoint()
        statuses.append(status)

    await python(
        "notify('STATUS=warming up', 'STATUS=serving\\nX=1')", notify=True, on_status=on_status
    )()

    assert statuses == ["warming up", "serving"]


async def test_what_is_no_notification_is_ignored():
    script = """
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    sock.sendto(b"\\xff=\\xfe\\n=\\nREADY\\n" + b"x" * 9000, os.environ["NOTIFY_SOCKET"])
notify("READY=1")
"""

    await python(script, notify=True)()


async def test_the_socket_is_removed_at_the_end():
    lines = []

    await python("print(os.environ['NOTIFY_SOCKET'])", notify=True, on_output=lines.append)()

    assert lines[0].startswith("/")
    assert not Path(lines[0]).parent.exists()


async def test_a_slow_taker_of_statuses_hides_neither_readiness_nor_beats():
    async def on_status(status):
        await trio.sleep_forever()

    script = (
        "notify('STATUS=loading', 'STATUS=up', 'READY=1')\n"
        "for _ in range(15): time.sleep(0.1); notify('STATUS=on', 'WATCHDOG=1')\n"
        "time.sleep(1000)"
    )
    async with open_supervisor() as supervisor:
        start = trio.current_time()
        await supervisor.start(
            python(script, notify=True, on_status=on_status, ready_timeout=20.0),
            name="c",
            restart=Restart.TEMPORARY,
            watchdog=1.0,
        )
        await until(lambda: "c" not in supervisor)

    assert trio.current_time() - start >= 2.0


async def test_a_slow_taker_of_output_hides_neither_readiness_nor_beats():
    async def on_output(line):
        await trio.sleep_forever()

    script = (
        "print('loading'); notify('READY=1')\n"
        "for _ in range(15): time.sleep(0.1); print('on'); notify('WATCHDOG=1')\n"
        "time.sleep(1000)"
    )
    async with open_supervisor() as supervisor:
        start = trio.current_time()
        await supervisor.start(
            python(script, notify=True, on_output=on_output, ready_timeout=20.0),
            name="c",
            restart=Restart.TEMPORARY,
            watchdog=1.0,
        )
        await until(lambda: "c" not in supervisor)

    assert trio.current_time() - start >= 2.0


async def test_of_many_statuses_a_slow_taker_gets_the_last(tmp_path):
    go = tmp_path / "go"
    statuses = []

    async def on_status(status):
        statuses.append(status)
        await until(go.exists)

    script = (
        f"notify('READY=1', *(f'STATUS={{n}}' for n in range(100)), 'X=1'); open({str(go)!r}, 'w')"
    )
    with trio.fail_after(20):
        await python(script, notify=True, on_status=on_status)()

    assert (statuses[0], statuses[-1]) == ("0", "99")
    assert len(statuses) < 50


async def test_it_may_ask_for_more_time_until_it_is_ready():
    script = (
        "for _ in range(4): notify('EXTEND_TIMEOUT_USEC=1000000'); time.sleep(0.3)\n"
        "notify('READY=1')"
    )

    await python(script, notify=True, ready_timeout=1.0)()

    with pytest.raises(ProcessNotStarted, match="sent no READY=1"):
        await python(
            "notify('EXTEND_TIMEOUT_USEC=200000'); time.sleep(1000)", notify=True, ready_timeout=0.5
        )()


async def test_it_may_ask_for_more_time_until_its_next_beat():
    script = "notify('READY=1', 'EXTEND_TIMEOUT_USEC=1500000'); time.sleep(1000)"
    async with open_supervisor() as supervisor:
        start = trio.current_time()
        child = supervisor.start_soon(
            python(script, notify=True), restart=Restart.TEMPORARY, watchdog=0.4
        )

    assert "Stalled" in child.last_error
    assert trio.current_time() - start >= 1.5


@pytest.mark.parametrize("time", ["", "-1", "x", "9" * 30, "9" * 5000, "\u0663", "1.5"])
async def test_a_time_that_is_none_is_ignored(time):
    await python(f"notify('EXTEND_TIMEOUT_USEC={time[:4000]}', 'READY=1')", notify=True)()


# Its socket.


async def test_a_long_path_to_temporary_files_does_not_matter(tmp_path, monkeypatch):
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    lines = []
    async with open_supervisor() as supervisor:
        script = "print(os.environ['NOTIFY_SOCKET']); notify('READY=1'); time.sleep(1000)"
        await supervisor.start(python(script, notify=True, on_output=lines.append))
        await until(lambda: lines)
        assert len(lines[0]) < 100
        assert Path(lines[0]).parent.stat().st_mode & 0o777 == 0o700
        await supervisor.shutdown()
    assert not Path(lines[0]).parent.exists()


async def test_no_place_for_its_socket_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))

    with pytest.raises(ProcessNotStarted) as caught:
        await sh("true", notify=True)()

    assert str(caught.value) == (
        "cannot start '/bin/sh' with a socket for its notifications: No such file or directory"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="systemd's own client")
async def test_a_process_of_another_user_reaches_its_socket():
    statuses = []

    await process_child(
        ["systemd-notify", "--status=up"],
        notify=True,
        on_status=statuses.append,
        user="nobody",
        cwd="/",
    )()

    assert statuses == ["up"]


# Its number, and signals for it.


async def test_the_number_of_a_process_is_known_after_a_restart_as_well():
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(sh("sleep 1000"), name="c")
        assert child.pid is None
        await until(lambda: child.pid)
        first = child.pid
        await supervisor.restart("c")
        await until(lambda: child.pid)
        assert child.pid != first
        os.kill(child.pid, 0)
        await supervisor.shutdown()
    assert child.pid is None


async def test_a_signal_may_be_sent_to_it_by_name(tmp_path):
    lines = Lines()
    script = (
        "import signal, subprocess\n"
        "signal.signal(signal.SIGHUP, lambda *_: print('reloaded'))\n"
        f"helper = subprocess.Popen(['/bin/sh', '-c', 'trap \"touch {tmp_path}/got\" HUP;"
        " echo up; while :; do sleep 0.05; done'])\n"
        "while True: signal.pause()"
    )
    async with open_supervisor() as supervisor:
        await supervisor.start(python(script, on_output=lines), name="c")
        await lines.until(1)
        supervisor["c"].send_signal(signal.SIGHUP)
        await lines.until(2)
        await trio.sleep(0.2)
        await supervisor.shutdown()

    assert lines == ["up", "reloaded"]
    assert not (tmp_path / "got").exists()  # the process alone got it


async def test_a_signal_for_a_child_that_runs_no_process_is_an_error():
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(sh("exit 0"), name="c", restart=Restart.TRANSIENT)
        with pytest.raises(SupervisionError, match="child 'c' runs no process"):
            child.send_signal(signal.SIGHUP)  # it has not begun
        await until(lambda: child.state is ChildState.FINISHED)
        with pytest.raises(SupervisionError, match="child 'c' runs no process"):
            child.send_signal(signal.SIGHUP)
        other = supervisor.start_soon(trio.sleep_forever, name="task")
        with pytest.raises(SupervisionError, match="child 'task' runs no process"):
            other.send_signal(signal.SIGHUP)
        await supervisor.shutdown()


@pytest.mark.parametrize(
    ("number", "error"),
    [
        ("SIGHUP", TypeError),
        (None, TypeError),
        (True, TypeError),
        (0, ValueError),
        (999, ValueError),
    ],
)
async def test_a_number_that_is_no_signal_is_refused(number, error):
    async with open_supervisor() as supervisor:
        await supervisor.start(sh("sleep 1000"), name="c")
        with pytest.raises(error, match="number must be a signal such as"):
            supervisor["c"].send_signal(number)
        await supervisor.shutdown()


# When it hangs.


async def stalled(script, **options):
    """Run a script that hangs once it is ready, and return the text of the error."""
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(
            python("notify('READY=1')\n" + script, notify=True, **options),
            restart=Restart.TEMPORARY,
            watchdog=0.5,
        )
    return child.last_error


async def test_a_python_that_hangs_writes_its_stack_before_it_is_killed():
    script = "def wait_for_ever():\n    time.sleep(1000)\nprint('begins'); wait_for_ever()"

    error = await stalled(script)

    assert "Stalled: no beat for 0.5 s" in error
    assert (
        f"{sys.executable!r} was killed by SIGABRT\n  begins\n  Fatal Python error: Aborted"
        in error
    )
    assert "in wait_for_ever" in error


async def test_of_a_stack_no_more_than_a_bounded_part_is_shown():
    script = (
        "import signal\n"
        "def write(*_):\n"
        "    for n in range(10_000): print('line', n)\n"
        "    sys.stdout.flush(); os._exit(1)\n"
        "signal.signal(signal.SIGABRT, write)\n"
        "time.sleep(1000)"
    )

    error = await stalled(script, on_output=lambda line: None)

    assert "exited with status 1\n  line 0\n" in error
    assert f"line {STACK_LINES - 1}\n" in error
    assert f"line {STACK_LINES}\n" not in error


async def test_a_process_that_hangs_and_ignores_the_signal_is_killed(monkeypatch):
    monkeypatch.setattr("actp_supervise.process.run.ABORT_TIMEOUT", 0.3)
    script = "import signal; signal.signal(signal.SIGABRT, signal.SIG_IGN); time.sleep(1000)"

    error = await stalled(script)

    assert "Stalled: no beat for 0.5 s" in error
    assert "was killed by SIGKILL" in error


async def test_a_process_that_was_suspended_writes_its_stack_too():
    error = await stalled("import signal; os.kill(os.getpid(), signal.SIGSTOP); time.sleep(1000)")

    assert "was killed by SIGABRT" in error


async def test_a_taker_of_output_that_hangs_is_no_reason_to_wait():
    async def on_output(line):
        await trio.sleep_forever()

    error = await stalled("print('hello')", on_output=on_output)

    assert "Stalled: no beat for 0.5 s" in error
    assert "SIGABRT" not in error  # it had ended well


@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="systemd's own client")
async def test_systemds_own_client_is_understood():
    statuses = []

    await process_child(
        ["systemd-notify", "--ready", "--status=up"], notify=True, on_status=statuses.append
    )()

    assert statuses == ["up"]
