"""What makes a scheduler go: how moments come due, how a run begins and ends, what is journaled.

`cron.Scheduler` is its face, `jobs` decides what is due. Three rules hold it together:

- One task and one heap serve all jobs, and that task waits for nothing but the time.
- Each run, and whoever asks or tells the journal, is a temporary child of the scheduler's
  supervisor: nothing outlives it, and there is one way to stop.
- A `Firing` is in `_firings` until it is settled, whatever happens to the child that was to run it.
"""

from __future__ import annotations

import contextlib
import heapq
import math
from collections import deque
from datetime import datetime
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

import trio

from .checks import check_async_fn
from .child import current_child
from .clock import SteppedWallClock
from .errors import (
    ChildNotFoundError,
    DuplicateChildError,
    ErrorText,
    SupervisorClosedError,
    one_line,
)
from .events import logger
from .jobs import Firing, Job
from .journal import JOURNAL_TIMEOUT, NoAnswer, PatientJournal
from .nursery import engine_of
from .policies import Restart
from .runs import EVENT_OF, ClockJumped, Outcome, Overlap, Run, RunFailed, RunStarted
from .spec import free_name, name_of
from .triggers import At, Trigger, check_trigger

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable
    from datetime import tzinfo

    from .clock import WallClock
    from .journal import Journal
    from .nursery import Supervisor

PosArgsT = TypeVarTuple("PosArgsT")
T = TypeVar("T")

LOOK_INTERVAL: Final = 30.0
"""Seconds after which the wall clock is looked at afresh: Trio's clock stands still while a machine
sleeps, and nobody tells when a wall clock is set."""

CLOCK_TOLERANCE: Final = 1.0
"""Seconds by which the wall clock and Trio's may drift apart from one look to the next unsaid."""

RECOVERY_INTERVAL: Final = 60.0
"""Seconds between questions for moments that another daemon left unfinished."""

BATCH: Final = 100
"""How many jobs are dispatched before their runs, and everything else, get a turn."""


