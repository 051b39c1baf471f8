"""A process as a child: real programs, in real time. How it ends, and how it is stopped."""

from __future__ import annotations

import copy
import os
import pickle
import signal

import pytest
import trio
import trio.testing
from processes import is_alive
from programs import Lines, python, sh, until, until_gone

from actp_supervise import ChildState, Restart, open_supervisor
from actp_supervise.process import LAST_LINES, ProcessExited, ProcessNotStarted, process_child

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


async def test_statuses_that_count_as_a_clean_end_may_be_chosen():
    await sh("exit 3", exit_codes={0, 3})()
    await sh("kill -TERM $$", exit_codes=[-signal.SIGTERM])()

    with pytest.raises(ProcessExited, match="exited with status 0"):
        await sh("exit 0", exit_codes={3})()


@pytest.mark.parametrize(
    "error",
    [
        ProcessExited("prog", -signal.SIGKILL, ("one", "two"), "its keeper was killed"),
        ProcessExited("prog", 3, ()),
        ProcessNotStarted("cannot start 'prog'"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]
)
def test_an_error_can_be_copied_and_pickled_with_all_that_it_says(error, copied):
    error.add_note("while it started")

    again = copied(error)

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert (again.args, vars(again)) == (error.args, vars(error))


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


async def test_a_crash_is_restarted_and_the_child_is_named_after_the_program(tmp_path):
    (tmp_path / "worker").write_text(f"#!/bin/sh\necho run >> {tmp_path}/log\n[ -e {tmp_path}/go ]")
    (tmp_path / "worker").chmod(0o755)
    async with open_supervisor(limit=None) as supervisor:
        child = supervisor.start_soon(
            process_child([tmp_path / "worker"]), restart=Restart.TRANSIENT
        )
        await until(lambda: child.restarts >= 3)
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
        f"    elif {stop_group}: os.wait()\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "if helper: print('up')\n"
        "signal.pause()"
    )

    child = python(script, on_output=lines, stop_group=stop_group)
    await stopped(child, lines, shutdown_timeout=30)

    assert lines[1:] == expected


async def test_cancellation_kills_the_process_and_all_that_it_started():
    lines = Lines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sh("sleep 1000 & echo $!; echo $$; wait", on_output=lines))
        await lines.until(2)
        nursery.cancel_scope.cancel()

    await until_gone(*map(int, lines))


async def test_the_crash_of_a_sibling_ends_the_process_with_its_group():
    lines = Lines()

    async def sibling():
        await lines.until(2)
        raise ValueError

    with pytest.RaisesGroup(ValueError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sh("sleep 1000 & echo $!; echo $$; wait", on_output=lines))
            nursery.start_soon(sibling)

    await until_gone(*map(int, lines))


async def test_what_a_process_leaves_behind_in_its_group_is_killed():
    lines = Lines()

    await sh("sleep 1000 & echo $!", on_output=lines)()

    await until_gone(int(lines[0]))


async def test_a_process_cancelled_while_it_is_being_started_is_killed_too(tmp_path):
    pids = tmp_path / "pids"
    for n in range(20):
        with trio.move_on_after(n / 100):
            await sh(f"echo $$ >> {pids}; exec sleep 1000")()

    started = [int(line) for line in pids.read_text().split()]
    assert started
    assert not any(is_alive(pid) for pid in started)


async def test_a_stop_that_comes_when_the_process_has_ended_signals_nothing(tmp_path):
    """Its last line is still being taken, and its number may be another process's by then."""
    taking, go_on = trio.Event(), trio.Event()

    async def on_output(line):
        taking.set()
        await go_on.wait()

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(
            sh("echo last", on_output=on_output), restart=Restart.TRANSIENT
        )
        await taking.wait()
        await until(lambda: child.pid is None)
        supervisor.start_soon(supervisor.stop, child.name, restart=Restart.TEMPORARY)
        await child.stopping.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        go_on.set()

    assert child.last_error is None


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
