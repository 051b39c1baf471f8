"""Runs of one job that are due while the last still runs, and runs that are delayed by chance."""

from __future__ import annotations

import random

import pytest
import trio
from desk import Desk, account, at

from actp_supervise.child import current_child
from actp_supervise.cron import At, Cron, Every, Overlap

DAY = 86400.0


# Overlap.


async def overlapping(overlap: Overlap, duration: float, **options) -> tuple[Desk, list]:
    """Run a job each minute from 05:01 to 05:05, and leave it time to end."""
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler(shutdown_timeout=5.0) as scheduler:
        job = scheduler.add(
            desk.job, duration, trigger=Cron("1-5 5 * * *"), overlap=overlap, **options
        )
        await trio.sleep(3600)
        return desk, sorted(account(job))


async def test_overlap_skip_leaves_out_what_is_due_while_the_last_run_runs(autojump_clock) -> None:
    desk, runs = await overlapping(Overlap.SKIP, 90.0)
    assert desk.ran == ["01 05:01", "01 05:03", "01 05:05"]
    assert runs == [
        ("01 05:01", "succeeded"),
        ("01 05:02", "skipped"),
        ("01 05:03", "succeeded"),
        ("01 05:04", "skipped"),
        ("01 05:05", "succeeded"),
    ]


async def test_overlap_allow_lets_runs_run_beside_each_other(autojump_clock) -> None:
    desk, runs = await overlapping(Overlap.ALLOW, 150.0)
    assert desk.ran == ["01 05:01", "01 05:02", "01 05:03", "01 05:04", "01 05:05"]
    assert {outcome for _, outcome in runs} == {"succeeded"}


async def test_overlap_queue_runs_one_after_the_other(autojump_clock) -> None:
    desk, runs = await overlapping(Overlap.QUEUE, 90.0, coalesce=False)
    assert desk.ran == ["01 05:01", "01 05:02:30", "01 05:04", "01 05:05:30", "01 05:07"]
    assert [outcome for _, outcome in runs] == ["succeeded"] * 5


async def test_a_queue_that_coalesces_holds_the_latest_only(autojump_clock) -> None:
    desk, runs = await overlapping(Overlap.QUEUE, 150.0)
    assert desk.ran == ["01 05:01", "01 05:03:30", "01 05:06"]
    assert runs == [
        ("01 05:01", "succeeded"),
        ("01 05:02", "missed"),
        ("01 05:03", "succeeded"),
        ("01 05:04", "missed"),
        ("01 05:05", "succeeded"),
    ]


async def test_what_waited_in_a_queue_beyond_its_grace_is_missed(autojump_clock) -> None:
    desk, runs = await overlapping(Overlap.QUEUE, 150.0, coalesce=False, misfire_grace=100.0)
    assert desk.ran == ["01 05:01", "01 05:03:30", "01 05:06"]
    assert [outcome for _, outcome in runs] == [
        "succeeded",
        "succeeded",
        "missed",
        "missed",
        "succeeded",
    ]


async def test_overlap_replace_stops_the_run_under_way_and_then_begins_the_new_one(
    autojump_clock,
) -> None:
    desk, runs = await overlapping(Overlap.REPLACE, 90.0)
    # Each is asked at the full minute and cancelled five seconds later.
    assert desk.ran == ["01 05:01", "01 05:02:05", "01 05:03:05", "01 05:04:05", "01 05:05:05"]
    assert [outcome for _, outcome in runs] == ["cancelled"] * 4 + ["succeeded"]


