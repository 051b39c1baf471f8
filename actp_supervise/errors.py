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


class ErrorText:
    """An error kept as the text it prints, without the frames that it was raised through.

    Taking the line numbers out costs some microseconds, formatting a traceback ten times that; so
    the text is made when it is first asked for. The error's own traceback is taken from it.
    """

    __slots__ = ("_error", "_frames", "_text")

    def __init__(self, error: BaseException) -> None:
        self._error: BaseException | None = error
        self._frames: dict[int, list[tuple[str, int, str, None]]] = {}
        self._text = ""
        self._strip(error)

    def _strip(self, error: BaseException) -> None:
        todo: list[BaseException | None] = [error]
        while todo:
            error_or_none = todo.pop()
            if error_or_none is None or id(error_or_none) in self._frames:
                continue
            error = error_or_none
            frames: list[tuple[str, int, str, None]] = []
            step = error.__traceback__
            while step is not None:
                code = step.tb_frame.f_code
                frames.append((code.co_filename, step.tb_lineno, code.co_name, None))
                step = step.tb_next
            self._frames[id(error)] = frames
            error.__traceback__ = None
            todo += [error.__cause__, error.__context__]
            if isinstance(error, BaseExceptionGroup):
                todo += error.exceptions

    def __str__(self) -> str:
        if self._error is not None:
            report = traceback.TracebackException.from_exception(self._error)
            self._fill(report, self._error)
            self._text = "".join(report.format())
            self._error = None
            self._frames = {}
        return self._text

    def _fill(self, report: traceback.TracebackException, error: BaseException) -> None:
        report.stack = traceback.StackSummary.from_list(self._frames[id(error)])
        if report.__cause__ is not None and error.__cause__ is not None:
            self._fill(report.__cause__, error.__cause__)
        if report.__context__ is not None and error.__context__ is not None:
            self._fill(report.__context__, error.__context__)
        if isinstance(error, BaseExceptionGroup):
            for part, member in zip(report.exceptions or (), error.exceptions, strict=False):
                self._fill(part, member)
