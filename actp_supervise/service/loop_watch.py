"""LoopWatch, which logs whose code blocks Trio's loop, while it does.

Trio says when a turn of its loop begins and when it waits again, and a thread looks how long the
turn has lasted: so a loop that has nothing to do wakes for nothing. Time in which the process was
suspended is not counted, also that of a laptop that slept; unless it was computing all the while,
for then some code held the interpreter (a regular expression that takes for ever).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from actp_supervise.child import Child, child_of_context, record_of

from .logs import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

logger = logging.getLogger(__name__)

BLOCKED_AFTER: Final = 2.0
"""Seconds that a turn takes after which the loop counts as blocked."""

BEAT_INTERVAL: Final = 10.0
"""Seconds between two beats, by which is seen how late the loop is."""

LATE: Final = 1.0
"""Seconds by which the thread may be late on a busy machine; more, and all of it stood still."""

REMEMBERED: Final = 300.0
"""Seconds for which `problem` still reports a block that is over."""

_TRIO: Final = str(Path(trio.__file__).parent / "_core" / "_run.py")
_LIBRARIES: Final = tuple(
    sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A time in which the loop did not turn."""

    who: str | None
    """The child whose code it was, by its path in the tree; None where it was no child's."""
    where: str
    """The line that was under way, as ``file.py:12``; where code held the interpreter, the line at
    which it let go, which may come a little later."""
    seconds: float
    """How long it took, or has taken so far."""
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Those of the `log_context` in which the code ran."""

    @property
    def text(self) -> str:
        """What happened, in one line."""
        who = "" if self.who is None else f"{self.who} at "
        return f"the loop was blocked for {self.seconds:.0f} s by {who}{self.where}"


class LoopWatch:
    """Watches whether Trio's loop turns, and names who keeps it.

    Args:
        on_block: Called in the loop with each block that is over.
        blocked_after: Seconds that a turn takes after which the loop counts as blocked.
        interval: Seconds between two beats.
    """

    def __init__(
        self,
        on_block: Callable[[Block], object] | None = None,
        *,
        blocked_after: float = BLOCKED_AFTER,
        interval: float = BEAT_INTERVAL,
    ) -> None:
        self._on_block = on_block
        self.on_beat: Callable[[float], object] = _nothing
        """Called in the loop with each beat, and the seconds by which the loop was late for it."""
        self._blocked_after = blocked_after
        self._interval = interval
        self._turns = _Turns(lambda: 0.0)
        self._ongoing: tuple[Turn, Block] | None = None
        """The latest block that is not known to be over; set in the thread."""
        self._last: tuple[float, Block] | None = None  # and when it was over

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the loop in which this runs, until cancelled."""
        now = trio.lowlevel.current_clock().current_time
        token = trio.lowlevel.current_trio_token()
        self._turns = _Turns(now)
        over, reported = threading.Event(), _Bell(token)
        watching = (over, now, reported, threading.get_ident())
        # A daemon thread, which does not keep the process from ending.
        thread = threading.Thread(target=self._watch, args=watching, name="watch", daemon=True)
        trio.lowlevel.add_instrument(self._turns)
        thread.start()
        try:
            task_status.started()
            while True:
                # At whole intervals, so that what else is due then wakes the loop with it.
                due = (now() // self._interval + 1) * self._interval
                if due <= now():  # as they are rounded: 1.0 // 0.1 is 9.0
                    due += self._interval
                while await reported.rings(due):
                    self._tell_of_end(now())
                self.on_beat(max(0.0, now() - due))
        finally:
            over.set()
            trio.lowlevel.remove_instrument(self._turns)

    def problem(self) -> str | None:
        """Return the text of a block that is not long over; None if there is none."""
        now = trio.current_time()
        ongoing = self._ongoing  # or just over, before that is told
        if ongoing is not None:
            turn, block = ongoing
            return dataclasses.replace(block, seconds=now - turn.since).text
        if self._last is None:
            return None
        over_at, block = self._last
        return block.text if now < over_at + REMEMBERED else None

    def _tell_of_end(self, now: float) -> None:
        ongoing, self._ongoing = self._ongoing, None
        if ongoing is None:
            return
        turn, begun = ongoing
        block = dataclasses.replace(begun, seconds=now - turn.since)
        self._last = (now, block)
        extra = {"action": "loop_blocked_over", "seconds": round(block.seconds, 1), **block.fields}
        logger.warning("The loop turns again: %s", block.text, extra=extra)
        if self._on_block is not None:
            self._on_block(block)

    # In the thread.

    def _watch(
        self,
        over: threading.Event,
        now: Callable[[], float],
        reported: _Bell,
        loop_thread: int,
    ) -> None:
        looks = Looks(now(), time.process_time())
        wait = self._blocked_after
        suspect: Turn | None = None
        while not over.wait(wait):
            counts = looks.counts_from(now(), time.process_time(), wait)
            turn, wait = self._turns.turn, self._blocked_after
            if turn is None:
                continue
            turn.since = max(turn.since, counts)
            seconds = now() - turn.since
            if seconds < self._blocked_after:  # looked at again when it would be
                wait = self._blocked_after - seconds
            elif turn is not suspect and looks.held < self._blocked_after:
                # If the process was suspended, it is over very soon.
                suspect, wait = turn, self._blocked_after / 8
            elif self._ongoing is None or self._ongoing[0] is not turn:
                frames = sys._current_frames()  # noqa: SLF001  (documented)
                self._ongoing = (turn, self._report(seconds, frames.get(loop_thread)))
                reported.ring()

    def _report(self, seconds: float, frame: FrameType | None) -> Block:
        task = self._turns.task
        stack = _stack(frame)
        block = Block(
            who=None if task is None else _path_of(task),
            where=_where(stack),
            seconds=seconds,
            fields={} if task is None else fields_of(task.context),
        )
        logger.error(
            "The loop has been blocked for %.0f s, and all wait, by %s at %s:\n%s",
            seconds,
            block.who or "no child",
            block.where,
            "".join(stack.format()).rstrip(),
            extra={"action": "loop_blocked", **block.fields},
        )
        return block


class Looks:
    """Finds out by its looks whether the process was suspended between two of them. Pure.

    Args:
        now: The time by any clock that only goes forward.
        computed: The seconds of processor time that the process has used by then.
    """

    def __init__(self, now: float, computed: float) -> None:
        self._at = now
        self._computed = computed
        self.held = 0.0
        """Seconds for which the process computed and did not let the last look be in time."""

    def counts_from(self, now: float, computed: float, waited: float) -> float:
        """Return the moment from which on time counts: all of it, where it was not suspended.

        Args:
            now: The time.
            computed: The seconds of processor time that the process has used.
            waited: Seconds after the look before at which this one was due.
        """
        late, self._at = now - self._at - waited, now
        used, self._computed = computed - self._computed, computed
        self.held = max(0.0, min(late, used - waited)) if late > LATE else 0.0
        return now - used if late > max(LATE, used) else -math.inf


@dataclass(slots=True)
class Turn:
    """A turn of the loop, in which it takes a step of each task that can go on."""

    since: float
    """When it began; later, where the process was suspended since."""


class _Turns(trio.abc.Instrument):
    """Remembers which turn the loop is at, and which task is on its step, for the thread."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.turn: Turn | None = Turn(now())
        """None while the loop waits for something to happen."""
        self.task: trio.lowlevel.Task | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.task = task

    def before_io_wait(self, timeout: float) -> None:
        self.turn = self.task = None

    def after_io_wait(self, timeout: float) -> None:
        self.turn = Turn(self._now())


class _Bell:
    """Wakes a task of the loop from a thread."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._rung = trio.Event()

    def ring(self) -> None:
        """Wake it, as soon as the loop turns; from any thread."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._ring)

    def _ring(self) -> None:
        self._rung.set()

    async def rings(self, until: float) -> bool:
        """Wait for it until then, and return whether it has rung."""
        with trio.move_on_at(until):
            await self._rung.wait()
        rung, self._rung = self._rung.is_set(), trio.Event()
        return rung


def _nothing(_late: float) -> None:
    pass


def _path_of(task: trio.lowlevel.Task) -> str | None:
    """Return the path of the child in whose context a task runs; from any thread."""
    child = task.context.get(child_of_context)
    if child is None:
        return None
    record = record_of(child) if isinstance(child, Child) else child.record
    # The supervisor that a child opens mostly has the child's name, which need not be told twice.
    return "/".join(name for name, _ in groupby(record.path))


def _stack(frame: FrameType | None) -> traceback.StackSummary:
    """Return the stack of the step that Trio is at, the innermost call last."""
    frames = []
    for inner, line in traceback.walk_stack(frame):
        if inner.f_code.co_filename == _TRIO:
            break
        frames.append((inner, line))
    return traceback.StackSummary.extract(reversed(frames))


def _where(stack: traceback.StackSummary) -> str:
    """Return the innermost line that is not a library's."""
    own = [entry for entry in stack if not entry.filename.startswith(_LIBRARIES)]
    for entry in reversed(own or stack):
        return f"{Path(entry.filename).name}:{entry.lineno}"
    return "an unknown place"
