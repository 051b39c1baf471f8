"""What the library raises, and how it looks at what others raise.

::

    SupervisionError
    ├── DuplicateChildError   (ValueError)      a name that is taken
    ├── ChildNotFoundError    (LookupError)     a name that no child has
    ├── SupervisorClosedError (RuntimeError)    too late: the supervisor stops or has stopped
    ├── RestartLimitExceeded                    the supervisor gave up
    ├── Stalled                                 the watchdog's verdict on a child
    └── DoNotRestart                            raised by a child that is not to be started again

``...Error`` is a caller's mistake; the others are conditions of the tree.

An error object is code of the user's: it may refuse to be written to (a frozen dataclass, see
python/cpython#99856), fail when it is printed, compared, or asked for its truth. So the functions
below ask it for nothing but its type and text, read and write its links through the slots of
`BaseException` itself, and compare with ``is``.
"""

from __future__ import annotations

import traceback
from enum import Enum, auto
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from types import CodeType, TracebackType

LONGEST_MESSAGE: Final = 1000
"""How many characters of an error's message `one_line` keeps."""


class SupervisionError(Exception):
    """Base of everything that this library raises of its own."""


class DuplicateChildError(SupervisionError, ValueError):
    """A child of that name exists, running or not; `remove` frees the name."""


class ChildNotFoundError(SupervisionError, LookupError):
    """The supervisor has no child of that name."""


class SupervisorClosedError(SupervisionError, RuntimeError):
    """The supervisor has begun to stop, so it starts nothing any more."""


class RestartLimitExceeded(SupervisionError):
    """Children had to be restarted more often than the supervisor's limit allows.

    It leaves the ``async with`` after all children were stopped in order; the last crash is its
    ``__cause__`` (none where the last child ended by returning).
    """

    def __init__(
        self, message: str, *, path: tuple[str, ...], max_restarts: int, within: float
    ) -> None:
        super().__init__(message)
        self.path = path
        """The names from the root to the child whose end was one too many."""
        self.max_restarts = max_restarts
        self.within = within

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (type(self), self.args), self.__dict__


class Stalled(SupervisionError):
    """A child did not call ``beat()`` within its ``watchdog`` seconds; it counts as a crash."""


class DoNotRestart(SupervisionError):
    """Raised by a child to end for good, whatever its restart kind; its siblings go on.

    The child is then *failed*, and only `Supervisor.restart` starts it again.

    Source:
        suture's ``ErrDoNotRestart``.
    """


def _made_again(kind: type[BaseException], args: tuple[object, ...]) -> BaseException:
    """Rebuild a copied or unpickled error, whose ``__init__`` takes arguments other than `args`."""
    return kind.__new__(kind, *args)


# Errors of users' code, whose own methods may fail.


class ErrorKind(Enum):
    """What an error means to a supervisor."""

    INTERRUPT = auto()
    """KeyboardInterrupt, SystemExit and others that are no `Exception`: they are the program's."""
    DO_NOT_RESTART = auto()
    ORDINARY = auto()


def kind_of_error(
    error: BaseException, cancellations: Callable[[], tuple[type[BaseException], ...]]
) -> ErrorKind:
    """Return what an error means to a supervisor; of a group, what its members mean.

    Args:
        error: Any error.
        cancellations: Returns the types that are no `Exception` but ordinary nevertheless, where
            nobody sent them: the ways in which Trio and asyncio cancel.
    """
    if not is_group(error):
        return _kind_of_type(type(error), cancellations)
    kinds = {_kind_of_type(type(leaf), cancellations) for leaf in leaves_of(error)}
    if ErrorKind.INTERRUPT in kinds:
        return ErrorKind.INTERRUPT
    return ErrorKind.ORDINARY if ErrorKind.ORDINARY in kinds else ErrorKind.DO_NOT_RESTART


def _kind_of_type(
    kind: type[BaseException], cancellations: Callable[[], tuple[type[BaseException], ...]]
) -> ErrorKind:
    if issubclass(kind, Exception):
        return ErrorKind.DO_NOT_RESTART if issubclass(kind, DoNotRestart) else ErrorKind.ORDINARY
    return ErrorKind.ORDINARY if issubclass(kind, cancellations()) else ErrorKind.INTERRUPT


