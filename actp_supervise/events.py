"""What happens in a tree, as values, and how it is handed out.

Each event is frozen and says where (`path`), when (`time`, `sequence`) and what. There are two ways
to get them: a callback (``open_supervisor(on_event=...)``), called at once, and a stream
(`Supervisor.subscribe`), read at leisure. Both also get the events of all supervisors below.
An event that would reach no callback, stream or log is never made. All are logged to the logger
``actp_supervise`` too.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import sys
from collections import deque
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import trio

from .checks import check_count
from .errors import ErrorText, one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = [
    "ChildCrashed",
    "ChildFailed",
    "ChildFinished",
    "ChildReady",
    "ChildStalled",
    "ChildStarted",
    "ChildStopped",
    "Event",
    "EventStream",
    "RestartLimitReached",
    "RestartScheduled",
    "StopOverdue",
    "StopRequested",
    "SupervisorStopped",
]

logger: Final = logging.getLogger("actp_supervise")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have in common."""

    action: ClassVar[str] = "event"
    """The word for it in logs and JSON, such as ``child_crashed``."""
    level: ClassVar[int] = logging.DEBUG
    """The level at which it is logged."""

    path: tuple[str, ...]
    """The names from the root down to the child or supervisor that it is about; supervisors and
    children alternate."""
    time: float
    """Trio's time."""
    sequence: int
    """Counts up over the whole tree: the order in which things happened."""

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: errors as text, the path as a list."""
        values: dict[str, Any] = {"action": self.action}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, BaseException):
                value = one_line(value)
            elif isinstance(value, float) and not math.isfinite(value):
                value = None  # JSON has no infinity
            elif isinstance(value, tuple):
                value = list(value)
            elif isinstance(value, ErrorText):
                value = str(value)
            values[field.name] = value
        return values

    def __str__(self) -> str:
        details = ", ".join(
            f"{name}={value}"
            for name, value in self.to_dict().items()
            if name not in _COMMON and value not in (None, "")
        )
        text = f"{'/'.join(self.path)}: {self.action}"
        return f"{text} ({details})" if details else text


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStarted(Event):
    """A run of a child began."""

    action: ClassVar[str] = "child_started"
    restarts: int
    """How often it has been started again so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildReady(Event):
    """A child that was started with `Supervisor.start` called ``task_status.started()``."""

    action: ClassVar[str] = "child_ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildCrashed(Event):
    """A run of a child ended by an error, without having been asked to end."""

    action: ClassVar[str] = "child_crashed"
    level: ClassVar[int] = logging.ERROR
    error: BaseException
    """Without its traceback, which would keep the dead run's variables alive."""
    traceback: ErrorText
    """The formatted traceback: ``str(event.traceback)``."""
    crashes: int
    """How often it has crashed so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartScheduled(Event):
    """A child that ended by itself will be started again."""

    action: ClassVar[str] = "restart_scheduled"
    level: ClassVar[int] = logging.INFO
    delay: float
    """Seconds until then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStalled(Event):
    """A child missed its watchdog time and is being cancelled; a crash follows when it is gone."""

    action: ClassVar[str] = "child_stalled"
    level: ClassVar[int] = logging.WARNING
    watchdog: float
    """The seconds within which it had to beat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested(Event):
    """A child was asked to stop."""

    action: ClassVar[str] = "stop_requested"
    timeout: float
    """Seconds until it is cancelled; ``inf`` for never, which is null in JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopOverdue(Event):
    """A child was cancelled some time ago and is still there; it cannot be killed, only awaited."""

    action: ClassVar[str] = "stop_overdue"
    level: ClassVar[int] = logging.WARNING
    overdue: float
    """Seconds since it was cancelled. Reported again on each doubling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStopped(Event):
    """A child that was asked to stop is gone."""

    action: ClassVar[str] = "child_stopped"
    error: BaseException | None
    """What it raised on its way out, if anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildFinished(Event):
    """A run of a child returned. A permanent child is started again all the same."""

    action: ClassVar[str] = "child_finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildFailed(Event):
    """A child ended by an error and is not started again."""

    action: ClassVar[str] = "child_failed"
    level: ClassVar[int] = logging.ERROR
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartLimitReached(Event):
    """A supervisor gives up: it stops all its children, then raises `RestartLimitExceeded`."""

    action: ClassVar[str] = "restart_limit_reached"
    level: ClassVar[int] = logging.ERROR
    max_restarts: int
    within: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorStopped(Event):
    """All children of a supervisor are gone and its block is being left."""

    action: ClassVar[str] = "supervisor_stopped"
    error: BaseException | None
    """Why it ended, if that was a failure: it gave up, was interrupted, or its body failed."""


_COMMON: Final = frozenset({"action", "path", "time", "sequence", "traceback"})


