"""A process as a child: real programs, in real time."""

from __future__ import annotations

import os
import signal
import socket
import sys

import pytest
import trio
import trio.testing
from processes import is_alive

from actp_supervise import ChildState, Restart, open_supervisor
from actp_supervise.process import (
    LAST_LINES,
    MAX_LINE,
    ProcessExited,
    ProcessNotStarted,
    process_child,
)


def sh(script: str, **options):
    return process_child(["/bin/sh", "-c", script], **options)


def python(script: str, **options):
    return process_child([sys.executable, "-u", "-c", script], **options)


async def until_gone(pid: int) -> None:
    """Wait for a process that was killed: the signal is sent, its death takes a moment."""
    with trio.fail_after(5):
        while is_alive(pid):  # noqa: ASYNC110
            await trio.sleep(0.005)


class Lines(list):
    """Output to wait for."""

    def __init__(self) -> None:
        self._more = trio.Event()

    def __call__(self, line: str) -> None:
        self.append(line)
        self._more.set()
        self._more = trio.Event()

    async def until(self, count: int) -> None:
        with trio.fail_after(10):
            while len(self) < count:
                await self._more.wait()


# How a process ends.


async def test_status_0_is_a_return():
    await sh("exit 0")()


async def test_another_status_is_an_error_that_names_it():
    with pytest.raises(ProcessExited) as caught:
        await sh("echo one; echo two >&2; exit 3")()

    assert str(caught.value) == "'/bin/sh' exited with status 3\n  one\n  two"
    assert caught.value.returncode == 3
    assert caught.value.output == ("one", "two")


async def test_death_by_a_signal_is_an_error_that_names_the_signal():
    with pytest.raises(ProcessExited, match="was killed by SIGSEGV") as caught:
        await sh("kill -SEGV $$")()

    assert caught.value.returncode == -signal.SIGSEGV


async def test_death_by_a_signal_that_nobody_sent_on_purpose_is_an_error():
    with pytest.raises(ProcessExited, match="was killed by SIGTERM"):
        await sh("kill $$")()


async def test_arguments_never_show_in_the_error():
    with pytest.raises(ProcessExited) as caught:
        await process_child(["/bin/sh", "-c", "exit 3", "--password=secret"])()

    assert "secret" not in str(caught.value) + repr(caught.value)


async def test_the_error_shows_a_bounded_part_of_the_output():
    script = f"for i in range({LAST_LINES + 5}): print(str(i) * 5000)\nraise SystemExit(1)"

    with pytest.raises(ProcessExited) as caught:
        await python(script)()

    assert len(caught.value.output) == LAST_LINES
    assert caught.value.output[-1] == str(LAST_LINES + 4) * 100


async def test_a_program_that_does_not_exist_is_a_clear_error():
    with pytest.raises(ProcessNotStarted) as caught:
        await process_child(["no-such-program", "secret"])()

    assert str(caught.value) == "cannot start 'no-such-program': No such file or directory"


