"""The contract of the Store: the registry, the daemons and the runs of agents.

Here and there a test really waits, for hundredths of a second, so that a lease or another span
runs out: time is the database's, and no virtual clock moves that.
"""

from __future__ import annotations

import trio
from store_calls import (
    LONG,
    NOON,
    add,
    claim,
    live,
    register,
)

from app.store.protocol import (
    OBEYED,
    AgentRegistration,
    Lease,
    RunOutcome,
    TaskStatus,
)


async def test_registered_agents_are_listed_by_id(store):
    await register(store, "social", "content")
    first, second = await store.agents()
    assert (first.agent_id, second.agent_id) == ("content", "social")
    assert (first.class_name, first.model, first.status) == ("a.b:content", "opus", "starting")
    assert first.worker_id == "w1"
    assert first.needs_restart is False
    assert first.health is None
    assert first.heartbeat_age is None


async def test_no_agents_are_listed_before_any_is_registered(store):
    assert await store.agents() == []


async def test_registering_nothing_is_fine(store):
    await store.register_agents("w1", [])
    assert await store.agents() == []


async def test_registering_sets_last_seen_by_the_databases_clock(store):
    before = await store.ping()
    await register(store, "social")
    (agent,) = await store.agents()
    assert before <= agent.last_seen <= await store.ping()


async def test_registering_again_updates_the_row(store):
    await register(store, "social")
    await store.set_status("social", "running")
    await store.register_agents(
        "w2", [AgentRegistration(agent_id="social", class_name="x:Y", model="m", status="new")]
    )
    (agent,) = await store.agents()
    assert (agent.class_name, agent.model, agent.status, agent.worker_id) == (
        "x:Y",
        "m",
        "new",
        "w2",
    )


async def test_a_disabled_agent_is_registered_with_the_reason(store):
    await register(store, "social")
    await store.record_heartbeat("social", {"doing": "idle"})
    await register(store, "social")
    (agent,) = await store.agents()
    assert agent.health == {"doing": "idle"}
    registration = AgentRegistration(
        agent_id="social", class_name="x:Y", model="m", status="disabled", why="a flag says so"
    )
    await store.register_agents("w2", [registration])
    (agent,) = await store.agents()
    assert agent.health == {"why_disabled": "a flag says so"}


async def test_registering_again_keeps_an_open_restart_request(store):
    await register(store, "social")
    await store.set_needs_restart("social", value=True)
    await register(store, "social")
    (agent,) = await store.agents()
    assert agent.needs_restart is True


async def test_setting_a_status_sets_last_seen(store):
    await register(store, "social", "content")
    seen = (await store.agents())[1].last_seen
    await trio.sleep(0.01)
    await store.set_status("social", "running")
    content, social = await store.agents()
    assert (social.status, content.status) == ("running", "starting")
    assert social.last_seen > seen


async def test_setting_a_status_names_the_worker_where_given(store):
    await register(store, "social")
    await store.set_status("social", "running", worker_id="w7")
    await store.set_status("social", "stopped")
    (agent,) = await store.agents()
    assert (agent.status, agent.worker_id) == ("stopped", "w7")


async def test_the_status_of_an_unknown_agent_registers_nobody(store):
    await store.set_status("nobody", "running")
    assert await store.agents() == []


async def test_a_heartbeat_sets_health_and_both_times(store):
    await register(store, "social")
    before = await store.ping()
    await store.record_heartbeat("social", {"doing": "idle", "queue": [1, None, "ä"]})
    (agent,) = await store.agents()
    assert agent.health == {"doing": "idle", "queue": [1, None, "ä"]}
    assert before <= agent.last_heartbeat == agent.last_seen


