"""Wrong options: each is an error at the call that names it, with the value in it."""

from __future__ import annotations

import functools
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import trio
from desk import Desk, at

from actp_supervise import errors
from actp_supervise.cron import At, Cron, Every, MemoryJournal, Overlap, open_scheduler
from actp_supervise.testing import TrioWallClock

NAN, INF = float("nan"), float("inf")


class Unprintable:
    def __repr__(self) -> str:
        raise ZeroDivisionError


NO_NUMBERS = ["1", b"1", None, True, timedelta(seconds=3), [1.0], 1j, Decimal(1), Unprintable()]
TOO_SHORT = [0, 0.0, -0.0, 0.001, 0.999, 5e-324]
NO_DURATIONS = [NAN, -1.0, -INF, -1, -(10**400), 10**400]


def wrong(*pairs):
    """Make a parameter of each option and each value for it that is wrong."""
    return [
        pytest.param(option, value, id=f"{option}-{number}")
        for option, values in pairs
        for number, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("option", "value"),
    wrong(
        ("jitter", [*NO_NUMBERS, *NO_DURATIONS, INF]),
        ("timeout", [*(v for v in NO_NUMBERS if v is not None), *NO_DURATIONS, 0, 0.0, -0.0]),
        ("misfire_grace", [*(v for v in NO_NUMBERS if v is not None), *NO_DURATIONS, *TOO_SHORT]),
        ("coalesce", ["no", "", 0, 1, None, [], Unprintable()]),
        ("rerun_interrupted", ["false", 0, 1, None]),
        ("overlap", ["skip", "SKIP", None, 1, Overlap, Unprintable()]),
        ("trigger", ["0 6 * * *", 60, None, Cron, timedelta(hours=1), datetime(2026, 1, 1)]),  # noqa: DTZ001
        ("name", [5, b"job", "", " ", "a\nb", ["job"], ("job",), {"job": 1}, True, Unprintable()]),
    ),
)
async def test_a_bad_option_of_add_is_an_error_that_names_it(option, value, autojump_clock) -> None:
    desk = Desk()
    async with desk.scheduler() as scheduler:
        with pytest.raises((TypeError, ValueError), match=option):
            scheduler.add(desk.job, **{"trigger": Every(60.0), option: value})
        assert scheduler.jobs == ()


async def test_an_option_that_does_not_exist_is_an_error_that_names_the_one_meant(
    autojump_clock,
) -> None:
    desk = Desk()
    async with desk.scheduler() as scheduler:
        with pytest.raises(TypeError, match="'misfire_grace_time'; did you mean 'misfire_grace'"):
            scheduler.add(desk.job, trigger=Every(60.0), misfire_grace_time=60)
    with pytest.raises(TypeError, match="'time_zone'; did you mean 'timezone'"):
        open_scheduler(time_zone="UTC")


async def test_a_grace_that_no_real_clock_keeps_is_refused_with_advice(autojump_clock) -> None:
    desk = Desk()
    async with desk.scheduler() as scheduler:
        with pytest.raises(ValueError, match=r"at least 1 s.*a little late.*give None for any"):
            scheduler.add(desk.job, trigger=Every(60.0), misfire_grace=0)


@pytest.mark.parametrize(
    ("option", "value", "taken"),
    [
        ("misfire_grace", 1, 1.0),
        ("misfire_grace", INF, INF),
        ("misfire_grace", None, INF),
        ("timeout", INF, INF),
        ("timeout", None, None),
        ("timeout", 1e-3, 1e-3),
        ("jitter", 0, 0.0),
        ("jitter", 1e300, 1e300),
        ("coalesce", False, False),
        ("overlap", Overlap.ALLOW, Overlap.ALLOW),
        ("name", "any name: 'ünïcode', / and all", "any name: 'ünïcode', / and all"),
    ],
    ids=str,
)
async def test_an_option_is_taken_as_it_is_given(option, value, taken, autojump_clock) -> None:
    desk = Desk()
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, **{"trigger": Every(60.0), option: value})
        assert getattr(job, option) == taken
        await trio.sleep(61)
        assert desk.ran or option == "jitter"


class Sync:
    def method(self) -> None: ...

    async def __call__(self) -> None: ...


def sync() -> None: ...


async def generates():
    yield


NO_JOBS = [sync, lambda: None, Sync().method, functools.partial(sync), print, Sync, generates, 5]


@pytest.mark.parametrize("fn", NO_JOBS, ids=range(len(NO_JOBS)))
async def test_a_job_that_is_no_async_function_is_refused_when_it_is_added(
    fn, autojump_clock
) -> None:
    async with Desk().scheduler() as scheduler:
        with pytest.raises(TypeError, match="a job is an async function"):
            scheduler.add(fn, trigger=Every(60.0))
        assert scheduler.jobs == ()


async def test_a_coroutine_is_refused_and_closed(autojump_clock) -> None:
    desk = Desk()
    async with desk.scheduler() as scheduler:
        with pytest.raises(TypeError, match="not a coroutine object"):
            scheduler.add(desk.job(), trigger=Every(60.0))


async def test_methods_partials_and_callable_objects_are_jobs(autojump_clock) -> None:
    desk = Desk()
    async with desk.scheduler() as scheduler:
        for fn in (desk.job, functools.partial(desk.job, 1.0), Sync(), trio.lowlevel.checkpoint):
            assert (
                await scheduler.run_now(scheduler.add(fn, trigger=Every(60.0)).name)
            ).error is None


class NoJournal:
    async def claim(self, job_name, scheduled_at): ...

    async def finished(self, job_name, scheduled_at, outcome, error): ...


class Half(NoJournal):
    last_fire = 5


class AsyncClock:
    async def now(self): ...


