"""LoopWatch, which logs whose code blocks Trio's loop, while it does.

A task in Trio's loop beats, and a thread looks for the beats. Time in which the thread itself did
not run is not counted, so a laptop that slept or a process that was suspended is not reported;
unless the process was computing all the while, for then some code held the interpreter (a regular
expression that takes for ever).
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Mapping
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
"""Seconds without a beat after which the loop counts as blocked."""

BEAT_INTERVAL: Final = 0.5
"""Seconds between two beats, and between two looks for them."""

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
    """The line that was under way, as ``file.py:12``."""
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
        blocked_after: Seconds without a beat after which the loop counts as blocked.
        interval: Seconds between two beats, and between two looks for them.
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
        self._lock = threading.Lock()
        self._steps = _Steps()
        self._beats = Beats(interval)
        self._ongoing: Block | None = None
        self._last: tuple[float, Block] | None = None  # and when it was over

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the loop in which this runs, until cancelled."""
        now = trio.lowlevel.current_clock().current_time
        self._beats = Beats(self._interval, now())
        over = threading.Event()
        watching = (over, now, threading.get_ident())
        # A daemon thread, which does not keep the process from ending.
        thread = threading.Thread(target=self._watch, args=watching, name="watch", daemon=True)
        trio.lowlevel.add_instrument(self._steps)
        thread.start()
        try:
            task_status.started()
            while True:
                due = now() + self._interval
                await trio.sleep_until(due)
                self._beat(now())
                self.on_beat(now() - due)
        finally:
            over.set()
            trio.lowlevel.remove_instrument(self._steps)

    def problem(self) -> str | None:
        """Return the text of a block that is not long over; None if there is none."""
        now = trio.current_time()
        ongoing = self._ongoing  # or just over, before the next beat
        if ongoing is not None:
            return dataclasses.replace(ongoing, seconds=self._beats.seconds(now)).text
        if self._last is None:
            return None
        over_at, block = self._last
        return block.text if now < over_at + REMEMBERED else None

    def _beat(self, now: float) -> None:
        with self._lock:
            seconds = self._beats.beat(now)
            block, self._ongoing = self._ongoing, None
        if block is None:
            return
        block = dataclasses.replace(block, seconds=seconds)
        self._last = (now, block)
        extra = {"action": "loop_blocked_over", "seconds": round(seconds, 1), **block.fields}
        logger.warning("The loop turns again: %s", block.text, extra=extra)
        if self._on_block is not None:
            self._on_block(block)

    # In the thread.

    def _watch(self, over: threading.Event, now: Callable[[], float], loop_thread: int) -> None:
        while not over.wait(self._interval):
            with self._lock:
                seconds = self._beats.look(now(), time.process_time())
                if self._ongoing is None and seconds >= self._blocked_after:
                    frames = sys._current_frames()  # noqa: SLF001  (documented)
                    self._ongoing = self._report(seconds, frames.get(loop_thread))

    def _report(self, seconds: float, frame: FrameType | None) -> Block:
        task = self._steps.task
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


class Beats:
    """How long there has been no beat, counting only time in which one was possible. Pure.

    Args:
        interval: Seconds between two looks.
        now: The time by any clock that only goes forward.
    """

    def __init__(self, interval: float, now: float = 0.0) -> None:
        self._longest = 2 * interval
        self._since = now
        self._looked_at = now
        self._computed = 0.0

    def beat(self, now: float) -> float:
        """Take note of a beat, and return the seconds since the one before."""
        seconds, self._since = self.seconds(now), now
        return seconds

    def seconds(self, now: float) -> float:
        """Return the seconds since the latest beat."""
        return now - self._since

    def look(self, now: float, computed: float) -> float:
        """Return the seconds since the latest beat.

        Args:
            now: The time.
            computed: The seconds of processor time that the process has used.
        """
        passed, self._looked_at = now - self._looked_at, now
        used, self._computed = computed - self._computed, computed
        asleep = passed - max(self._longest, used)
        if asleep > 0:
            self._since = min(self._since + asleep, now)
        return self.seconds(now)


class _Steps(trio.abc.Instrument):
    """Remembers which task is on its step, for the thread."""

    task: trio.lowlevel.Task | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.task = task

    def before_io_wait(self, timeout: float) -> None:
        self.task = None


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
