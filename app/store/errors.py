"""What can go wrong with a store, in its own words."""

from __future__ import annotations

from typing import Final

NO_THREAD: Final = (
    "no thread can be started: the system's limit is reached (ulimit -u, or TasksMax of systemd)"
)


def is_out_of_threads(error: BaseException) -> bool:
    """Return whether an error is Python's for a thread that the system does not give."""
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)


class StoreError(Exception):
    """The store refused, or answered what makes no sense. Repeating will not help."""


class StoreUnavailable(StoreError):
    """The store cannot be reached just now. Nothing is lost: try again later."""


class TableMissing(StoreError):
    """A table, a column or a function that the verb needs is not there; the message names it."""


class WrongSettings(StoreError):
    """The address or the key will not do; one line that names the variable."""


class WrongVersion(WrongSettings):
    """The tables are of another version than this program's; the message says what to do."""
