"""A deploy that changes a schedule: moments count from the change on, not from the last run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import trio
from desk import Desk, Journal, account, at

from actp_supervise.cron import AnyOf, At, Cron, Every, MemoryJournal, Trigger

HOUR = 3600.0
DAY = 86400.0


@pytest.fixture(params=["three methods", "remembers schedules"])
def journal(request):
    """A journal of three methods, and one that also remembers since when a schedule is in force."""
    return Journal() if request.param == "three methods" else MemoryJournal()


async def up(desk: Desk, journal, trigger: Trigger, seconds: float, **options) -> list:
    """Run a daemon with this schedule for some seconds; return the job's account."""
    timezone = options.pop("timezone", "America/New_York")
    async with desk.scheduler(journal=journal, timezone=timezone) as scheduler:
        job = scheduler.add(desk.job, trigger=trigger, name="job", **options)
        await trio.sleep(seconds)
        return account(job)


@pytest.mark.parametrize(
    "after",
    [
        Cron("30 6 * * *"),
        Cron("20,40 6 * * *"),
        Cron("0 6 * * *", "America/Halifax"),  # an hour ahead
        AnyOf(Cron("30 6 * * *"), Cron("0 20 * * *")),
        Every(1800.0, datetime(2026, 1, 1, 0, 15, tzinfo=UTC)),
    ],
    ids=str,
)
async def test_a_later_time_of_day_does_not_run_at_once_on_the_day_of_its_deploy(
    after, journal, autojump_clock
) -> None:
    desk = Desk("2026-03-01 05:59")
    await up(desk, journal, Cron("0 6 * * *"), HOUR + 45)  # until 06:59:45
    await up(desk, journal, after, 14.0)
    assert desk.ran == ["01 06:00"]