async def test_a_heartbeat_is_kept_on_the_open_runs_of_its_agent(store):
    await store.start_run("over", "social", "run-1")
    await store.finish_run("over", RunOutcome.STOPPED)
    await store.start_run("open", "social", "run-1")
    await store.start_run("other", "content", "run-1")
    await store.record_heartbeat("social", {})
    newest, oldest = await store.runs("social")
    assert newest.last_heartbeat >= newest.started_at
    assert oldest.last_heartbeat is None
    assert (await store.runs("content"))[0].last_heartbeat is None


async def test_heartbeat_age_grows_by_the_databases_clock(store):
    await register(store, "social")
    await store.record_heartbeat("social", {})
    await trio.sleep(0.05)
    (agent,) = await store.agents()
    assert 0.04 <= agent.heartbeat_age < 5


async def test_a_restart_of_an_unknown_agent_cannot_be_asked_for(store):
    assert await store.set_needs_restart("nobody", value=True) is False


async def test_a_restart_request_is_taken_once(store):
    await register(store, "social", "content")
    assert await store.set_needs_restart("social", value=True) is True
    assert await store.take_restart_requests(["social", "content"]) == ["social"]
    assert await store.take_restart_requests(["social", "content"]) == []
    assert [agent.needs_restart for agent in await store.agents()] == [False, False]


async def test_restart_requests_of_other_agents_are_left_alone(store):
    await register(store, "social", "content")
    await store.set_needs_restart("social", value=True)
    assert await store.take_restart_requests(["content"]) == []
    assert await store.take_restart_requests([]) == []
    assert await store.take_restart_requests(["social"]) == ["social"]


async def test_a_restart_request_can_be_taken_back(store):
    await register(store, "social")
    await store.set_needs_restart("social", value=True)
    await store.set_needs_restart("social", value=False)
    assert await store.take_restart_requests(["social"]) == []


async def test_a_new_restart_request_after_one_was_taken_counts(store):
    await register(store, "social")
    for token in ("one", "two"):
        await store.set_needs_restart("social", value=True)
        assert await store.take_restart_requests(["social"], token=token) == ["social"]


async def test_a_lost_answer_loses_no_restart_request(store):
    await register(store, "social")
    await store.set_needs_restart("social", value=True)
    assert await store.take_restart_requests(["social"], token="one") == ["social"]
    assert await store.take_restart_requests(["social"], token="one") == ["social"]
    assert await store.take_restart_requests(["social"], token="two") == []


async def test_two_pollers_take_each_restart_request_once(open_store):
    pollers = [await open_store(), await open_store()]
    ids = [f"agent-{n:02}" for n in range(30)]
    await register(pollers[0], *ids)
    for agent_id in ids:
        await pollers[0].set_needs_restart(agent_id, value=True)
    taken = []

    async def poll(store):
        for agent_id in ids:
            taken.extend(await store.take_restart_requests([agent_id], token=f"{id(store)}"))

    async with trio.open_nursery() as nursery:
        for poller in pollers:
            nursery.start_soon(poll, poller)
    assert sorted(taken) == ids


async def test_a_registered_daemon_is_live_until_it_is_forgotten(store):
    await store.touch_worker("w1", "run-1", {}, silent_after=1000.0)
    await store.touch_worker("w2", "run-2", {}, silent_after=1000.0)
    assert await live(store) == [("w1", "run-1"), ("w2", "run-2")]
    await store.forget_worker("run-1")
    assert await live(store) == [("w2", "run-2")]


async def test_a_daemon_that_starts_again_is_another_instance(store):
    await store.touch_worker("w1", "run-1", {}, silent_after=1000.0)
    await store.touch_worker("w1", "run-2", {}, silent_after=1000.0)
    await store.forget_worker("run-1")
    assert await live(store) == [("w1", "run-2")]


async def test_forgetting_an_unknown_daemon_is_harmless(store):
    await store.forget_worker("never-seen")
    assert await live(store) == []


