"""Wall clocks that jump: sleep, busy loops, clocks set forward and back, zones that change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import trio
from desk import NEW_YORK, Desk, account, at, shown
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from actp_supervise.cron import At, Cron, Every, Overlap, open_scheduler
from actp_supervise.schedule import BACKLOG
from actp_supervise.testing import TrioWallClock

HOUR = 3600.0
DAY = 86400.0


class PlainClock:
    """A wall clock as machines have it: it tells nobody when it is set."""

    def __init__(self, wall: TrioWallClock) -> None:
        self.wall = wall
        self.looks = 0

    def now(self) -> datetime:
        self.looks += 1
        return self.wall.now()


# Forward: the machine slept, the clock was set, the loop was busy.


async def test_a_run_late_within_its_grace_is_made_up_for(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), misfire_grace=HOUR)
        await trio.sleep(1)
        desk.wall.step(2 * HOUR - 1)  # to 07:00, an hour late to the second
        await trio.sleep(1)
        assert account(job) == [("01 06:00", "succeeded")]
    assert desk.ran == ["01 07:00"]


async def test_a_run_later_than_its_grace_is_recorded_as_missed(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), misfire_grace=HOUR)
        await trio.sleep(1)
        desk.wall.step(2 * HOUR)
        await trio.sleep(1)
        assert account(job) == [("01 06:00", "missed")]
        assert job.last_run.error == "more than 3600 s late"
        assert job.last_run.started_at is None
        assert job.next_run_time == at("2026-03-02 06:00")
    assert desk.ran == []
    assert desk.actions() == ["clock_jumped", "run_missed"]


async def test_without_a_grace_any_lateness_is_made_up_for(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 0 1 * *"), misfire_grace=None)
        await trio.sleep(1)
        desk.wall.step(45 * DAY)
        await trio.sleep(1)
        assert account(job) == [("01 00:00", "succeeded")]


async def test_of_many_that_are_due_at_once_the_latest_runs_and_the_others_are_missed(
    autojump_clock,
) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 * * * *"), misfire_grace=3 * HOUR)
        await trio.sleep(1)
        desk.wall.step(5.5 * HOUR)
        await trio.sleep(1)
        assert account(job) == [
            ("01 06:00", "missed"),
            ("01 07:00", "missed"),
            ("01 08:00", "missed"),
            ("01 09:00", "missed"),
            ("01 10:00", "succeeded"),
        ]
        assert [run.error for run in job.history] == [
            "more than 10800 s late",
            "more than 10800 s late",
            "coalesced into the run of 2026-03-01 10:00:00-05:00",
            "coalesced into the run of 2026-03-01 10:00:00-05:00",
            None,
        ]
    assert desk.ran == ["01 10:30:01"]


async def test_without_coalesce_each_moment_within_its_grace_runs(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(
            desk.job,
            trigger=Cron("0 * * * *"),
            misfire_grace=3 * HOUR,
            coalesce=False,
            overlap=Overlap.QUEUE,
        )
        await trio.sleep(1)
        desk.wall.step(5.5 * HOUR)
        await trio.sleep(1)
        assert account(job) == [
            ("01 06:00", "missed"),
            ("01 07:00", "missed"),
            ("01 08:00", "succeeded"),
            ("01 09:00", "succeeded"),
            ("01 10:00", "succeeded"),
        ]


async def test_a_wall_clock_that_tells_nobody_is_looked_at_every_half_minute(
    autojump_clock,
) -> None:
    desk = Desk("2026-03-01 05:00")
    clock = PlainClock(desk.wall)
    async with desk.scheduler(wall_clock=clock) as scheduler:
        scheduler.add(desk.job, trigger=Cron("0 6 * * *"))
        await trio.sleep(10)
        desk.wall.step(1.5 * HOUR)
        await trio.sleep(19)
        assert desk.ran == []
        await trio.sleep(2)
    assert desk.ran == ["01 06:30:30"]


async def test_an_idle_scheduler_looks_twice_a_minute_and_no_more(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    clock = PlainClock(desk.wall)
    async with desk.scheduler(wall_clock=clock) as scheduler:
        for n in range(100):
            scheduler.add(desk.job, trigger=Cron("0 0 1 1 *"), name=str(n))
        await trio.sleep(1)
        before = clock.looks
        await trio.sleep(600)
        assert clock.looks - before == 20


async def test_a_clock_that_says_when_it_is_set_is_heard_at_once(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        scheduler.add(desk.job, trigger=Cron("0 6 * * *"))
        await trio.sleep(10)
        desk.wall.step(HOUR)
        await trio.testing.wait_all_tasks_blocked()
        assert desk.ran == ["01 06:00:10"]


async def test_a_jump_is_told_by_an_event(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        scheduler.add(desk.job, trigger=Cron("0 12 * * *"))
        await trio.sleep(10)
        desk.wall.step(0.9)
        await trio.sleep(10)
        desk.wall.step(100.0)
        await trio.sleep(10)
        desk.wall.step(-50.0)
        await trio.sleep(10)
    jumps = [event.seconds for event in desk.events if event.action == "clock_jumped"]
    assert jumps == pytest.approx([100.0, -50.0])


async def test_a_change_after_a_sleep_does_not_lose_what_was_due_before_it(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    clock = PlainClock(desk.wall)
    async with desk.scheduler(wall_clock=clock) as scheduler:
        for name in ("paused", "rescheduled", "zoned"):
            scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name=name)
        await trio.sleep(10)
        desk.wall.step(1.5 * HOUR)
        # Before the scheduler has looked at the clock again:
        scheduler.pause("paused")
        scheduler.reschedule("rescheduled", Cron("0 7 * * *"))
        scheduler.set_timezone("Europe/London")
        await trio.sleep(1)
        assert [account(job) for job in scheduler.jobs] == [[("01 06:00", "succeeded")]] * 3


# Backlogs.


async def test_a_week_of_seconds_is_passed_over_without_a_walk(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler(history=10_000) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("* * * * * *"), misfire_grace=60.0)
        await trio.sleep(1.5)
        desk.wall.step(7 * DAY)
        await trio.sleep(1)
        assert [run.outcome for run in job.history[:1]] == ["succeeded"]
        missed = [run for run in job.history if run.outcome == "missed"]
        assert len(missed) == BACKLOG + 1
        assert missed[-1].error == "passed over, with all that were due before " + str(
            at("2026-03-08 06:00:01")
        )
        assert account(job)[-2:] == [("08 06:00:01", "succeeded"), ("08 06:00:02", "succeeded")]


async def test_a_backlog_without_coalesce_runs_all_that_is_within_its_grace(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler(history=10_000) as scheduler:
        job = scheduler.add(
            desk.job,
            trigger=Cron("* * * * * *"),
            misfire_grace=1800.0,
            coalesce=False,
            overlap=Overlap.ALLOW,
        )
        await trio.sleep(0.5)
        desk.wall.step(DAY - 0.5)
        await trio.sleep(0.25)
        ran = sorted(run.scheduled_at for run in job.history if run.outcome == "succeeded")
        assert len(ran) == 1801
        assert ran[0] == at("2026-03-02 04:30:00")
        assert ran[-1] == at("2026-03-02 05:00:00")


async def test_a_backlog_without_a_grace_runs_whole(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler(history=10_000) as scheduler:
        job = scheduler.add(
            desk.job,
            trigger=Every(1.0),
            misfire_grace=None,
            coalesce=False,
            overlap=Overlap.ALLOW,
        )
        await trio.sleep(0.5)
        desk.wall.step(HOUR)
        await trio.sleep(0.25)
        assert len(job.history) == 3600
        assert {run.outcome for run in job.history} == {"succeeded"}


# Back.


async def test_a_clock_set_back_runs_no_moment_twice(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 * * * *"))
        await trio.sleep(1.5 * HOUR)
        desk.wall.step(-HOUR)  # from 06:30 to 05:30
        await trio.sleep(2 * HOUR)
        assert account(job) == [("01 06:00", "succeeded"), ("01 07:00", "succeeded")]
    assert desk.ran == ["01 06:00", "01 07:00"]


async def test_a_clock_that_was_years_ahead_does_not_hold_jobs_for_years(autojump_clock) -> None:
    desk = Desk("2030-01-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job")
        paused = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="paused")
        scheduler.pause("paused")
        await trio.sleep(2 * HOUR)
        desk.wall.step(-(at("2030-01-01 00:00") - at("2026-01-01 00:00")).total_seconds())
        await trio.sleep(1)
        assert job.next_run_time == at("2026-01-02 06:00")
        scheduler.resume("paused")
        assert paused.next_run_time == at("2026-01-02 06:00")


async def test_a_clock_set_back_before_a_paused_job_was_added_leaves_it_paused(
    autojump_clock,
) -> None:
    desk = Desk("2026-03-02 05:00")
    async with desk.scheduler() as scheduler:
        scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="paused")
        scheduler.pause("paused")
        await trio.sleep(1)
        desk.wall.step(-2 * DAY)
        await trio.sleep(3 * DAY)
    assert desk.ran == []


async def test_moments_from_when_the_clock_was_ahead_are_left_out_when_they_come_again(
    autojump_clock,
) -> None:
    desk = Desk("2026-03-01 05:30")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 * * * *"))
        await trio.sleep(2 * HOUR)  # 06:00 and 07:00 have run
        desk.wall.step(-4 * HOUR)  # to 03:30, before the job was added
        await trio.sleep(6 * HOUR)
        assert account(job) == [
            ("01 06:00", "succeeded"),
            ("01 07:00", "succeeded"),
            ("01 04:00", "succeeded"),
            ("01 05:00", "succeeded"),
            ("01 08:00", "succeeded"),
            ("01 09:00", "succeeded"),
        ]


async def test_a_once_job_that_has_run_does_not_run_again_after_a_step_back(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=At(at("2026-03-01 06:00")))
        await trio.sleep(2 * HOUR)
        desk.wall.step(-10 * HOUR)
        await trio.sleep(DAY)
        assert account(job) == [("01 06:00", "succeeded")]


async def test_a_change_after_a_step_back_does_not_run_a_moment_twice(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 * * * *"), name="job")
        await trio.sleep(1.5 * HOUR)
        desk.wall.step(-HOUR)
        await trio.sleep(1)
        scheduler.pause("job")
        scheduler.resume("job")
        scheduler.reschedule("job", Cron("0,30 * * * *"))
        scheduler.set_timezone("Europe/London")
        assert job.next_run_time == at("2026-03-01 06:30")


@st.composite
def journeys(draw: st.DrawFn) -> list[tuple[float, float]]:
    """Draw what a wall clock goes through: how long it goes well, and how far it then jumps."""
    going = st.integers(1, 5 * 3600).map(float)
    jump = st.one_of(st.integers(-6 * 3600, 6 * 3600), st.integers(-3 * 86400, 3 * 86400))
    return draw(st.lists(st.tuples(going, jump.map(float)), min_size=1, max_size=8))


@given(
    journey=journeys(),
    expression=st.sampled_from(["0 * * * *", "*/10 * * * *", "30 1,2 * * *", "7 3 * * *"]),
    grace=st.sampled_from([1.0, 600.0, 7200.0, None]),
    coalesce=st.booleans(),
)
@settings(max_examples=150, deadline=None)
@example([(5400.0, -7200.0), (60.0, -3600.0), (20000.0, 0.0)], "0 * * * *", None, False)
@example([(1.0, 86400.0), (1.0, -86400.0), (9000.0, 0.0)], "*/10 * * * *", 600.0, True)
def test_no_moment_that_the_clock_passes_is_lost_and_none_is_there_twice(
    journey, expression, grace, coalesce
) -> None:
    zone = NEW_YORK
    start = datetime(2026, 3, 7, 12, 0, tzinfo=UTC)  # half a day before the clocks are set
    trigger = Cron(expression, zone)
    expected: set[datetime] = set()

    async def main() -> list:
        wall = TrioWallClock(start)
        async with open_scheduler(wall_clock=wall, timezone=zone, history=100_000) as scheduler:
            job = scheduler.add(
                trio.lowlevel.checkpoint,
                trigger=trigger,
                misfire_grace=grace,
                coalesce=coalesce,
                overlap=Overlap.ALLOW,
            )
            for going, jump in journey:
                before = wall.now()
                # A quarter of a second, so that nothing falls due just as the clock is set.
                await trio.sleep(going + 0.25)
                pass_by(expected, trigger, before, wall.now())
                before = wall.now()
                wall.step(jump)
                pass_by(expected, trigger, before, wall.now())
                await trio.sleep(1e-3)
            await scheduler.shutdown()
            return list(job.history)

    history = trio.run(main, clock=MockClock(autojump_threshold=0))

    moments = [run.scheduled_at.astimezone(UTC) for run in history]
    assert len(moments) == len(set(moments))
    assert set(moments) == expected
    for run in history:
        if run.outcome == "succeeded" and grace is not None:
            assert run.started_at - run.scheduled_at <= timedelta(seconds=grace)


def pass_by(found: set[datetime], trigger: Cron, low: datetime, high: datetime) -> None:
    """Note all moments in (low, high]."""
    moment = trigger.next_after(low)
    while moment is not None and moment <= high:
        found.add(moment.astimezone(UTC))
        moment = trigger.next_after(moment)


# Zones.


async def test_a_change_of_zone_moves_the_jobs_that_name_none(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        moved = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="moved")
        fixed = scheduler.add(desk.job, trigger=Cron("0 6 * * *", NEW_YORK), name="fixed")
        assert scheduler.timezone is NEW_YORK
        scheduler.set_timezone("America/Los_Angeles")
        assert str(scheduler.timezone) == "America/Los_Angeles"
        assert moved.next_run_time.isoformat() == "2026-03-01T06:00:00-08:00"
        assert fixed.next_run_time.isoformat() == "2026-03-01T06:00:00-05:00"
        await trio.sleep(DAY / 2)
    assert desk.ran == ["01 06:00", "01 09:00"]


async def test_a_change_of_zone_runs_no_moment_twice_and_takes_effect_at_once(
    autojump_clock,
) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6,9 * * *"), name="job")
        await trio.sleep(4.5 * HOUR)  # 06:00 and 09:00 have run
        scheduler.set_timezone("America/Los_Angeles")
        scheduler.set_timezone(NEW_YORK)
        scheduler.set_timezone(ZoneInfo("America/Chicago"))
        assert [shown(moment) for moment in job.upcoming(2)] == ["01 10:00", "02 07:00"]
        await trio.sleep(HOUR)
    assert desk.ran == ["01 06:00", "01 09:00", "01 10:00"]


async def test_a_change_of_zone_keeps_what_is_paused_paused(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job")
        scheduler.pause("job")
        scheduler.set_timezone("Europe/London")
        await trio.sleep(DAY)
        assert job.next_run_time is None
    assert desk.ran == []


async def test_an_unknown_zone_changes_nothing(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        with pytest.raises(ValueError, match="unknown timezone"):
            scheduler.set_timezone("Mars/Olympus")
        assert scheduler.timezone is NEW_YORK
