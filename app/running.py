"""Which daemons of this user run on this machine, so that a command finds the one that it is for.

A daemon keeps a file in the user's data directory for as long as it runs: its address, and where
its tasks are kept. It holds a lock on that file, which the kernel lets go when the daemon dies. No
secret stands in it.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from actp_supervise.service import why
from app.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from app.settings import Settings

FOLDER: Final = "running"
"""The folder of these files in the data directory."""

STORE_VARIABLES: Final = frozenset({"WORKER_DB_PATH", "SUPABASE_URL"})
"""The variables that say which store is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A daemon that runs on this machine."""

    pid: int
    worker_id: str
    host: str
    """What it listens on."""
    port: int
    store: str
    """Where its tasks are: the address of a Supabase project, or the path of a SQLite file."""
    demo: bool
    """Whether it is a demonstration, whose store is thrown away."""

    def named(self) -> str:
        """Return how an error names it."""
        return f"{self.worker_id} (WORKER_HEALTH_PORT={self.port})"


@contextmanager
def findable(settings: Settings, port: int, *, demo: bool = False) -> Iterator[Settings]:
    """Make commands find this daemon for the time of the block.

    Args:
        settings: Those of this daemon.
        port: What it listens on.
        demo: Whether it is a demonstration.

    Yields:
        The settings; with a warning where the file cannot be made, which ends no daemon.
    """
    running = Running(
        pid=os.getpid(),
        worker_id=settings.worker_id,
        host=settings.health_host,
        port=port,
        store=store_of(settings),
        demo=demo,
    )
    path = settings.data_dir / FOLDER / f"{uuid.uuid4().hex}.json"
    try:
        file = _keep(path, json.dumps(dataclasses.asdict(running)))
    except OSError as error:
        warning = (
            f"commands find this daemon by WORKER_HEALTH_PORT={port} alone, because "
            f"{path.parent} cannot be written to: {why(error)}"
        )
        yield dataclasses.replace(settings, warnings=(*settings.warnings, warning))
        return
    try:
        yield settings
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def find(settings: Settings) -> Running | None:
    """Return the daemon that a command with these settings is for; None where none runs here.

    What is set of its port, its address and its store has to be so. Of several, one that has the
    store of these settings comes first, and one that is no demonstration before one that is; then
    the one at the port of these settings.

    Raises:
        SettingsError: If several fit equally well; the line names them.
    """
    best = _best(settings)
    if len(best) > 1:
        names = ", ".join(sorted(each.named() for each in best))
        raise SettingsError(f"WORKER_HEALTH_PORT: several daemons run here, set it to one: {names}")
    return best[0] if best else None


def with_store_of_running(settings: Settings) -> Settings:
    """Return the settings with the store of the daemon that runs here, for a command that looks.

    Where the store is set, or daemons with several stores run, it stays what it is.
    """
    stores = {each.store for each in _best(settings)}
    if len(stores) != 1 or stores == {store_of(settings)}:
        return settings
    (store,) = stores
    if "://" in store:  # a project of which these settings have no key
        return settings
    return dataclasses.replace(
        settings, db_path=Path(store), supabase_url=None, supabase_service_role_key=None
    )


def store_of(settings: Settings) -> str:
    """Return where the tasks of a daemon with these settings are."""
    return settings.supabase_url or str(settings.db_path.absolute())


def _best(settings: Settings) -> list[Running]:
    """Return the daemons that fit the settings best."""
    fitting = [each for each in running(settings.data_dir) if _fits(each, settings)]
    ranks = [(store_of(settings) != each.store, each.demo) for each in fitting]
    best = [each for each, rank in zip(fitting, ranks, strict=True) if rank == min(ranks)]
    there = [each for each in best if each.port == settings.health_port]
    return there or best


def _fits(each: Running, settings: Settings) -> bool:
    """Whether a daemon is as the settings say, as far as they are set."""
    given = settings.given
    if "WORKER_HEALTH_PORT" in given and settings.health_port not in (0, each.port):
        return False
    if "WORKER_HEALTH_HOST" in given and settings.health_host != each.host:
        return False
    return STORE_VARIABLES.isdisjoint(given) or store_of(settings) == each.store


def running(data_dir: Path) -> Sequence[Running]:
    """Return the daemons of this user that run; the files of those that died are removed."""
    found = []
    for path in sorted((data_dir / FOLDER).glob("*.json")):
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it has ended meanwhile
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            found += _read(file)
        finally:
            os.close(file)
    return found


def _read(file: int) -> list[Running]:
    """Return what a file says; nothing where another version has written it otherwise."""
    with os.fdopen(os.dup(file), "rb") as opened:
        try:
            return [msgspec.json.decode(opened.read(), type=Running)]
        except msgspec.MsgspecError:
            return []


def _keep(path: Path, text: str) -> int:
    """Write a file and lock it, until the file that is returned is closed."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Under another name until it is locked, or a command that looks just then would remove it.
    new = path.with_suffix(".new")
    file = os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, text.encode())
        fcntl.flock(file, fcntl.LOCK_EX)
        new.rename(path)
    except OSError:
        new.unlink(missing_ok=True)
        os.close(file)
        raise
    return file
