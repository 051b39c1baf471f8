"""The scheduler: jobs by name, what they show, how runs end, how everything stops."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio
from desk import NEW_YORK, Desk, account, at, shown

from actp_supervise import cron, errors
from actp_supervise.cron import At, Cron, Every, Overlap, open_scheduler
from actp_supervise.nursery import open_supervisor
from actp_supervise.policies import Restart

if TYPE_CHECKING:
    from datetime import datetime

DAY = 86400.0


# Running on time.


async def test_a_job_runs_at_its_moments(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="daily")
        await trio.sleep(3 * DAY - 1)
    assert desk.ran == ["01 06:00", "02 06:00", "03 06:00"]


async def test_a_job_gets_its_arguments(autojump_clock) -> None:
    desk = Desk()
    got = []

    async def job(*args: object) -> None:
        got.append(args)

    async with desk.scheduler() as scheduler:
        scheduler.add(job, 1, "two", trigger=Every(60.0))
        await trio.sleep(61)
    assert got == [(1, "two")]


async def test_a_job_due_at_the_moment_of_its_adding_runs_the_next_time(autojump_clock) -> None:
    desk = Desk("2026-03-01 06:00")
    async with desk.scheduler() as scheduler:
        scheduler.add(desk.job, trigger=Cron("0 6 * * *"))
        await trio.sleep(DAY + 1)
    assert desk.ran == ["02 06:00"]


async def test_jobs_are_read_in_the_schedulers_zone_unless_they_name_their_own(
    autojump_clock,
) -> None:
    desk = Desk("2026-03-01 00:30")
    async with desk.scheduler(timezone="Europe/London") as scheduler:
        scheduler.add(desk.job, trigger=Cron("0 6 * * *"))
        scheduler.add(desk.job, trigger=Cron("0 6 * * *", "America/New_York"))
        await trio.sleep(DAY / 2)
    assert desk.ran == ["01 01:00", "01 06:00"]


async def test_the_daylight_rules_hold_in_a_running_scheduler(autojump_clock) -> None:
    desk = Desk("2026-03-07 12:00")
    async with desk.scheduler() as scheduler:
        scheduler.add(desk.job, trigger=Cron("30 2 * * *"))
        await trio.sleep(2 * DAY)
    assert desk.ran == ["08 03:00", "09 02:30"]


async def test_every_without_an_anchor_counts_from_when_it_was_added_and_does_not_drift(
    autojump_clock,
) -> None:
    desk = Desk("2026-03-01 05:00:07")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, 3.0, trigger=Every(10.0))
        await trio.sleep(31)
    assert desk.ran == ["01 05:00:17", "01 05:00:27", "01 05:00:37"]
    assert job.trigger == Every(10.0)


async def test_a_once_job_runs_once_and_stays_in_the_list_without_a_next_run(
    autojump_clock,
) -> None:
    desk = Desk()
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=At(at("2026-03-01 07:00")))
        await trio.sleep(DAY)
        assert scheduler.jobs == (job,)
        assert job.next_run_time is None
    assert desk.ran == ["01 07:00"]


async def test_a_once_job_that_was_past_when_added_is_recorded_as_missed(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=At(at("2026-03-01 04:59")))
        await trio.sleep(60)
        assert account(job) == [("01 04:59", "missed")]
        assert job.last_run.error == "past when the job was added"
    assert desk.ran == []


async def test_jobs_due_at_one_moment_all_run_at_it(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    async with desk.scheduler() as scheduler:
        for n in range(500):
            scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name=f"job {n}")
        await trio.sleep(61)
    assert desk.ran == ["01 06:00"] * 500


async def test_one_task_serves_all_jobs_however_many(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        for n in range(10_000):
            scheduler.add(desk.job, trigger=Cron(f"{n % 60} 6 * * *"), name=str(n))
        await trio.testing.wait_all_tasks_blocked()
        children = scheduler._supervisor.children
        assert [child.name for child in children] == ["(dispatch)"]


# What is to be seen.


async def test_next_run_time_is_the_moment_in_the_zone_of_the_schedule(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), jitter=900.0)
        other = scheduler.add(desk.job, trigger=Cron("0 6 * * *", "Asia/Tokyo"), name="tokyo")
        assert job.next_run_time == at("2026-03-01 06:00")
        assert job.next_run_time.tzinfo is NEW_YORK
        assert other.next_run_time.isoformat() == "2026-03-02T06:00:00+09:00"
        await trio.sleep(3600 + 900)
        assert job.next_run_time == at("2026-03-02 06:00")


async def test_upcoming_lists_the_next_moments(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 11,15 * * *"))
        assert [shown(moment) for moment in job.upcoming(3)] == ["01 11:00", "01 15:00", "02 11:00"]
        assert job.upcoming(0) == ()
        once = scheduler.add(desk.job, trigger=At(at("2026-03-01 05:00")), name="past")
        assert once.upcoming(3) == ()


async def test_history_tells_when_each_run_was_due_began_and_ended_and_how(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")

    async def fails() -> None:
        await trio.sleep(5)
        raise ValueError("no such luck\nand more")

    async with desk.scheduler() as scheduler:
        good = scheduler.add(desk.job, 10.0, trigger=Cron("0 6 * * *"), name="good")
        bad = scheduler.add(fails, trigger=Cron("0 6 * * *"), name="bad")
        await trio.sleep(2 * 3600)
        (run,) = good.history
        assert run == good.last_run
        assert (run.outcome, run.error) == ("succeeded", None)
        assert run.scheduled_at == run.started_at == at("2026-03-01 06:00")
        assert run.finished_at == at("2026-03-01 06:00:10")
        (run,) = bad.history
        assert (run.outcome, run.error) == ("failed", "ValueError: no such luck")
        assert run.finished_at == at("2026-03-01 06:00:05")


async def test_history_is_bounded(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler(history=3) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("* * * * *"))
        assert (job.history, job.last_run) == ((), None)
        await trio.sleep(601)
        assert [shown(run.scheduled_at) for run in job.history] == [
            "01 05:08",
            "01 05:09",
            "01 05:10",
        ]


async def test_running_tells_of_the_runs_under_way(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, 100.0, trigger=Cron("0 6 * * *"))
        assert job.running == ()
        await trio.sleep(90)
        (run,) = job.running
        assert (run.started_at, run.finished_at, run.outcome) == (
            at("2026-03-01 06:00"),
            None,
            None,
        )
        await trio.sleep(90)
        assert job.running == ()


async def test_a_run_and_a_job_say_what_they_are(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="daily")
        assert repr(job) == "<Job 'daily': At 06:00 every day, next 2026-03-01 06:00:00-05:00>"
        assert repr(scheduler) == "<Scheduler 'scheduler': 1 jobs>"
        scheduler.pause("daily")
        assert repr(job) == "<Job 'daily': At 06:00 every day, paused>"
        await scheduler.run_now("daily")
        assert json.loads(json.dumps(job.last_run.to_dict())) == {
            "scheduled_at": "2026-03-01T05:59:00-05:00",
            "started_at": "2026-03-01T05:59:00-05:00",
            "finished_at": "2026-03-01T05:59:00-05:00",
            "outcome": "succeeded",
            "error": None,
        }


async def test_events_tell_of_runs_and_pass_up_the_tree(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    above = []

    async def fails() -> None:
        raise ValueError("boom")

    async def child() -> None:
        async with desk.scheduler(name="routines") as scheduler:
            scheduler.add(fails, trigger=Cron("0 6 * * *"), name="daily")
            await trio.sleep(120)

    async with open_supervisor(name="root", on_event=above.append) as supervisor:
        supervisor.start_soon(child, name="scheduler", restart=Restart.TEMPORARY)
    assert desk.actions() == ["run_started", "run_failed"]
    failed = next(event for event in above if event.action == "run_failed")
    assert failed.path == ("root", "scheduler", "routines", "daily")
    assert failed.run.error == "ValueError: boom"
    assert "raise ValueError" in str(failed.traceback)
    as_json = json.loads(json.dumps(failed.to_dict()))
    assert as_json["outcome"] == "failed"
    assert as_json["scheduled_at"] == "2026-03-01T06:00:00-05:00"


async def test_the_runs_of_a_scheduler_are_in_the_tree(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    seen = []
    async with open_supervisor(name="root") as supervisor:

        async def child() -> None:
            async with desk.scheduler(name="routines") as scheduler:
                scheduler.add(desk.job, 60.0, trigger=Cron("0 6 * * *"), name="daily")
                await trio.sleep(90)
                seen.append(str(supervisor.tree()))

        supervisor.start_soon(child, name="scheduler", restart=Restart.TEMPORARY)
    assert "routines" in seen[0]
    assert "daily" in seen[0]


# Names and options.


async def test_names_are_unique_among_the_jobs(autojump_clock) -> None:
    desk = Desk()
    async with desk.scheduler() as scheduler:
        scheduler.add(desk.job, trigger=Every(60.0), name="daily")
        with pytest.raises(errors.DuplicateChildError, match="has a job 'daily' already"):
            scheduler.add(desk.job, trigger=Every(60.0), name="daily")


async def test_an_unnamed_job_is_named_after_its_function(autojump_clock) -> None:
    desk = Desk()
    async with desk.scheduler() as scheduler:
        for _ in range(3):
            scheduler.add(desk.job, trigger=Every(60.0))
        assert [job.name for job in scheduler.jobs] == ["job", "job-2", "job-3"]


async def test_jobs_are_found_by_name(autojump_clock) -> None:
    desk = Desk()
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Every(60.0), name="daily")
        assert scheduler["daily"] is job
        assert "daily" in scheduler
        assert "weekly" not in scheduler
        for call in (
            scheduler.remove,
            scheduler.pause,
            scheduler.resume,
            scheduler.__getitem__,
            lambda name: scheduler.reschedule(name, Every(1.0)),
        ):
            with pytest.raises(errors.ChildNotFoundError, match="has no job 'weekly'"):
                call("weekly")
        with pytest.raises(errors.ChildNotFoundError, match="has no job 'weekly'"):
            await scheduler.run_now("weekly")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"misfire_grace": -1.0}, ValueError, "misfire_grace must be a number of seconds from 0"),
        ({"misfire_grace": float("nan")}, ValueError, "misfire_grace must be"),
        ({"jitter": -1.0}, ValueError, "jitter must be a number of seconds from 0"),
        ({"jitter": float("inf")}, ValueError, "jitter must be"),
        ({"timeout": 0.0}, ValueError, "timeout must be a positive number of seconds"),
        ({"overlap": "skip"}, TypeError, "overlap must be an Overlap, not 'skip'"),
        ({"trigger": "0 6 * * *"}, TypeError, "a trigger is a Cron, Every, At or AnyOf"),
    ],
)
async def test_a_bad_option_is_an_error_that_names_it(
    options, error, message, autojump_clock
) -> None:
    desk = Desk()
    async with desk.scheduler() as scheduler:
        with pytest.raises(error, match=message):
            scheduler.add(desk.job, **{"trigger": Every(60.0), **options})
        assert scheduler.jobs == ()


async def test_a_bad_expression_is_an_error_at_add_that_names_the_field(autojump_clock) -> None:
    desk = Desk()
    async with desk.scheduler() as scheduler:
        with pytest.raises(ValueError, match="bad minute '61'"):
            scheduler.add(desk.job, trigger=Cron("61 * * * *"))


async def test_what_is_no_async_function_is_refused(autojump_clock) -> None:
    desk = Desk()
    async with desk.scheduler() as scheduler:
        with pytest.raises(TypeError, match="not a coroutine object"):
            scheduler.add(desk.job(), trigger=Every(60.0))
        with pytest.raises(TypeError, match="a job is an async function, not 5"):
            scheduler.add(5, trigger=Every(60.0))


async def test_the_options_of_the_scheduler_are_checked(autojump_clock) -> None:
    with pytest.raises(ValueError, match="unknown timezone 'Mars/Olympus'"):
        open_scheduler(timezone="Mars/Olympus")
    with pytest.raises(ValueError, match="history must be a count from 1"):
        open_scheduler(history=0)


async def test_schedulers_and_jobs_are_made_by_their_functions_only(autojump_clock) -> None:
    with pytest.raises(TypeError, match="open_scheduler"):
        cron.Scheduler()
    with pytest.raises(TypeError, match=r"Scheduler\.add"):
        cron.Job()


async def test_a_wall_clock_without_a_zone_is_refused(autojump_clock) -> None:
    class Naive:
        def now(self):
            return at("2026-03-01 06:00").replace(tzinfo=None)

    with pytest.raises(errors.RestartLimitExceeded) as caught:
        async with open_scheduler(wall_clock=Naive()):
            pass
    assert "wall clock answered with a naive moment" in str(caught.value.__cause__)


class FailingClock:
    """A desk's clock, which fails once when told to."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.fails = False

    def now(self) -> datetime:
        if self.fails:
            self.fails = False
            raise OSError("no clock")
        return self.desk.wall.now()


