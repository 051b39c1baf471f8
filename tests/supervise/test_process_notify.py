"""What a process tells its supervisor by sd_notify: ready, alive, and its status."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import trio

from actp_supervise import ChildState, Restart, current_child, open_supervisor
from actp_supervise.process import ProcessExited, ProcessNotStarted, process_child

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
        with trio.fail_after(10):
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
        with trio.fail_after(10):
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
        for watchdog in (None, 7.5):
            supervisor.start_soon(
                python(
                    "print(os.environ.get('WATCHDOG_USEC'))", notify=True, on_output=lines.append
                ),
                name=str(watchdog),
                restart=Restart.TEMPORARY,
                watchdog=watchdog,
            )

    assert sorted(lines) == ["7500000", "None"]


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


@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="systemd's own client")
async def test_systemds_own_client_is_understood():
    statuses = []

    await process_child(
        ["systemd-notify", "--ready", "--status=up"], notify=True, on_status=statuses.append
    )()

    assert statuses == ["up"]
