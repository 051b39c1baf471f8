"""Checks of what a caller gave: each raises an error that names the option and shows the value.

`TypeError` for a value of the wrong type, `ValueError` for one out of its range. Booleans are no
numbers here: ``watchdog=True`` is a mistake and not a second.
"""

from __future__ import annotations

import inspect
import math
import signal
from datetime import UTC, datetime
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Final, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_VALUE: Final = 200
"""How many characters of a wrong value an error's message shows."""


def shown(value: object) -> str:
    """Return a value for a message, whatever its ``__repr__`` does."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  (an int of 5000 digits has no repr, a user's may raise)
        text = f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is an int or a float, and no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_type(option: str, value: object, kind: type) -> None:
    """Refuse a value that is not of its type."""
    if not isinstance(value, kind):
        raise TypeError(f"{option} must be of type {kind.__name__}, not {shown(value)}")


def check_count(option: str, value: object, *, minimum: int = 0) -> None:
    """Refuse a value that is not a whole number of at least `minimum`."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{option} must be a count from {minimum}, not {shown(value)}")
    if isinstance(value, (bool, float)) or value < minimum:
        raise ValueError(f"{option} must be a count from {minimum}, not {shown(value)}")


def check_seconds(
    option: str, value: object, *, positive: bool = False, finite: bool = False
) -> float:
    """Return a duration in seconds as a float; refuse a value that is not one.

    Args:
        option: The name that the error gives.
        value: What the caller gave.
        positive: Whether 0 is refused as well.
        finite: Whether infinity is refused as well.
    """
    if not is_number(value):
        raise TypeError(f"{option} must be a number of seconds, not {shown(value)}")
    try:
        seconds = float(value)
    except OverflowError:  # an int beyond the largest float, with which Trio cannot count
        seconds = math.nan
    # `not seconds >= 0` rather than `seconds < 0`, so that NaN is refused too.
    too_small = not seconds > 0 if positive else not seconds >= 0
    if too_small or (finite and seconds == math.inf):
        allowed = "a positive number of seconds" if positive else "a number of seconds from 0"
        raise ValueError(f"{option} must be {allowed}, not {shown(value)}")
    return seconds


def as_utc(moment: object, name: str = "moment") -> datetime:
    """Return a moment in UTC; refuse one that is no datetime, naive, or beyond the years of UTC.

    Datetimes that share a zone are compared, hashed and subtracted by what the clocks show (PEP
    495), by which the two passes of an hour that comes twice are one. In UTC they are two.
    """
    if not isinstance(moment, datetime):
        raise TypeError(f"{name} must be a datetime, not {shown(moment)}")
    if moment.utcoffset() is None:
        raise ValueError(f"{name} must be aware (give it a tzinfo), not {shown(moment)}")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(
            f"{name} must be within the years 1 to 9999 in UTC too, not {shown(moment)}"
        ) from None


def check_fraction(option: str, value: object) -> None:
    """Refuse a value that is not a number from 0 to 1."""
    if not is_number(value):
        raise TypeError(f"{option} must be a number, not {shown(value)}")
    if not 0 <= value <= 1:
        raise ValueError(f"{option} must be a fraction from 0 to 1, not {shown(value)}")


def check_name(option: str, value: object) -> None:
    """Refuse a name that would spoil the printed tree or a line of the log."""
    check_type(option, value, str)
    assert isinstance(value, str)  # noqa: S101  (for mypy)
    if not value.strip() or not value.isprintable():
        raise ValueError(f"{option} must be printable text on one line, not {shown(value)}")


def check_signal(option: str, value: object) -> None:
    """Refuse a value that is not a signal of this system."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{option} must be a signal such as signal.SIGTERM, not {shown(value)}")
    if value not in signal.valid_signals():
        raise ValueError(f"{option} must be a signal such as signal.SIGTERM, not {shown(value)}")


def check_async_fn(what: str, async_fn: object) -> None:
    """Refuse a value that cannot be an async function; only its call shows whether it is one."""
    if inspect.iscoroutine(async_fn):
        async_fn.close()
        raise TypeError(f"{what} is an async function and its arguments, not a coroutine object")
    if not callable(async_fn):
        raise TypeError(f"{what} is an async function, not {shown(async_fn)}")


def check_job_fn(job_fn: object) -> None:
    """Refuse a job that is no async function now, and not at its first run next morning.

    An object with ``__call__`` is let through, since only a call tells whether it returns an
    awaitable. A plain function is refused even if it returns one (a lambda, a wrapper), because it
    cannot be told from a function whose ``async`` was forgotten.
    """
    if type(job_fn) is FunctionType and job_fn.__code__.co_flags & inspect.CO_COROUTINE:
        return  # as nearly all are; the checks below take ten times as long
    check_async_fn("a job", job_fn)
    inner = job_fn
    while isinstance(inner, partial):
        inner = inner.func
    if inspect.iscoroutinefunction(inner):
        return
    if inspect.isasyncgenfunction(inner):
        raise TypeError(f"a job is an async function, not one with yield: {shown(job_fn)}")
    if isinstance(inner, (FunctionType, MethodType, BuiltinFunctionType, type)):
        raise TypeError(
            f"a job is an async function; make it 'async def' (what blocks goes into 'await "
            f"trio.to_thread.run_sync(...)'), not {shown(job_fn)}"
        )


def check_sync_fn(option: str, function: object) -> None:
    """Refuse a value that cannot be called, and an async function, which would not be awaited."""
    if not callable(function):
        raise TypeError(f"{option} must be callable, not {shown(function)}")
    if is_async_fn(function):
        raise TypeError(
            f"{option} is called at once, so it must be a plain function and not an async one: "
            f"{shown(function)}"
        )


def is_async_fn(function: Callable[..., object]) -> bool:
    """Return whether calling a function gives a coroutine or an async generator."""
    while isinstance(function, partial):
        function = function.func
    call = getattr(type(function), "__call__", None)  # noqa: B004  (of the class, as Python calls)
    return any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each)
        for each in (function, call)
    )
