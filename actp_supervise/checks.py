"""Checks of options: a wrong one is an error, at the call that names it, with its value in it.

A ``bool`` is no number here although Python counts it as one: ``timeout=True`` is a slip.
"""

from __future__ import annotations

import inspect
import math
from datetime import UTC, datetime
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Final, TypeGuard

LONGEST_VALUE: Final = 200
"""How many characters of a wrong value an error's message shows."""


def shown(value: object) -> str:
    """Return a value for a message, whatever its ``__repr__`` does."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  (an int of 5000 digits has no repr, a user's may raise)
        text = f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def check_type(name: str, value: object, kind: type) -> None:
    """Raise a `TypeError` that names the option, unless the value is of its type."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be of type {kind.__name__}, not {shown(value)}")


def check_flag(name: str, value: object) -> None:
    """Raise a `TypeError` unless the value is True or False: ``"no"`` would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {shown(value)}")


def check_count(name: str, value: object, *, minimum: int) -> None:
    """Raise an error that names the option, unless the value is a whole number from `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a count from {minimum}, not {shown(value)}")
    if value < minimum:
        raise ValueError(f"{name} must be a count from {minimum}, not {shown(value)}")


def is_number(value: object) -> TypeGuard[float]:
    """Return whether the value is an int or a float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_seconds(
    name: str,
    value: object,
    *,
    positive: bool = False,
    finite: bool = False,
    or_none: bool = False,
) -> float:
    """Return a duration as a float, or raise an error that names the option.

    Args:
        name: What the option is called.
        value: What was given for it.
        positive: Whether 0 is refused too.
        finite: Whether infinity is refused too.
        or_none: Whether the option may be None as well, which the message then says; the caller
            has seen to that case.
    """
    allowed = f"a {'positive ' if positive else ''}number of seconds"
    if not is_number(value):
        raise TypeError(f"{name} must be {allowed}, not {shown(value)}")
    try:
        seconds = float(value)
    except OverflowError:  # an int beyond the largest float
        seconds = math.nan
    too_small = not (seconds > 0 if positive else seconds >= 0)  # so that NaN is refused too
    if too_small or (finite and seconds == math.inf):
        allowed += ("" if positive else " from 0") + (", or None" if or_none else "")
        raise ValueError(f"{name} must be {allowed}, not {shown(value)}")
    return seconds


def as_utc(moment: datetime, name: str = "moment") -> datetime:
    """Return a moment in UTC, or raise an error that names it.

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


def check_async_fn(what: str, async_fn: object) -> None:
    """Raise a `TypeError` that says what is wrong, unless it is an async function.

    An object that can be called may return an awaitable, which only a call would tell; a plain
    function that does (a lambda, a wrapper) is refused for the sake of the one that forgot its
    ``async``, and would fail for the first time at six in the morning.
    """
    if type(async_fn) is FunctionType and async_fn.__code__.co_flags & inspect.CO_COROUTINE:
        return  # as nearly all are; what follows takes ten times as long
    if inspect.iscoroutine(async_fn):
        async_fn.close()  # or Python warns that it was never awaited
        raise TypeError(f"{what} is an async function and its arguments, not a coroutine object")
    inner = async_fn
    while isinstance(inner, partial):
        inner = inner.func
    if not callable(inner):
        raise TypeError(f"{what} is an async function, not {shown(async_fn)}")
    if inspect.iscoroutinefunction(inner):
        return
    if inspect.isasyncgenfunction(inner):
        raise TypeError(f"{what} is an async function, not one with yield: {shown(async_fn)}")
    if isinstance(inner, (FunctionType, MethodType, BuiltinFunctionType, type)):
        raise TypeError(
            f"{what} is an async function; make it 'async def' (what blocks goes into 'await "
            f"trio.to_thread.run_sync(...)'), not {shown(async_fn)}"
        )
