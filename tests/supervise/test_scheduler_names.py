"""Overlap follows a job's name: removing it and adding it again does not multiply its runs."""

from __future__ import annotations

import pytest
import trio
from desk import Desk, Journal, account

from actp_supervise.cron import Cron, Every, Overlap

MINUTE = Cron("* * * * *")


@pytest.mark.parametrize("journal", [None, "journal"])
@pytest.mark.parametrize("overlap", [Overlap.SKIP, Overlap.QUEUE, Overlap.REPLACE])
async def test_a_job_added_again_while_it_runs_does_not_run_twice_at_once(
    overlap, journal, autojump_clock
) -> None:
    desk = Desk("2026-03-01 05:00")
    at_once, peak = 0, 0

    async def job() -> None:
        nonlocal at_once, peak
        at_once += 1
        peak = max(peak, at_once)
        try:
            await desk.job(600.0)
        finally:
            at_once -= 1

    async with desk.scheduler(journal=journal and Journal(), shutdown_timeout=5.0) as scheduler:
        for _ in range(4):
            scheduler.add(job, trigger=MINUTE, name="job", overlap=overlap)
            await trio.sleep(90)
            scheduler.remove("job")
        assert peak == 1


async def test_the_run_of_a_removed_job_is_the_last_run_of_the_one_that_was_added_again(
    autojump_clock,
) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        former = scheduler.add(desk.job, 150.0, trigger=MINUTE, name="job")
        await trio.sleep(70)
        scheduler.remove("job")
        job = scheduler.add(desk.job, trigger=MINUTE, name="job")
        assert former.running == ()
        assert [str(run.started_at)[11:19] for run in job.running] == ["05:01:00"]
        await trio.sleep(200)
        assert account(former) == [("01 05:01", "succeeded")]
        assert account(job) == [
            ("01 05:02", "skipped"),
            ("01 05:03", "skipped"),
            ("01 05:04", "succeeded"),
        ]


async def test_what_waited_for_a_removed_job_does_not_run_for_the_one_that_was_added_again(
    autojump_clock,
) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        former = scheduler.add(desk.job, 90.0, trigger=MINUTE, name="job", overlap=Overlap.QUEUE)
        await trio.sleep(125)
        scheduler.remove("job")
        scheduler.add(desk.job, trigger=Cron("30 5 * * *"), name="job", overlap=Overlap.QUEUE)
        assert account(former) == [("01 05:02", "skipped")]
        assert former.last_run.error == "removed while it waited"
        await trio.sleep(60)
        assert account(former)[1:] == [("01 05:01", "succeeded")]
    assert desk.ran == ["01 05:01"]


async def test_with_allow_runs_of_both_stand_beside_each_other(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        for _ in range(3):
            scheduler.add(desk.job, 600.0, trigger=MINUTE, name="job", overlap=Overlap.ALLOW)
            await trio.sleep(60.5)
            scheduler.remove("job")
        job = scheduler.add(desk.job, trigger=MINUTE, name="job", overlap=Overlap.ALLOW)
        assert len(job.running) == 3
        assert (await scheduler.run_now("job")).outcome == "succeeded"


async def test_a_run_by_hand_of_a_job_added_again_obeys_its_overlap(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler() as scheduler:
        scheduler.add(desk.job, 100.0, trigger=MINUTE, name="job")
        await trio.sleep(70)
        scheduler.remove("job")
        scheduler.add(desk.job, trigger=MINUTE, name="job")
        assert (await scheduler.run_now("job")).outcome == "skipped"


async def test_many_names_that_come_and_go_leave_no_trace(autojump_clock) -> None:
    desk = Desk("2026-03-01 05:00")
    async with desk.scheduler(journal=Journal()) as scheduler:
        for n in range(1000):
            scheduler.add(desk.job, 5.0, trigger=Every(1.0), name=str(n))
            await trio.sleep(1.5)
            scheduler.remove(str(n))
        await trio.sleep(100)
        scheduler.add(desk.job, trigger=Every(60.0), name="last")
        scheduler.remove("last")
        assert len(scheduler._leaving) == 0
        assert len(scheduler._timetable) < 250
        assert len(scheduler._bookkeeper._open) == 0
    assert len(desk.ran) == 1000
