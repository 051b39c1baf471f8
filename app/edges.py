"""Where the daemon meets the world: what `run_daemon` is given, and what it takes by itself.

All else of the daemon is its own code. So whoever replaces these can run the whole daemon without a
disk, a socket, a signal or a thread, as the simulation does.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from actp_supervise.clock import SystemWallClock, WallClock
from actp_supervise.service import Block, LoopWatch
from actp_supervise.service.signals import CatchSignal
from app.agents.client import make_client
from app.alerts.channels import Channel, make_channels
from app.daemon import Daemon
from app.health_server import HealthServer
from app.logs import configure_daemon_logs
from app.looks import USUAL, Looks
from app.settings import Settings
from app.store.open import open_store
from app.store.protocol import Store, StoreUnavailable
from app.web.listening import Address
from app.web.waiting_room import open_waiting_room
from app.worker import take_lock

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

Redact = Callable[[str], str]

OpenStore = Callable[[Settings], AbstractAsyncContextManager[Store]]
MakeClient = Callable[[str | None, str | None], "AsyncAnthropic"]
MakeChannels = Callable[[Settings], Sequence[Channel]]
MakeLoopWatch = Callable[[Callable[[Block], object]], LoopWatch]
OpenWaitingRoom = Callable[
    [Settings, Address, Redact], AbstractAsyncContextManager[Callable[[StoreUnavailable], None]]
]


def _server(daemon: Daemon, address: Address) -> Callable[..., Awaitable[None]]:
    return HealthServer(daemon, address=address).start


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """The outer world, as the daemon uses it; by default the real one."""

    open_store: OpenStore = open_store
    """Opens the store that is configured."""
    wall_clock: WallClock = field(default_factory=SystemWallClock)
    """Tells the time of day."""
    make_client: MakeClient = make_client
    """Makes a client of Claude's API from a key and an address."""
    make_channels: MakeChannels = make_channels
    """Makes the ways by which people are told, from what is configured."""
    catch: CatchSignal = signal.signal
    """Has a function called with each signal of a number, from now on."""
    make_loop_watch: MakeLoopWatch = LoopWatch
    """Makes what tells of blocks of the loop."""
    make_server: Callable[[Daemon, Address], Callable[..., Awaitable[None]]] = _server
    """Makes the web server, a child that is ready with the address of its page."""
    open_waiting_room: OpenWaitingRoom = open_waiting_room
    """Serves, while the start waits for the store, that it does."""
    configure_logs: Callable[[Settings, Redact], None] = configure_daemon_logs
    """Says where the log goes; raises an OSError where that cannot be."""
    take_lock: Callable[[Path, str], int] = take_lock
    """Takes, in a folder, the lock that tells others on this machine that a daemon lives."""
    looks: Looks = USUAL
    """How often it looks at what nothing tells it of."""
