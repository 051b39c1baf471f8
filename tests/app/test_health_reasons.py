"""Each reason for anything but good health: what provokes it, and that it ends by itself."""

from __future__ import annotations

import dataclasses
import logging
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from http_daemon import Routines, make_daemon, served, status
from trio.testing import wait_all_tasks_blocked
from whole_daemon import whole_daemon

from actp_supervise.service import log_context
from app.event_kinds import EventKind
from app.event_log import EventLog
from app.health import (
    Ended,
    LoggedErrors,
    Spend,
    WaitingApproval,
    WorkFacts,
    of_work,
    overall,
)
from app.logged_errors import ErrorsOfAgents
from app.observed_store import ObservedStore
from app.reasons import Beginnings, Reason, ReasonKind, reason
from app.settings import load_settings
from app.status import JobRun
from app.store.protocol import (
    AgentRegistration,
    CostEntry,
    DomainTable,
    NewReview,
    StoreError,
    TaskStatus,
    Verdict,
)
from app.waiting_approvals import WaitingApprovals
from app.work_watch import FLAGS_EVERY, WorkWatch

REFERENCE = Path(__file__).parents[2] / "docs/reference/health.md"
NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
PLAIN = status("content", doing="starting", progress_age=None, uptime=11.0)


def ago(seconds):
    return NOW - timedelta(seconds=seconds)


def watch_on(store, events, instance):
    approvals = WaitingApprovals(store)
    return WorkWatch(store, events, ErrorsOfAgents(), approvals, instance=instance)


def judged(facts, *statuses, longest_wait=1800.0, now=NOW):
    known = {each.agent_id: each for each in statuses or (status("content"),)}
    return of_work(facts, known, now, longest_wait=longest_wait)


def texts(*args, **kwargs):
    return [each.text for each in judged(*args, **kwargs)]


def failed(*ages, error="the account is suspended"):
    return [Ended(ago(age), True, error) for age in ages]


def done(*ages):
    return [Ended(ago(age), False) for age in ages]


def routine(**changes):
    return dataclasses.replace(Routines().job, name="content.run_daily_pipeline", **changes)


def ran(outcome, error=None):
    moment = ago(3600)
    run = JobRun(
        scheduled_at=moment, started_at=moment, finished_at=moment, outcome=outcome, error=error
    )
    return routine(last_run=run, next_run_time=NOW + timedelta(hours=20))


def of_jobs(job):
    return texts(WorkFacts(jobs=[job]))


# -- tasks


def test_three_failures_in_a_row_are_a_reason_that_one_success_ends():
    fails = failed(900, 600, 300)
    (found,) = judged(WorkFacts(ended={"content": fails}))
    assert found == Reason(
        key=ReasonKind.TASKS_FAILING,
        agent_id="content",
        text="content: the last 3 tasks all failed, the last: the account is suspended",
        number=3,
        since=ago(900),
        advice=ReasonKind.TASKS_FAILING.advice,
    )
    assert judged(WorkFacts(ended={"content": [*fails, *done(10)]})) == []
    assert judged(WorkFacts(ended={"content": fails[1:]})) == []


def test_most_of_an_hours_tasks_failing_is_a_reason_though_some_succeed():
    mixed = [*failed(900, 800), *done(700), *failed(600), *done(500), *failed(400)]
    assert texts(WorkFacts(ended={"content": mixed})) == [
        "content: 4 of 6 tasks of the last hour failed, the last: the account is suspended"
    ]
    half = [*failed(900, 800, 750), *done(700, 600, 500)]
    assert judged(WorkFacts(ended={"content": half})) == []
    assert judged(WorkFacts(ended={"content": mixed[:5]})) == []


def test_failures_are_forgotten_after_a_day():
    fails = failed(900, 600, 300)
    later = NOW + timedelta(days=1)
    assert judged(WorkFacts(ended={"content": fails}), now=later) == []


# -- queues


@pytest.mark.parametrize(
    ("agent", "why"),
    [
        (
            status("content", status="disabled", enabled=False, why_disabled="the flag is false"),
            "it is disabled: the flag is false",
        ),
        (status("content", status="stopped"), "it is stopped"),
        (PLAIN, "its class takes no tasks"),
        (
            status("content", doing="at its own work", progress_age=None, uptime=0.5),
            "its class takes no tasks",
        ),
        (status("social"), "no daemon that runs has an agent content"),
    ],
)
def test_a_queue_that_nobody_serves_is_a_reason_until_somebody_does(agent, why):
    facts = WorkFacts(waiting={"content": 5.0})
    assert texts(facts, agent) == [f"nobody does the tasks that are queued for content: {why}"]
    assert judged(dataclasses.replace(facts, elsewhere=frozenset({"content"})), agent) == []
    assert judged(facts, status("content")) == []
    assert judged(WorkFacts(), agent) == []