async def test_a_run_that_is_replaced_may_end_its_work_in_time(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")

    async def job() -> None:
        desk.ran.append(desk.time)
        child = current_child()
        with child.cancel_on_stop():
            await trio.sleep(90)
        await trio.sleep(2)

    async with desk.scheduler() as scheduler:
        entry = scheduler.add(job, trigger=Cron("1,2 5 * * *"), overlap=Overlap.REPLACE)
        await trio.sleep(3600)
        assert account(entry) == [("01 05:01", "succeeded"), ("01 05:02", "succeeded")]
    assert desk.ran == ["01 05:01", "01 05:02:02"]


async def test_a_run_that_ends_just_as_it_is_to_be_replaced_harms_nobody(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        job = scheduler.add(
            desk.job, 60.0, trigger=Cron("* * * * *"), overlap=Overlap.REPLACE, name="job"
        )
        await trio.sleep(20 * 60 + 30)
        assert {run.outcome for run in job.history} <= {"succeeded", "cancelled"}
        assert len(job.history) + len(job.running) == 20
    assert "child_crashed" not in {event.action for event in desk.events}


async def test_a_run_that_is_replaced_before_it_began_does_not_block_its_job(
    autojump_clock,
) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        jobs = [  # many, since which of the tasks gets its turn first is Trio's to choose
            scheduler.add(
                desk.job, trigger=Cron("1-3 * * * *"), overlap=Overlap.REPLACE, coalesce=False
            )
            for _ in range(20)
        ]
        await trio.sleep(30)
        desk.wall.step(240)
        await trio.sleep(3600)
        for job in jobs:
            assert sorted(account(job))[:3] == [
                ("01 05:01", "skipped"),
                ("01 05:02", "skipped"),
                ("01 05:03", "succeeded"),
            ]
            assert [outcome for _, outcome in sorted(account(job))[3:]] == ["succeeded"] * 3


async def test_a_run_by_hand_in_a_queue_is_not_coalesced(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    runs = []
    async with desk.scheduler() as scheduler, trio.open_nursery() as nursery:
        scheduler.add(
            desk.job, 150.0, trigger=Cron("1-3 5 * * *"), overlap=Overlap.QUEUE, name="job"
        )

        async def by_hand() -> None:
            runs.append(await scheduler.run_now("job"))

        await trio.sleep(90)
        nursery.start_soon(by_hand)
        await trio.sleep(3600)
    assert [run.outcome for run in runs] == ["succeeded"]
    assert desk.ran == ["01 05:01", "01 05:03:30", "01 05:06"]


async def test_what_is_to_replace_a_slow_run_is_itself_replaced_by_the_next(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler(shutdown_timeout=90.0) as scheduler:
        job = scheduler.add(desk.job, 1000.0, trigger=Cron("1-3 5 * * *"), overlap=Overlap.REPLACE)
        await trio.sleep(3600)
        assert sorted(account(job)) == [
            ("01 05:01", "cancelled"),
            ("01 05:02", "skipped"),
            ("01 05:03", "succeeded"),
        ]
    assert desk.ran == ["01 05:01", "01 05:03:30"]


async def test_what_waits_for_a_job_that_is_paused_or_removed_is_skipped(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        jobs = [
            scheduler.add(
                desk.job, 90.0, trigger=Cron("1,2 5 * * *"), overlap=Overlap.QUEUE, name=name
            )
            for name in ("paused", "removed")
        ]
        await trio.sleep(125)
        scheduler.pause("paused")
        scheduler.remove("removed")
        await trio.sleep(3600)
        for job in jobs:
            assert account(job) == [("01 05:01", "succeeded"), ("01 05:02", "skipped")]


# Jitter.


async def test_jitter_delays_each_run_by_a_number_from_the_injected_source(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler(rng=random.Random(1)) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 * * * *"), jitter=60.0)
        await trio.sleep(3.5 * 3600)
        delays = [(run.started_at - run.scheduled_at).total_seconds() for run in job.history]
    rng = random.Random(1)
    assert delays == pytest.approx([rng.uniform(0.0, 60.0) for _ in range(3)], abs=1e-3)
    assert len(set(delays)) == 3


async def test_jitter_does_not_count_as_lateness(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler(rng=random.Random(1)) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 * * * *"), jitter=600.0, misfire_grace=1.0)
        await trio.sleep(5.5 * 3600)
        assert [run.outcome for run in job.history] == ["succeeded"] * 5


@pytest.mark.parametrize("jitter", [59.0, 60.0, 300.0, 1e300])
async def test_jitter_is_less_than_the_time_until_the_next_moment(jitter, autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler(rng=random.Random(1), history=1000) as scheduler:
        job = scheduler.add(desk.job, trigger=Every(60.0), jitter=jitter)
        await trio.sleep(100 * 60 + 30)
        assert {run.outcome for run in job.history} == {"succeeded"}
        assert len(job.history) in (99, 100)
        starts = [run.started_at for run in job.history]
        assert starts == sorted(starts)
        delays = [(run.started_at - run.scheduled_at).total_seconds() for run in job.history]
        assert max(delays) < 60.0
        assert max(delays) > 50.0


async def test_jitter_after_the_last_moment_is_as_it_was_given(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler(rng=random.Random(3)) as scheduler:
        job = scheduler.add(desk.job, trigger=At(at("2026-03-01 06:00")), jitter=7200.0)
        await trio.sleep(DAY)
        delay = (job.last_run.started_at - job.last_run.scheduled_at).total_seconds()
        assert delay == pytest.approx(random.Random(3).uniform(0.0, 7200.0), abs=1e-3)


async def test_a_week_of_seconds_is_passed_over_without_a_walk_whatever_the_jitter(
    autojump_clock,
) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler(history=10_000) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("* * * * * *"), jitter=1e300)
        await trio.sleep(0.5)
        desk.wall.step(7 * DAY)
        await trio.sleep(5)
        missed = [run for run in job.history if run.outcome == "missed"]
        assert len(missed) < 1100
        assert job.last_run.outcome == "succeeded"


async def test_jitter_does_not_change_what_a_sleep_leaves_to_run(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler(rng=random.Random(1), history=1000) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("* * * * *"), jitter=300.0)
        await trio.sleep(1)
        desk.wall.step(7200.0)
        await trio.sleep(120)
        ran = [run for run in job.history if run.outcome == "succeeded"]
        assert len(ran) in (2, 3)
        assert len(job.history) - len(ran) in (118, 119)
