"""The scheduler's runs: how they end, and how everything stops."""

from __future__ import annotations

import contextlib
from datetime import UTC, timedelta

import pytest
import trio
from desk import NEW_YORK, Desk, Journal, account, at

from actp_supervise import errors
from actp_supervise.child import current_child
from actp_supervise.cron import AnyOf, Cron, Every, Overlap, open_scheduler
from actp_supervise.nursery import open_supervisor
from actp_supervise.schedule import Firing
from actp_supervise.testing import TrioWallClock
from actp_supervise.triggers import Trigger

DAY = 86400.0
MINUTE = Cron("* * * * *")


# How runs end.


async def test_a_crash_is_recorded_and_stops_neither_the_job_nor_the_scheduler(
    autojump_clock,
) -> None:
    desk = Desk("2026-03-01 05:00")

    async def fails() -> None:
        raise ValueError("boom")

    async def groups() -> None:
        raise ExceptionGroup("two", [ValueError("a"), KeyError("b")])

    async with desk.scheduler() as scheduler:
        bad = scheduler.add(fails, trigger=Cron("0 * * * *"), name="bad")
        worse = scheduler.add(groups, trigger=Cron("0 * * * *"), name="worse")
        scheduler.add(desk.job, trigger=Cron("0 * * * *"), name="good")
        await trio.sleep(2.5 * 3600)
        assert account(bad) == [("01 06:00", "failed"), ("01 07:00", "failed")]
        assert account(worse) == [("01 06:00", "failed"), ("01 07:00", "failed")]
    assert desk.ran == ["01 06:00", "01 07:00"]


async def test_of_an_error_one_line_of_bounded_length_is_kept(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")

    class Unreadable(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    async def fails(error: Exception) -> None:
        raise error

    async with desk.scheduler() as scheduler:
        for error in (ValueError("x" * 5000), ValueError(), ValueError("a\nb"), Unreadable()):
            scheduler.add(fails, error, trigger=Cron("0 6 * * *"))
        await trio.sleep(2 * 3600)
        assert [job.last_run.error for job in scheduler.jobs] == [
            "ValueError: " + "x" * 1000,
            "ValueError",
            "ValueError: a",
            "Unreadable: its message cannot be read",
        ]


async def fails_with(error: Exception) -> None:
    raise error


async def uses_a_nursery(*errors: Exception) -> None:
    async with trio.open_nursery() as nursery:
        for error in errors:
            nursery.start_soon(fails_with, error)


REFUSED = ConnectionError("database refused")


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([REFUSED], "ConnectionError: database refused"),
        ([REFUSED, ConnectionError("database refused")], "ConnectionError: database refused"),
        (
            [ExceptionGroup("", [ExceptionGroup("", [REFUSED])])],
            "ConnectionError: database refused",
        ),
        ([ValueError("a\nb")], "ValueError: a"),
        ([ValueError("x" * 5000)], f"ValueError: {'x' * (1000 - len('ValueError: '))}"),
    ],
    ids=["one", "the same twice", "nested", "of many lines", "long"],
)
async def test_the_history_names_the_error_of_a_job_that_uses_a_nursery(
    errors, said, autojump_clock
) -> None:
    async with Desk().scheduler() as scheduler:
        scheduler.add(uses_a_nursery, *errors, name="job", trigger=Every(60.0))
        assert (await scheduler.run_now("job")).error == said


async def test_of_a_group_of_errors_the_history_names_the_first_and_counts_the_others(
    autojump_clock,
) -> None:
    errors = [ValueError(str(n)) for n in range(5)]
    async with Desk().scheduler() as scheduler:
        for group in (ExceptionGroup("3 of 50 failed", errors), BaseExceptionGroup("", errors)):
            scheduler.add(fails_with, group, trigger=Every(60.0))
        runs = [await scheduler.run_now(job.name) for job in scheduler.jobs]
    listed = "ValueError: 0; ValueError: 1; ValueError: 2; and 2 more"
    assert [run.error for run in runs] == [f"3 of 50 failed: {listed}", listed]


async def test_a_run_that_takes_longer_than_its_timeout_is_cancelled(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, 600.0, trigger=Cron("0 6 * * *"), timeout=90.0)
        await trio.sleep(3600)
        (run,) = job.history
    assert (run.outcome, run.error) == ("timed_out", "cancelled after 90 s")
    assert run.finished_at == at("2026-03-01 06:01:30")


class Stubborn(Exception):
    """What a job makes of its cancellation."""