async def test_a_file_that_is_no_program_is_a_clear_error(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")

    with pytest.raises(ProcessNotStarted, match=r"notes\.txt': Permission denied"):
        await process_child([tmp_path / "notes.txt"])()


async def test_a_directory_that_does_not_exist_is_a_clear_error(tmp_path):
    missing = tmp_path / "missing"

    with pytest.raises(ProcessNotStarted, match=f"cannot start '/bin/sh' in '{missing}': No such"):
        await sh("true", cwd=missing)()


async def test_start_raises_what_kept_the_program_from_starting():
    async with open_supervisor() as supervisor:
        with pytest.raises(ProcessNotStarted):
            await supervisor.start(process_child(["no-such-program"]))

        assert supervisor.children == ()


@pytest.mark.parametrize(
    ("argv", "options", "error", "message"),
    [
        ("ls -l", {}, TypeError, "not one string"),
        ([], {}, ValueError, "must name a program"),
        (["true"], {"ready_timeout": 0}, ValueError, "positive number of seconds, not 0"),
    ],
)
def test_a_bad_argument_is_refused_at_the_call(argv, options, error, message):
    with pytest.raises(error, match=message):
        process_child(argv, **options)


async def test_a_crash_is_restarted_and_the_child_is_named_after_the_program(tmp_path):
    (tmp_path / "worker").write_text(f"#!/bin/sh\necho run >> {tmp_path}/log\n[ -e {tmp_path}/go ]")
    (tmp_path / "worker").chmod(0o755)
    async with open_supervisor(limit=None) as supervisor:
        child = supervisor.start_soon(
            process_child([tmp_path / "worker"]), restart=Restart.TRANSIENT
        )
        with trio.fail_after(10):
            while child.restarts < 3:  # noqa: ASYNC110
                await trio.sleep(0.01)
        (tmp_path / "go").touch()

    assert child.name == "worker"
    assert child.state is ChildState.FINISHED
    assert "'" + str(tmp_path / "worker") + "' exited with status 1" in child.last_error


# How it is stopped.


def waits(at_sigterm: str, number: str = "SIGTERM", **options):
    """A program that prints its number, waits for a signal, and then does what is said."""
    script = (
        "import os, signal, sys\n"
        "def stop(*_):\n"
        f"    {at_sigterm}\n"
        f"signal.signal(signal.{number}, stop)\n"
        "print(os.getpid())\n"
        "while True: signal.pause()"
    )
    return python(script, **options)


async def stopped(child, lines: Lines, **options):
    """Start it, stop it when it is up, and return the child."""
    async with open_supervisor(**options) as supervisor:
        result = supervisor.start_soon(child)
        await lines.until(1)
        await supervisor.shutdown()
    return result


async def test_a_process_is_asked_to_stop_by_sigterm_and_that_is_a_clean_end():
    lines = Lines()

    child = await stopped(waits("print('stopping'); sys.exit(0)", on_output=lines), lines)

    assert lines[1:] == ["stopping"]
    assert child.last_error is None


async def test_another_signal_after_the_ask_is_reported():
    lines = Lines()

    child = await stopped(waits("os.kill(os.getpid(), signal.SIGABRT)", on_output=lines), lines)

    assert "was killed by SIGABRT" in child.last_error


async def test_the_status_that_shells_give_for_the_signal_that_asked_is_a_clean_end():
    lines = Lines()

    child = await stopped(waits("sys.exit(128 + signal.SIGTERM)", on_output=lines), lines)

    assert child.last_error is None


async def test_dying_of_the_signal_that_asked_is_a_clean_end():
    lines = Lines()

    child = await stopped(sh("echo up; exec sleep 1000", on_output=lines), lines)

    assert child.last_error is None


async def test_an_odd_status_after_the_ask_is_reported():
    lines = Lines()

    child = await stopped(waits("sys.exit(7)", on_output=lines), lines)

    assert "exited with status 7" in child.last_error


async def test_another_stop_signal_may_be_chosen():
    lines = Lines()
    code = "print('quit'); sys.exit(0)"

    await stopped(waits(code, "SIGQUIT", on_output=lines, stop_signal=signal.SIGQUIT), lines)

    assert lines[1:] == ["quit"]


async def test_a_process_that_ignores_sigterm_is_killed_after_its_time_and_not_before():
    lines = Lines()
    start = trio.current_time()

    await stopped(waits("print('ignored')", on_output=lines), lines, shutdown_timeout=0.3)

    assert trio.current_time() - start >= 0.3
    assert lines[1:] == ["ignored"]
    assert not is_alive(int(lines[0]))


async def test_a_suspended_process_is_stopped_too():
    lines = Lines()
    async with open_supervisor(shutdown_timeout=30.0) as supervisor:
        supervisor.start_soon(waits("print('stopping'); sys.exit(0)", on_output=lines))
        await lines.until(1)
        os.kill(int(lines[0]), signal.SIGSTOP)
        await supervisor.shutdown()

    assert lines[1:] == ["stopping"]  # and not killed when its time was over


@pytest.mark.parametrize(("stop_group", "expected"), [(True, ["helper"]), (False, [])])
async def test_the_signal_reaches_the_whole_group_or_the_process_alone(stop_group, expected):
    lines = Lines()
    script = (
        "import os, signal, sys\n"
        "helper = os.fork() == 0\n"
        "def stop(*_):\n"
        "    if helper: print('helper')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "if helper: print('up')\n"
        "signal.pause() if helper else os.wait()"
    )

    child = python(script, on_output=lines, stop_group=stop_group)
    await stopped(child, lines, shutdown_timeout=5)

    assert lines[1:] == expected


async def test_cancellation_kills_the_process_and_all_that_it_started():
    lines = Lines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sh("sleep 1000 & echo $!; echo $$; wait", on_output=lines))
        await lines.until(2)
        nursery.cancel_scope.cancel()

    grandchild, process = map(int, lines)
    with pytest.raises(ChildProcessError):  # it was reaped
        os.waitpid(process, os.WNOHANG)  # noqa: ASYNC222
    await until_gone(grandchild)


