"""The journal: what is made up for after a stop, several daemons, journals that fail."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import trio
from desk import NEW_YORK, Desk, Journal, account, at
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from actp_supervise.cron import At, Cron, Every, MemoryJournal, Overlap, open_scheduler
from actp_supervise.nursery import open_supervisor
from actp_supervise.testing import TrioWallClock

HOUR = 3600.0
DAY = 86400.0


# What is written.


async def test_each_moment_is_claimed_and_its_end_recorded(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), MemoryJournal()

    async def job() -> None:
        await desk.job()
        if desk.time == "01 07:00":
            raise ValueError("boom")

    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(job, trigger=Cron("0 * * * *"), name="job")
        await trio.sleep(2.5 * HOUR)
    assert journal.fires("job") == (
        (at("2026-03-01 06:00"), "succeeded", None),
        (at("2026-03-01 07:00"), "failed", "ValueError: boom"),
    )


async def test_what_is_skipped_missed_and_cancelled_is_recorded_too(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, 1.5 * HOUR, trigger=Cron("0 * * * *"), name="job")
        await trio.sleep(2.5 * HOUR)
        desk.wall.step(3 * HOUR)  # from 07:30 to 10:30
        await trio.sleep(1)
    assert journal.rows() == [
        ("01 06:00", "succeeded"),
        ("01 07:00", "skipped"),
        ("01 08:00", "missed"),
        ("01 09:00", "missed"),
        ("01 10:00", "cancelled"),
    ]


async def test_what_waits_at_shutdown_is_recorded_in_the_journal(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(
            desk.job, 10 * HOUR, trigger=Cron("0 * * * *"), name="job", overlap=Overlap.QUEUE
        )
        await trio.sleep(2.5 * HOUR)
    assert journal.rows() == [("01 06:00", "cancelled"), ("01 07:00", "cancelled")]


async def test_a_run_by_hand_is_not_journaled(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job")
        assert (await scheduler.run_now("job")).outcome == "succeeded"
    assert journal.rows() == []


# What is made up for.


async def up(desk: Desk, journal, seconds: float, **options) -> list[tuple[str, str]]:
    """Have a daemon with one hourly job live for some seconds; return the job's account."""
    options = {"trigger": Cron("0 * * * *"), **options}
    async with desk.scheduler(journal=journal) as scheduler:
        job = scheduler.add(desk.job, name="job", **options)
        await trio.sleep(seconds)
        return account(job)


