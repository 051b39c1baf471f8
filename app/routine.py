"""DailyRoutineScheduler: the agents' daily routines, on the library's scheduler (R22 to R25)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from actp_supervise.clock import SystemWallClock
from actp_supervise.cron import Cron, Job, Scheduler, open_scheduler
from app.looks import USUAL
from app.status import JobRun, JobStatus
from app.store.protocol import RoutinePause, RoutineTime, StoreError, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from actp_supervise.clock import WallClock
    from actp_supervise.cron import Run
    from app.store.protocol import Store

TREE_NAME: Final = "routines"
"""What the supervisor of their runs is called."""

MISFIRE_GRACE: Final = 3600.0
"""Seconds by which a routine may be late, because the daemon was down or the machine slept."""

TIMEOUT: Final = 7200.0
"""Seconds after which a routine counts as hung and is cancelled."""

RECALL_TIMEOUT: Final = 5.0
"""Seconds that the start waits for the store to say how the routines went before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutineJob:
    """What an agent does at certain times, a method or a goal, and when."""

    agent_id: str
    method: str
    cron: str
    goal: str | None = None
    """What it is to reach, where it is no method."""
    disabled: str | None
    """Why it is not called, where it is not."""

    @property
    def name(self) -> str:
        """What the job is called, as in ``content.run_daily_pipeline``."""
        return f"{self.agent_id}.{self.method}"


class StoreJournal:
    """The scheduler's journal, kept in the store: of several daemons one fires each moment.

    Args:
        store: Where it is kept.
        instance: This start of the daemon.
    """

    def __init__(self, store: Store, instance: str) -> None:
        self._store = store
        self._instance = instance

    async def claim(self, job_name: str, scheduled_at: datetime) -> bool:
        """Claim one moment of one job."""
        return await self._store.claim_fire(job_name, scheduled_at, self._instance)

    async def finished(
        self, job_name: str, scheduled_at: datetime, outcome: str, error: str | None
    ) -> None:
        """Record what became of a claimed moment."""
        await self._store.finish_fire(job_name, scheduled_at, outcome, error)

    async def last_fire(self, job_name: str) -> datetime | None:
        """Return the latest moment of a job that was claimed."""
        return await self._store.last_fire(job_name)


class UnknownRoutineError(LookupError):
    """There is no routine of that name; the message names the known ones."""


class RoutineDisabledError(RuntimeError):
    """The routine is disabled and cannot be run; the message says by what."""


class RoutineCutError(RuntimeError):
    """A routine was ended because the daemon had to stop at once."""