async def test_the_crash_of_a_sibling_ends_the_process_with_its_group():
    lines = Lines()

    async def sibling():
        await lines.until(2)
        raise ValueError

    with pytest.RaisesGroup(ValueError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sh("sleep 1000 & echo $!; echo $$; wait", on_output=lines))
            nursery.start_soon(sibling)

    for pid in map(int, lines):
        await until_gone(pid)


async def test_what_a_process_leaves_behind_in_its_group_is_killed():
    lines = Lines()

    await sh("sleep 1000 & echo $!", on_output=lines)()

    await until_gone(int(lines[0]))


async def test_a_process_cancelled_while_it_is_being_started_is_killed_too(tmp_path):
    pids = tmp_path / "pids"
    for n in range(20):
        with trio.move_on_after(n / 500):
            await sh(f"echo $$ >> {pids}; exec sleep 1000")()

    started = [int(line) for line in pids.read_text().split()]
    assert started
    assert not any(is_alive(pid) for pid in started)


async def test_a_group_that_is_gone_gets_no_signal_since_its_number_may_be_anothers(monkeypatch):
    sent = []
    killpg = os.killpg
    monkeypatch.setattr(os, "killpg", lambda *args: (sent.append(args[1]), killpg(*args)))
    taking, go_on = trio.Event(), trio.Event()

    async def on_output(line):
        taking.set()
        await go_on.wait()

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(
            sh("echo last", on_output=on_output), restart=Restart.TRANSIENT
        )
        await taking.wait()
        with trio.fail_after(5):
            while not sent:  # noqa: ASYNC110  (until what it left behind is killed)
                await trio.sleep(0.01)
        supervisor.start_soon(supervisor.stop, child.name, restart=Restart.TEMPORARY)
        await child.stopping.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        go_on.set()

    assert sent == [signal.SIGKILL]


async def test_runs_leave_no_file_open():
    async def run():
        await sh("true", notify=True)()
        with pytest.raises(ProcessNotStarted):
            await process_child(["no-such-program"], notify=True)()

    await run()
    before = os.listdir("/dev/fd")  # noqa: PTH208
    for _ in range(5):
        await run()

    assert len(os.listdir("/dev/fd")) == len(before)  # noqa: PTH208


async def test_many_kills_that_race_with_the_exit_are_no_error():
    async with open_supervisor(shutdown_timeout=0.01) as supervisor:
        for n in range(30):
            supervisor.start_soon(sh(f"sleep 0.0{n:02}"), name=str(n), restart=Restart.TEMPORARY)
        await trio.sleep(0.03)
        await supervisor.shutdown()

    assert supervisor.children == ()


# What it writes.


async def test_output_and_errors_come_line_by_line_and_in_order():
    lines = Lines()

    await sh("echo one; echo two >&2; printf 'three\\r\\n\\nfour'", on_output=lines)()

    assert lines == ["one", "two", "three", "", "four"]


async def test_output_is_handed_on_while_the_process_runs():
    lines = Lines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sh("echo up; sleep 1000", on_output=lines))
        await lines.until(1)
        nursery.cancel_scope.cancel()

    assert lines == ["up"]


async def test_output_without_a_newline_is_handed_on_in_bounded_pieces():
    lines = Lines()
    length = 3 * MAX_LINE + 5

    await python(f"print('x' * {length}); print('y')", on_output=lines)()

    assert [len(line) for line in lines] == [MAX_LINE, MAX_LINE, MAX_LINE, 5, 1]


async def test_a_line_of_exactly_the_bound_is_one_line():
    lines = Lines()

    await python(f"print('x' * {MAX_LINE}); print('y')", on_output=lines)()

    assert [len(line) for line in lines] == [MAX_LINE, 1]


async def test_what_is_not_utf_8_is_replaced_and_split_characters_are_not():
    lines = Lines()
    script = (
        "import os, time\n"
        "for byte in b'caf\\xc3\\xa9 \\xff\\n':\n"
        "    os.write(1, bytes([byte]))\n"
        "    time.sleep(0.01)"
    )

    await python(script, on_output=lines)()

    assert lines == ["caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{REPLACEMENT CHARACTER}"]