async def test_moments_that_passed_while_the_daemon_was_down_are_made_up_for(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:00"), MemoryJournal()
    await up(desk, journal, 1.5 * HOUR)
    await trio.sleep(4 * HOUR)
    assert sorted(await up(desk, journal, HOUR)) == [
        ("01 07:00", "missed"),
        ("01 08:00", "missed"),
        ("01 09:00", "missed"),
        ("01 10:00", "succeeded"),
        ("01 11:00", "succeeded"),
    ]
    assert desk.ran == ["01 06:00", "01 10:30", "01 11:00"]


async def test_a_job_that_is_new_makes_up_for_nothing(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:59"), MemoryJournal()
    assert await up(desk, journal, HOUR) == [("01 06:00", "succeeded")]


async def test_what_is_to_run_is_claimed_before_what_was_missed(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    await up(desk, journal, 1.5 * HOUR)
    journal.delay = 1.0
    await trio.sleep(4 * HOUR)
    await up(desk, journal, 60)
    assert desk.ran == ["01 06:00", "01 10:30:02"]  # last_fire, claim
    assert [outcome for _, outcome in journal.rows()] == ["succeeded", *["missed"] * 3, "succeeded"]


async def test_a_restart_in_the_minute_of_a_run_does_not_repeat_it(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:59"), MemoryJournal()
    await up(desk, journal, 61)
    assert await up(desk, journal, 61) == []
    assert desk.ran == ["01 06:00"]


async def test_a_changed_zone_after_a_restart_repeats_no_moment(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), MemoryJournal()
    await up(desk, journal, 1.5 * HOUR, trigger=Cron("0 6 * * *"))
    async with desk.scheduler(journal=journal, timezone="America/Chicago") as scheduler:
        scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job")
        await trio.sleep(HOUR)
    assert desk.ran == ["01 06:00", "01 07:00"]


async def test_every_without_an_anchor_keeps_its_beat_across_a_restart(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00:07"), MemoryJournal()
    await up(desk, journal, 25, trigger=Every(10.0))
    await trio.sleep(100)
    await up(desk, journal, 16, trigger=Every(10.0))
    assert desk.ran == [
        "01 05:00:17",
        "01 05:00:27",
        "01 05:02:12",  # for 05:02:07
        "01 05:02:17",
        "01 05:02:27",
    ]


async def test_a_once_job_that_passed_while_the_daemon_was_down_is_made_up_for_once(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 06:30"), MemoryJournal()
    once = At(at("2026-03-01 06:00"))
    assert await up(desk, journal, 60, trigger=once) == [("01 06:00", "succeeded")]
    assert await up(desk, journal, 60, trigger=once) == []
    late = At(at("2026-03-01 01:00"))
    assert await up(desk, Journal(), 60, trigger=late) == [("01 01:00", "missed")]


async def test_a_claim_from_when_the_clock_was_ahead_does_not_hold_a_job(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:30"), MemoryJournal()
    await journal.claim("job", datetime(2030, 1, 1, 6, tzinfo=UTC))
    assert await up(desk, journal, HOUR) == [("01 06:00", "succeeded")]


async def test_a_long_absence_is_made_up_for_without_a_walk(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), MemoryJournal()
    options = {"trigger": Cron("* * * * * *"), "misfire_grace": 600.0}
    await up(desk, journal, 1.5, **options)
    desk.wall.step(30 * DAY)
    runs = await up(desk, journal, 1.0, **options)
    assert runs[-1] == ("31 06:00:02", "succeeded")
    assert desk.ran == ["01 05:00:01", "31 06:00:01", "31 06:00:02"]


async def test_a_supervised_scheduler_goes_on_where_it_was_after_a_restart(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), MemoryJournal()
    starts = []

    async def routines() -> None:
        starts.append(desk.time)
        async with open_scheduler(
            timezone=NEW_YORK, wall_clock=desk.wall, journal=journal
        ) as scheduler:
            scheduler.add(desk.job, trigger=Cron("*/30 * * * *"), name="job")
            await trio.sleep(1.25 * HOUR)
            raise RuntimeError("something else broke")

    async with open_supervisor(limit=None) as supervisor:
        supervisor.start_soon(routines)
        await trio.sleep(3 * HOUR + 60)
        await supervisor.shutdown()
    assert starts == ["01 05:00", "01 06:15", "01 07:30"]
    # The moment of the second crash is that of a run, which the third start makes up for.
    assert desk.ran == [
        "01 05:30",
        "01 06:00",
        "01 06:30",
        "01 07:00",
        "01 07:30",
        "01 08:00",
    ]


# Several daemons.


async def test_of_two_daemons_one_fires_each_moment(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    journal.delay = 0.5
    async with trio.open_nursery() as nursery:
        nursery.start_soon(up, desk, journal, DAY + 1)
        nursery.start_soon(up, desk, journal, DAY + 1)
    assert len(desk.ran) == 24
    assert len(set(desk.ran)) == 24


async def test_a_daemon_that_slept_records_nothing_that_another_has_run(autojump_clock) -> None:
    journal = MemoryJournal()
    here, there = Desk("2026-03-01 05:00"), Desk("2026-03-01 05:00")
    async with (
        here.scheduler(journal=journal) as sleepy,
        there.scheduler(journal=journal) as awake,
    ):
        asleep = sleepy.add(here.job, trigger=Cron("0 * * * *"), name="job")
        here.wall.step(-10 * HOUR)  # it will jump ten hours ahead when it wakes
        awake.add(there.job, trigger=Cron("0 * * * *"), name="job")
        await trio.sleep(4.5 * HOUR)
        here.wall.step(10 * HOUR)
        await trio.sleep(HOUR)
        runs = account(asleep)
    assert [run for run in runs if run[0] in ("01 06:00", "01 07:00", "01 08:00", "01 09:00")] == []
    assert len(there.ran) + len(here.ran) == len(set(there.ran + here.ran))


@given(
    lives=st.lists(
        st.tuples(st.booleans(), st.integers(60, 20 * 3600), st.integers(0, 8 * 3600)),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=60, deadline=None)
def test_daemons_that_come_and_go_fire_each_moment_once(lives) -> None:
    """Two daemons, each up and down at random; with no grace and no coalescing nothing is lost."""
    start = datetime(2026, 3, 7, 12, 0, 30, tzinfo=UTC)
    trigger = Cron("0 * * * *")
    ran: list[datetime] = []

    async def main() -> datetime:
        wall, journal = TrioWallClock(start), MemoryJournal()

        async def daemon(which: bool) -> None:
            for here, life, pause in [(True, 600, 0), *lives, (True, 60, 0), (False, 60, 0)]:
                if here is which:
                    async with open_scheduler(
                        wall_clock=wall, timezone=NEW_YORK, journal=journal, history=1000
                    ) as scheduler:
                        job = scheduler.add(
                            trio.lowlevel.checkpoint,
                            trigger=trigger,
                            name="job",
                            misfire_grace=None,
                            coalesce=False,
                            overlap=Overlap.ALLOW,
                        )
                        await trio.sleep(life)
                        await scheduler.shutdown()
                        ran.extend(run.scheduled_at for run in job.history)
                else:
                    await trio.sleep(life)
                await trio.sleep(pause)

        # Both know the job from the start, or else the later one would not know since when it is.
        await journal.claim("job", start)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon, True)
            nursery.start_soon(daemon, False)
        return wall.now()

    end = trio.run(main, clock=MockClock(autojump_threshold=0))

    hours = int((end - start) / timedelta(hours=1))
    first = start.replace(minute=0, second=0) + timedelta(hours=1)
    expected = [first + timedelta(hours=n) for n in range(hours + 1)]
    assert sorted(ran) == [moment for moment in expected if moment <= end]


# Journals that fail.


async def test_a_journal_that_is_away_is_asked_until_it_answers(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job")
        await trio.sleep(0.99 * HOUR)
        journal.away = True
        await trio.sleep(0.1 * HOUR)
        assert desk.ran == []
        journal.away = False
        await trio.sleep(61)
        assert account(job) == [("01 06:00", "succeeded")]
    assert journal.rows() == [("01 06:00", "succeeded")]


async def test_a_journal_that_is_away_for_longer_than_the_grace_makes_the_run_missed(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job", misfire_grace=600.0)
        await trio.sleep(0.9 * HOUR)
        journal.away = True
        await trio.sleep(HOUR)
        assert account(job) == [("01 06:00", "missed")]
        assert "connection refused" in job.last_run.error
    assert desk.ran == []


async def test_a_job_waits_for_the_journal_to_say_where_it_goes_on(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    journal.away = True
    async with desk.scheduler(journal=journal) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job")
        assert job.next_run_time == at("2026-03-01 06:00")
        await trio.sleep(600)
        assert desk.ran == []
        journal.away = False
        await trio.sleep(61)
        assert account(job) == [("01 06:00", "succeeded")]


async def test_an_end_is_recorded_when_the_journal_is_back(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        job = scheduler.add(desk.job, 60.0, trigger=Cron("* * * * *"), name="job")
        await trio.sleep(100)
        journal.away = True
        await trio.sleep(3600)
        assert journal.rows() == [("01 06:00", None)]
        assert job.history[0].outcome == "succeeded"
        journal.away = False
        await trio.sleep(61)
    assert journal.rows()[0] == ("01 06:00", "succeeded")


async def test_a_journal_that_hangs_is_asked_again(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job")
        await trio.sleep(10)
        journal.delay = 1000.0
        await trio.sleep(60)
        journal.delay = 0.0
        await trio.sleep(60)
        assert account(job) == [("01 06:00", "succeeded")]


async def test_a_hanging_journal_does_not_hold_the_others_or_the_shutdown(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, 90.0, trigger=Cron("* * * * *"), name="job")
        await trio.sleep(61)
        journal.delay = 10_000.0
        await trio.sleep(600)
        before = trio.current_time()
        await scheduler.shutdown()
        assert trio.current_time() - before <= 15.0


async def test_waiting_for_a_journal_does_not_hold_the_shutdown(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, trigger=Cron("* * * * *"), name="job")
        await trio.sleep(1)
        journal.away = True
        await trio.sleep(1000)
        before = trio.current_time()
        await scheduler.shutdown()
        assert trio.current_time() == before


async def test_a_moment_claimed_while_the_scheduler_stops_is_recorded_as_cancelled(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job")
        await trio.sleep(1)
        journal.delay = 2.0
        await trio.sleep(60)  # the claim has a second to go
    assert desk.ran == []
    assert account(job) == [("01 06:00", "cancelled")]
    assert journal.rows() == [("01 06:00", "cancelled")]
    assert [event for event in desk.events if getattr(event, "error", None)] == []


async def test_what_is_not_yet_claimed_when_the_scheduler_stops_is_left_to_other_daemons(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, trigger=Cron("*/15 * * * *"), name="job", coalesce=False)
        await trio.sleep(1)
        journal.delay = 2.0
        desk.wall.step(HOUR)  # four moments, which are claimed one by one
        await trio.sleep(3)
    assert journal.rows() == [("01 05:15", "succeeded"), ("01 05:30", "cancelled")]


async def test_last_fire_without_a_zone_is_not_believed(autojump_clock, caplog) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()

    async def naive(job_name: str) -> datetime:
        return at("2026-03-01 01:00").replace(tzinfo=None)

    journal.last_fire = naive
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job")
        await trio.sleep(120)
    assert desk.ran == []
    assert "last_fire answered with a naive moment" in caplog.text


# Changes while the journal is asked.


async def test_a_job_removed_or_paused_while_the_journal_is_asked_does_not_run(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    journal.delay = 4.0
    async with desk.scheduler(journal=journal) as scheduler:
        for name in ("removed", "paused", "kept", "dropped"):
            scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name=name)
        scheduler.remove("removed")
        scheduler.pause("paused")
        await trio.sleep(61)
        scheduler.remove("dropped")  # its claim is under way
        await trio.sleep(3600)
        assert journal.rows("dropped") == [("01 06:00", "skipped")]
        assert journal.rows("removed") == []
        assert desk.ran == ["01 06:00:04"]
        assert account(scheduler["kept"]) == [("01 06:00", "succeeded")]
        assert account(scheduler["paused"]) == []
        scheduler.resume("paused")
        assert scheduler["paused"].next_run_time == at("2026-03-02 06:00")


async def test_a_job_paused_while_its_claim_is_under_way_is_skipped(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job")
        await trio.sleep(1)
        journal.delay = 4.0
        await trio.sleep(60)
        scheduler.pause("job")
        assert account(job) == [("01 06:00", "skipped")]
        await trio.sleep(60)
        assert journal.rows() == [("01 06:00", "skipped")]
        assert len(job.history) == 1
    assert desk.ran == []


async def test_the_moments_of_a_removed_job_are_left_to_other_daemons(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, trigger=Cron("0 * * * *"), name="job")
        await trio.sleep(1)
        journal.delay = 1.0
        desk.wall.step(4 * HOUR)
        await trio.sleep(2.5)  # the claim of 09:00, then that of 06:00 and what became of it
        scheduler.remove("job")
        await trio.sleep(60)
    assert journal.rows() == [("01 06:00", "missed"), ("01 09:00", "succeeded")]


# Fires that a daemon died in.


@pytest.mark.parametrize("again", [False, True])
async def test_an_interrupted_run_is_recorded_and_run_again_if_its_job_says_so(
    again, autojump_clock
) -> None:
    desk, journal = Desk("2026-03-01 06:10"), Journal()
    moment = at("2026-03-01 06:00").astimezone(UTC)
    await journal.memory.claim("job", moment)
    journal.interrupted = [("job", moment), ("unknown", moment)]
    async with desk.scheduler(journal=journal) as scheduler:
        job = scheduler.add(
            desk.job, trigger=Cron("0 6 * * *"), name="job", rerun_interrupted=again
        )
        await trio.sleep(60)
        if again:
            assert account(job) == [("01 06:00", "interrupted"), ("01 06:00", "succeeded")]
            assert journal.rows() == [("01 06:00", "succeeded")]
        else:
            assert account(job) == [("01 06:00", "interrupted")]
            assert journal.rows() == [("01 06:00", "interrupted")]


async def test_an_interrupted_run_is_not_run_again_when_it_is_too_late(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 08:00"), Journal()
    moment = at("2026-03-01 06:00").astimezone(UTC)
    await journal.memory.claim("job", moment)
    journal.interrupted = [("job", moment)]
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job", rerun_interrupted=True)
        await trio.sleep(60)
    assert desk.ran == []
    assert journal.rows() == [("01 06:00", "interrupted")]


async def test_an_interrupted_run_of_a_job_that_is_paused_is_not_run_again(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 06:10"), Journal()
    moment = at("2026-03-01 06:00").astimezone(UTC)
    await journal.memory.claim("job", moment)
    journal.interrupted = [("job", moment)]
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job", rerun_interrupted=True)
        scheduler.pause("job")
        await trio.sleep(60)
    assert desk.ran == []
    assert journal.rows() == [("01 06:00", "interrupted")]


async def test_another_daemons_death_is_noticed_while_this_one_lives(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    moment = at("2026-03-01 06:00").astimezone(UTC)
    await journal.memory.claim("job", moment)
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job", rerun_interrupted=True)
        await trio.sleep(600)
        assert desk.ran == []
        journal.interrupted = [("job", moment)]
        await trio.sleep(61)
    assert len(desk.ran) == 1
    assert journal.rows() == [("01 06:00", "succeeded")]


# The journal in memory.


async def test_the_journal_in_memory_keeps_the_last_moments_of_each_job() -> None:
    journal = MemoryJournal(keep=2)
    moments = [datetime(2026, 3, day, tzinfo=UTC) for day in (1, 2, 3)]
    assert [await journal.claim("a", moment) for moment in moments] == [True, True, True]
    assert await journal.claim("a", moments[2]) is False
    assert await journal.claim("b", moments[2]) is True
    await journal.finished("a", moments[0], "succeeded", None)
    await journal.finished("a", moments[1], "failed", "boom")
    assert journal.fires("a") == ((moments[1], "failed", "boom"), (moments[2], None, None))
    assert await journal.last_fire("a") == moments[2]
    assert await journal.last_fire("c") is None
