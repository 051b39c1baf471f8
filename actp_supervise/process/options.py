"""The options of `process_child`, and the checks of each."""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from actp_supervise.checks import check_seconds, check_signal

from .keeper import MOST_DESCRIPTORS

Callback = Callable[[str], object]

LIMITS: Final[Mapping[int, str]] = {
    getattr(resource, name): name
    for name in reversed(dir(resource))  # NOFILE rather than its other name, OFILE
    if name.startswith("RLIMIT_")
}
"""The limits that this system has, by number, and their names."""
MOST_PASSED: Final = MOST_DESCRIPTORS - 4
"""How many descriptors a program can be given besides its input, its output and its errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of `process_child`, which says what they mean. They are checked as they are set.

    Raises:
        TypeError: If one is of the wrong type; the message names it.
        ValueError: If one has a value that cannot be.
    """

    argv: Sequence[str | os.PathLike[str]]
    on_output: Callback | None
    on_stderr: Callback | None
    on_status: Callback | None
    notify: bool
    ready_when: Callable[[], Awaitable[object]] | None
    ready_timeout: float
    stop_signal: int
    stop_group: bool
    exit_codes: Collection[int]
    stdin: int | None
    stdout: int | None
    pass_fds: Collection[int]
    env: Mapping[str, str | None]
    cwd: str | os.PathLike[str] | None
    user: str | int | None
    group: str | int | None
    umask: int | None
    nice: int | None
    limits: Mapping[int, int | tuple[int, int]]

    def __post_init__(self) -> None:
        _check_argv(self.argv)
        for name in ("on_output", "on_stderr", "on_status", "ready_when"):
            _check_callback(name, getattr(self, name))
        for name in ("notify", "stop_group"):
            _check_flag(name, getattr(self, name))
        if self.notify and self.ready_when is not None:
            raise ValueError("ready_when must not be given with notify: one of them says it")
        check_seconds("ready_timeout", self.ready_timeout, positive=True)
        check_signal("stop_signal", self.stop_signal)
        _check_exit_codes(self.exit_codes)
        self._check_streams()
        _check_pass_fds(self.pass_fds)
        _check_env(self.env)
        if self.cwd is not None:
            _check_path("cwd", self.cwd)
        for name in ("user", "group"):
            _check_account(name, getattr(self, name))
        if self.umask is not None:
            _check_number("umask", self.umask, 0, 0o777)
        if self.nice is not None:
            _check_number("nice", self.nice, -20, 19)
        _check_limits(self.limits)
        # Copies, since the caller may change what was given.
        object.__setattr__(self, "argv", tuple(os.fspath(argument) for argument in self.argv))
        object.__setattr__(self, "exit_codes", frozenset(self.exit_codes))
        object.__setattr__(self, "pass_fds", tuple(sorted(set(self.pass_fds))))
        object.__setattr__(self, "env", dict(self.env))
        object.__setattr__(self, "limits", dict(self.limits))

    def _check_streams(self) -> None:
        for name in ("stdin", "stdout"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), 0)
        if self.stdout is not None and self.on_output is not None:
            raise ValueError("on_output must not be given with stdout: its output goes there")

    @property
    def program(self) -> str:
        """The program, the only one of `argv` that is ever shown: the others may hold secrets."""
        return os.fspath(self.argv[0])

    def soft_and_hard(self) -> list[tuple[int, int, int]]:
        """Return the limits, each with its soft and its hard value."""
        pairs = {
            limit: value if isinstance(value, tuple) else (value, value)
            for limit, value in self.limits.items()
        }
        return [(limit, soft, hard) for limit, (soft, hard) in pairs.items()]


def _check_argv(argv: object) -> None:
    if isinstance(argv, (str, bytes)) or not isinstance(argv, Sequence):
        kind = "string" if isinstance(argv, (str, bytes)) else type(argv).__name__
        raise TypeError(f"argv must be a sequence of arguments, not one {kind}")
    if not argv:
        raise ValueError("argv must name a program")
    for index, argument in enumerate(argv):
        _check_path(f"argv[{index}]", argument, may_be_empty=index > 0)


