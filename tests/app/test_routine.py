"""DailyRoutineScheduler: which routines there are, when they run, and what is remembered."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import trio
import trio.testing

from actp_supervise import Restart, open_supervisor
from actp_supervise.testing import TrioWallClock
from app.agents.spec import AGENT_SPECS
from app.routine import (
    DailyRoutineScheduler,
    RoutineDisabledError,
    RoutineJob,
    UnknownRoutineError,
)

NEW_YORK = ZoneInfo("America/New_York")
SUNDAY = datetime(2026, 11, 22, 0, 0, tzinfo=NEW_YORK)


def all_routines(**disabled):
    return [
        RoutineJob(
            agent_id=spec.agent_id,
            method=routine.method,
            cron=routine.cron,
            disabled=disabled.get(spec.agent_id),
        )
        for spec in AGENT_SPECS
        for routine in spec.routines
    ]


class Ran:
    """What runs a routine: it notes which and when."""

    def __init__(self, wall_clock):
        self._wall_clock = wall_clock
        self.runs = []

    async def __call__(self, agent_id, method):
        moment = self._wall_clock.now().astimezone(NEW_YORK)
        self.runs.append((moment.strftime("%a %H:%M"), f"{agent_id}.{method}"))


@pytest.fixture
def wall_clock():
    return TrioWallClock(SUNDAY)


@pytest.fixture
def ran(wall_clock):
    return Ran(wall_clock)


@pytest.fixture
async def start(store, wall_clock, ran, nursery):
    """Start routines as a child of a tree, as the daemon does."""
    await store.touch_worker("worker-1", "instance-1", {}, silent_after=1000.0)

    async def start(routines, *, run=ran, instance="instance-1", drain_timeout=30.0):
        scheduler = DailyRoutineScheduler(
            routines,
            run=run,
            store=store,
            instance=instance,
            timezone=NEW_YORK,
            drain_timeout=drain_timeout,
            wall_clock=wall_clock,
        )
        scheduler.setup()

        async def tree(*, task_status):
            async with open_supervisor() as supervisor:
                await supervisor.start(scheduler.start, name="routines", restart=Restart.TRANSIENT)
                task_status.started(supervisor)

        scheduler.tree = await nursery.start(tree)
        return scheduler

    return start


async def test_daily_routine_jobs_registered(clock, start):
    scheduler = await start(all_routines())
    await trio.testing.wait_all_tasks_blocked()
    found = {
        job.name: job.next_run_time.astimezone(NEW_YORK).strftime("%a %H:%M")
        for job in scheduler.jobs()
    }
    assert found == {
        "content.run_daily_pipeline": "Sun 06:00",
        "acquisition.run_pipeline_advance": "Sun 09:00",
        "acquisition.run_daily_prospecting": "Sun 11:00",
        "revenue.run_daily_check": "Sun 08:00",
        "revenue.run_cost_audit": "Sun 23:00",
        "revenue.run_weekly_report": "Sun 20:00",
    }
    assert {job.timezone for job in scheduler.jobs()} == {"America/New_York"}
    weekly = next(job for job in scheduler.jobs() if job.method == "run_weekly_report")
    assert (weekly.schedule, weekly.cron) == ("At 20:00 on Sunday", "0 20 * * 0")


async def test_routines_run_at_their_times_in_the_workers_zone(clock, start, ran):
    await start(all_routines())
    await trio.sleep(timedelta(days=1, hours=12).total_seconds())
    assert ran.runs == [
        ("Sun 06:00", "content.run_daily_pipeline"),
        ("Sun 08:00", "revenue.run_daily_check"),
        ("Sun 09:00", "acquisition.run_pipeline_advance"),
        ("Sun 11:00", "acquisition.run_daily_prospecting"),
        ("Sun 15:00", "acquisition.run_daily_prospecting"),
        ("Sun 20:00", "revenue.run_weekly_report"),
        ("Sun 23:00", "revenue.run_cost_audit"),
        ("Mon 06:00", "content.run_daily_pipeline"),
        ("Mon 08:00", "revenue.run_daily_check"),
        ("Mon 09:00", "acquisition.run_pipeline_advance"),
        ("Mon 11:00", "acquisition.run_daily_prospecting"),
    ]


async def test_of_two_daemons_one_runs_each_moment(clock, store, start, ran):
    await store.touch_worker("worker-2", "instance-2", {}, silent_after=1000.0)
    await start(all_routines())
    await start(all_routines(), instance="instance-2")
    await trio.sleep(7 * 3600)
    assert ran.runs == [("Sun 06:00", "content.run_daily_pipeline")]


async def test_a_routine_that_fails_is_recorded_and_the_others_go_on(clock, store, start):
    async def run(agent_id, method):
        if agent_id == "content":
            raise ValueError("no templates")

    scheduler = await start(all_routines(), run=run)
    await trio.sleep(8.5 * 3600)
    outcomes = {job.name: job.last_run for job in scheduler.jobs() if job.last_run}
    assert outcomes["content.run_daily_pipeline"].outcome == "failed"
    assert "no templates" in outcomes["content.run_daily_pipeline"].error
    assert outcomes["revenue.run_daily_check"].outcome == "succeeded"
    (fire,) = await store.fires("content.run_daily_pipeline")
    assert fire.scheduled_at == datetime(2026, 11, 22, 11, 0, tzinfo=UTC)
    assert fire.outcome == "failed"


async def test_how_it_went_is_known_after_a_restart_of_the_daemon(clock, start):
    first = await start(all_routines())
    await trio.sleep(7 * 3600)
    await first.shutdown()
    second = await start(all_routines(), instance="instance-2")
    last_run = {job.name: job.last_run for job in second.jobs()}
    assert last_run["content.run_daily_pipeline"].outcome == "succeeded"


async def test_a_moment_that_passed_while_no_daemon_ran_is_made_up_for(clock, start, ran):
    first = await start(all_routines())
    await trio.sleep(7 * 3600)
    await first.shutdown()
    await trio.sleep(23.5 * 3600)  # to 06:30 on Monday
    await start(all_routines(), instance="instance-2")
    await trio.sleep(60)
    assert ran.runs[1:] == [("Mon 06:30", "content.run_daily_pipeline")]


async def test_a_disabled_agents_routines_are_listed_and_not_run(clock, start, ran):
    scheduler = await start(all_routines(content="ENABLE_CONTENT_AGENT is false"))
    await trio.sleep(7 * 3600)
    job = scheduler.jobs()[0]
    assert (job.name, job.disabled, job.next_run_time) == (
        "content.run_daily_pipeline",
        "ENABLE_CONTENT_AGENT is false",
        None,
    )
    assert ran.runs == []
    with pytest.raises(RoutineDisabledError, match="ENABLE_CONTENT_AGENT"):
        await scheduler.run_now("content.run_daily_pipeline")


async def test_a_routine_can_be_run_now(clock, start, ran):
    scheduler = await start(all_routines())
    await scheduler.run_now("revenue.run_cost_audit")
    assert ran.runs == [("Sun 00:00", "revenue.run_cost_audit")]


async def test_a_paused_routine_lets_its_times_pass(clock, start, ran):
    scheduler = await start(all_routines())
    await scheduler.pause("content.run_daily_pipeline")
    await trio.sleep(7 * 3600)
    assert scheduler.jobs()[0].paused
    await scheduler.resume("content.run_daily_pipeline")
    assert not scheduler.jobs()[0].paused
    await trio.sleep(24 * 3600)
    times = [moment for moment, name in ran.runs if name == "content.run_daily_pipeline"]
    assert times == ["Mon 06:00"]


async def test_a_paused_routine_stays_paused_when_its_scheduler_is_restarted(clock, start, ran):
    scheduler = await start(all_routines())
    await scheduler.pause("content.run_daily_pipeline")
    await scheduler.tree.restart("routines")
    await trio.sleep(8.5 * 3600)
    assert ran.runs == [("Sun 08:00", "revenue.run_daily_check")]


@pytest.mark.parametrize("ask", ["pause", "resume", "run_now"])
async def test_an_unknown_routine_is_refused_and_the_known_ones_are_named(clock, start, ask):
    scheduler = await start(all_routines())

    async def asked():
        answer = getattr(scheduler, ask)("content.run")
        if answer is not None:
            await answer

    with pytest.raises(UnknownRoutineError, match=r"known are content\.run_daily_pipeline, "):
        await asked()


async def test_stopping_waits_for_a_routine_under_way(clock, start):
    finished = []

    async def run(agent_id, method):
        await trio.sleep(10)
        finished.append(trio.current_time())

    scheduler = await start(all_routines(), run=run)
    await trio.sleep(6 * 3600 + 5)
    await scheduler.shutdown()
    assert finished == [6 * 3600 + 10]


async def test_stopping_at_once_ends_a_routine_under_way(clock, store, start):
    async def run(agent_id, method):
        await trio.sleep_forever()

    scheduler = await start(all_routines(), run=run)
    await trio.sleep(6 * 3600 + 5)
    await scheduler.cancel_all()
    assert trio.current_time() == 6 * 3600 + 5
    (fire,) = await store.fires("content.run_daily_pipeline")
    assert fire.outcome == "failed"
    assert "had to stop at once" in fire.error


# Times that are changed.


def next_run(scheduler, name):
    (job,) = (job for job in scheduler.jobs() if job.name == name)
    return job.next_run_time.astimezone(NEW_YORK).strftime("%a %H:%M"), job.cron, job.configured


PIPELINE = "content.run_daily_pipeline"


async def test_a_time_that_was_changed_holds_at_once_and_after_a_restart(clock, start, ran):
    scheduler = await start(all_routines())
    await scheduler.set_time(PIPELINE, " 30 7 * * * ")
    assert next_run(scheduler, PIPELINE) == ("Sun 07:30", "30 7 * * *", "0 6 * * *")
    await trio.sleep(timedelta(hours=7, minutes=45).total_seconds())
    assert ran.runs == [("Sun 07:30", PIPELINE)]
    await scheduler.tree.shutdown()
    again = await start(all_routines(), instance="instance-2")
    assert next_run(again, PIPELINE)[1] == "30 7 * * *"
    await again.set_time(PIPELINE, None)
    assert next_run(again, PIPELINE) == ("Mon 06:00", "0 6 * * *", "0 6 * * *")


async def test_other_daemons_take_up_a_time_that_was_changed(clock, start, nursery):
    here = await start(all_routines())
    there = await start(all_routines(), instance="instance-2")
    nursery.start_soon(there.watch_times)
    await here.set_time(PIPELINE, "30 7 * * *")
    await trio.sleep(61)
    assert next_run(there, PIPELINE)[0] == "Sun 07:30"
    await here.set_time(PIPELINE, "0 6 * * *")  # as it is configured
    await trio.sleep(61)
    assert next_run(there, PIPELINE)[0] == "Sun 06:00"


async def test_a_paused_routine_runs_in_no_daemon_from_that_moment_on_and_over_restarts(
    clock, start, ran, nursery
):
    here = await start(all_routines())
    there = await start(all_routines(), instance="instance-2")
    nursery.start_soon(there.watch_times)
    await trio.sleep(timedelta(hours=5, minutes=59, seconds=30).total_seconds())
    await here.pause(PIPELINE, "ada")
    await trio.sleep(31)  # the other has not looked yet, and its time is there
    assert ran.runs == []
    await trio.sleep(61)
    (job,) = [job for job in there.jobs() if job.name == PIPELINE]
    assert (job.paused, job.paused_by) == (True, "ada")
    await here.tree.shutdown()
    await there.tree.shutdown()
    again = await start(all_routines(), instance="instance-3")
    assert again.jobs()[0].paused_by == "ada"
    await trio.sleep(timedelta(hours=24).total_seconds())
    assert PIPELINE not in [name for _, name in ran.runs]
    await again.resume(PIPELINE)
    assert next_run(again, PIPELINE)[0] == "Tue 06:00"


async def test_it_is_shown_who_has_changed_a_time_and_when(clock, start):
    here = await start(all_routines())
    there = await start(all_routines(), instance="instance-2")
    await here.set_time(PIPELINE, "30 7 * * *", "ada")
    assert here.jobs()[0].changed_by == "ada"
    await there.tree.shutdown()
    again = await start(all_routines(), instance="instance-3")
    assert again.jobs()[0].changed_by == "ada"
    assert again.jobs()[0].changed_at is not None
    assert again.jobs()[1].changed_at is None


async def test_a_time_in_the_file_that_is_newer_wins(clock, start):
    scheduler = await start(all_routines())
    await scheduler.set_time(PIPELINE, "30 7 * * *")
    await scheduler.tree.shutdown()
    changed = [
        dataclasses.replace(job, cron="0 5 * * *") if job.name == PIPELINE else job
        for job in all_routines()
    ]
    again = await start(changed, instance="instance-2")
    assert next_run(again, PIPELINE) == ("Sun 05:00", "0 5 * * *", "0 5 * * *")


async def test_what_is_no_time_is_refused_and_changes_nothing(clock, start, store):
    scheduler = await start(all_routines())
    with pytest.raises(ValueError, match="bad hour '25'"):
        await scheduler.set_time(PIPELINE, "0 25 * * *")
    with pytest.raises(UnknownRoutineError, match="known are"):
        await scheduler.set_time("content.run_nothing", "0 7 * * *")
    assert next_run(scheduler, PIPELINE)[1] == "0 6 * * *"
    assert await store.routine_times() == []


async def test_a_time_written_by_hand_that_is_none_is_as_configured(clock, start, store):
    await store.set_routine_time(PIPELINE, "at noon", instead_of="0 6 * * *")
    scheduler = await start(all_routines())
    assert next_run(scheduler, PIPELINE)[0] == "Sun 06:00"


async def test_routines_come_and_go_and_keep_what_they_were_told(clock, start, ran):
    scheduler = await start(all_routines())
    await scheduler.pause("revenue.run_daily_check")
    await scheduler.set_time(PIPELINE, "30 7 * * *")
    others = [job for job in all_routines() if job.agent_id != "acquisition"]
    new = RoutineJob(
        agent_id="support", method="morning", cron="0 5 * * *", goal="Look.", disabled=None
    )
    scheduler.set_routines([*others, new])
    jobs = {job.name: job for job in scheduler.jobs()}
    assert "acquisition.run_pipeline_advance" not in jobs
    assert jobs["support.morning"].goal == "Look."
    assert jobs["revenue.run_daily_check"].paused
    await trio.sleep(timedelta(hours=12).total_seconds())
    assert ran.runs == [("Sun 05:00", "support.morning"), ("Sun 07:30", PIPELINE)]
    with pytest.raises(ValueError, match="bad hour"):
        scheduler.set_routines([dataclasses.replace(new, cron="0 25 * * *")])
    assert "support.morning" in {job.name for job in scheduler.jobs()}