class EventStream:
    """An async iterator of events, for one reader; made by `Supervisor.subscribe`.

    It never slows the tree: when its buffer is full, the oldest event is dropped and counted. It
    ends when its supervisor has stopped and the buffer is empty.
    """

    def __init__(self, hub: EventHub, max_buffer: int) -> None:
        check_count("max_buffer", max_buffer, minimum=1)
        self._hub = hub
        self._buffer: deque[Event] = deque(maxlen=min(max_buffer, sys.maxsize))
        self._wakeup = trio.Event()
        self.dropped = 0
        """How many events the reader was too slow for."""

    def put(self, event: Event) -> None:
        """Add an event, in place of the oldest one where there is no room."""
        if len(self._buffer) == self._buffer.maxlen:
            self.dropped += 1
        self._buffer.append(event)
        self._wakeup.set()

    def wake(self) -> None:
        """Wake a waiting reader, which then sees that the hub was closed."""
        self._wakeup.set()

    async def __aenter__(self) -> Self:
        self._hub.streams[self] = None
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hub.streams.pop(self, None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._buffer:
            if self._hub.closed:
                raise StopAsyncIteration
            self._wakeup = trio.Event()
            await self._wakeup.wait()
        return self._buffer.popleft()


class EventHub:
    """Where a supervisor hands out its events; those of nested supervisors pass through it."""

    __slots__ = ("closed", "on_event", "on_exit", "parent", "root", "sequence", "streams")

    def __init__(
        self,
        on_event: Callable[[Event], object] | None,
        on_exit: Callable[[BaseException], None],
        parent: EventHub | None,
    ) -> None:
        self.on_event = on_event
        self.on_exit = on_exit  # called where `on_event` raises what is no crash: sys.exit()
        self.parent = parent
        self.root: EventHub = self if parent is None else parent.root
        self.sequence = 0
        self.streams: dict[EventStream, None] = {}
        self.closed = False

    def is_enabled_for(self, kind: type[Event], error: object = None) -> bool:
        """Return whether an event of this kind would reach a callback, a stream or the log.

        Args:
            kind: Which event.
            error: The error that it would tell of, if any.
        """
        hub: EventHub | None = self
        while hub is not None:
            if hub.on_event is not None or hub.streams:
                return True
            hub = hub.parent
        return logger.isEnabledFor(_level_of(kind, error))

    def emit(self, kind: type[Event], path: tuple[str, ...], details: dict[str, object]) -> None:
        """Make an event and hand it to all callbacks and streams from here up to the root.

        What a callback or the log raises stops no child: an `Exception` becomes a line in the log,
        and ``sys.exit()`` or Ctrl-C ends the tree of the hub whose callback raised it.
        """
        root = self.root
        root.sequence += 1
        event = kind(path=path, time=trio.current_time(), sequence=root.sequence, **details)
        _log_event(event)
        exits: list[tuple[EventHub, BaseException]] = []
        hub: EventHub | None = self
        while hub is not None:
            for stream in hub.streams:
                stream.put(event)
            if hub.on_event is not None:
                error = _call_back(hub.on_event, event)
                if error is not None:
                    exits.append((hub, error))
            hub = hub.parent
        for hub, error in exits:
            hub.on_exit(error)

    def close(self) -> None:
        """End the streams of this hub, once their readers have read what is buffered."""
        self.closed = True
        for stream in self.streams:
            stream.wake()


def _call_back(on_event: Callable[[Event], object], event: Event) -> BaseException | None:
    """Call a user's callback; return what it raised to end the program, if it did."""
    try:
        result = on_event(event)
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError("on_event returned a coroutine, which nobody awaits")
    except Exception as error:  # noqa: BLE001  (of the user's callback)
        log(logging.ERROR, "on_event failed\n%s", ErrorText(error), action="on_event_failed")
    except BaseException as error:  # noqa: BLE001, ASYNC103  (passed on)
        return error  # noqa: ASYNC104
    return None


def _level_of(kind: type[Event], error: object) -> int:
    if kind is ChildStopped and error is not None:
        return logging.WARNING  # asked to stop, it ended by an error of its own
    return kind.level


def _log_event(event: Event) -> None:
    level = _level_of(type(event), getattr(event, "error", None))
    if not logger.isEnabledFor(level):
        return
    traceback = getattr(event, "traceback", None)
    # As text, because handlers keep records, and would keep the errors in them.
    text = str(event) if traceback is None else f"{event}\n{traceback}"
    log(level, "%s", text, action=event.action, path=event.path)


def log(
    level: int, message: str, *args: object, action: str, path: tuple[str, ...] | None = None
) -> None:
    """Write to the library's log, which cannot fail: a filter or handler may raise what it likes.

    Python's own handlers catch their errors; a user's filters and handlers may not
    (Supervisor/supervisor#629: a full disk took all programs with it). A line that is lost is
    reported on stderr, as `logging` does.

    Args:
        level: As of `logging`.
        message: With ``%s`` for each of `args`.
        args: What the message is formatted with.
        action: The word for what happened, for machines.
        path: The child or supervisor that it is about.
    """
    extra = {"action": action}
    if path is not None:
        extra["path"] = "/".join(path)
    try:
        logger.log(level, message, *args, extra=extra)
    except Exception as error:  # noqa: BLE001  (of a user's filter or handler)
        if logging.raiseExceptions and sys.stderr is not None:
            with contextlib.suppress(Exception):
                print(f"actp_supervise: not logged, {one_line(error)}", file=sys.stderr)  # noqa: T201
