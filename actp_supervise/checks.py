"""Checks of what a caller gave: each raises an error that names the option and shows the value.

`TypeError` for a value of the wrong type, `ValueError` for one out of its range. Booleans are no
numbers here: ``watchdog=True`` is a mistake and not a second.
"""

from __future__ import annotations

import inspect
import math
import signal
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def is_number(value: object) -> bool:
    """Return whether a value is an int or a float, and no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_type(option: str, value: object, kind: type) -> None:
    """Refuse a value that is not of its type."""
    if not isinstance(value, kind):
        raise TypeError(f"{option} must be of type {kind.__name__}, not {value!r}")


def check_count(option: str, value: object, *, minimum: int = 0) -> None:
    """Refuse what is no whole number from `minimum` on."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{option} must be a count from {minimum}, not {value!r}")
    if isinstance(value, (bool, float)) or value < minimum:
        raise ValueError(f"{option} must be a count from {minimum}, not {value!r}")


def check_seconds(
    option: str, value: object, *, positive: bool = False, finite: bool = False
) -> None:
    """Refuse what is no duration in seconds.

    Args:
        option: The name that the error gives.
        value: What the caller gave.
        positive: Whether 0 is refused as well.
        finite: Whether infinity is refused as well.
    """
    if not is_number(value):
        raise TypeError(f"{option} must be a number of seconds, not {value!r}")
    assert isinstance(value, (int, float))  # noqa: S101  (for mypy)
    # `not value >= 0` rather than `value < 0`, so that NaN is refused too.
    too_small = not value > 0 if positive else not value >= 0
    if too_small or (finite and value == math.inf):
        allowed = "a positive number of seconds" if positive else "a number of seconds from 0"
        raise ValueError(f"{option} must be {allowed}, not {value!r}")


def check_fraction(option: str, value: object) -> None:
    """Refuse what is no number from 0 to 1."""
    if not is_number(value):
        raise TypeError(f"{option} must be a number, not {value!r}")
    assert isinstance(value, (int, float))  # noqa: S101  (for mypy)
    if not 0 <= value <= 1:
        raise ValueError(f"{option} must be a fraction from 0 to 1, not {value!r}")


def check_name(option: str, value: object) -> None:
    """Refuse a name that would spoil the printed tree or a line of the log."""
    check_type(option, value, str)
    assert isinstance(value, str)  # noqa: S101  (for mypy)
    if not value.strip() or not value.isprintable():
        raise ValueError(f"{option} must be printable text on one line, not {value!r}")


def check_signal(option: str, value: object) -> None:
    """Refuse what is no signal that this system has."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{option} must be a signal such as signal.SIGTERM, not {value!r}")
    if value not in signal.valid_signals():
        raise ValueError(f"{option} must be a signal such as signal.SIGTERM, not {value!r}")


def check_async_fn(what: str, async_fn: object) -> None:
    """Refuse what can never be an async function; whether it is one shows when it is called."""
    if inspect.iscoroutine(async_fn):
        async_fn.close()
        raise TypeError(f"{what} is an async function and its arguments, not a coroutine object")
    if not callable(async_fn):
        raise TypeError(f"{what} is an async function, not {async_fn!r}")


def check_sync_fn(option: str, function: object) -> None:
    """Refuse what cannot be called, and an async function, whose result would not be awaited."""
    if not callable(function):
        raise TypeError(f"{option} must be callable, not {function!r}")
    if is_async_fn(function):
        raise TypeError(
            f"{option} is called at once, so it must be a plain function and not an async one: "
            f"{function!r}"
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