async def test_the_tasks_of_a_forgotten_daemon_are_queued_at_once(store):
    await add(store)
    await claim(store, worker="dead")
    await store.forget_worker("dead-run")
    task = await store.task("t1")
    assert (task.status, task.attempts, task.worker_id) == (TaskStatus.QUEUED, 1, None)
    assert "dead" in task.error
    assert (await claim(store, "k2")).attempts == 2


async def test_the_last_attempt_of_a_forgotten_daemon_fails_with_the_reason(store):
    await add(store, max_attempts=1)
    await claim(store, worker="dead")
    await store.forget_worker("dead-run")
    task = await store.task("t1")
    assert (task.status, task.attempts) == (TaskStatus.FAILED, 1)
    assert "dead" in task.error
    assert task.finished_at is not None


async def test_a_task_to_be_cancelled_is_cancelled_when_its_daemon_is_forgotten(store):
    await add(store)
    await claim(store, worker="dead")
    await store.cancel_task("t1")
    await store.forget_worker("dead-run")
    assert (await store.task("t1")).status is TaskStatus.CANCELLED


async def test_forgetting_a_daemon_leaves_the_tasks_of_others(store):
    await add(store, "t1")
    await add(store, "t2")
    await claim(store, "k1", worker="dead")
    await claim(store, "k2", worker="alive")
    await store.forget_worker("dead-run")
    assert await store.renew_task("t2", "k2", lease=LONG) is Lease.HELD
    assert await store.renew_task("t1", "k1", lease=LONG) is Lease.LOST


async def test_open_runs_and_fires_of_a_forgotten_daemon_are_interrupted(store):
    await store.touch_worker("w1", "run-1", {}, silent_after=1000.0)
    await store.start_run("open", "social", "run-1")
    await store.start_run("over", "social", "run-1")
    await store.finish_run("over", RunOutcome.STOPPED)
    await store.start_run("other", "social", "run-2")
    await store.claim_fire("daily", NOON, "run-1")
    await store.forget_worker("run-1")
    outcomes = {run.id: run.outcome for run in await store.runs("social")}
    assert outcomes == {
        "open": RunOutcome.INTERRUPTED,
        "over": RunOutcome.STOPPED,
        "other": None,
    }
    (fire,) = await store.fires("daily")
    assert fire.outcome == "interrupted"
    assert fire.finished_at is not None


async def test_a_run_is_open_until_it_is_finished(store):
    await store.touch_worker("w1", "run-1", {}, silent_after=1000.0)
    await store.start_run("r1", "social", "run-1")
    (run,) = await store.runs("social")
    assert (run.id, run.agent_id, run.worker_id) == ("r1", "social", "w1")
    assert (run.finished_at, run.outcome, run.error) == (None, None, None)
    await store.finish_run("r1", RunOutcome.CRASHED, error="Traceback ...")
    (run,) = await store.runs("social")
    assert (run.outcome, run.error) == (RunOutcome.CRASHED, "Traceback ...")
    assert run.started_at <= run.finished_at


async def test_the_first_outcome_of_a_run_stands(store):
    await store.start_run("r1", "social", "run-1")
    await store.finish_run("r1", RunOutcome.CRASHED, error="first")
    await store.finish_run("r1", RunOutcome.STOPPED, error="second")
    (run,) = await store.runs("social")
    assert (run.outcome, run.error) == (RunOutcome.CRASHED, "first")


async def test_runs_are_listed_newest_first_and_bounded(store):
    for number in range(5):
        await store.start_run(f"r{number}", "social", "run-1")
    await store.start_run("foreign", "content", "run-1")
    assert [run.id for run in await store.runs("social", limit=3)] == ["r4", "r3", "r2"]


async def test_only_crashes_count_as_crashes(store):
    for run_id, outcome in (
        ("r1", RunOutcome.CRASHED),
        ("r2", RunOutcome.STOPPED),
        ("r3", RunOutcome.INTERRUPTED),
        ("r4", RunOutcome.CRASHED),
    ):
        await store.start_run(run_id, "social", "run-1")
        await store.finish_run(run_id, outcome)
    await store.start_run("r5", "content", "run-1")
    await store.finish_run("r5", RunOutcome.CRASHED)
    assert len(await store.crash_ages("social", within=LONG)) == 2