async def test_a_character_that_is_cut_off_at_the_end_is_replaced():
    lines = Lines()

    await sh("printf 'caf\\303'", on_output=lines)()

    assert lines == ["caf\N{REPLACEMENT CHARACTER}"]


async def test_a_slow_reader_slows_the_process_and_loses_nothing(tmp_path):
    """The process gets no further than the pipe lets it while its first line is looked at."""
    lines = []
    release = trio.Event()
    progress = tmp_path / "progress"

    async def on_output(line):
        await release.wait()
        lines.append(line)

    script = (
        "import pathlib\n"
        "for i in range(200):\n"
        "    print(i, 'x' * 2000)\n"
        f"    pathlib.Path({str(progress)!r}).write_text(str(i))"
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(python(script, on_output=on_output))
        with trio.fail_after(10):
            reached = ""
            while not reached or reached != progress.read_text():
                reached = progress.read_text() if progress.exists() else ""
                await trio.sleep(0.2)
        assert 0 < int(reached) < 150
        release.set()

    assert [int(line.split()[0]) for line in lines] == list(range(200))


async def test_an_error_of_on_output_is_a_crash_and_ends_the_process():
    lines = Lines()

    def on_output(line):
        lines(line)
        raise ValueError("bad line")

    with pytest.raises(ValueError, match="bad line"):
        await sh("echo $$; sleep 1000", on_output=on_output)()

    assert not is_alive(int(lines[0]))


async def test_a_grandchild_that_holds_the_output_open_does_not_delay_the_end():
    lines = Lines()
    script = (
        "import subprocess, sys\n"
        "process = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "print(process.pid); print('last')"
    )

    with trio.fail_after(10):
        await python(script, on_output=lines)()

    assert lines[1:] == ["last"]
    os.kill(int(lines[0]), signal.SIGKILL)  # it left the group, and so our reach


async def test_a_grandchild_that_floods_the_output_does_not_delay_the_end(tmp_path):
    pid = tmp_path / "pid"
    script = (
        "import pathlib, subprocess\n"
        "process = subprocess.Popen(['yes'], start_new_session=True)\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(process.pid))"
    )

    try:
        with trio.fail_after(20):
            await python(script, on_output=Lines())()
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


async def test_output_is_logged_where_nobody_takes_it(caplog):
    caplog.set_level("INFO", logger="actp_supervise")

    await sh("echo hello")()

    assert "/bin/sh: hello" in caplog.messages


@pytest.fixture
def our_input():
    """Something for this process to read, for the time of a test."""
    before = os.dup(0)
    read_end, write_end = os.pipe()
    os.dup2(read_end, 0)
    os.write(write_end, b"ours\n")
    for fd in (read_end, write_end):
        os.close(fd)
    yield
    os.dup2(before, 0)
    os.close(before)


async def test_a_socket_may_be_its_input_and_its_way_to_answer():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"question\n")
        await sh("read line; echo got $line >&0", stdin=theirs.fileno())()
        assert ours.recv(100) == b"got question\n"
        theirs.send(b"")  # it is still the caller's


async def test_input_is_empty(our_input):
    lines = Lines()

    await sh("cat; echo read", on_output=lines)()

    assert lines == ["read"]


# What it is given.


async def test_environment_and_directory_are_the_given_ones(tmp_path):
    lines = Lines()

    await sh("pwd; echo $NAME; echo $HOME", env={"NAME": "value"}, cwd=tmp_path, on_output=lines)()

    assert lines == [str(tmp_path), "value", ""]


async def test_what_systemd_told_this_process_is_kept_from_it(monkeypatch):
    lines = Lines()
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.setenv(name, "ours")
    monkeypatch.setenv("OTHER", "inherited")

    await sh("echo $NOTIFY_SOCKET$WATCHDOG_USEC$WATCHDOG_PID; echo $OTHER", on_output=lines)()

    assert lines == ["", "inherited"]


async def test_it_has_a_session_of_its_own():
    lines = Lines()

    await python(
        "import os; print(os.getsid(0) == os.getpgid(0) == os.getpid())", on_output=lines
    )()

    assert lines == ["True"]