def _check_path(name: str, value: object, *, may_be_empty: bool = False) -> None:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be text or a path, not of type {type(value).__name__}")
    text = os.fspath(value)
    if not isinstance(text, str):
        raise TypeError(f"{name} must be text or a path of text, not of bytes")
    _check_text(name, text)
    if not text and not may_be_empty:
        raise ValueError(f"{name} must not be empty")


def _check_text(name: str, text: str) -> None:
    """Refuse text that the system cannot take, without showing it: it may hold a secret."""
    if "\0" in text:
        raise ValueError(f"{name} must not contain a NUL character")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} has characters that this system cannot encode") from error


def _check_callback(name: str, value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function, not {value!r}")


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")


def _check_number(name: str, value: object, low: int, high: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if not low <= value <= high:
        limits = f"from {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name} must be a number {limits}, not {value!r}")


def _check_exit_codes(codes: object) -> None:
    if not isinstance(codes, Collection) or isinstance(codes, (str, bytes)):
        raise TypeError(f"exit_codes must be a set of exit statuses, not {codes!r}")
    for code in codes:
        if isinstance(code, int) and code < 0:
            check_signal("exit_codes: the negative of one of them", -code)
        else:
            _check_number("exit_codes: each of them", code, 0, 255)


def _check_pass_fds(descriptors: object) -> None:
    if not isinstance(descriptors, Collection) or isinstance(descriptors, (str, bytes)):
        raise TypeError(f"pass_fds must be a list of descriptors, not {descriptors!r}")
    for descriptor in descriptors:
        _check_number("pass_fds: each of them", descriptor, 3)
    if len(set(descriptors)) > MOST_PASSED:
        raise ValueError(f"pass_fds must be at most {MOST_PASSED}, not {len(descriptors)}")


def _check_env(env: object) -> None:
    if not isinstance(env, Mapping):
        raise TypeError(f"env must be a mapping, not of type {type(env).__name__}")
    for name, value in env.items():
        if not isinstance(name, str):
            raise TypeError(f"env: the name of a variable must be text, not {name!r}")
        _check_text(f"env: the name {name!r}", name)
        if not name or "=" in name:
            raise ValueError(f"env: the name of a variable must not be {name!r}")
        if value is not None and not isinstance(value, str):
            raise TypeError(
                f"env[{name!r}] must be text or None, not of type {type(value).__name__}"
            )
        _check_text(f"env[{name!r}]", value or "")


def _check_account(name: str, value: object) -> None:
    if isinstance(value, str):
        _check_path(name, value)
    elif value is not None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be a name or a number, not {value!r}")
        _check_number(name, value, 0, 2**32 - 2)


def _check_limits(limits: object) -> None:
    if not isinstance(limits, Mapping):
        raise TypeError(f"limits must be a mapping, not {limits!r}")
    for limit, value in limits.items():
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"limits: each must be one of resource.RLIMIT_*, not {limit!r}")
        if limit not in LIMITS:
            raise ValueError(f"limits: each must be one of resource.RLIMIT_*, not {limit!r}")
        _check_limit(f"limits[{LIMITS[limit]}]", value)


def _check_limit(name: str, value: object) -> None:
    pair = value if isinstance(value, tuple) and len(value) == 2 else (value, value)
    numbers = [number for number in pair if isinstance(number, int) and type(number) is not bool]
    if len(numbers) < 2:
        raise TypeError(f"{name} must be a number or (soft, hard), not {value!r}")
    for number in numbers:
        if number != resource.RLIM_INFINITY and not 0 <= number < 2**63:
            raise ValueError(
                f"{name} must be of numbers from 0, or resource.RLIM_INFINITY, not {value!r}"
            )
    soft, hard = (math.inf if number == resource.RLIM_INFINITY else number for number in numbers)
    if soft > hard:
        raise ValueError(f"{name}: the soft limit must not be above the hard one, as in {value!r}")