def test_an_agent_that_has_only_begun_is_not_taken_for_one_that_takes_no_tasks():
    begun = status("content", doing="starting", progress_age=None, uptime=2.0)
    assert judged(WorkFacts(waiting={"content": 5.0}), begun) == []


def test_a_task_that_waits_too_long_is_a_reason_unless_another_says_why():
    facts = WorkFacts(waiting={"content": 1900.0})
    assert texts(facts) == ["the oldest task queued for content has waited 31 min 40 s"]
    assert texts(facts, longest_wait=2000.0) == []
    assert judged(facts, status("content", paused="paused by an operator")) == []


# -- routines


@pytest.mark.parametrize(
    ("outcome", "kind", "words"),
    [
        ("failed", "routine_failed", "failed: ValueError: pipeline broke"),
        ("timed_out", "routine_failed", "timed out: ValueError: pipeline broke"),
        ("interrupted", "routine_failed", "was interrupted: ValueError: pipeline broke"),
        ("missed", "routine_missed", "was missed: ValueError: pipeline broke"),
    ],
)
def test_a_routine_that_came_to_nothing_is_a_reason_until_it_succeeds(outcome, kind, words):
    (found,) = judged(WorkFacts(jobs=[ran(outcome, "ValueError: pipeline broke")]))
    assert (found.key, found.what) == (kind, "content.run_daily_pipeline")
    assert found.text == f"the routine content.run_daily_pipeline {words}"
    assert found.since == ago(3600)
    assert of_jobs(ran("succeeded")) == []


def test_a_routine_that_is_paused_disabled_or_running_is_no_reason():
    bad = ran("failed")
    assert of_jobs(dataclasses.replace(bad, paused=True)) == []
    assert of_jobs(dataclasses.replace(bad, disabled="no agent")) == []
    assert of_jobs(dataclasses.replace(bad, running=True)) == []


def test_a_routine_that_does_not_begin_is_a_reason():
    assert of_jobs(routine(next_run_time=ago(301))) == [
        "the routine content.run_daily_pipeline was due 5 min 1 s ago and has not begun"
    ]
    assert of_jobs(routine(next_run_time=ago(299))) == []


# -- money, people, servers, errors


def test_a_budget_near_its_end_is_a_reason_until_it_is_raised_or_the_agent_pauses():
    facts = WorkFacts(spend=[Spend("content", 4.0, 5.0)])
    (found,) = judged(facts)
    assert found.text == "content has spent $4.00 of its $5.00 for today"
    assert found.number == 0.8
    assert judged(WorkFacts(spend=[Spend("content", 3.99, 5.0)])) == []
    assert judged(WorkFacts(spend=[Spend("content", 4.0, 6.0)])) == []
    assert judged(facts, status("content", paused="its daily budget is spent")) == []
    assert texts(WorkFacts(spend=[Spend(None, 9.0, 10.0)])) == [
        "all agents together have spent $9.00 of their $10.00 for today"
    ]


def test_calls_that_wait_for_an_approval_are_one_reason_for_each_agent():
    waits = [WaitingApproval("content", "send_mail", seconds) for seconds in (3700.0, 61.0, 10.0)]
    assert texts(WorkFacts(approvals=waits)) == [
        "2 calls of content (send_mail) wait for an approval, since 1 h 1 min"
    ]
    assert judged(WorkFacts(approvals=waits[2:])) == []


def test_an_mcp_server_that_is_away_is_a_reason():
    away = "the MCP server files is away: connection refused"
    state, (found,) = overall({"content": status("content", problems=(away,))})
    assert state == "degraded"
    assert found.text == f"content: {away}"
    assert found.name == ("server_away", "content", away)


def test_a_plain_class_that_only_logs_errors_is_a_reason_for_ten_minutes():
    facts = WorkFacts(errors={"content": LoggedErrors((ago(500), ago(400), ago(300)), "no key")})
    assert texts(facts, PLAIN) == [
        "content has logged 3 errors within ten minutes, the last: no key"
    ]
    assert texts(facts, status("content")) == []  # its tasks tell
    assert texts(facts, PLAIN, now=NOW + timedelta(seconds=200)) == []


def test_the_errors_that_an_agents_code_logs_are_counted_from_any_thread():
    errors = ErrorsOfAgents(lambda text: text.replace("hunter2", "[redacted]"))
    theirs = logging.getLogger("everreach.content")

    def fail():
        with log_context(agent_id="content"):
            try:
                raise ValueError("hunter2 is wrong")
            except ValueError:
                theirs.exception("cannot go on")

    with errors.listening():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        fail()
        with log_context(agent_id="content"):
            theirs.warning("no error")
            logging.getLogger("app.supervisor").error("of the daemon")
            errors.emit(theirs.makeRecord("x", logging.ERROR, "x.py", 1, "%d", ("one",), None))
        theirs.error("of no agent")
    theirs.error("not heard any more", extra={"agent_id": "content"})
    (found,) = errors.of_agents().items()
    assert found[0] == "content"
    assert len(found[1].moments) == 3
    assert found[1].last == "an error that cannot be shown"