@pytest.mark.parametrize(
    ("option", "value"),
    wrong(
        ("name", [5, None, "", b"s", True]),
        ("timezone", [5, "Mars/Olympus", "", b"UTC", 0, "../etc/passwd", datetime]),
        ("wall_clock", [5, "now", datetime, AsyncClock(), TrioWallClock, object(), True]),
        ("journal", [object(), 5, "journal", MemoryJournal, NoJournal(), Half(), True, {}]),
        ("on_event", [5, "print", True, object()]),
        ("shutdown_timeout", [*(v for v in NO_NUMBERS if v is not None), *NO_DURATIONS]),
        ("history", ["3", 2.5, True, None, 0, -1, NAN, INF, [3], 3.0]),
        ("rng", [5, random, random.Random, "seed", True]),
    ),
)
async def test_a_bad_option_of_the_scheduler_is_an_error_that_names_it(
    option, value, autojump_clock
) -> None:
    with pytest.raises((TypeError, ValueError), match=option):
        open_scheduler(**{"timezone": "UTC", option: value})


@pytest.mark.parametrize("keep", ["3", 2.5, True, None, 0, -1])
def test_how_much_the_journal_in_memory_keeps_is_a_count(keep) -> None:
    with pytest.raises((TypeError, ValueError), match="keep must be a count from 1"):
        MemoryJournal(keep)


@pytest.mark.parametrize("start", ["2026-01-01", 5, None, datetime(2026, 1, 1)])  # noqa: DTZ001
def test_the_start_of_a_trio_wall_clock_is_an_aware_moment(start) -> None:
    with pytest.raises((TypeError, ValueError), match="start must be"):
        TrioWallClock(start)


@pytest.mark.parametrize("seconds", [*NO_NUMBERS, NAN, INF, -INF, 10**400], ids=range(13))
async def test_a_trio_wall_clock_is_set_by_a_number_of_seconds(seconds, autojump_clock) -> None:
    wall = TrioWallClock(at("2026-03-01 06:00"))
    with pytest.raises((TypeError, ValueError), match="seconds must be"):
        wall.step(seconds)
    assert wall.now() == at("2026-03-01 06:00")


async def test_a_trio_wall_clock_is_not_set_beyond_the_calendar(autojump_clock) -> None:
    wall = TrioWallClock(at("2026-03-01 06:00"))
    for seconds in (1e12, -1e12):
        with pytest.raises(ValueError, match=r"seconds .* beyond the years 1 to 9999"):
            wall.step(seconds)
    assert wall.now() == at("2026-03-01 06:00")


async def test_what_is_told_of_steps_can_be_called(autojump_clock) -> None:
    with pytest.raises(TypeError, match="callback must be callable"):
        TrioWallClock(at("2026-03-01 06:00")).on_step(5)


async def test_a_bad_change_of_a_job_is_an_error_and_changes_nothing(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job")
        with pytest.raises(TypeError, match="a trigger is a Cron"):
            scheduler.reschedule("job", "0 7 * * *")
        for zone, error in ((5, TypeError), ("Mars/Olympus", ValueError), (None, TypeError)):
            with pytest.raises(error, match="timezone"):
                scheduler.set_timezone(zone)
        for n in ("3", -1, True, 2.5):
            with pytest.raises((TypeError, ValueError), match="n must be a count from 0"):
                job.upcoming(n)
        for verb in (scheduler.pause, scheduler.resume, scheduler.remove, scheduler.__getitem__):
            with pytest.raises(errors.ChildNotFoundError, match="has no job 5"):
                verb(5)
        assert (job.trigger, job.next_run_time) == (Cron("0 6 * * *"), at("2026-03-01 06:00"))


# The ends of the calendar.


@pytest.mark.parametrize("start", ["0001-01-02T00:00+00:00", "9999-12-30T00:00+00:00"])
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
async def test_a_scheduler_works_in_the_first_and_in_the_last_year(
    start, zone, autojump_clock
) -> None:
    wall = TrioWallClock(datetime.fromisoformat(start))
    ran = []

    async def job(name: str) -> None:
        ran.append(name)

    async with open_scheduler(timezone=zone, wall_clock=wall) as scheduler:
        scheduler.add(job, "cron", trigger=Cron("*/10 * * * *"))
        scheduler.add(job, "every", trigger=Every(1000.0), coalesce=False, misfire_grace=1e15)
        scheduler.add(job, "at", trigger=At(wall.now() + timedelta(hours=1)))
        await trio.sleep(3601)
        await scheduler.shutdown()
    assert (
        ran.count("cron") >= 6
    )  # the clocks of Tokyo were 18:59 ahead of a full hour, in the year 1
    assert (ran.count("every"), ran.count("at")) == (3, 1)


async def test_the_very_last_moment_ends_a_schedule(autojump_clock) -> None:
    wall = TrioWallClock(datetime(9999, 12, 31, 23, 50, tzinfo=UTC))
    async with open_scheduler(timezone="UTC", wall_clock=wall) as scheduler:
        job = scheduler.add(trio.lowlevel.checkpoint, trigger=Cron("55 * * * *"))
        await trio.sleep(301)
        assert (job.last_run.outcome, job.next_run_time) == ("succeeded", None)
        await scheduler.shutdown()


async def test_a_grace_longer_than_the_calendar_is_any(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler(history=10_000) as scheduler:
        job = scheduler.add(
            desk.job,
            trigger=Every(1.0),
            misfire_grace=1e15,
            coalesce=False,
            overlap=Overlap.ALLOW,
        )
        await trio.sleep(0.5)
        desk.wall.step(3600.0)
        await trio.sleep(0.25)
        assert {run.outcome for run in job.history} == {"succeeded"}