class DailyRoutineScheduler:
    """The routines of all agents.

    Args:
        routines: The jobs; those that are disabled are listed only.
        run: Runs a routine, by agent_id and method, to its end.
        store: Remembers the fires, which makes up for a time when no daemon ran.
        instance: This start of the daemon.
        timezone: In which zone the times of day are meant.
        drain_timeout: Seconds that a routine under way has when the daemon stops.
        wall_clock: Tells the time of day; the machine's where not given.
    """

    def __init__(
        self,
        routines: Sequence[RoutineJob],
        *,
        run: Callable[[str, str], Awaitable[object]],
        store: Store,
        instance: str,
        timezone: ZoneInfo,
        drain_timeout: float = 30.0,
        wall_clock: WallClock | None = None,
    ) -> None:
        self._routines = {routine.name: routine for routine in routines}
        self._triggers: dict[str, Cron] = {}
        self._run = run
        self._store = store
        self._journal = StoreJournal(store, instance)
        self._timezone = timezone
        self._drain_timeout = drain_timeout
        self._wall_clock = wall_clock
        self._clock = wall_clock or SystemWallClock()
        self._scheduler: Scheduler | None = None
        self._pauses: dict[str, RoutinePause] = {}
        """The routines that are paused, as the store has them."""
        self._times: dict[str, RoutineTime] = {}
        """The times that were changed, as the store has them."""
        self._last_fires: dict[str, JobRun] = {}
        self._under_way: set[trio.CancelScope] = set()
        self._put_off: dict[str, datetime] = {}
        """When the agent goes on with a run that could not be finished."""

    def setup(self) -> None:
        """Read the schedules of all routines that are not disabled.

        Raises:
            ValueError: If one of them makes no sense.
        """
        self._triggers = {
            name: Cron(routine.cron)
            for name, routine in self._routines.items()
            if routine.disabled is None
        }

    def set_routines(self, routines: Sequence[RoutineJob]) -> None:
        """Schedule these routines from now on; what is under way goes on.

        Raises:
            ValueError: If the schedule of one makes no sense; then all stays as it is.
        """
        triggers = {each.name: Cron(each.cron) for each in routines if each.disabled is None}
        before, self._triggers = self._triggers, triggers
        self._routines = {routine.name: routine for routine in routines}
        for name in triggers:
            triggers[name] = self._trigger(name)
        if self._scheduler is None:
            return
        for name in before.keys() - triggers.keys():
            self._scheduler.remove(name)
        for name, trigger in triggers.items():
            if name not in before:
                self._add(self._scheduler, name)
            elif trigger != before[name]:
                self._scheduler.reschedule(name, trigger)

    async def set_time(self, name: str, cron: str | None, by: str | None = None) -> None:
        """Run a routine at other times from now on; kept in the store, for every daemon.

        Args:
            name: The routine.
            cron: When; None for as it is configured.
            by: Who says so.

        Raises:
            UnknownRoutineError: If there is no routine of that name.
            ValueError: If the expression makes no sense.
            StoreError: If it cannot be kept; then nothing has changed.
        """
        configured = self._known(name).cron
        if cron is not None:
            cron = cron.strip()
            Cron(cron)
        kept = None if cron == configured else cron
        await self._store.set_routine_time(name, kept, instead_of=configured, by=by)
        if kept is None:
            self._times.pop(name, None)
        else:
            self._times[name] = RoutineTime(
                job_name=name,
                cron=kept,
                instead_of=configured,
                changed_by=by,
                changed_at=self._clock.now(),
            )
        self._reschedule(name)

    async def watch_times(self, every: float = USUAL.times) -> None:
        """Take up, for ever, what other daemons were told of times and pauses of routines.

        Args:
            every: Seconds between two looks.
        """
        while True:
            await trio.sleep(every)
            with suppress(StoreError):
                await self._look_up_changes()

    async def _look_up_changes(self) -> None:
        self._times = {time.job_name: time for time in await self._store.routine_times()}
        for name in self._triggers:
            self._reschedule(name)
        self._take_pauses({each.job_name: each for each in await self._store.routine_pauses()})

    def _take_pauses(self, pauses: dict[str, RoutinePause]) -> None:
        before, self._pauses = self._pauses, pauses
        for name in before.keys() ^ pauses.keys():
            if self._scheduler is None or name not in self._scheduler:
                continue
            if name in pauses:
                self._scheduler.pause(name)
            else:
                self._scheduler.resume(name)

    def _cron(self, routine: RoutineJob) -> str:
        """Return when a routine runs: as it was changed, unless it was configured anew since."""
        change = self._change_of(routine)
        return routine.cron if change is None else change.cron

    def _change_of(self, routine: RoutineJob) -> RoutineTime | None:
        """Return the change of a routine's time that holds, if one does."""
        change = self._times.get(routine.name)
        return change if change is not None and change.instead_of == routine.cron else None

    def _trigger(self, name: str) -> Cron:
        routine = self._routines[name]
        try:
            return Cron(self._cron(routine))
        except ValueError:  # in a row that was written by hand
            return Cron(routine.cron)

    def _reschedule(self, name: str) -> None:
        trigger = self._trigger(name)
        if name in self._triggers and trigger != self._triggers[name]:
            self._triggers[name] = trigger
            if self._scheduler is not None and name in self._scheduler:
                self._scheduler.reschedule(name, trigger)

    def _add(self, scheduler: Scheduler, name: str) -> None:
        scheduler.add(
            self._carry_out,
            name,
            name=name,
            trigger=self._triggers[name],
            misfire_grace=MISFIRE_GRACE,
            timeout=TIMEOUT,
        )
        if name in self._pauses:
            scheduler.pause(name)

    async def start(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the routines when they are due, until `shutdown`; for a child of the tree."""
        await self._recall()
        async with open_scheduler(
            name=TREE_NAME,
            timezone=self._timezone,
            journal=self._journal,
            shutdown_timeout=self._drain_timeout,
            wall_clock=self._wall_clock,
        ) as self._scheduler:
            for name in self._triggers:
                self._add(self._scheduler, name)
            task_status.started()

    async def shutdown(self) -> None:
        """Start no routine any more, and wait for those under way."""
        if self._scheduler is not None:
            await self._scheduler.shutdown()

    async def cancel_all(self) -> None:
        """End the routines under way at once."""
        for scope in self._under_way:
            scope.cancel(reason="the daemon is to stop at once")
        await self.shutdown()

    def jobs(self) -> list[JobStatus]:
        """Return what is known of every routine, those included that are disabled."""
        return [self._report(routine) for routine in self._routines.values()]

    async def run_now(self, name: str) -> None:
        """Run a routine once, now, and wait until it has ended, however it ends.

        Raises:
            UnknownRoutineError: If there is no routine of that name.
            RoutineDisabledError: If it is disabled.
            SupervisorClosedError: If the daemon is stopping.
        """
        routine = self._known(name)
        if routine.disabled is not None or self._scheduler is None:
            why = routine.disabled or "the scheduler has not started"
            raise RoutineDisabledError(f"routine {name!r} cannot be run: {why}")
        await self._scheduler.run_now(name)

    async def pause(self, name: str, by: str = "an operator") -> None:
        """Pause a routine in every daemon: its times pass, until it is resumed.

        Args:
            name: The routine.
            by: Who says so.

        Raises:
            UnknownRoutineError: If there is no routine of that name.
            StoreError: If it cannot be kept; then nothing has changed.
        """
        self._known(name)
        await self._store.set_routine_paused(name, by)
        if name not in self._pauses:
            pause = RoutinePause(job_name=name, paused_by=by, paused_at=self._clock.now())
            self._take_pauses({**self._pauses, name: pause})

    async def resume(self, name: str) -> None:
        """Resume a paused routine with its next time, in every daemon.

        Raises:
            UnknownRoutineError: If there is no routine of that name.
            StoreError: If it cannot be kept; then nothing has changed.
        """
        self._known(name)
        await self._store.set_routine_paused(name, None)
        self._take_pauses({job: each for job, each in self._pauses.items() if job != name})

    async def _carry_out(self, name: str) -> None:
        routine = self._routines[name]
        with trio.CancelScope() as scope:
            self._under_way.add(scope)
            self._put_off.pop(routine.name, None)
            try:
                await self._run(routine.agent_id, routine.method)
            except Exception:
                await self._note_put_off(routine)  # noqa: ASYNC120  (being stopped outweighs it)
                raise
            finally:
                self._under_way.discard(scope)
        if scope.cancelled_caught:
            raise RoutineCutError("ended because the daemon had to stop at once")

    async def _note_put_off(self, routine: RoutineJob) -> None:
        """Look up whether a run that failed is in the queue, to be gone on with later."""
        with trio.move_on_after(RECALL_TIMEOUT), suppress(StoreError):
            for task in await self._store.tasks(
                agent_type=routine.agent_id, status=TaskStatus.QUEUED
            ):
                if (task.routine or "").startswith(f"{routine.name}/"):
                    self._put_off[routine.name] = task.not_before or task.created_at
                    return

    def _next_run_time(self, routine: RoutineJob, job: Job | None) -> datetime | None:
        """Return when a routine is run next, or its last run gone on with."""
        planned = None if job is None else job.next_run_time
        later = self._put_off.get(routine.name)
        if later is None or later < self._clock.now():
            return planned
        return later if planned is None else min(planned, later)

    async def _recall(self) -> None:
        """Look up how the routines went before this daemon began."""
        with trio.move_on_after(RECALL_TIMEOUT), suppress(StoreError):
            await self._look_up_changes()
            for name in self._routines:
                for fire in await self._store.fires(name, limit=1):
                    self._last_fires[name] = JobRun(
                        scheduled_at=fire.scheduled_at,
                        started_at=fire.claimed_at,
                        finished_at=fire.finished_at,
                        outcome=fire.outcome or "running",
                        error=fire.error,
                    )

    def _known(self, name: str) -> RoutineJob:
        if name not in self._routines:
            known = ", ".join(self._routines)
            raise UnknownRoutineError(f"there is no routine {name!r}; known are {known}")
        return self._routines[name]

    def _report(self, routine: RoutineJob) -> JobStatus:
        job = None
        if self._scheduler is not None and routine.name in self._scheduler:
            job = self._scheduler[routine.name]
        pause, change = self._pauses.get(routine.name), self._change_of(routine)
        return JobStatus(
            name=routine.name,
            agent_id=routine.agent_id,
            method=routine.method,
            goal=routine.goal,
            schedule=str(self._triggers.get(routine.name) or self._trigger(routine.name)),
            cron=self._cron(routine),
            configured=routine.cron,
            timezone=str(self._timezone),
            next_run_time=self._next_run_time(routine, job),
            last_run=(job and _job_run(job.last_run)) or self._last_fires.get(routine.name),
            running=job is not None and bool(job.running),
            paused=pause is not None,
            paused_by=None if pause is None else pause.paused_by,
            paused_at=None if pause is None else pause.paused_at,
            changed_by=None if change is None else change.changed_by,
            changed_at=None if change is None else change.changed_at,
            disabled=routine.disabled,
        )


def _job_run(run: Run | None) -> JobRun | None:
    if run is None:
        return None
    return JobRun(
        scheduled_at=run.scheduled_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        outcome=None if run.outcome is None else str(run.outcome),
        error=run.error,
    )