async def test_crash_ages_are_newest_first_and_end_at_the_window(store):
    for run_id in ("r1", "r2"):
        await store.start_run(run_id, "social", "run-1")
        await store.finish_run(run_id, RunOutcome.CRASHED)
        await trio.sleep(0.1)
    newer, older = await store.crash_ages("social", within=LONG)
    assert 0 <= newer < older < LONG
    assert len(await store.crash_ages("social", within=(newer + older) / 2)) <= 1


# What an operator has said.


async def test_a_time_of_a_routine_is_kept_replaced_and_put_back(store):
    assert await store.routine_times() == []
    await store.set_routine_time("b.two", "0 7 * * *", instead_of="0 6 * * *", by="anna")
    await store.set_routine_time("a.one", "@daily", instead_of="0 1 * * *")
    await store.set_routine_time("b.two", "30 7 * * *", instead_of="0 6 * * *", by="ben")
    first, second = await store.routine_times()
    assert (first.job_name, first.cron, first.changed_by) == ("a.one", "@daily", None)
    assert (second.job_name, second.cron, second.instead_of) == (
        *("b.two", "30 7 * * *", "0 6 * * *"),
    )
    assert second.changed_by == "ben"
    assert first.changed_at <= second.changed_at
    await store.set_routine_time("b.two", "30 7 * * *", instead_of="0 6 * * *", by="carla")
    assert await store.routine_times() == [first, second]  # it is so already
    await store.set_routine_time("b.two", None)
    await store.set_routine_time("never", None)
    assert [time.job_name for time in await store.routine_times()] == ["a.one"]


async def test_no_moment_of_a_paused_routine_can_be_claimed_by_any_daemon(store):
    await store.set_routine_paused("daily", "anna")
    await store.set_routine_paused("daily", "ben")
    (pause,) = await store.routine_pauses()
    assert (pause.job_name, pause.paused_by) == ("daily", "anna")
    assert not await store.claim_fire("daily", NOON, "w1-run")
    assert await store.claim_fire("weekly", NOON, "w1-run")
    assert await store.fires("daily") == []
    await store.set_routine_paused("daily", None)
    assert await store.routine_pauses() == []
    assert await store.claim_fire("daily", NOON, "w2-run")
    # What has begun goes on, and its claim may be repeated.
    await store.set_routine_paused("daily", "anna")
    assert await store.claim_fire("daily", NOON, "w2-run")


async def test_it_is_kept_who_asked_for_a_restart_when_and_what_came_of_it(store):
    await register(store, "social")
    assert await store.set_needs_restart("social", value=True, by="anna")
    (asked,) = await store.agents()
    assert (asked.restart_asked_by, asked.restart_answer) == ("anna", None)
    await store.answer_restart("social", "w1", OBEYED)
    await store.answer_restart("social", "w2", "refused: too late")
    (row,) = await store.agents()
    assert row.restart_asked_at == asked.restart_asked_at <= row.restart_answered_at
    assert (row.restart_answer, row.restart_answered_by) == (OBEYED, "w1")
    await store.note_restart("social", "ben")
    (row,) = await store.agents()
    assert row.restart_asked_at >= asked.restart_asked_at
    assert (row.restart_asked_by, row.restart_answered_at) == ("ben", None)


async def test_a_request_that_is_taken_back_is_none_and_has_no_answer(store):
    await register(store, "social")
    await store.set_needs_restart("social", value=True, by="anna")
    await store.set_needs_restart("social", value=False)
    await store.answer_restart("social", "w1", OBEYED)
    (row,) = await store.agents()
    assert (row.restart_asked_at, row.restart_asked_by, row.restart_answer) == (None, None, None)
