"""A journal that is away: one wait for the scheduler, whose end is like waking from a sleep."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import pairwise

import pytest
import trio
from desk import Desk, Journal, account, at, shown

from actp_supervise.bookkeeper import MOST_UNTOLD
from actp_supervise.cron import Cron, Every, Overlap
from actp_supervise.turns import JOURNAL_BACKOFF

HOUR = 3600.0
MINUTE = Cron("* * * * *")


async def away(journal: Journal, seconds: float) -> None:
    """Let the journal be away for a while."""
    journal.away = True
    await trio.sleep(seconds)
    journal.away = False


# Its return is like waking.


async def test_of_all_that_passed_in_an_absence_the_latest_runs(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal, history=100) as scheduler:
        job = scheduler.add(desk.job, trigger=MINUTE, name="job")
        await trio.sleep(65)
        await away(journal, 30 * 60)  # until 05:31:05
        await trio.sleep(65)
        assert desk.ran == ["01 05:01", "01 05:32:03"]  # then the journal was asked again
        missed = [run for run in job.history if run.outcome == "missed"]
        assert sorted(shown(run.scheduled_at) for run in missed) == [
            f"01 05:{n:02}" for n in range(2, 32)
        ]
        assert {run.error for run in missed} == {
            "coalesced into the run of 2026-03-01 05:32:00-05:00"
        }
    assert journal.rows() == sorted((shown(r.scheduled_at), r.outcome) for r in job.history)


@pytest.mark.parametrize("overlap", list(Overlap))
async def test_no_overlap_lets_an_absence_end_in_a_burst(overlap, autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    at_once = [0]

    async def job() -> None:
        at_once.append(at_once[-1] + 1)
        await desk.job(20.0)
        at_once.append(at_once[-1] - 1)

    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(job, trigger=MINUTE, overlap=overlap)
        await trio.sleep(65)
        await away(journal, 30 * 60)
        await trio.sleep(5 * 60)
    assert max(at_once) <= 2
    assert len(desk.ran) <= 7


async def test_without_coalesce_each_moment_of_an_absence_runs_within_its_grace(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal, history=100) as scheduler:
        job = scheduler.add(
            desk.job,
            5.0,
            trigger=MINUTE,
            coalesce=False,
            overlap=Overlap.QUEUE,
            misfire_grace=600.0,
            name="job",
        )
        await trio.sleep(65)
        await away(journal, 30 * 60)
        await trio.sleep(300)
        assert {run.outcome for run in job.history[:20]} == {"succeeded", "missed"}
        for run in job.history:
            if run.started_at is not None:
                assert (run.started_at - run.scheduled_at).total_seconds() <= 600.0
    moments = [moment for moment, _ in journal.rows()]
    assert moments == [f"01 05:{n:02}" for n in range(1, 37)]
    assert [outcome for _, outcome in journal.rows()[:20]] == ["succeeded", *["missed"] * 19]
    assert {outcome for _, outcome in journal.rows()[22:35]} == {"succeeded"}


async def test_a_job_due_each_second_runs_once_for_an_absence_of_a_quarter_of_an_hour(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal, history=2000) as scheduler:
        job = scheduler.add(desk.job, trigger=Every(1.0), name="job")
        await trio.sleep(10.5)
        await away(journal, 15 * 60)
        before = len(desk.ran)
        await trio.sleep(60)
        assert before == 10
        assert len(desk.ran) - before <= 61
        assert len(job.history) == len({run.scheduled_at for run in job.history})


async def test_what_is_past_its_grace_in_an_absence_is_missed_at_once_and_told_later(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job", misfire_grace=600.0)
        await trio.sleep(HOUR - 10)
        journal.away = True
        await trio.sleep(600)
        assert account(job) == []
        await trio.sleep(11)
        assert account(job) == [("01 06:00", "missed")]
        assert job.last_run.error == (
            "more than 600 s late: the journal did not answer: OSError: connection refused"
        )
        assert journal.rows() == []
        journal.away = False
        await trio.sleep(61)
        assert account(job) == [("01 06:00", "missed")]
        assert journal.rows() == [("01 06:00", "missed")]
    assert desk.ran == []


async def test_the_next_run_time_is_ahead_also_in_an_absence(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    journal.away = True
    async with desk.scheduler(journal=journal) as scheduler:
        new = scheduler.add(desk.job, trigger=MINUTE, name="new")
        await trio.sleep(125)
        assert new.next_run_time == at("2026-03-01 05:03")
        journal.away = False
        await trio.sleep(60)
        await away(journal, 600)
        assert new.next_run_time == at("2026-03-01 05:14")
        assert [shown(moment) for moment in new.upcoming(2)] == ["01 05:14", "01 05:15"]
        journal.away = True
        await trio.sleep(120)
        desk.wall.step(-300)  # from 05:15 to 05:10
        await trio.testing.wait_all_tasks_blocked()
        assert new.next_run_time == at("2026-03-01 05:11")


# Changes in an absence.


async def test_a_job_paused_in_an_absence_takes_nothing(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal, history=100) as scheduler:
        job = scheduler.add(desk.job, trigger=MINUTE, name="job")
        await trio.sleep(65)
        journal.away = True
        await trio.sleep(5 * 60)
        scheduler.pause("job")  # at 05:06:05
        assert account(job) == [
            ("01 05:01", "succeeded"),
            *[(f"01 05:{n:02}", "missed") for n in range(2, 6)],
            ("01 05:06", "skipped"),
        ]
        assert job.last_run.error == "paused before it began"
        await trio.sleep(5 * 60)
        journal.away = False
        await trio.sleep(30 * 60)
        assert len(job.history) == 6
        assert journal.rows() == [("01 05:01", "succeeded")]
        scheduler.resume("job")
        await trio.sleep(60)
        assert account(job)[6:] == [("01 05:42", "succeeded")]


async def test_a_job_resumed_in_an_absence_goes_on_with_the_first_moment_after_that(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal, history=100) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 * * * *"), name="job")
        await trio.sleep(1)
        scheduler.pause("job")
        journal.away = True
        await trio.sleep(1.5 * HOUR)
        scheduler.resume("job")
        await trio.sleep(HOUR)
        journal.away = False
        await trio.sleep(61)
        assert account(job) == [("01 07:00", "succeeded")]


async def test_a_job_paused_and_resumed_in_an_absence_is_not_late_by_a_period(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 * * * *"), name="job")
        await trio.sleep(0.9 * HOUR)
        journal.away = True
        await trio.sleep(0.2 * HOUR)  # 06:00 has been asked for in vain
        scheduler.pause("job")
        scheduler.resume("job")
        await trio.sleep(HOUR)  # 07:00 too
        journal.away = False
        await trio.sleep(61)
        assert account(job) == [("01 06:00", "skipped"), ("01 07:00", "succeeded")]


async def test_a_job_paused_before_the_journal_said_where_it_goes_on_takes_nothing(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:30"), Journal()
    await journal.memory.claim("job", at("2026-03-01 02:00").astimezone(UTC))
    journal.away = True
    async with desk.scheduler(journal=journal) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 * * * *"), name="job")
        await trio.sleep(HOUR)
        scheduler.pause("job")
        assert account(job) == [("01 06:00", "skipped")]
        await trio.sleep(HOUR)
        scheduler.resume("job")
        await trio.sleep(HOUR)
        journal.away = False
        await trio.sleep(61)
        assert account(job) == [("01 06:00", "skipped"), ("01 08:00", "succeeded")]


async def test_what_was_due_before_a_change_in_an_absence_is_dealt_with_when_it_is_over(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:30"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        for name in ("rescheduled", "zoned"):
            scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name=name)
        await trio.sleep(1)
        journal.away = True
        await trio.sleep(0.75 * HOUR)
        scheduler.reschedule("rescheduled", Cron("30 6 * * *"))
        scheduler.set_timezone("America/Chicago")  # an hour behind
        await trio.sleep(300)
        journal.away = False
        await trio.sleep(HOUR)
        assert account(scheduler["rescheduled"]) == [("01 06:00", "succeeded")]
        assert account(scheduler["zoned"]) == [("01 06:00", "succeeded"), ("01 07:00", "succeeded")]
        await trio.sleep(HOUR)
        assert account(scheduler["rescheduled"])[1:] == [("01 07:30", "succeeded")]


async def test_a_job_removed_in_an_absence_leaves_its_moments_to_other_daemons(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, trigger=MINUTE, name="job")
        await trio.sleep(65)
        journal.away = True
        await trio.sleep(600)
        scheduler.remove("job")
        journal.away = False
        await trio.sleep(600)
    assert journal.rows() == [("01 05:01", "succeeded")]


async def test_a_job_removed_and_added_again_in_an_absence_goes_on_after_its_last_fire(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, trigger=MINUTE, name="job")
        await trio.sleep(65)
        journal.away = True
        await trio.sleep(120)
        scheduler.remove("job")
        job = scheduler.add(desk.job, trigger=MINUTE, name="job")
        await trio.sleep(30)
        journal.away = False
        await trio.sleep(61)
        assert sorted(account(job)) == [
            ("01 05:02", "missed"),
            ("01 05:03", "missed"),
            ("01 05:04", "succeeded"),
        ]


async def test_steps_of_the_clock_in_an_absence_are_like_its_passing(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:30"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 * * * *"), name="job")
        await trio.sleep(1)
        journal.away = True
        desk.wall.step(2 * HOUR)  # to 07:30
        await trio.sleep(100)
        desk.wall.step(-HOUR)
        await trio.sleep(100)
        desk.wall.step(2 * HOUR)  # to 08:33
        journal.away = False
        await trio.sleep(61)
        assert sorted(account(job)) == [
            ("01 06:00", "missed"),
            ("01 07:00", "missed"),
            ("01 08:00", "succeeded"),
        ]


# How the journal is asked.


async def test_an_absent_journal_is_asked_by_one_task_with_growing_pauses(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, trigger=Every(1.0), name="job")
        await trio.sleep(10.5)
        journal.asked.clear()
        await away(journal, 15 * 60)
        pauses = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, *[60.0] * 14]
        assert pauses[:7] == [JOURNAL_BACKOFF.delay(n) for n in range(1, 8)]
        times = [time for time, _ in journal.asked]
        assert times[0] == 11.0
        assert [b - a for a, b in pairwise(times)] == pauses[: len(times) - 1]
        assert len(times) == 20


async def test_many_jobs_wait_for_an_absent_journal_as_one(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    journal.delay = 0.01
    async with desk.scheduler(journal=journal) as scheduler:
        for n in range(200):
            scheduler.add(desk.job, trigger=MINUTE, name=f"job {n}")
        await trio.sleep(65)
        journal.away = True
        await trio.sleep(15 * 60)
        journal.asked.clear()
        journal.peak = 0
        await trio.sleep(15 * 60)
        assert len(journal.asked) <= 15
        assert journal.peak == 1
        assert len({name for _, name in journal.asked}) == len(journal.asked)  # by turns
        children = [child.name for child in scheduler._supervisor.children]
        assert children == ["(dispatch)", "(journal)"]
        ran = len(desk.ran)
        journal.away = False
        await trio.sleep(61)
        assert len(desk.ran) - ran in (200, 400)  # the moment of the return may be one more


async def test_thousands_that_wait_for_the_journal_do_not_hold_the_shutdown(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        for n in range(3000):
            scheduler.add(desk.job, trigger=MINUTE, name=f"job {n}")
        await trio.sleep(1)
        journal.away = True
        await trio.sleep(20 * 60)
        journal.asked.clear()
        before = trio.current_time()
        await scheduler.shutdown()
        assert trio.current_time() == before
    assert len(journal.asked) <= 3000


async def test_a_journal_that_fails_for_one_job_alone_holds_up_no_other(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    journal.away_for = {"too long a name"}
    async with desk.scheduler(journal=journal, history=1000) as scheduler:
        bad = scheduler.add(desk.job, trigger=MINUTE, name="too long a name")
        good = [scheduler.add(desk.job, trigger=MINUTE, name=f"job {n}") for n in range(3)]
        await trio.sleep(2 * HOUR + 1)
        for job in good:
            assert [run.started_at for run in job.history] == [
                run.scheduled_at for run in job.history
            ]
            assert len(job.history) == 120
        assert bad.history == ()
        asked = [time for time, name in journal.asked if name == bad.name and time > HOUR]
        assert 50 <= len(asked) <= 62  # once a minute
        journal.away_for = set()
        await trio.sleep(61)
        assert bad.last_run.outcome == "succeeded"


async def test_two_jobs_for_which_the_journal_fails_hold_up_the_others_by_seconds(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    journal.away_for = {"bad", "worse"}
    async with desk.scheduler(journal=journal, history=1000) as scheduler:
        for name in ("bad", "worse"):
            scheduler.add(desk.job, trigger=MINUTE, name=name)
        good = scheduler.add(desk.job, trigger=Cron("* * * * *"), name="good")
        await trio.sleep(2 * HOUR + 1)
        delays = [(run.started_at - run.scheduled_at).total_seconds() for run in good.history]
        assert len(delays) >= 119
        assert max(delays) <= 60.0


async def test_slow_answers_for_one_job_do_not_hold_up_the_others(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    journal.delays = {"slow": 4.0}
    async with desk.scheduler(journal=journal) as scheduler:
        slow = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="slow")
        others = [
            scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name=f"job {n}") for n in range(50)
        ]
        await trio.sleep(120)
        assert {job.last_run.started_at for job in others} == {at("2026-03-01 06:00")}
        assert slow.last_run.started_at == at("2026-03-01 06:00:04")


async def test_slow_answers_for_all_jobs_are_waited_for_at_once(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    journal.delay = 4.0
    async with desk.scheduler(journal=journal) as scheduler:
        for n in range(50):
            scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name=f"job {n}")
        await trio.sleep(120)
    assert desk.ran == ["01 06:00:04"] * 50


async def test_no_more_than_a_hundred_questions_are_asked_at_once(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    journal.delay = 0.1
    async with desk.scheduler(journal=journal) as scheduler:
        for n in range(1000):
            scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name=f"job {n}")
        await trio.sleep(120)
    assert len(desk.ran) == 1000
    assert journal.peak == 101  # and the one for what other daemons left


async def test_a_journal_that_hangs_for_one_job_lets_the_others_go_on_where_they_were(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    journal.delays = {"hangs": 10_000.0}
    async with desk.scheduler(journal=journal) as scheduler:
        for name in ("hangs", "job"):
            scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name=name)
        await trio.sleep(120)
    assert desk.ran == ["01 06:00"]


class Answers(Journal):
    """A journal whose claims come to something odd."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    async def claim(self, job_name: str, scheduled_at: datetime) -> bool:
        await super().claim(job_name, scheduled_at)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "ValueError: claim answered with None"),
        (ValueError("odd"), "ValueError: odd"),
        (asyncio.CancelledError(), "CancelledError"),
        (ExceptionGroup("Exceptions from Trio nursery", [OSError("reset")]), "OSError: reset"),
    ],
    ids=["None", "error", "stray cancellation", "group"],
)
async def test_an_answer_that_makes_no_sense_is_asked_for_again(
    answer, said, autojump_clock, caplog
) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Answers(answer)
    async with desk.scheduler(journal=journal) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 6 * * *"), name="job")
        await trio.sleep(120)
        assert desk.ran == []
        assert f"journal failed: claim: {said}" in caplog.text
        journal.answer = True
        await trio.sleep(61)
        assert account(job) == [("01 06:00", "succeeded")]