# -- what is watched


async def post_and_end(store, task_id, outcome, agent_id="content"):
    await store.add_task(task_id, agent_id, "g")
    task = await store.claim_task(agent_id, worker_id="w", instance="i", token=task_id, lease=60.0)
    error = "the account is suspended" if outcome is TaskStatus.FAILED else None
    await store.finish_task(task.id, task_id, outcome, error=error)


async def test_what_a_task_came_to_is_seen_as_it_happens_and_at_the_next_start(store):
    events = EventLog()
    observed = ObservedStore(store, events)
    watch = watch_on(observed, events, "here")
    for task_id, outcome in (
        ("a", TaskStatus.SUCCEEDED),
        ("b", TaskStatus.FAILED),
        ("c", TaskStatus.CANCELLED),
    ):
        await post_and_end(observed, task_id, outcome)
    ended = watch.facts().ended["content"]
    assert [(each.failed, each.error) for each in ended] == [
        (False, ""),
        (True, "the account is suspended"),
    ]
    later = watch_on(observed, EventLog(), "there")
    with trio.CancelScope() as watching:

        def look_no_more():
            watching.cancel()
            return load_settings({}, env_file=None)

        await later.watch(look_no_more)
    assert [(each.failed, each.error) for each in later.facts().ended["content"]] == [
        (False, ""),
        (True, "the account is suspended"),
    ]


async def test_what_waits_is_told_when_it_still_waits_at_the_second_look(store):
    watch = watch_on(store, EventLog(), "here")
    settings = load_settings({}, env_file=None)
    await store.add_task("a", "content", "g")
    await watch.look(settings)
    assert watch.facts().waiting == {}
    await watch.look(settings)
    assert watch.facts().waiting.keys() == {"content"}
    assert watch.facts().elsewhere == frozenset()
    await store.touch_worker("other", "there", {"content": "running"}, silent_after=60.0)
    await store.touch_worker("this", "here", {"social": "running"}, silent_after=60.0)
    await watch.look(settings)
    assert watch.facts().elsewhere == {"content"}
    await store.cancel_task("a")
    await watch.look(settings)
    assert watch.facts().waiting == {}


async def test_what_is_spent_is_compared_with_each_budget(store):
    watch = watch_on(store, EventLog(), "here")
    await store.record_cost(
        CostEntry(
            id="1",
            agent_id="content",
            run_id=None,
            task_id=None,
            model="m",
            input_tokens=1,
            output_tokens=1,
            cost_usd=4.5,
        )
    )
    environ = {
        "CONTENT_AGENT_DAILY_BUDGET_USD": "5",
        "SOCIAL_MEDIA_AGENT_DAILY_BUDGET_USD": "1",
        "WORKER_DAILY_BUDGET_USD": "9",
        "WORKER_TIMEZONE": "UTC",
    }
    await watch.look(load_settings(environ, env_file=None))
    assert watch.facts().spend == [
        Spend("social", 0.0, 1.0),
        Spend("content", 4.5, 5.0),
        Spend(None, 4.5, 9.0),
    ]


# -- the daemon


async def forever(*_args):
    await trio.sleep_forever()


async def test_a_daemon_whose_tasks_fail_is_degraded_and_says_since_when_and_what_to_do(store):
    async with whole_daemon(store, forever, forever) as daemon:
        await wait_all_tasks_blocked()
        assert daemon.health().status == "healthy"
        for task_id in "abc":
            await post_and_end(daemon.store, task_id, TaskStatus.FAILED)
        health = daemon.health()
        assert (health.status, len(health.problems)) == ("degraded", 1)
        (problem,) = health.problems
        assert health.reasons == (problem.text,)
        assert problem.key == "tasks_failing"
        assert problem.since is not None
        await post_and_end(daemon.store, "d", TaskStatus.SUCCEEDED)
        assert daemon.health().status == "healthy"


async def test_a_record_that_the_store_refuses_is_a_reason(store):
    async def refuse():
        raise StoreError("there is no such column")

    async with whole_daemon(store, forever, forever) as daemon:
        daemon.records.put("a turn", refuse)
        with trio.fail_after(20):
            await daemon.records.flush()
        (problem,) = daemon.health().problems
        assert (problem.key, problem.what) == ("record_given_up", problem.text)
        assert "there is no such column" in problem.text


