"""What the library raises.

::

    SupervisionError
    ├── DuplicateChildError   (ValueError)      a name that is taken
    ├── ChildNotFoundError    (LookupError)     a name that nobody has
    ├── SupervisorClosedError (RuntimeError)    too late: the supervisor stops or has stopped
    ├── RestartLimitExceeded                    the supervisor gave up
    ├── Stalled                                 the watchdog's verdict on a child
    └── DoNotRestart                            raised by a child that is not to be started again

``...Error`` is a caller's mistake; the others are conditions of the tree.
"""

from __future__ import annotations

import traceback
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import CodeType

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


class Stalled(SupervisionError):
    """A child did not call ``beat()`` within its ``watchdog`` seconds; it counts as a crash."""


class DoNotRestart(SupervisionError):
    """Raised by a child to end for good, whatever its restart kind; its siblings go on.

    The child is then *failed*, and only `Supervisor.restart` starts it again.

    Source:
        suture's ``ErrDoNotRestart``.
    """


def is_do_not_restart(error: BaseException) -> bool:
    """Whether all there is of an error is `DoNotRestart`."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_do_not_restart(member) for member in error.exceptions)
    return isinstance(error, DoNotRestart)


def sole(error: BaseException) -> BaseException:
    """Take an error out of groups that hold it alone."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def one_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message, whatever that is like."""
    try:
        message = str(error).partition("\n")[0][:LONGEST_MESSAGE]
    except Exception:  # noqa: BLE001  (of the user's __str__)
        message = "its message cannot be read"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class ErrorText:
    """An error as the text it prints, without the frames that it was raised through.

    Noting where it was raised takes a microsecond, formatting its traceback a hundred times that;
    so the text is made when it is first asked for.
    """

    __slots__ = ("_error", "_frames", "_text")

    def __init__(self, error: BaseException) -> None:
        self._error: BaseException | None = error
        self._frames = {id(part): _frames_of(part) for part in _parts_of(error)}
        self._text = ""

    def __str__(self) -> str:
        self.render()
        return self._text

    def render(self) -> None:
        """Make the text now, to let go of an error that keeps its frames."""
        if self._error is None:
            return
        report = traceback.TracebackException.from_exception(self._error)
        self._fill(report, self._error)
        self._text = "".join(report.format())
        self._error = None
        self._frames = {}

    def _fill(self, report: traceback.TracebackException, error: BaseException) -> None:
        todo: list[tuple[traceback.TracebackException | None, BaseException | None]]
        todo = [(report, error)]
        while todo:
            part, of = todo.pop()
            if part is None or of is None:
                continue
            frames = self._frames.get(id(of), [])
            part.stack = traceback.StackSummary.from_list(
                [_frame_summary(code, instruction) for code, instruction in frames]
            )
            todo += [(part.__cause__, of.__cause__), (part.__context__, of.__context__)]
            if isinstance(of, BaseExceptionGroup):
                todo += zip(part.exceptions or (), of.exceptions, strict=False)


def strip_tracebacks(error: BaseException) -> None:
    """Let go of the frames that an error was raised through, and with them their variables."""
    for part in _parts_of(error):
        part.__traceback__ = None


def _parts_of(error: BaseException) -> Collection[BaseException]:
    """Return the error and all that hang on it: causes, contexts and members of groups."""
    if not (error.__cause__ or error.__context__ or isinstance(error, BaseExceptionGroup)):
        return (error,)
    parts: dict[int, BaseException] = {}
    todo: list[BaseException | None] = [error]
    while todo:
        part = todo.pop()
        if part is None or id(part) in parts:
            continue
        parts[id(part)] = part
        todo += [part.__cause__, part.__context__]
        if isinstance(part, BaseExceptionGroup):
            todo += part.exceptions
    return parts.values()


def _frames_of(error: BaseException) -> list[tuple[CodeType, int]]:
    """Return where an error came through: the code, and the index of the instruction in it."""
    frames: list[tuple[CodeType, int]] = []
    step = error.__traceback__
    while step is not None:
        frames.append((step.tb_frame.f_code, step.tb_lasti))
        step = step.tb_next
    return frames


def _frame_summary(code: CodeType, instruction: int) -> traceback.FrameSummary:
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