async def swallows() -> None:
    with contextlib.suppress(trio.Cancelled):
        await trio.sleep(600)


async def turns_it_into_an_error() -> None:
    try:
        await trio.sleep(600)
    except trio.Cancelled:
        raise Stubborn("gave up") from None


async def fails_in_a_nursery_as_it_ends() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns_it_into_an_error)
        await trio.sleep(600)


async def returns_too_late() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(100)


@pytest.mark.parametrize(
    ("job", "error"),
    [
        (swallows, "cancelled after 90 s"),
        (turns_it_into_an_error, "cancelled after 90 s: Stubborn: gave up"),
        (fails_in_a_nursery_as_it_ends, "cancelled after 90 s: Stubborn: gave up"),
        (returns_too_late, "cancelled after 90 s"),
    ],
)
async def test_whatever_a_run_makes_of_the_end_of_its_time_it_is_timed_out(
    job, error, autojump_clock
) -> None:
    desk = Desk("2026-03-01 05:59")
    async with desk.scheduler() as scheduler:
        scheduler.add(job, name="job", trigger=Cron("0 6 * * *"), timeout=90.0)
        run = await scheduler.run_now("job")
        assert (run.outcome, run.error) == ("timed_out", error)
    failed = [event for event in desk.events if event.action == "run_failed"]
    assert (failed[0].traceback is not None) is ("Stubborn" in error)


@pytest.mark.parametrize(
    ("job", "outcome", "error"),
    [
        (swallows, "cancelled", "it swallowed its cancellation"),
        (turns_it_into_an_error, "failed", "Stubborn: gave up"),
        (fails_in_a_nursery_as_it_ends, "failed", "Stubborn: gave up"),
    ],
)
async def test_what_a_run_makes_of_being_stopped_is_recorded(
    job, outcome, error, autojump_clock
) -> None:
    desk = Desk("2026-03-01 05:59")
    async with desk.scheduler(shutdown_timeout=1.0) as scheduler:
        entry = scheduler.add(job, trigger=Cron("0 6 * * *"))
        await trio.sleep(90)
    assert [(run.outcome, run.error) for run in entry.history] == [(outcome, error)]