def test_a_reason_has_begun_when_it_was_first_seen_and_anew_when_it_was_gone():
    one = reason(ReasonKind.STORE_AWAY, "the store is away: locked")
    known = reason(ReasonKind.ROUTINE_LATE, "late", since=ago(500))
    beginnings = Beginnings()
    assert [each.since for each in beginnings.of([one, known], ago(60))] == [ago(60), ago(500)]
    other_words = dataclasses.replace(one, text="the store is away: gone")
    assert [each.since for each in beginnings.of([other_words], ago(30))] == [ago(60)]
    assert beginnings.of([], ago(20)) == ()
    assert [each.since for each in beginnings.of([one], NOW)] == [NOW]


def test_what_the_daemon_itself_says_is_a_reason_of_its_kind():
    _, found = overall(
        {"social": status(status="crashed"), "content": status("content", paused="no key")},
        store_error="locked",
        blocked="blocked for 3 s",
        stopping=True,
    )
    assert [each.key for each in found] == [
        "daemon_stopping",
        "loop_blocked",
        "agent_trouble",
        "agent_paused",
        "store_away",
    ]
    assert all(each.advice for each in found)


async def test_who_posts_a_task_that_nobody_does_is_told(store):
    daemon = make_daemon(store)
    off = status("content", status="disabled", enabled=False, why_disabled="the flag is false")
    daemon.supervisor.statuses["content"] = off
    await store.register_agents(
        "other", [AgentRegistration(agent_id="mail", class_name="m:M", model="m")]
    )
    async with served(daemon) as client:

        async def warning(agent_id):
            body = {"agent_type": agent_id, "goal": "g"}
            answer = await client.post("/agents/task", json=body)
            assert answer.status_code == 201
            return answer.json().get("warning")

        assert await warning("social") is None
        assert await warning("content") == (
            "Nobody does it as things are: it is disabled: the flag is false. "
            "It waits in the queue."
        )
        assert "no daemon that runs has an agent mail" in await warning("mail")
        # The health tells it at once, and not after the next two looks at the queue.
        assert daemon.work.facts().waiting.keys() == {"content", "mail"}
        await store.touch_worker("other", "there", {"content": "running"}, silent_after=60.0)
        assert await warning("content") is None


async def test_the_page_says_what_to_do_about_each_reason(store):
    daemon = make_daemon(store)
    found = (reason(ReasonKind.STORE_AWAY, "the store is away: locked"),)
    texts = tuple(each.text for each in found)
    daemon.state = dataclasses.replace(daemon.state, reasons=texts, problems=found)
    async with served(daemon) as client:
        page = (await client.get("/")).text
    assert f"{found[0].text}<br>" in page
    assert ReasonKind.STORE_AWAY.advice in page


# -- the reference


def test_the_reference_has_all_reasons_and_a_test_for_each():
    rows = re.findall(
        r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+) \|$",
        REFERENCE.read_text().partition("| `key` | When |")[2],
        re.MULTILINE,
    )
    assert [(key, when, advice) for key, when, advice, _ in rows] == [
        (kind.value, kind.when, kind.advice) for kind in ReasonKind
    ]
    assert all(re.search(r"`test_\w+`", tests) for *_, tests in rows)


async def test_a_day_that_cost_far_more_than_the_week_before_is_a_reason_until_a_person_has_seen_it(
    clock, store
):
    """$50 after a week of $0; for a day at most, and no longer than it is news."""
    events = EventLog()
    observed = ObservedStore(store, events)
    work = watch_on(observed, events, "here")
    settings = load_settings({}, env_file=None)

    async def looked(*, now=None):
        await work.look(settings)
        return [
            each.text
            for each in judged(work.facts(), now=now or await store.ping())
            if each.key is ReasonKind.COSTS_UNUSUAL
        ]

    assert await looked() == []
    flag = "the agents cost $50.00 today; $0.00 a day in the week before. That is unusual"
    audit = {"kind": "cost_audit", "agent_id": "revenue", "flag": flag}
    await store.insert(DomainTable.REPORTS, "r1", audit)
    assert await looked() == [], "it is looked for now and then"
    events.publish(EventKind.TASK_FINISHED, "", agent_id="revenue", outcome="succeeded")
    assert await looked() == [f"revenue: {flag}"]
    assert await looked(now=await store.ping() + timedelta(days=1, minutes=1)) == []

    said = NewReview(
        id="v1",
        table_name=DomainTable.REPORTS,
        row_id="r1",
        verdict=Verdict.APPROVED,
        comment=None,
        reviewed_by="Grace",
    )
    await observed.review_row(said, shown={}, changes={"status": "approved"})
    assert await looked() == []

    await store.insert(DomainTable.REPORTS, "r2", audit)
    await trio.sleep(FLAGS_EVERY)
    assert await looked() == [f"revenue: {flag}"]
    await store.insert(DomainTable.REPORTS, "r3", {**audit, "flag": None})
    await trio.sleep(FLAGS_EVERY)
    assert await looked() == []
