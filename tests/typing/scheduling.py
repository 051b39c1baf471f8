"""What a type checker takes and what it refuses of the scheduler. It is only read, never run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import assert_type
from zoneinfo import ZoneInfo

from actp_supervise import (
    AnyOf,
    At,
    Cron,
    Every,
    Job,
    Overlap,
    Scheduler,
    open_scheduler,
)
from actp_supervise.clock import SystemWallClock, WallClock
from actp_supervise.testing import TrioWallClock

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


async def report() -> None: ...


async def mail(address: str, times: int = 1) -> int:
    raise NotImplementedError


class OwnClock:
    def now(self) -> datetime:
        return NOON


class NoClock:
    def now(self) -> float:
        return 0.0


class OwnJournal:
    async def claim(self, job_name: str, scheduled_at: datetime) -> bool:
        return True

    async def finished(
        self, job_name: str, scheduled_at: datetime, outcome: str, error: str | None
    ) -> None: ...

    async def last_fire(self, job_name: str) -> datetime | None:
        return None


class NoJournal:
    async def claim(self, job_name: str) -> bool:
        return True


async def it_is_opened() -> None:
    async with open_scheduler() as scheduler:
        assert_type(scheduler, Scheduler)
    open_scheduler(timezone="America/New_York")
    open_scheduler(timezone=ZoneInfo("UTC"), wall_clock=SystemWallClock(), on_event=print)
    open_scheduler(wall_clock=OwnClock(), journal=OwnJournal())
    open_scheduler(wall_clock=TrioWallClock(NOON))
    open_scheduler(timezone=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    open_scheduler(wall_clock=NoClock())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    open_scheduler(journal=NoJournal())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def a_job_is_added_with_its_arguments(scheduler: Scheduler) -> None:
    assert_type(scheduler.add(report, trigger=Cron("0 6 * * *")), Job)
    assert_type(scheduler.add(mail, "root@example.org", 2, trigger=Every(60)), Job)
    scheduler.add(
        mail,
        "root@example.org",
        name="daily",
        trigger=AnyOf(Cron("@daily", "UTC"), At(NOON)),
        misfire_grace=None,
        coalesce=False,
        overlap=Overlap.QUEUE,
        jitter=30,
        timeout=600,
    )
    scheduler.add(report)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    scheduler.add(report, trigger="0 6 * * *")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    scheduler.add(mail, trigger=Every(60))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    scheduler.add(mail, 1, trigger=Every(60))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    scheduler.add(report, trigger=Every(60), overlap="skip")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    scheduler.add(report, trigger=Every(60), cron="0 6 * * *")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def jobs_are_looked_up_and_commanded(scheduler: Scheduler) -> None:
    job = scheduler["daily"]
    assert_type(job, Job)
    assert_type(scheduler.jobs, tuple[Job, ...])
    assert_type(job.next_run_time, datetime | None)
    assert_type((await scheduler.run_now("daily")).error, str | None)
    scheduler.pause("daily")
    scheduler.resume("daily")
    scheduler.remove("daily")
    await scheduler.shutdown()
    await scheduler.run_now(job)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def triggers_are_pure() -> None:
    assert_type(Cron("0 6 * * *").next_after(NOON), datetime | None)
    Every("1 h")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    At("noon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyOf("0 6 * * *")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Cron("0 6 * * *").next_after("noon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def clocks_are_a_protocol(clock: WallClock) -> datetime:
    return clock.now()