class Dispatcher:
    """The inside of one scheduler."""

    def __init__(
        self,
        *,
        supervisor: Supervisor,
        zone: tzinfo,
        clock: WallClock,
        journal: Journal | None,
        rng: random.Random,
        keep: int,
    ) -> None:
        self.supervisor = supervisor
        self.zone = zone
        self._clock = clock
        self._journal = None if journal is None else PatientJournal(journal)
        self._rng = rng
        self._keep = keep
        self._hub = engine_of(supervisor).hub
        self.jobs: dict[str, Job] = {}  # in the order of adding
        self._numbers: dict[str, int] = {}  # of unnamed jobs, by their function's name
        # An entry for each job that has a next moment; one that is not its job's is passed by.
        self._heap: list[tuple[float, int, Job]] = []
        self._stale = 0
        self._serial = count()
        self._wake = trio.Event()
        self._wakes_at = -math.inf  # of the wall's time
        self._seen: tuple[float, float] | None = None  # the wall's time and Trio's, last looked at
        self._firings: set[Firing] = set()
        self._unrestored: deque[Job] = deque()

    def open(self) -> None:
        """Begin."""
        self.supervisor.start_soon(self._dispatch, name="(dispatch)")
        if self._journal is not None and self._journal.can_recover:
            self.supervisor.start_soon(self._recover, name="(recover)")

    async def close(self) -> None:
        """Settle what never began, and tell the journal so, for a bounded time."""
        left = [firing for firing in self._firings if firing.started_at is None]
        reason = "the scheduler stopped before it began"
        for firing in left:
            self._settle(firing, Outcome.CANCELLED, reason)
        if self._journal is None:
            return
        with trio.move_on_after(JOURNAL_TIMEOUT, shield=True):
            for firing in left:
                if firing.claimed:
                    await self._journal.try_finished(
                        firing.job.name, firing.moment, Outcome.CANCELLED, reason
                    )

    # What `cron.Scheduler` hands on, in its order.

    def add(
        self,
        fn: Callable[..., Awaitable[object]],
        args: tuple[object, ...],
        *,
        name: str | None,
        trigger: Trigger,
        **options: Any,  # noqa: ANN401  (those of Job._make)
    ) -> Job:
        """See `Scheduler.add`."""
        self._check_open()
        check_async_fn("a job", fn)
        if name is None:
            name = free_name(name_of(fn), self.jobs, self._numbers)
        elif name in self.jobs:
            raise DuplicateChildError(
                f"scheduler {self.supervisor.name!r} has a job {name!r} already"
            )
        job = Job._make(
            fn,
            args,
            name=name,
            trigger=trigger,
            keep=self._keep,
            now=self._now(),
            zone=self.zone,
            **options,
        )
        job._seek(self.zone, self._rng)
        self.jobs[name] = job
        if self._journal is not None:
            self._restore_soon(job)
        elif isinstance(trigger, At) and job._moment is None:
            firing = Firing(job, trigger.moment, job._since)
            self._settle(firing, Outcome.MISSED, "past when the job was added")
        else:
            self._push(job)
        return job

    def remove(self, name: str) -> None:
        """See `Scheduler.remove`."""
        self._unpush(self.find(name))
        del self.jobs[name]

    def pause(self, name: str) -> None:
        """See `Scheduler.pause`."""
        job = self.find(name)
        self._fire_if_due(job)
        job.paused = True
        self._unpush(job)

    def resume(self, name: str) -> None:
        """See `Scheduler.resume`."""
        job = self.find(name)
        if job.paused:
            job.paused = False
            self._plan_anew(job)

    def reschedule(self, name: str, trigger: Trigger) -> None:
        """See `Scheduler.reschedule`."""
        check_trigger(trigger)
        job = self.find(name)
        self._fire_if_due(job)
        job.trigger = trigger
        job._plan = trigger.anchored(self._now_here())
        self._plan_anew(job)

    def set_timezone(self, zone: tzinfo) -> None:
        """See `Scheduler.set_timezone`."""
        jobs = tuple(self.jobs.values())
        for job in jobs:
            self._fire_if_due(job)
        self.zone = zone
        for job in jobs:
            self._plan_anew(job)

    async def run_now(self, name: str) -> Run:
        """See `Scheduler.run_now`."""
        job = self.find(name)
        self._check_open()
        done = trio.Event()
        firing = Firing(job, self._now_here(), self._now(), by_hand=True)
        firing.done = done.set
        self._admit(firing)
        await done.wait()
        assert firing.run is not None  # noqa: S101  (it is settled)
        return firing.run

    def find(self, name: str) -> Job:
        """Return a job by name."""
        try:
            return self.jobs[name]
        except KeyError:
            raise ChildNotFoundError(
                f"scheduler {self.supervisor.name!r} has no job {name!r}"
            ) from None

    # Moments come due.

    async def _dispatch(self) -> None:
        """Be the one task: look at the clock, fire what is due, sleep until the next."""
        interval, unregister = LOOK_INTERVAL, _nothing
        if isinstance(self._clock, SteppedWallClock):
            interval, unregister = math.inf, self._clock.on_step(self._wake_up)
        try:
            with current_child().cancel_on_stop():
                while True:
                    now = self._look()
                    if self._fire_some(now):
                        await trio.lowlevel.checkpoint()
                        continue
                    self._wake = trio.Event()
                    next_due = self._heap[0][0] if self._heap else math.inf
                    pause = min(interval, next_due - now)
                    self._wakes_at = now + pause
                    with trio.move_on_after(pause):
                        await self._wake.wait()
        finally:
            unregister()
            if self._closing:  # so nothing begins any more
                await self.close()  # noqa: ASYNC102  (bounded and shielded)

    def _look(self) -> float:
        """Read the wall clock, and see whether it went another way than Trio's."""
        now = self._now()
        steady = trio.current_time()
        if self._seen is not None:
            wall_then, steady_then = self._seen
            jump = (now - wall_then) - (steady - steady_then)
            if now < wall_then:
                self._clock_set_back(now)
            if abs(jump) > CLOCK_TOLERANCE and self._hub.is_enabled_for(ClockJumped):
                self._hub.emit(ClockJumped, self.supervisor.path, {"seconds": jump})
        self._seen = (now, steady)
        return now

    def _clock_set_back(self, now: float) -> None:
        for job in tuple(self.jobs.values()):
            if self._planned(job, job._clock_set_back, now) and job._entry is not None:
                self._push(job)

    def _fire_some(self, now: float) -> bool:
        """Fire up to a batch of what is due; say whether anything was."""
        heap = self._heap
        for fired in range(BATCH):
            while heap and heap[0][2]._entry is not heap[0]:
                heapq.heappop(heap)
                self._stale -= 1
            if not heap or heap[0][0] > now:
                return fired > 0
            self._fire(heap[0][2], now)
        return True

    def _fire(self, job: Job, now: float) -> None:
        """Take off what is due of one job, find its next moment, and set the runs going."""
        taken = self._planned(job, job._take_due, now)
        if taken is None:
            return
        self._push(job)
        if self._journal is not None:
            self._start_helper("claim", self._claim, job, taken)
            return
        for firing in taken:
            if firing.missed is None:
                self._admit(firing)
            else:
                self._settle(firing, Outcome.MISSED, firing.missed)

    def _planned(
        self, job: Job, change: Callable[[float, tzinfo, random.Random], T], time: float
    ) -> T | None:
        """Have a job seek its next moment; that its trigger fails is recorded as a run's end."""
        try:
            return change(time, self.zone, self._rng)
        except Exception as error:  # noqa: BLE001  (a trigger of the user's)
            self._unpush(job)
            firing = Firing(job, datetime.fromtimestamp(job._upto, self.zone), job._upto)
            self._settle(firing, Outcome.FAILED, "its trigger failed", error=error)
            return None

    def _fire_if_due(self, job: Job) -> None:
        """Do what the dispatcher has not come to, before a change makes it forget."""
        now = self._now()
        entry = job._entry
        if entry is not None and entry[0] <= now:
            self._fire(job, now)

    def _plan_anew(self, job: Job) -> None:
        """Seek the first moment from now on."""
        if job._restoring:
            return  # its restoration will
        self._planned(job, job._skip_to, self._now())
        if not job.paused:
            self._push(job)

    def _push(self, job: Job) -> None:
        """Put a job's next moment on the heap, in place of what it had there."""
        if job._moment is None:
            self._unpush(job)
            return
        old = job._entry
        entry = job._entry = (job._due, next(self._serial), job)
        if old is not None and self._heap[0] is old:
            heapq.heapreplace(self._heap, entry)
        else:
            heapq.heappush(self._heap, entry)
            if old is not None:
                self._note_stale()
        if job._due < self._wakes_at:
            self._wake_up()

    def _unpush(self, job: Job) -> None:
        if job._entry is None:
            return
        job._entry = None
        self._note_stale()

    def _note_stale(self) -> None:
        """Count an entry that is no longer its job's; clear the heap when they are the most."""
        self._stale += 1
        if self._stale > 100 and self._stale > len(self._heap) / 2:
            self._heap[:] = [entry for entry in self._heap if entry[2]._entry is entry]
            heapq.heapify(self._heap)
            self._stale = 0

    def _wake_up(self) -> None:
        self._wake.set()

    # A run begins and ends.

    def _admit(self, firing: Firing) -> None:
        """Start a run, or do what its job's `overlap` says while another is under way."""
        job = firing.job
        self._firings.add(firing)
        if self._closing:
            return  # it is settled when the block is left
        if not job._running:
            self._start(firing)
            return
        match job.overlap:
            case Overlap.ALLOW:
                self._start(firing)
            case Overlap.SKIP:
                self._settle_and_report(firing, Outcome.SKIPPED, "the last run was still under way")
            case Overlap.QUEUE:
                self._enqueue(firing)
            case Overlap.REPLACE:
                while job._waiting:
                    older = job._waiting.popleft()
                    self._settle_and_report(older, Outcome.SKIPPED, "replaced before it began")
                self._enqueue(firing)
                for running in job._running:
                    if running.started_at is None:  # stopped, it would never come to its end
                        running.missed = "replaced before it began"
                    else:
                        self._start_helper("replace", self._stop_run, running)

    def _start(self, firing: Firing) -> None:
        job = firing.job
        name = job.name
        if name in self.supervisor:
            name = f"{name}#{next(self._serial)}"
        self.supervisor.start_soon(self._run, firing, name=name, restart=Restart.TEMPORARY)
        firing.child_name = name
        job._running += (firing,)

    async def _run(self, firing: Firing) -> None:
        """Be one run: a temporary child of the scheduler's supervisor."""
        job = firing.job
        outcome = Outcome.SUCCEEDED
        reason: str | None = None
        error: BaseException | None = None
        try:
            if firing.missed is not None:
                outcome, reason = Outcome.SKIPPED, firing.missed
                return
            self._began(firing)
            if job.timeout is None:
                await job._fn(*job._args)
            else:
                with trio.move_on_after(job.timeout) as scope:
                    await job._fn(*job._args)
                if scope.cancelled_caught:
                    outcome, reason = Outcome.TIMED_OUT, f"cancelled after {job.timeout:g} s"
        except Exception as exc:  # noqa: BLE001  (a crash is recorded and stops nothing)
            outcome, error = Outcome.FAILED, exc
        except BaseException as exc:
            if current_child().stopping:
                outcome = Outcome.CANCELLED
            else:
                outcome, error = Outcome.FAILED, exc
            raise
        finally:
            self._settle(firing, outcome, reason, error=error)
            if job._waiting:
                self._start_waiting(job)
            del error  # or it and this frame would keep each other alive
            if firing.claimed:
                await self._report(firing)  # noqa: ASYNC102  (shields itself, for a bounded time)

    async def _stop_run(self, firing: Firing) -> None:
        if firing in firing.job._running:
            await self.supervisor.stop(firing.child_name)

    def _enqueue(self, firing: Firing) -> None:
        """Have a run wait for its turn; where its job coalesces, in place of the one before it."""
        job = firing.job
        if job._waiting is None:
            job._waiting = deque()
        if job.coalesce and not firing.by_hand:
            for older in tuple(job._waiting):
                if not older.by_hand:
                    job._waiting.remove(older)
                    reason = f"coalesced into the run of {firing.moment}"
                    self._settle_and_report(older, Outcome.MISSED, reason)
        job._waiting.append(firing)

    def _start_waiting(self, job: Job) -> None:
        """Start the next run that waited for the end of the last, by the rules for what is late."""
        while job._waiting and not job._running and not self._closing:
            firing = job._waiting.popleft()
            why = None if firing.by_hand else job._why_missed(firing, self._now())
            if self.jobs.get(job.name) is not job:
                self._settle_and_report(firing, Outcome.SKIPPED, "removed while it waited")
            elif job.paused and not firing.by_hand:
                self._settle_and_report(firing, Outcome.SKIPPED, "paused while it waited")
            elif why is not None:
                self._settle_and_report(firing, Outcome.MISSED, why)
            else:
                self._start(firing)
                return

    def _began(self, firing: Firing) -> None:
        firing.started_at = self._clock.now()
        if self._hub.is_enabled_for(RunStarted):
            run = Run(scheduled_at=firing.moment, started_at=firing.started_at)
            self._hub.emit(RunStarted, (*self.supervisor.path, firing.job.name), {"run": run})

    def _settle(
        self,
        firing: Firing,
        outcome: Outcome,
        reason: str | None = None,
        *,
        error: BaseException | None = None,
    ) -> None:
        """Record what became of a moment."""
        job = firing.job
        self._firings.discard(firing)
        if job._running:
            job._running = tuple(other for other in job._running if other is not firing)
        text = None
        if error is not None:
            reason = one_line(error) if reason is None else f"{reason}: {one_line(error)}"
            text = ErrorText(error)
        run = firing.run = Run(
            scheduled_at=firing.moment,
            started_at=firing.started_at,
            finished_at=self._time_of_end(),
            outcome=outcome,
            error=reason,
        )
        job._note(run)
        if firing.done is not None:
            firing.done()
        kind = EVENT_OF[outcome]
        if self._hub.is_enabled_for(kind):
            details = {"traceback": text} if kind is RunFailed else {}
            self._hub.emit(kind, (*self.supervisor.path, job.name), {"run": run, **details})

    def _time_of_end(self) -> datetime | None:
        """Return the time for the record; whoever waits for the run learns its end without, too."""
        try:
            return self._clock.now()
        except Exception:  # noqa: BLE001  (a clock of the user's)
            logger.exception("the wall clock failed", extra={"action": "wall_clock_failed"})
            return None

    # What the journal is asked and told; whoever does it is a child of its own.

    async def _claim(self, job: Job, firings: list[Firing]) -> None:
        """Claim the moments of a job that are due, those that are to run first."""
        assert self._journal is not None  # noqa: S101
        child = current_child()
        for firing in sorted(firings, key=lambda firing: firing.missed is not None):
            if child.stopping or self.jobs.get(job.name) is not job:
                return  # unclaimed, so that another daemon, or the next start, sees to it
            try:
                firing.claimed = await self._journal.claim(
                    job.name, firing.moment, is_too_late=partial(self._is_too_late, firing)
                )
            except NoAnswer as error:
                if not child.stopping:
                    self._settle(firing, Outcome.MISSED, str(error))
                continue
            if not firing.claimed:
                continue
            if firing.missed is not None:
                self._settle(firing, Outcome.MISSED, firing.missed)
                await self._report(firing)
            elif self.jobs.get(job.name) is not job:
                self._settle(firing, Outcome.SKIPPED, "removed before it began")
                await self._report(firing)
            else:
                self._admit(firing)

    def _is_too_late(self, firing: Firing) -> bool:
        return firing.job._why_missed(firing, self._now()) is not None

    async def _report(self, firing: Firing) -> None:
        """Tell the journal what became of a moment that it knows of."""
        assert self._journal is not None  # noqa: S101
        run = firing.run
        assert run is not None and run.outcome is not None  # noqa: S101, PT018  (it is settled)
        with contextlib.suppress(NoAnswer):  # which is in the log
            await self._journal.finished(firing.job.name, firing.moment, run.outcome, run.error)

    def _settle_and_report(self, firing: Firing, outcome: Outcome, reason: str) -> None:
        self._settle(firing, outcome, reason)
        if firing.claimed:
            self._start_helper("report", self._report, firing)

    def _restore_soon(self, job: Job) -> None:
        """Have the journal asked where a job goes on, one job after the other."""
        job._restoring = True
        self._unrestored.append(job)
        if len(self._unrestored) == 1:
            self._start_helper("restore", self._restore)

    async def _restore(self) -> None:
        assert self._journal is not None  # noqa: S101
        with contextlib.suppress(NoAnswer):
            while self._unrestored:
                job = self._unrestored[0]
                last = await self._journal.last_fire(job.name)
                self._unrestored.popleft()
                if self.jobs.get(job.name) is job:
                    known = math.inf if last is None else last.timestamp()
                    self._planned(job, job._restore, known)
                    if not job.paused:
                        self._push(job)
            await self._take_interrupted()

    async def _recover(self) -> None:
        """See to the moments of other daemons that died, for as long as this one lives."""
        child = current_child()
        while not child.stopping:
            with child.cancel_on_stop():
                await trio.sleep(RECOVERY_INTERVAL)
                with contextlib.suppress(NoAnswer):
                    await self._take_interrupted()

    async def _take_interrupted(self) -> None:
        assert self._journal is not None  # noqa: S101
        for name, moment in await self._journal.take_interrupted(tuple(self.jobs)):
            job = self.jobs.get(name)
            if job is None:  # removed meanwhile
                continue
            firing = Firing(job, moment, moment.timestamp())
            again = job.rerun_interrupted and not job.paused and not self._is_too_late(firing)
            self._settle(firing, Outcome.INTERRUPTED, "its daemon died while it ran")
            firing.claimed = True
            if again:
                self._admit(firing)
            else:
                await self._report(firing)

    def _start_helper(
        self, what: str, async_fn: Callable[[*PosArgsT], Awaitable[object]], *args: *PosArgsT
    ) -> None:
        """Start a temporary child for something that takes time; not if the scheduler stops."""
        if not self._closing:
            name = f"({what} {next(self._serial)})"
            self.supervisor.start_soon(async_fn, *args, name=name, restart=Restart.TEMPORARY)

    # Small things.

    @property
    def _closing(self) -> bool:
        return engine_of(self.supervisor).stopping

    def _check_open(self) -> None:
        if self._closing:
            raise SupervisorClosedError(f"scheduler {self.supervisor.name!r} has begun to stop")

    def _now(self) -> float:
        moment = self._clock.now()
        if moment.tzinfo is None:
            raise ValueError(f"the wall clock answered with a naive moment, {moment!r}")
        return moment.timestamp()

    def _now_here(self) -> datetime:
        return datetime.fromtimestamp(self._now(), self.zone)


def _nothing() -> None:
    pass