def is_group(error: BaseException) -> bool:
    """Return whether an error is a group of errors, whatever its ``__class__`` claims."""
    return issubclass(type(error), BaseExceptionGroup)


def members_of(group: BaseException) -> tuple[BaseException, ...]:
    """Return the errors that a group holds."""
    members: tuple[BaseException, ...] = _MEMBERS.__get__(group)
    return members


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that are no groups, from any depth of groups."""
    todo = [error]
    while todo:
        part = todo.pop()
        if is_group(part):
            todo += reversed(members_of(part))
        else:
            yield part


def unwrap_single(error: BaseException) -> BaseException:
    """Take an error out of groups that hold it alone."""
    while is_group(error) and len(members_of(error)) == 1:
        error = members_of(error)[0]
    return error


def one_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message, shortened if that is long."""
    kind = type(error).__name__
    try:
        message = str(error).partition("\n")[0][:LONGEST_MESSAGE]
    except Exception:  # noqa: BLE001  (of the user's __str__)
        message = "its message cannot be read"
    return f"{kind}: {message}" if message else kind


def keep_context(error: BaseException, context: BaseException | None) -> None:
    """Restore the ``__context__`` of an error, which raising it again has changed."""
    _CONTEXT.__set__(error, context)


def cause_of(error: BaseException) -> BaseException | None:
    """Return the error from which this one was raised."""
    cause: BaseException | None = _CAUSE.__get__(error)
    return cause


def context_of(error: BaseException) -> BaseException | None:
    """Return the error during whose handling this one was raised."""
    context: BaseException | None = _CONTEXT.__get__(error)
    return context


def strip_tracebacks(error: BaseException) -> None:
    """Drop the frames that an error was raised through, and with them their variables."""
    for part in _parts_of(error):
        BaseException.with_traceback(part, None)


class ErrorText:
    """An error as the text it prints; neither the error nor its frames are kept.

    Noting the messages and lines takes a microsecond or a few, formatting them a hundred times
    that; so the text is made when it is first asked for.
    """

    __slots__ = ("_frames", "_kind", "_message", "_report", "_text")

    def __init__(self, error: BaseException) -> None:
        self._kind = type(error)
        self._message = ""
        self._text: str | None = None
        self._frames: list[tuple[traceback.TracebackException | None, _Frames]] = []
        self._report: traceback.TracebackException | None = None
        try:
            if _is_plain(error):
                self._message = str(error)
                self._frames = [(None, _frames_of(error))]
            else:
                self._capture(error)
        except Exception:  # noqa: BLE001  (an error that refuses to be looked at: one line must do)
            self._text = one_line(error)

    def __str__(self) -> str:
        if self._text is None:
            frames, self._frames = self._frames, []
            report = self._report or _report_of(_alone(self._kind, self._message))
            self._report = None
            try:
                for part, steps in frames:
                    stack = traceback.StackSummary.from_list(map(_frame_summary, steps))
                    (report if part is None else part).stack = stack
                self._text = "".join(report.format())
            except Exception:  # noqa: BLE001  (groups in groups beyond the recursion limit)
                self._text = f"{self._kind.__name__}: it cannot be formatted\n"
        return self._text

    def _capture(self, error: BaseException) -> None:
        """Capture an error that has causes, contexts or members, or methods of its own."""
        parts = _parts_of(error)
        steps = {id(part): _frames_of(part) for part in parts}
        twins = _plain_twins(parts) if any(_has_own_truth(part) for part in parts) else {}
        self._report = _report_of(twins.get(id(error), error))
        todo: list[tuple[traceback.TracebackException | None, BaseException | None]]
        todo = [(self._report, error)]
        while todo:
            report, part = todo.pop()
            if report is None or part is None:
                continue
            self._frames.append((report, steps[id(part)]))
            todo += [(report.__cause__, cause_of(part)), (report.__context__, context_of(part))]
            if is_group(part):
                todo += zip(report.exceptions or (), members_of(part), strict=False)


_WITH_MORE_TO_TELL: Final = (
    BaseExceptionGroup,
    SyntaxError,
    ImportError,
    NameError,
    AttributeError,
)
"""Types for which `traceback` prints more than their message."""