async def test_a_replaced_run_that_swallows_its_cancellation_is_cancelled(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler(shutdown_timeout=1.0) as scheduler:
        job = scheduler.add(swallows, trigger=Cron("1,2 5 * * *"), overlap=Overlap.REPLACE)
        await trio.sleep(240)
        assert account(job) == [("01 05:01", "cancelled")]


async def test_a_run_within_its_timeout_succeeds(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, 89.0, trigger=Cron("0 6 * * *"), timeout=90.0)
        await trio.sleep(3600)
        assert job.last_run.outcome == "succeeded"


async def test_a_cancellation_that_nobody_sent_is_a_failure(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    kept = []

    async def job() -> None:
        if not kept:
            with trio.CancelScope() as scope:
                scope.cancel()
                try:
                    await trio.sleep(1)
                except trio.Cancelled as cancelled:
                    kept.append(cancelled)
        raise kept[0]

    async with desk.scheduler() as scheduler:
        bad = scheduler.add(job, trigger=Cron("0 6 * * *"))
        await trio.sleep(3600)
        assert account(bad) == [("01 06:00", "failed")]


async def test_system_exit_in_a_job_stops_everything(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")

    async def leaves() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        async with desk.scheduler() as scheduler:
            job = scheduler.add(leaves, trigger=Cron("0 6 * * *"))
            await trio.sleep_forever()
    assert account(job) == [("01 06:00", "failed")]


async def test_a_trigger_that_fails_ends_its_job_alone_and_is_recorded(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")

    class Fails(Trigger):
        def next_after(self, moment):
            if moment >= at("2026-03-01 06:00"):
                raise ArithmeticError("calendar lost")
            return at("2026-03-01 06:00")

    class Naive(Fails):
        def next_after(self, moment):
            return (
                Every(3600.0)
                .next_after(moment)
                .replace(tzinfo=None if moment >= at("2026-03-01 06:00") else NEW_YORK)
            )

    class Stuck(Fails):
        def next_after(self, moment):
            return at("2026-03-01 06:00")

    async with desk.scheduler() as scheduler:
        bad = [scheduler.add(desk.job, trigger=kind()) for kind in (Fails, Naive, Stuck)]
        good = scheduler.add(desk.job, trigger=Cron("0 * * * *"), name="good")
        await trio.sleep(3.5 * 3600)
        assert [account(job) for job in bad] == [[("01 06:00", "failed")]] * 3
        assert [job.next_run_time for job in bad] == [None] * 3
        assert bad[0].last_run.error == "its trigger failed: ArithmeticError: calendar lost"
        assert "naive moment" in bad[1].last_run.error
        assert "no later moment" in bad[2].last_run.error
        assert len(good.history) == 3


async def test_an_error_in_on_event_harms_nobody(autojump_clock) -> None:
    wall = TrioWallClock(at("2026-03-01 05:59"))
    ran = []

    def fails(event: object) -> None:
        raise ValueError("listener")

    async def job() -> None:
        ran.append(wall.now())

    async with open_scheduler(wall_clock=wall, timezone=NEW_YORK, on_event=fails) as scheduler:
        scheduler.add(job, trigger=Cron("* * * * *"))
        await trio.sleep(121)
        await scheduler.shutdown()
    assert ran == [at("2026-03-01 06:00"), at("2026-03-01 06:01")]


# Stopping.


async def test_leaving_the_block_waits_until_shutdown(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with trio.open_nursery() as nursery:
        async with open_scheduler(timezone=NEW_YORK, wall_clock=desk.wall) as scheduler:
            scheduler.add(desk.job, trigger=Cron("0 6 * * *"))

            async def stop() -> None:
                await trio.sleep(2 * DAY)
                await scheduler.shutdown()

            nursery.start_soon(stop)
        assert trio.current_time() == 2 * DAY
    assert len(desk.ran) == 2


async def test_shutdown_asks_all_runs_at_once_and_cancels_the_late_ones(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    ended = []

    async def polite(name: str) -> None:
        await current_child().stopping.wait()
        await trio.sleep(2)
        ended.append((name, trio.current_time()))

    async def stubborn() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(("stubborn", trio.current_time()))

    async with desk.scheduler(shutdown_timeout=5.0) as scheduler:
        first = scheduler.add(polite, "first", trigger=Cron("0 6 * * *"), name="first")
        second = scheduler.add(polite, "second", trigger=Cron("0 6 * * *"), name="second")
        third = scheduler.add(stubborn, trigger=Cron("0 6 * * *"))
        await trio.sleep(100)
        await scheduler.shutdown()
        assert trio.current_time() == 105.0
    assert sorted(ended) == [("first", 102.0), ("second", 102.0), ("stubborn", 105.0)]
    assert [job.last_run.outcome for job in (first, second, third)] == [
        "succeeded",
        "succeeded",
        "cancelled",
    ]


async def test_a_run_that_listens_has_five_seconds_where_no_time_is_given(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")

    async def listens(seconds: float) -> None:
        await current_child().stopping.wait()
        await trio.sleep(seconds)

    async with desk.scheduler() as scheduler:
        quick = scheduler.add(listens, 4.0, trigger=Cron("0 6 * * *"), name="quick")
        slow = scheduler.add(listens, 6.0, trigger=Cron("0 6 * * *"), name="slow")
        await trio.sleep(100)
        await scheduler.shutdown()
        assert trio.current_time() == 105.0
    assert [job.last_run.outcome for job in (quick, slow)] == ["succeeded", "cancelled"]


async def test_a_run_that_does_not_listen_is_cancelled_at_once_where_no_time_is_given(
    autojump_clock,
) -> None:
    desk = Desk("2026-03-01 05:59")
    async with desk.scheduler(journal=Journal()) as scheduler:
        replaced = scheduler.add(
            desk.job, 90.0, trigger=MINUTE, overlap=Overlap.REPLACE, name="replaced"
        )
        job = scheduler.add(desk.job, 1000.0, trigger=Cron("0 6 * * *"), name="job")
        await trio.sleep(130)
        assert account(replaced) == [("01 06:00", "cancelled")]
        assert replaced.running[0].started_at == at("2026-03-01 06:01")
        await scheduler.shutdown()
        assert trio.current_time() == 130.0
    assert account(job) == [("01 06:00", "cancelled")]
    assert account(replaced)[1:] == [("01 06:01", "cancelled")]


async def test_a_job_may_shut_down_a_scheduler_with_a_journal_and_its_end_is_told(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    journal.delay = 1.0
    async with open_scheduler(
        timezone=NEW_YORK, wall_clock=desk.wall, journal=journal
    ) as scheduler:

        async def last() -> None:
            await scheduler.shutdown()

        scheduler.add(last, trigger=Cron("0 6 * * *"), name="job")
    assert journal.rows() == [("01 06:00", "succeeded")]


async def test_cancelling_the_block_stops_the_runs_as_shutdown_does(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    with trio.move_on_after(100) as scope:
        async with open_scheduler(
            timezone=NEW_YORK, wall_clock=desk.wall, shutdown_timeout=5.0
        ) as scheduler:
            job = scheduler.add(desk.job, 62.0 - 20.0, trigger=Cron("0 6 * * *"))
            late = scheduler.add(desk.job, 1000.0, trigger=Cron("0 6 * * *"), name="late")
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == 105.0
    assert [job.last_run.outcome, late.last_run.outcome] == ["succeeded", "cancelled"]


async def test_what_waits_at_shutdown_is_recorded_as_cancelled(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    results = []
    async with (
        trio.open_nursery() as nursery,
        desk.scheduler(shutdown_timeout=0.0) as scheduler,
    ):
        job = scheduler.add(desk.job, 1000.0, trigger=Cron("1,2 5 * * *"), overlap=Overlap.QUEUE)

        async def by_hand() -> None:
            results.append(await scheduler.run_now("job"))

        await trio.sleep(130)
        nursery.start_soon(by_hand)
        await trio.sleep(1)
    assert sorted(account(job)) == [
        ("01 05:01", "cancelled"),
        ("01 05:02", "cancelled"),
        ("01 05:02:10", "cancelled"),
    ]
    assert results[0].error == "the scheduler stopped before it began"


async def test_a_run_stopped_before_its_first_step_is_recorded_as_cancelled(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"))
        await trio.testing.wait_all_tasks_blocked()
        done = trio.Event()
        firing = Firing(job, at("2026-03-01 05:00"), 0.0, manual=True)
        firing.on_done = done.set
        scheduler._runner.admit(firing)
        await scheduler.shutdown()
        await done.wait()
    assert account(job) == [("01 05:00", "cancelled")]
    assert desk.ran == []


async def test_after_shutdown_nothing_can_be_added_or_run(autojump_clock) -> None:
    desk = Desk()
    async with desk.scheduler() as scheduler:
        scheduler.add(desk.job, trigger=Every(60.0), name="job")
    with pytest.raises(errors.SupervisorClosedError, match="has begun to stop"):
        scheduler.add(desk.job, trigger=Every(60.0))
    with pytest.raises(errors.SupervisorClosedError, match="has begun to stop"):
        await scheduler.run_now("job")


async def test_a_job_may_shut_its_scheduler_down(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    async with open_scheduler(timezone=NEW_YORK, wall_clock=desk.wall) as scheduler:

        async def last() -> None:
            await scheduler.shutdown()
            desk.ran.append(desk.time)

        job = scheduler.add(last, trigger=Cron("0 6 * * *"))
    assert desk.ran == ["01 06:00"]
    assert job.last_run.outcome == "succeeded"


async def test_a_scheduler_stops_with_the_supervisor_above_it(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    jobs = []

    async def child() -> None:
        async with open_scheduler(
            timezone=NEW_YORK, wall_clock=desk.wall, shutdown_timeout=5.0
        ) as scheduler:
            jobs.append(scheduler.add(desk.job, 43.0, trigger=Cron("0 6 * * *")))

    async with open_supervisor(shutdown_timeout=10.0) as supervisor:
        supervisor.start_soon(child, name="scheduler")
        await trio.sleep(100)
        await supervisor.shutdown()
        assert trio.current_time() == 103.0
    assert account(jobs[0]) == [("01 06:00", "succeeded")]


async def test_any_of_several_triggers_makes_a_job_run_once_per_moment(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        trigger = AnyOf(Cron("0 6 * * *"), Cron("0 */6 * * *"), Every(3600.0 * 5))
        scheduler.add(desk.job, trigger=trigger)
        await trio.sleep(DAY / 2)
    assert desk.ran == ["01 06:00", "01 10:00", "01 12:00", "01 15:00"]


async def test_started_at_and_finished_at_are_by_the_wall_clock_even_if_it_is_set_meanwhile(
    autojump_clock,
) -> None:
    desk = Desk("2026-03-01 05:59")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, 60.0, trigger=Cron("0 6 * * *"))
        await trio.sleep(90)
        desk.wall.step(-timedelta(hours=2).total_seconds())
        await trio.sleep(60)
        assert job.last_run.started_at.astimezone(UTC) == at("2026-03-01 06:00").astimezone(UTC)
        assert job.last_run.finished_at == at("2026-03-01 04:01")
