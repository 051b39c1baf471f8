"""A service as a whole: a real process, real signals, a real socket of its service manager."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from actp_supervise import Restart, RestartLimitExceeded
from actp_supervise.service import open_service
from actp_supervise.service.signals import SIGNALS

PROGRAM = """
import sys, time
import trio
from actp_supervise import current_child
from actp_supervise.service import configure_logging, open_service

async def work():
    print("working", flush=True)
    await current_child().stopping.wait()
    await trio.sleep(float(sys.argv[1]))
    print("finished", flush=True)

async def idle():
    await trio.sleep_forever()

async def block():
    await trio.sleep(0.1)
    time.sleep(3)
    print("turning", flush=True)
    await trio.sleep_forever()

async def main():
    configure_logging(sys.stderr, as_json=True)
    async with open_service(name="mail") as service:
        service.start_soon(work, name="work", shutdown_timeout=600.0)
        service.start_soon(idle, name="idle")
        if "block" in sys.argv:
            service.start_soon(block, name="block")
        if "slow start" in sys.argv:
            print("starting", flush=True)
            await trio.sleep(1.0)
            await service.start(idle, name="late")
    print("left", flush=True)

trio.run(main)
"""


class Running:
    """A service that runs, and what its manager has heard."""

    def __init__(self, process, manager, log):
        self.process = process
        self._manager = manager
        self._log = log

    def line(self):
        return self.process.stdout.readline().strip()

    def heard(self):
        """Return the next message to the service manager; it waits for one."""
        return self._manager.recv(4096).decode()

    def heard_until(self, text):
        messages = [self.heard()]
        while text not in messages[-1]:
            messages.append(self.heard())
        return messages

    def logged(self):
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@contextmanager
def running(*arguments, environ=None):
    """Run the program as a service manager does, with a socket to tell it."""
    with (
        tempfile.TemporaryDirectory() as folder,  # with a path short enough for a socket
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        (Path(folder) / "log").open("w") as log,
    ):
        manager.bind(f"{folder}/notify")
        manager.settimeout(60)
        own = {"NOTIFY_SOCKET": f"{folder}/notify", "PYTHONPATH": ":".join(filter(None, sys.path))}
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=own | (environ or {}),
        ) as process:
            try:
                yield Running(process, manager, Path(log.name))
            finally:
                process.kill()


def test_a_signal_lets_work_in_flight_finish_and_the_manager_is_told_of_start_and_end():
    with running("0.2") as service:
        assert service.line() == "working"
        assert service.heard() == "READY=1\nSTATUS=2 children run"
        service.process.send_signal(signal.SIGTERM)
        assert service.heard().startswith("STOPPING=1\n")
        assert [service.line(), service.line()] == ["finished", "left"]
        assert service.process.wait(120) == 0
        assert [line["action"] for line in service.logged()] == ["stop_requested"]


def test_a_second_signal_cancels_what_is_in_flight():
    with running("3600") as service:
        assert service.line() == "working"
        service.heard()
        service.process.send_signal(signal.SIGINT)
        service.heard_until("STOPPING=1")
        service.process.send_signal(signal.SIGINT)
        assert service.line() == "left"
        assert service.process.wait(120) == 0


def test_a_signal_during_the_start_ends_the_service_without_an_error():
    with running("0", "slow start") as service:
        assert {service.line(), service.line()} == {"starting", "working"}
        service.process.send_signal(signal.SIGTERM)
        assert [service.line(), service.line()] == ["finished", "left"]
        assert service.process.wait(120) == 0
        assert [line["action"] for line in service.logged()] == ["stop_requested"]


def test_a_watchdog_is_told_while_the_loop_turns_and_who_blocks_it_is_named_meanwhile():
    with running("0", "block", environ={"WATCHDOG_USEC": "400000"}) as service:
        messages = service.heard_until("mail/block at <string>:")
        assert any("WATCHDOG=1" in message for message in messages)
        while service.line() != "turning":
            pass
        begun = next(line for line in service.logged() if line["action"] == "loop_blocked")
        assert "by mail/block at <string>:" in begun["message"]
        assert "in block" in begun["message"]
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(120) == 0


@pytest.fixture
def signals_as_before():
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    yield
    for number, handler in before:
        signal.signal(number, handler)


async def test_a_service_whose_children_have_ended_is_over(signals_as_before):
    ran = []

    async def work():
        ran.append(True)

    with trio.fail_after(60):
        async with open_service(environ={}) as service:
            service.start_soon(work, restart=Restart.TRANSIENT)
    assert ran == [True]


async def test_an_error_of_the_start_leaves_a_service_bare(signals_as_before):
    with pytest.raises(ValueError, match="no such port"):
        async with open_service(environ={}) as service:
            service.start_soon(trio.sleep_forever)
            raise ValueError("no such port")


async def test_what_makes_a_supervisor_give_up_leaves_its_service_bare(signals_as_before):
    async def crash():
        raise ValueError("no")

    with pytest.raises(RestartLimitExceeded):
        async with open_service(environ={}) as service:
            service.start_soon(crash)