class FailingClock:
    """A desk's clock that fails so many times when told to."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.failures = 0

    def now(self) -> datetime:
        if self.failures:
            self.failures -= 1
            raise OSError("no clock")
        return self.desk.wall.now()


async def test_a_wall_clock_that_fails_while_the_journal_is_asked_loses_no_moment(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    clock = FailingClock(desk)
    claim = journal.claim

    async def claim_and_fail(job_name: str, scheduled_at: datetime) -> bool:
        clock.failures = 2
        return await claim(job_name, scheduled_at)

    async with desk.scheduler(journal=journal, wall_clock=clock) as scheduler:
        job = scheduler.add(desk.job, trigger=Cron("0 * * * *"), name="job")
        await trio.sleep(0.9 * HOUR)
        journal.claim = claim_and_fail
        await trio.sleep(3 * HOUR)
        journal.claim = claim
        await trio.sleep(HOUR)
        moments = [shown(run.scheduled_at) for run in job.history]
        assert moments == ["01 06:00", "01 07:00", "01 08:00", "01 09:00"]


# What it is told.


async def test_the_ends_that_an_absent_journal_missed_are_told_when_it_is_back(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        for n in range(5):
            scheduler.add(desk.job, 30.0 + n, trigger=Cron("0 6 * * *"), name=f"job {n}")
        await trio.sleep(70)
        await away(journal, 600)
        assert [journal.rows(f"job {n}") for n in range(5)] == [[("01 06:00", None)]] * 5
        await trio.sleep(61)
        assert [journal.rows(f"job {n}") for n in range(5)] == [[("01 06:00", "succeeded")]] * 5


async def test_an_end_that_the_journal_refuses_does_not_hold_up_the_next_runs(
    autojump_clock,
) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    finished = journal.finished

    async def refuses(job_name, scheduled_at, outcome, error) -> None:
        if error is not None:
            raise ValueError("a character that the column does not take")
        await finished(job_name, scheduled_at, outcome, error)

    journal.finished = refuses

    async def job() -> None:
        await desk.job()
        if desk.time == "01 06:00":
            raise RuntimeError("\0")

    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(job, trigger=MINUTE, name="job")
        await trio.sleep(601)
    assert desk.ran == [f"01 06:{n:02}" for n in range(10)]
    assert journal.rows()[0] == ("01 06:00", None)
    assert {outcome for _, outcome in journal.rows()[1:]} == {"succeeded"}


async def test_a_job_due_more_often_than_the_journal_answers_tells_its_ends(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    journal.delay = 3.0
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, trigger=Every(1.0), name="job")
        await trio.sleep(600)
        open_claims = [moment for moment, outcome in journal.rows() if outcome is None]
        assert len(open_claims) <= 3


async def test_ends_under_way_at_shutdown_are_told_at_once(autojump_clock) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    async with desk.scheduler(journal=journal, shutdown_timeout=0.0) as scheduler:
        scheduler.add(
            desk.job,
            HOUR,
            trigger=MINUTE,
            overlap=Overlap.QUEUE,
            coalesce=False,
            name="job",
        )
        await trio.sleep(20.5 * 60)
        journal.delay = 4.0
        before = trio.current_time()
        await scheduler.shutdown()
        assert trio.current_time() - before <= 10.0
    assert {outcome for _, outcome in journal.rows()} == {"cancelled"}
    assert len(journal.rows()) == 20


async def test_what_cannot_be_told_at_the_end_is_said_in_the_log(autojump_clock, caplog) -> None:
    desk, journal = Desk("2026-03-01 05:59"), Journal()
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, 30.0, trigger=Cron("0 6 * * *"), name="job")
        await trio.sleep(70)
        journal.away = True
        await trio.sleep(600)
    assert "the journal could not be told 1 ends of 'job'" in caplog.text


async def test_ends_are_kept_for_an_absent_journal_up_to_a_number(autojump_clock, caplog) -> None:
    desk, journal = Desk("2026-03-01 05:00"), Journal()
    journal.claim = journal.memory.claim  # what is away takes no ends, but all claims
    async with desk.scheduler(journal=journal) as scheduler:
        scheduler.add(desk.job, trigger=Every(1.0), name="job")
        await trio.sleep(10)
        journal.away = True
        await trio.sleep(MOST_UNTOLD + 100)
        journal.away = False
        await trio.sleep(61)
        told = [outcome for _, outcome in journal.rows() if outcome is not None]
    assert "the journal could not be told the end of 'job'" in caplog.text
    assert len(told) >= MOST_UNTOLD
