"""How a supervisor ends: why, in which order its children stop, and what leaves its block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from .errors import RestartLimitExceeded, cause_of, unwrap_single
from .policies import Intent, ShutdownOrder
from .record import ChildState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .record import ChildRecord


class Actions(Protocol):
    """What `Ending` asks the engine to do."""

    def request_stop(self, child: ChildRecord, intent: Intent) -> None:
        """Ask the run of a child to end."""

    def cancel_wait(self, child: ChildRecord) -> None:
        """Stop a child that only waits to be started again."""


class Ending:
    """The end of one supervisor, which comes once.

    `step` does what need not wait; the supervisor calls it whenever a run has ended.

    Args:
        name: The supervisor's, for errors and reasons.
        order: How the children are stopped.
        body: The scope of the block's body.
        actions: What stops a child.
    """

    __slots__ = (
        "_actions",
        "_body",
        "_body_error",
        "_body_task",
        "_failure",
        "_fatal",
        "_name",
        "_order",
        "_to_stop",
        "closed",
    )

    def __init__(
        self, name: str, order: ShutdownOrder, body: trio.CancelScope, actions: Actions
    ) -> None:
        self._name = name
        self._order = order
        self._body = body
        self._body_task = trio.lowlevel.current_task()
        self._actions = actions
        self.closed = trio.Event()  # set when all children are gone
        self._to_stop: list[ChildRecord] = []  # in start order; stopped from the end
        # The errors that may leave the block: the limit was exceeded, an error that no supervisor
        # handles, an error of the body.
        self._failure: RestartLimitExceeded | None = None
        self._fatal: BaseException | None = None
        self._body_error: BaseException | None = None

    # It begins, for one of these reasons; each calls `begin`.

    def give_up(self, failure: RestartLimitExceeded) -> str:
        """Record that the limit of restarts is exceeded; return the reason for `begin`."""
        self._failure = failure
        return f"supervisor {self._name!r} gave up"

    def propagate(self, error: BaseException) -> str:
        """Record an error that no supervisor handles and the block raises; return the reason."""
        if self._fatal is None:
            self._fatal = unwrap_single(error)
        return f"supervisor {self._name!r}: {type(self._fatal).__name__}"

    def fail(self, error: BaseException | None) -> None:
        """Record what the block's body raised; return the reason for `begin`."""
        self._body_error = None if error is None or _is(error, trio.Cancelled) else error

    def begin(self, children: Sequence[ChildRecord]) -> None:
        """Start nothing any more, and stop all children, in steps."""
        self._to_stop = list(children)
        for child in children:
            if child.state is ChildState.BACKING_OFF:
                self._actions.cancel_wait(child)

    def cancel_body(self, reason: str, *, unless_it_asks: bool = False) -> None:
        """Cancel the block's body.

        Args:
            reason: What its `Cancelled` says.
            unless_it_asks: Whether the body goes on if the call comes from the body itself.
        """
        in_task = trio.lowlevel.in_trio_task()
        if unless_it_asks and in_task and trio.lowlevel.current_task() is self._body_task:
            return
        self._body.cancel(reason=reason)

    # The children are stopped.

    def step(self) -> bool:
        """Ask the next child to stop, or all of them; return whether there was one to ask."""
        asked = False
        while self._to_stop:
            child = self._to_stop[-1]
            run = child.run
            if run is not None and run.intent is not Intent.STOP:
                self._actions.request_stop(child, Intent.STOP)
                asked = True
            elif run is None or self._order is ShutdownOrder.TOGETHER:
                self._to_stop.pop()
            else:
                break  # its end is awaited
        return asked

    # The block is left.

    @property
    def error(self) -> BaseException | None:
        """The error that will leave the block, the first one if there are several; None if none."""
        for error in (self._fatal, self._failure, self._body_error):
            if error is not None:
                return error
        return None

    def is_because_of(self, error: BaseException) -> bool:
        """Return whether an error is the ``__cause__`` of the raised `RestartLimitExceeded`."""
        return self._failure is not None and cause_of(self._failure) is error

    def leave(self, error: BaseException | None) -> BaseException | None:
        """Return the error that the block is to raise; `error` is what its body raised last."""
        failures = [e for e in (self._fatal, self._failure) if e is not None]
        if error is not None and not self._is_told_already(error):
            failures.append(error)
        self._fatal = self._failure = self._body_error = None  # errors keep their frames alive
        if len(failures) > 1:
            return BaseExceptionGroup(f"supervisor {self._name!r} failed", failures)
        return failures[0] if failures else None

    def _is_told_already(self, error: BaseException) -> bool:
        if self._fatal is not None and _is(error, KeyboardInterrupt):
            return _is(self._fatal, KeyboardInterrupt)  # a second Ctrl-C adds nothing
        return self.has_failed and _is(error, trio.Cancelled)

    @property
    def has_failed(self) -> bool:
        """Whether it ends by a failure of its own, which a cancellation must not hide."""
        return self._fatal is not None or self._failure is not None


def _is(error: BaseException, kind: type[BaseException]) -> bool:
    return issubclass(type(error), kind)
