"""The kinds of values that settings have: each function reads one of them.

The text of its `ValueError` completes "must be ...".
"""

from __future__ import annotations

import errno
import math
import re
import sys
from datetime import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.status import Isolation

MOST_WORKERS: Final = 50
"""Tasks that one agent may do at once."""

_SHORTAGES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}
"""Why a file that is there cannot be read, which is no fault of its name."""

HAS_TRIO_ASYNCIO: Final = find_spec("trio_asyncio") is not None
"""Whether agents can run in the daemon's loop; on Python 3.14 trio-asyncio is not installed."""


def flag(text: str) -> bool:
    """Read a flag."""
    try:
        return _FLAGS[text.lower()]
    except KeyError:
        raise ValueError("one of 1, true, yes, on, 0, false, no, off") from None


_FLAGS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def _number(least: float, most: float, words: str) -> Callable[[str], float]:
    """Make what reads a number; `words` say which are allowed."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:  # written so that NaN is refused
            raise ValueError(words)
        return number

    return read


LONGEST: Final = 31_536_000
"""Seconds that any duration may be set to: a year."""

_SMALLEST: Final = 5e-324

seconds = _number(0, LONGEST, f"a number of seconds from 0 to {LONGEST}, such as 30")
interval = _number(_SMALLEST, LONGEST, f"a number of seconds above 0, to {LONGEST}, such as 30")
days = _number(0, 36_500, "a number of days from 0, which means for ever, to 36500")
lease = _number(1, 86_400, "a number of seconds from 1 to 86400, such as 60")
dollars = _number(0, sys.float_info.max, "an amount in US dollars from 0, such as 5 or 2.50")


def port(text: str) -> int:
    """Read a port to listen on."""
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65_535:
        raise ValueError("a port number from 1 to 65535, or 0 for one that is free")
    return int(text)


def host(text: str) -> str:
    """Read an address to listen on."""
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", text):
        raise ValueError("an address or a host's name to listen on, such as 127.0.0.1 or ::1")
    return text


def supabase_address(text: str) -> str:
    """Read the address of a project, without the path of its REST API, which its page shows too."""
    return web_address(text).rstrip("/").removesuffix("/rest/v1").rstrip("/")


def web_address(text: str) -> str:
    """Read the address of a web server."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        usable = usable and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or " " in text:
        raise ValueError("an address that begins with https:// or http://")
    return text


def is_shortage(error: BaseException) -> bool:
    """Return whether an error comes of what the machine lacks, and not of what was set."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno in _SHORTAGES):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def timezone(text: str) -> ZoneInfo:
    """Read a time zone."""
    try:
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError) as error:
        if is_shortage(error):
            raise  # the name may be right
        raise ValueError("an IANA time zone, such as Europe/Berlin or UTC") from None


def worker_id(text: str) -> str:
    """Read what a daemon is called."""
    if not re.fullmatch(r"[A-Za-z0-9_.:@-]{1,100}", text):
        raise ValueError("1 to 100 letters, digits or any of _ . : @ -")
    return text


def class_path(text: str) -> str:
    """Read the import path of a class."""
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", text):
        raise ValueError("an import path in the form package.module:Class")
    return text


def model(text: str) -> str:
    """Read the name of a model."""
    if not re.fullmatch(r"[!-~]{1,200}", text):
        raise ValueError("the name of a model, without spaces")
    return text


EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")
"""How much a model can be told to think."""


def effort(text: str) -> str:
    """Read how much a model thinks."""
    if text.lower() not in EFFORTS:
        raise ValueError(f"one of {', '.join(EFFORTS)}")
    return text.lower()


def tokens(text: str) -> int:
    """Read how many tokens a reply may have."""
    if not re.fullmatch("[0-9]{3,6}", text):
        raise ValueError("a number of tokens from 100 to 999999, such as 32000")
    return int(text)


def turns(text: str) -> int:
    """Read how many replies a task may take."""
    if not re.fullmatch("[0-9]{1,4}", text) or int(text) < 1:
        raise ValueError("a number of replies from 1 to 9999, such as 30")
    return int(text)


def workers(text: str) -> int:
    """Read how many tasks an agent does at once."""
    if not re.fullmatch("[0-9]{1,3}", text) or not 1 <= int(text) <= MOST_WORKERS:
        raise ValueError(f"a number of tasks done at once, from 1 to {MOST_WORKERS}")
    return int(text)


def isolation(text: str) -> Isolation:
    """Read how an agent is kept apart from the daemon."""
    if text not in _ISOLATIONS:
        raise ValueError("one of loop, thread, process")
    if text == "loop" and not HAS_TRIO_ASYNCIO:
        raise ValueError("thread or process: loop needs trio-asyncio, for Python 3.13 or older")
    return _ISOLATIONS[text]


_ISOLATIONS: Final[dict[str, Isolation]] = {
    "loop": "loop",
    "thread": "thread",
    "process": "process",
}


def alert_urls(text: str) -> tuple[str, ...]:
    """Read addresses of apprise, with spaces between them."""
    found = tuple(text.split())
    if not all(re.fullmatch(r"[a-z][a-z0-9]*://[!-~]+", each) for each in found):
        raise ValueError("addresses of apprise with spaces between them, such as slack://A/B/C")
    return found


def chat_id(text: str) -> str:
    """Read which chat of Telegram is meant."""
    if not re.fullmatch(r"-?[0-9]{1,20}|@[A-Za-z][A-Za-z0-9_]{3,31}", text):
        raise ValueError("the number of a chat, such as 123456789, or a channel as @name")
    return text


def time_of_day(text: str) -> time:
    """Read a time of day."""
    if not re.fullmatch("([01][0-9]|2[0-3]):[0-5][0-9]", text):
        raise ValueError("a time of day from 00:00 to 23:59, such as 08:00")
    return time.fromisoformat(text)


def hours(text: str) -> tuple[time, time]:
    """Read a span of hours, which may go over midnight."""
    first, _, last = text.partition("-")
    try:
        begin, end = time_of_day(first.strip()), time_of_day(last.strip())
    except ValueError:
        raise ValueError("two times of day, such as 22:00-07:00") from None
    if begin == end:
        raise ValueError("two times of day that differ, such as 22:00-07:00")
    return begin, end


def path(text: str) -> Path:
    """Read the path of a file."""
    try:
        found = Path(text).expanduser().absolute()
        if "\0" not in text and not found.is_dir():
            return found
    except (OSError, RuntimeError):  # the latter for ~USER without a home
        pass
    raise ValueError("the path of a file, which need not be there")


def existing_file(text: str) -> Path:
    """Read the path of a file that is there."""
    found = path(text)
    if not found.is_file():
        raise ValueError("the path of a file, and there is none")
    return found


def word(text: str) -> str:
    """Read what a service calls something."""
    if not re.fullmatch("[!-~]+", text):
        raise ValueError("printable ASCII without spaces")
    return text


def secret(text: str) -> str:
    """Read a key, a token or a password."""
    return word(text)
