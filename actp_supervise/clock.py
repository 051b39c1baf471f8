"""Wall time: the one place that reads the wall's clock, and the machine's zone.

Everything else in the library takes a `WallClock`, so that a test can own it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, final, runtime_checkable
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


LOCALTIME: Final = "localtime"
"""The key of the machine's zone where ``/etc/localtime`` does not tell the zone's name."""


class WallClock(Protocol):
    """What tells the time of day. It may be set forward or back at any moment."""

    def now(self) -> datetime:
        """Return the present moment, aware."""


@runtime_checkable
class SteppedWallClock(WallClock, Protocol):
    """A wall clock that follows Trio's and calls back when it is set, so it need not be polled."""

    def on_step(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Register a callback for after each step; return a function that unregisters it."""


@final
class SystemWallClock:
    """The machine's clock, in UTC."""

    def now(self) -> datetime:
        """Return the present moment."""
        return datetime.now(UTC)  # noqa: TID251  (this is the place)


def local_timezone(
    environ: Mapping[str, str] = os.environ, localtime: Path = Path("/etc/localtime")
) -> tzinfo:
    """Return the machine's zone, with its rules for daylight saving time.

    ``TZ`` decides where it is set, else ``/etc/localtime``; without either it is UTC.

    Args:
        environ: Where ``TZ`` is looked up.
        localtime: The file, usually a link, that says which zone the machine is in.

    Raises:
        ValueError: If ``TZ`` is no IANA name (the rules spelt out, as in ``EST5EDT,M3.2.0``, are
            not read).
    """
    name = environ.get("TZ")
    if name is not None:
        return _by_name(name.removeprefix(":"))
    if not localtime.exists():
        return UTC
    parts = localtime.resolve().parts
    if "zoneinfo" in parts:
        return ZoneInfo("/".join(parts[parts.index("zoneinfo") + 1 :]))
    with localtime.open("rb") as file:  # a copy, which does not tell its name
        return ZoneInfo.from_file(file, key=LOCALTIME)


def _by_name(name: str) -> tzinfo:
    if not name:
        return UTC  # as POSIX has it
    try:
        return ZoneInfo(name.rpartition("zoneinfo/")[2])
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"unknown timezone {name!r} in the variable TZ: set it to an IANA name such as "
            "'America/New_York', or name the timezone"
        ) from None
