"""What a service manager hears, on a real socket."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass

import pytest
import trio

from actp_supervise.service import ServiceManager
from actp_supervise.service.systemd import GRACE, MOST_STATUS, STATUS_INTERVAL


@dataclass
class Service:
    """Stands in for a service: what is told of it."""

    state: str = "healthy, 4 agents"
    stopping: bool = False

    def status_line(self):
        return self.state


class Socket:
    """The service manager's end."""

    def __init__(self, address):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(0)
        self.close = self._socket.close

    def heard(self):
        """Return the messages since the last look."""
        messages = []
        try:
            while True:
                messages.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return messages


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A socket, and the environment that names it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@actp-test-{os.getpid()}"
    end = Socket(name.replace("@", "\0"))
    end.environ = {"NOTIFY_SOCKET": name}
    yield end
    end.close()


UP = "READY=1\nSTATUS=healthy, 4 agents"
EXTENDED = f"EXTEND_TIMEOUT_USEC={GRACE * 1_000_000:.0f}"


async def test_it_hears_that_the_service_is_up_and_how_it_is(manager, nursery, autojump_clock):
    service = Service()
    await nursery.start(ServiceManager(manager.environ).run, service)
    assert manager.heard() == [UP]
    await trio.sleep(2.5 * STATUS_INTERVAL)
    assert manager.heard() == []
    service.state = "degraded: a is away,\nb too " + "x" * 1000
    await trio.sleep(STATUS_INTERVAL)
    (told,) = manager.heard()
    assert told.startswith("STATUS=degraded: a is away, b too xxx")
    assert len(told) == len("STATUS=") + MOST_STATUS


async def test_a_watchdog_hears_twice_as_often_as_it_asks(manager, nursery, autojump_clock):
    environ = {"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid()), **manager.environ}
    await nursery.start(ServiceManager(environ).run, Service())
    assert manager.heard() == [UP]
    await trio.sleep(1.9)
    assert manager.heard() == []
    await trio.sleep(6.2)
    assert manager.heard() == ["WATCHDOG=1"] * 4


@pytest.mark.parametrize(
    "watchdog",
    [
        {"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
    ],
)
async def test_a_watchdog_of_another_process_or_none_hears_nothing(
    manager, nursery, autojump_clock, watchdog
):
    await nursery.start(ServiceManager({**watchdog, **manager.environ}).run, Service())
    await trio.sleep(60)
    assert manager.heard() == [UP]


async def test_a_blocked_loop_sends_no_sign_of_life(manager, nursery):
    environ = {"WATCHDOG_USEC": "100000", **manager.environ}
    await nursery.start(ServiceManager(environ).run, Service())
    await trio.sleep(0.2)
    manager.heard()
    threading.Event().wait(0.5)  # which blocks
    assert manager.heard() == []
    await trio.sleep(0.2)
    assert "WATCHDOG=1" in manager.heard()


async def test_while_the_service_stops_more_time_is_asked_for(manager, nursery, autojump_clock):
    service = Service()
    told = ServiceManager(manager.environ)
    await nursery.start(told.run, service)
    manager.heard()
    service.stopping = True
    told.stopping()
    (message,) = manager.heard()
    assert message.splitlines()[0] == "STOPPING=1"
    assert EXTENDED in message.splitlines()
    await trio.sleep(3 * STATUS_INTERVAL + 1)
    assert manager.heard() == [EXTENDED] * 3
    assert STATUS_INTERVAL < GRACE


def test_a_start_that_waits_says_so_and_asks_for_time(manager):
    ServiceManager(manager.environ).waiting("for the store", 12.5)
    assert manager.heard() == ["STATUS=Waiting for the store\nEXTEND_TIMEOUT_USEC=42500000"]


def test_a_reload_is_announced_with_the_time_of_the_clock_and_ended(manager):
    service = ServiceManager(manager.environ)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    service.reloading()
    service.ready()
    begun, done = manager.heard()
    kind, moment = begun.splitlines()
    assert (kind, done) == ("RELOADING=1", "READY=1")
    name, _, microseconds = moment.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "vsock:2:1234", "@nobody", "/" * 500])
async def test_without_a_service_manager_or_with_a_broken_socket_all_goes_on(
    nursery, autojump_clock, address
):
    service = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    service.waiting("for the store", 1.0)
    await nursery.start(service.run, Service(stopping=True))
    await trio.sleep(5)
    service.reloading()
    service.ready()
    service.stopping()


async def test_what_a_full_socket_did_not_take_is_told_again(manager, nursery, autojump_clock):
    service, told = Service(), ServiceManager(manager.environ)
    await nursery.start(told.run, service)
    for _ in range(5000):  # more than a socket holds
        told.ready()
    service.state = "degraded"
    await trio.sleep(STATUS_INTERVAL + 1)
    manager.heard()
    await trio.sleep(STATUS_INTERVAL)
    assert manager.heard() == ["STATUS=degraded"]


def test_a_manager_that_does_not_listen_holds_nothing_up(manager):
    service = ServiceManager(manager.environ)
    for _ in range(5000):  # more than a socket holds
        service.ready()
    assert 0 < len(manager.heard()) < 5000