async def test_a_changed_schedule_goes_on_with_its_next_moment(journal, autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    await up(desk, journal, Cron("0 6 * * *"), HOUR)
    await up(desk, journal, Cron("30 6 * * *"), DAY)
    assert desk.ran == ["01 06:00", "02 06:30"]


async def test_a_schedule_put_back_as_it_was_does_not_make_up_for_the_time_between(
    journal, autojump_clock
) -> None:
    desk = Desk("2026-03-01 05:59")
    await up(desk, journal, Cron("0 6,18 * * *"), HOUR)
    await up(desk, journal, Cron("0 7 * * *"), 11.5 * HOUR)  # until 18:29, with a run at seven
    await up(desk, journal, Cron("0 6,18 * * *"), HOUR)
    assert desk.ran == ["01 06:00", "01 07:00"]


async def test_a_zone_further_west_does_not_run_again_what_ran(journal, autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    await up(desk, journal, Cron("0 6 * * *"), 60.0 + HOUR * 0.5)
    await up(desk, journal, Cron("0 6 * * *"), HOUR, timezone="America/Chicago")
    assert desk.ran == ["01 06:00", "01 07:00"]


async def test_an_unchanged_schedule_makes_up_for_the_time_that_the_daemon_was_down(
    journal, autojump_clock
) -> None:
    desk = Desk("2026-03-01 05:59")
    await up(desk, journal, Cron("0 6,7 * * *"), HOUR * 0.5)
    await trio.sleep(HOUR)
    assert await up(desk, journal, Cron("0  6,7 * * *"), 60.0) == [("01 07:00", "succeeded")]


async def test_a_schedule_that_keeps_the_last_moment_counts_from_its_change_where_it_is_remembered(
    autojump_clock,
) -> None:
    """From six, to six and seven: a journal of three methods cannot tell that from a daemon that
    was down at seven."""
    for journal, ran in ((MemoryJournal(), ["01 06:00"]), (Journal(), ["01 06:00", "01 07:29"])):
        desk = Desk("2026-03-01 05:59")
        await up(desk, journal, Cron("0 6 * * *"), 1.5 * HOUR)
        await up(desk, journal, Cron("0 6,7 * * *"), 60.0)
        assert desk.ran == ran


async def test_a_changed_schedule_makes_up_for_what_it_missed_since_where_that_is_remembered(
    autojump_clock,
) -> None:
    for journal, ran in (
        (MemoryJournal(), ["01 06:00", "02 06:44:15"]),
        (Journal(), ["01 06:00"]),
    ):
        desk = Desk("2026-03-01 05:59")
        await up(desk, journal, Cron("0 6 * * *"), HOUR)
        await up(desk, journal, Cron("30 6 * * *"), 15.0)
        await trio.sleep(23.75 * HOUR)
        await up(desk, journal, Cron("30 6 * * *"), 60.0)
        assert desk.ran == ran


async def test_a_job_that_never_ran_makes_up_for_what_it_missed_where_its_schedule_is_remembered(
    autojump_clock,
) -> None:
    for journal, ran in ((MemoryJournal(), ["01 06:29"]), (Journal(), [])):
        desk = Desk("2026-03-01 05:29")
        await up(desk, journal, Cron("0 6 * * *"), 60.0)
        desk.wall.step(HOUR - 60)
        await up(desk, journal, Cron("0 6 * * *"), 60.0)
        assert desk.ran == ran


async def test_a_changed_interval_counts_from_its_change_where_it_is_remembered(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:00"), MemoryJournal()
    await up(desk, journal, Every(3600.0), 2.75 * HOUR)
    await up(desk, journal, Every(1800.0), HOUR + 1)
    assert desk.ran == ["01 06:00", "01 07:00", "01 08:15", "01 08:45"]


async def test_a_once_job_that_was_moved_into_the_past_is_recorded_as_missed(
    journal, autojump_clock
) -> None:
    desk = Desk("2026-03-01 05:59")
    await up(desk, journal, At(at("2026-03-01 06:00")), HOUR)
    moved = At(at("2026-03-01 06:30"))
    assert await up(desk, journal, moved, 60.0) == [("01 06:30", "missed")]
    assert await up(desk, journal, moved, 60.0) == []
    assert desk.ran == ["01 06:00"]


async def test_a_once_job_that_was_moved_ahead_runs(journal, autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    await up(desk, journal, At(at("2026-03-01 06:00")), HOUR)
    await up(desk, journal, At(at("2026-03-01 07:30")), HOUR)
    assert desk.ran == ["01 06:00", "01 07:30"]


class Rounding(Journal):
    """A journal that keeps milliseconds, as some databases do."""

    async def last_fire(self, job_name: str) -> datetime | None:
        last = await super().last_fire(job_name)
        return last and last.replace(microsecond=last.microsecond // 1000 * 1000)


async def test_a_journal_that_rounds_moments_does_not_make_a_schedule_look_changed(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Rounding()
    trigger = Every(600.0, at("2026-03-01 00:00") + timedelta(microseconds=1234))
    await up(desk, journal, trigger, 0.5 * HOUR)
    await trio.sleep(0.5 * HOUR)
    assert sorted(await up(desk, journal, trigger, 60.0)) == [
        ("01 05:30", "missed"),
        ("01 05:40", "missed"),
        ("01 05:50", "succeeded"),
        ("01 06:00", "succeeded"),
    ]


class EveryOtherHour(Trigger):
    """Of one's own: it counts from the moment asked about, and says so by `anchored`."""

    def next_after(self, moment: datetime) -> datetime:
        return moment + timedelta(hours=2)

    def anchored(self, moment: datetime) -> Trigger:
        return Every(7200.0, moment)


async def test_a_trigger_of_ones_own_is_taken_for_unchanged_if_its_last_moment_is_one_of_its(
    journal, autojump_clock
) -> None:
    desk = Desk("2026-03-01 05:00")
    await up(desk, journal, EveryOtherHour(), 2.5 * HOUR)
    await trio.sleep(2 * HOUR)
    await up(desk, journal, EveryOtherHour(), 60.0)
    assert desk.ran == ["01 07:00", "01 09:30"]


class Broken(Trigger):
    """Its text cannot be told."""

    def next_after(self, moment: datetime) -> datetime:
        return Cron("0 * * * *").next_after(moment)

    def identity(self, zone) -> str:
        raise ZeroDivisionError


async def test_a_trigger_whose_text_cannot_be_told_is_known_by_its_last_moment(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:30"), MemoryJournal()
    await up(desk, journal, Broken(), HOUR)
    await trio.sleep(HOUR)
    await up(desk, journal, Broken(), 60.0)
    assert desk.ran == ["01 06:00", "01 07:30"]


async def test_of_two_daemons_with_two_schedules_each_follows_its_own(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:30"), MemoryJournal()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(up, desk, journal, Cron("0 * * * *"), 3 * HOUR)
        await trio.sleep(HOUR)
        nursery.start_soon(up, desk, journal, Cron("15 * * * *"), 3 * HOUR)
    assert desk.ran == [
        "01 06:00",
        "01 07:00",
        "01 07:15",
        "01 08:00",
        "01 08:15",
        "01 09:15",
    ]


async def test_a_schedule_changed_before_the_journal_answered_counts_as_if_added_so(
    journal, autojump_clock
) -> None:
    desk = Desk("2026-03-01 05:59")
    await up(desk, journal, Cron("0 6,7 * * *"), HOUR * 0.5)
    await trio.sleep(HOUR)
    async with desk.scheduler(journal=journal) as scheduler:
        same = scheduler.add(desk.job, trigger=Cron("0 0 1 1 *"), name="job")
        scheduler.reschedule("job", Cron("0 6,7 * * *"))
        await trio.sleep(60)
        if isinstance(journal, Journal):  # the last fire is a moment of the schedule
            assert account(same) == [("01 07:00", "succeeded")]
        assert desk.ran[0] == "01 06:00"