async def test_a_wall_clock_that_fails_once_is_looked_at_again(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    clock = FailingClock(desk)
    async with desk.scheduler(wall_clock=clock) as scheduler:
        scheduler.add(desk.job, trigger=Cron("0 6 * * *"))
        await trio.sleep(100)
        clock.fails = True
        await trio.sleep(2 * 3600)
    assert desk.ran == ["01 06:00"]


async def test_a_run_at_whose_end_the_wall_clock_fails_is_recorded_without_its_time(
    autojump_clock,
) -> None:
    clock = FailingClock(Desk("2026-03-01 05:00"))

    async def job() -> None:
        clock.fails = True

    async with clock.desk.scheduler(wall_clock=clock) as scheduler:
        scheduler.add(job, name="daily", trigger=Cron("0 6 * * *"))
        with trio.fail_after(60):
            run = await scheduler.run_now("daily")
        assert (run.outcome, run.finished_at) == ("succeeded", None)
        assert scheduler["daily"].history == (run,)


# Changes while running.


async def test_a_removed_job_runs_no_more_and_its_name_is_free(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:59")
    async with desk.scheduler() as scheduler:
        scheduler.add(desk.job, 90.0, trigger=Cron("* * * * *"), name="daily")
        await trio.sleep(90)
        scheduler.remove("daily")
        job = scheduler.add(desk.job, trigger=Cron("30 6 * * *"), name="daily")
        await trio.sleep(3600)
        assert scheduler.jobs == (job,)
    assert desk.ran == ["01 06:00", "01 06:30"]


async def test_the_moments_of_a_paused_job_pass_unnoticed(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 * * * *"), name="hourly")
        await trio.sleep(1.5 * 3600)
        scheduler.pause("hourly")
        assert job.paused
        assert job.next_run_time is None
        await trio.sleep(2 * 3600)
        scheduler.resume("hourly")
        assert job.next_run_time == at("2026-03-01 09:00")
        await trio.sleep(3600)
        assert account(job) == [("01 06:00", "succeeded"), ("01 09:00", "succeeded")]


async def test_resuming_what_is_not_paused_changes_nothing(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        scheduler.add(desk.job, trigger=Every(60.0), name="job")
        await trio.sleep(30)
        scheduler.resume("job")
        scheduler.pause("job")
        scheduler.pause("job")
        scheduler.resume("job")
        await trio.sleep(100)
    assert desk.ran == ["01 05:01", "01 05:02"]


async def test_a_rescheduled_job_follows_its_new_trigger_at_once(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job")
        await trio.sleep(60)
        scheduler.reschedule("job", Every(600.0))
        assert job.trigger == Every(600.0)
        await trio.sleep(1300)
        scheduler.pause("job")
        scheduler.reschedule("job", Cron("0 7 * * *"))
        assert job.next_run_time is None
        await trio.sleep(DAY)
        scheduler.resume("job")
        await trio.sleep(DAY)
    assert desk.ran == ["01 05:11", "01 05:21", "02 07:00"]


async def test_changes_may_come_from_any_task_and_wake_the_scheduler(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler, trio.open_nursery() as nursery:
        scheduler.add(desk.job, trigger=Cron("0 0 1 1 *"), name="yearly")

        async def elsewhere() -> None:
            await trio.sleep(10)
            scheduler.add(desk.job, trigger=Every(5.0), name="soon")
            await trio.sleep(7)
            scheduler.reschedule("yearly", Every(2.0))
            scheduler.remove("soon")
            await trio.sleep(3)

        nursery.start_soon(elsewhere)
    assert desk.ran == ["01 05:00:15", "01 05:00:19"]


async def test_a_job_may_add_change_and_remove_jobs_itself_too(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:

        async def job() -> None:
            scheduler.remove("first")
            scheduler.add(desk.job, trigger=Every(10.0), name="second")

        scheduler.add(job, trigger=Every(60.0), name="first")
        await trio.sleep(75)
    assert desk.ran == ["01 05:01:10"]


async def test_a_job_changed_ten_thousand_times_leaves_no_trace_in_the_heap(
    autojump_clock,
) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        for n in range(100):
            scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name=str(n))
        for n in range(10_000):
            scheduler.reschedule(str(50 + n % 2), Cron("0 6 * * *"))
            scheduler.pause("20")
            scheduler.resume("20")
        assert len(scheduler._timetable) < 350
        await trio.sleep(2 * 3600)
    assert desk.ran == ["01 06:00"] * 100


# By hand.


async def test_run_now_runs_at_once_and_returns_the_run(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, 5.0, trigger=Cron("0 6 * * *"), name="daily")
        run = await scheduler.run_now("daily")
        assert (run.outcome, run.started_at) == ("succeeded", at("2026-03-01 05:00"))
        assert run.finished_at == at("2026-03-01 05:00:05")
        assert job.history == (run,)
        assert job.next_run_time == at("2026-03-01 06:00")
        scheduler.pause("daily")
        assert (await scheduler.run_now("daily")).outcome == "succeeded"


async def test_run_now_keeps_to_the_overlap_of_its_job(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler, trio.open_nursery() as nursery:
        scheduler.add(desk.job, 60.0, trigger=Cron("0 6 * * *"), name="skips")
        nursery.start_soon(scheduler.run_now, "skips")
        await trio.sleep(1)
        assert (await scheduler.run_now("skips")).outcome == "skipped"
        scheduler.add(
            desk.job, 60.0, trigger=Cron("0 6 * * *"), name="queues", overlap=Overlap.QUEUE
        )
        nursery.start_soon(scheduler.run_now, "queues")
        await trio.sleep(1)
        run = await scheduler.run_now("queues")
        assert run.started_at == at("2026-03-01 05:01:01")


async def test_a_run_by_hand_goes_on_if_its_caller_is_cancelled(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(desk.job, 60.0, trigger=Cron("0 6 * * *"), name="daily")
        with trio.move_on_after(10):
            await scheduler.run_now("daily")
        await trio.sleep(60)
        assert job.last_run.outcome == "succeeded"