def _is_plain(error: BaseException) -> bool:
    """Return whether all that an error prints is its type, its message and its frames."""
    return (
        cause_of(error) is None
        and context_of(error) is None
        and not issubclass(type(error), _WITH_MORE_TO_TELL)
        and getattr(error, "__notes__", None) is None
    )


def _report_of(error: BaseException) -> traceback.TracebackException:
    # Without the traceback: `traceback` would read its source lines now, which is slow.
    return traceback.TracebackException(type(error), error, None, lookup_lines=False, compact=True)


_Frames = list[tuple["CodeType", int]]
"""Where an error came through: the code, and the index of the instruction in it."""

_CAUSE: Final[Any] = BaseException.__dict__["__cause__"]
_CONTEXT: Final[Any] = BaseException.__dict__["__context__"]
_SUPPRESS: Final[Any] = BaseException.__dict__["__suppress_context__"]
_TRACEBACK: Final[Any] = BaseException.__dict__["__traceback__"]
_MEMBERS: Final[Any] = BaseExceptionGroup.__dict__["exceptions"]
_MESSAGE: Final[Any] = BaseExceptionGroup.__dict__["message"]


def _parts_of(error: BaseException) -> Collection[BaseException]:
    """Return the error and all that hang on it: causes, contexts and members of groups."""
    if cause_of(error) is None and context_of(error) is None and not is_group(error):
        return (error,)
    parts: dict[int, BaseException] = {}
    todo: list[BaseException | None] = [error]
    while todo:
        part = todo.pop()
        if part is None or id(part) in parts:
            continue
        parts[id(part)] = part
        todo += [cause_of(part), context_of(part)]
        if is_group(part):
            todo += members_of(part)
    return parts.values()


def _frames_of(error: BaseException) -> _Frames:
    frames: _Frames = []
    step: TracebackType | None = _TRACEBACK.__get__(error)
    while step is not None:
        frames.append((step.tb_frame.f_code, step.tb_lasti))
        step = step.tb_next
    return frames


def _frame_summary(step: tuple[CodeType, int]) -> traceback.FrameSummary:
    code, instruction = step
    # An instruction takes two bytes; -1 is a coroutine that had not begun.
    where = next(islice(code.co_positions(), max(instruction, 0) // 2, None))
    line, end_line, column, end_column = where
    return traceback.FrameSummary(
        code.co_filename,
        line,
        code.co_name,
        end_lineno=end_line,
        colno=column,
        end_colno=end_column,
    )


def _has_own_truth(error: BaseException) -> bool:
    """Return whether an error may be false, or fail, where it is asked for its truth."""
    kind = type(error)
    return hasattr(kind, "__bool__") or hasattr(kind, "__len__")


def _plain_twins(parts: Collection[BaseException]) -> dict[int, BaseException]:
    """Return, by the id of each error, a twin that prints the same and is always true.

    `traceback` asks errors for their truth, and leaves out what hangs on one that is false.
    """
    twins: dict[int, BaseException] = {}
    todo = [(part, False) for part in parts]
    while todo:
        part, members_are_done = todo.pop()
        if id(part) in twins:
            continue
        if is_group(part) and not members_are_done:
            todo += [(part, True), *((member, False) for member in members_of(part))]
            continue
        twins[id(part)] = _plain_twin(part, twins)
    for part in parts:
        twin = twins[id(part)]
        cause, context = cause_of(part), context_of(part)
        twin.__cause__ = None if cause is None else twins[id(cause)]
        twin.__context__ = None if context is None else twins[id(context)]
        twin.__suppress_context__ = _SUPPRESS.__get__(part)
    return twins


def _plain_twin(part: BaseException, twins: dict[int, BaseException]) -> BaseException:
    if not is_group(part):
        try:
            return _alone(type(part), str(part))
        except Exception:  # noqa: BLE001  (of the user's __str__)
            return _alone(type(part), "its message cannot be read")
    kind = type(part)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    group = type(kind.__name__, (BaseExceptionGroup,), names)
    members = [twins[id(member)] for member in members_of(part)]
    twin: BaseException = group(_MESSAGE.__get__(part), members)
    return twin


def _alone(kind: type[BaseException], message: str) -> BaseException:
    """Return an error that prints as one of this type with this message."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    plain = type(kind.__name__, (BaseException,), names)
    error: BaseException = plain(message) if message else plain()
    return error
