"""This daemon among others: made known, noticed when it dies, and cleared up after.

Each daemon holds a lock that the kernel lets go when it dies, however it dies. So whoever starts
next on the same machine knows at once which tasks nobody works on any more. On other machines it is
noticed by its silence, for each daemon says in its beats that it is there. The
lock files lie beside the database file.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import trio

from actp_supervise.clock import SystemWallClock, WallClock
from actp_supervise.service import why
from app.store.protocol import Presence, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from actp_supervise.service import Outbox
    from app.settings import Settings
    from app.store.protocol import AgentBeat, Store

logger = logging.getLogger(__name__)

FAREWELL_TIMEOUT: Final = 3.0
"""Seconds that the end of a daemon waits for the store to take note of it."""


class DaemonPresence:
    """What this daemon says of itself in the store, where others see it.

    Args:
        settings: What it is called, and how often it says so.
        instance: This start of the daemon.
        wall_clock: Tells the time of day.
    """

    def __init__(
        self, settings: Settings, instance: str, *, wall_clock: WallClock | None = None
    ) -> None:
        self._settings = settings
        self.instance = instance
        self._wall_clock = SystemWallClock() if wall_clock is None else wall_clock
        self._heard_at: datetime | None = None
        """When this daemon itself was last heard of."""
        self._excused = (0.0, datetime.min.replace(tzinfo=UTC))
        """How many more seconds of silence others are allowed, and until when."""
        self._due_at = -math.inf
        """When it is to say so again, by Trio's time."""
        self.statuses: Callable[[], Mapping[str, str]] = dict
        """Tells agent_id -> status, as it is by then."""
        self.on_publish: Callable[[], object] = lambda: None
        """Called when there is something new to say."""

    @property
    def interval(self) -> float:
        """Seconds between two times that it is said."""
        return self._settings.heartbeat_interval

    def publish(self) -> None:
        """Publish it with the next beat, with the statuses of the agents."""
        self._due_at = -math.inf
        self.on_publish()

    def due(self, heartbeats: Sequence[AgentBeat]) -> Presence | None:
        """Return what a beat is to say, with heartbeats of agents; None if nothing is due."""
        if not heartbeats and trio.current_time() < self._due_at:
            return None
        self._due_at = trio.current_time() + self._settings.heartbeat_interval
        return Presence(
            worker_id=self._settings.worker_id,
            agents=dict(self.statuses()),
            silent_after=self._patience(),
            heartbeats=list(heartbeats),
        )

    async def arrive(self, store: Store) -> None:
        """Register this daemon for the first time."""
        dead = await store.touch_worker(
            self._settings.worker_id,
            self.instance,
            self.statuses(),
            silent_after=self._patience(),
        )
        self.said(dead)

    def said(self, dead: Sequence[str]) -> None:
        """Note that it was said, and which daemons were found dead by it."""
        self._heard_at = self._wall_clock.now()
        for worker_id in dead:
            extra = {"action": "worker_died", "worker": worker_id}
            logger.warning(
                "Daemon %s is silent; its tasks are queued again", worker_id, extra=extra
            )

    def unsaid(self) -> None:
        """Note that it could not be said, and is due still."""
        self._due_at = -math.inf

    def _patience(self) -> float:
        """Return the seconds of silence after which another daemon counts as dead just now."""
        now = self._wall_clock.now()
        patience = silent_after(self._settings)
        silence = (now - self._heard_at).total_seconds() if self._heard_at else 0.0
        # What kept this one silent, a lid that was closed or a store that was away, may have kept
        # others so: that time is not held against them until they had as long to speak.
        if silence > patience:
            self._excused = (silence, now + timedelta(seconds=patience))
        excused, until = self._excused
        return patience + excused if now < until else patience


def silent_after(settings: Settings) -> float:
    """Return the seconds of silence after which a daemon on another machine counts as dead.

    Not before the leases of its tasks are over, which it may still be at work on.
    """
    return max(settings.stale_threshold, settings.task_lease)


class Life(IntEnum):
    """What a lock file tells of its daemon; of several, the greatest holds."""

    DEAD = 0
    """The file is there, and nobody holds the lock."""
    UNKNOWN = 1
    """There is no file: it may run on another machine."""
    ALIVE = 2


def lock_folder(settings: Settings) -> Path:
    """Return the folder of the lock files of those on this machine who share the database."""
    name = settings.db_path.name
    if settings.supabase_url is not None:
        name = urlsplit(settings.supabase_url).netloc.replace(":", "-")
    return settings.db_path.with_name(f"{name}-workers")


def take_lock(folder: Path, instance: str) -> int:
    """Make the lock file of a daemon and lock it, until the file that is returned is closed."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Under another name until it is locked, or who looks at that moment would take us for dead.
    new = folder / f"{instance}.new"
    file = os.open(new, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    new.rename(_path(folder, instance))
    return file


@asynccontextmanager
async def open_worker(
    settings: Settings,
    store: Store,
    records: Outbox,
    presence: DaemonPresence,
    *,
    take_lock: Callable[[Path, str], int] = take_lock,
) -> AsyncIterator[None]:
    """Make this daemon known for the time of the block.

    Daemons that died without a word are cleared up after: their tasks go back to the queue.

    Args:
        settings: Where the lock lies, and what the daemon is called.
        store: Where daemons are known.
        records: Writes it down, as soon as it runs.
        presence: Makes it known.
        take_lock: Takes, in a folder, the lock of a daemon.

    Raises:
        OSError: If the lock file cannot be made.
    """
    folder = lock_folder(settings)
    instance = presence.instance
    lock = take_lock(folder, instance)
    noted = False
    try:
        # Before the starts of runs, which name their daemon.
        records.put("this daemon", partial(presence.arrive, store))
        records.put("daemons that died", partial(_clear_up, store, folder))
        yield
    finally:
        try:
            with trio.fail_after(FAREWELL_TIMEOUT, shield=True):
                await store.forget_worker(instance)
                noted = True
        except (StoreError, trio.TooSlowError) as error:
            extra = {"action": "farewell_failed"}
            logger.warning("The store could not be told of the end: %s", why(error), extra=extra)
        finally:
            if noted:  # else the next daemon finds the file without its lock, and tells
                _path(folder, instance).unlink(missing_ok=True)
            os.close(lock)


def life_of(settings: Settings, instance: str) -> Life:
    """Say whether a daemon lives."""
    with _seized(lock_folder(settings), instance) as life:
        return life


async def _clear_up(store: Store, folder: Path) -> None:
    for path in _lock_files(folder):
        # Of several daemons that start at once, the one that gets hold of the lock does it.
        with _seized(folder, path.stem) as life:
            if life is Life.DEAD:
                extra = {"action": "worker_died", "instance": path.stem}
                logger.warning("A daemon died; its tasks are queued again", extra=extra)
                await store.forget_worker(path.stem)
                path.unlink(missing_ok=True)


@contextmanager
def _seized(folder: Path, instance: str) -> Iterator[Life]:
    """Say whether a daemon lives; if it is dead, hold its lock in the block."""
    try:
        file = os.open(_path(folder, instance), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield Life.UNKNOWN
        return
    try:
        yield Life.DEAD if _lock(file) else Life.ALIVE
    finally:
        os.close(file)


def _lock_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.lock"))


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _path(folder: Path, instance: str) -> Path:
    return folder / f"{instance}.lock"
