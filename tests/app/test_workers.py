"""Several workers of one agent: at work at once, each by itself; what is asked holds for all."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from agents_stage import INSTANCE, WORKER, live_on, staged

from actp_supervise import current_child
from app.agents.activity import Activity
from app.health import overall
from app.launcher import AgentLauncher
from app.metrics import of_agents
from app.settings import SettingsError, load_settings
from app.status import AgentHealth
from app.store.protocol import RunOutcome, TaskStatus
from app.supervised import combined
from app.terminal.watch import row_of

THREE = {"SOCIAL_MEDIA_AGENT_WORKERS": "3"}
OTHER = "instance-of-another"


class Crew:
    """What three workers do: each idles until it is told to crash, to hang, or to stop."""

    def __init__(self):
        self.runs = []
        self.crash = set()
        self.finished = []

    async def __call__(self, config, run):
        number = len(self.runs)
        self.runs.append(run)
        run.activity.vouch(math.inf)
        child = current_child()
        while not child.stopping:
            if number in self.crash:
                raise ValueError(f"run {number} is to crash")
            with child.cancel_on_stop():
                await trio.sleep(0.1)
        await trio.sleep(2)  # what is in flight
        self.finished.append(number)


def workers_of(stage):
    return stage.supervisor.get_status()["social"].workers


async def test_each_worker_is_a_child_of_its_agent_with_a_run_of_its_own(clock, store):
    crew = Crew()
    async with staged(store, crew, environ=THREE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        assert [worker.number for worker in workers_of(stage)] == [1, 2, 3]
        assert {worker.run_id for worker in workers_of(stage)} == {run.run_id for run in crew.runs}
        status = stage.supervisor.get_status()["social"]
        assert (status.status, status.workers_running, status.workers_busy) == ("running", 3, 0)
        await stage.records.flush()
        assert len(await store.runs("social")) == 3


async def test_a_worker_that_crashes_is_restarted_and_the_others_go_on(clock, store):
    crew = Crew()
    async with staged(store, crew, environ=THREE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        crew.crash.add(1)
        await trio.sleep(1)
        assert len(crew.runs) == 4
        before, after = {run.run_id for run in crew.runs[:3]}, workers_of(stage)
        assert sorted(worker.restarts for worker in after) == [0, 0, 1]
        assert len({worker.run_id for worker in after} & before) == 2
        status = stage.supervisor.get_status()["social"]
        assert (status.restarts, status.error_count, status.status) == (1, 1, "running")
        assert "run 1 is to crash" in status.last_error
        await stage.records.flush()
        runs = await store.runs("social")
        assert [run.outcome for run in runs].count(RunOutcome.CRASHED) == 1


async def test_a_worker_that_hangs_is_restarted_and_the_others_go_on(clock, store):
    starts = []

    async def second_hangs(config, run):
        starts.append(run.run_id)
        if len(starts) == 2:
            await trio.sleep_forever()
        await live_on(config, run)

    async with staged(store, second_hangs, environ=THREE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(100)
        assert len(starts) == 4
        assert sorted(worker.restarts for worker in workers_of(stage)) == [0, 0, 1]
        assert "the agent hung" in stage.status()["last_error"]


async def test_a_worker_that_keeps_crashing_backs_off_while_the_agent_works(clock, store):
    crew = Crew()
    crew.crash.update({0, *range(3, 9)})
    async with staged(store, crew, environ=THREE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(5)
        states = [worker.status for worker in workers_of(stage)]
        assert sorted(states) == ["backing_off", "running", "running"]
        status = stage.supervisor.get_status()["social"]
        assert status.status == "running"
        _, reasons = overall({"social": status})
        assert len(reasons) == 1
        number = states.index("backing_off") + 1
        assert reasons[0].text.startswith(f"social: worker {number} of 3 crashed and waits for its")


async def test_a_pause_holds_for_all_workers_also_for_those_that_start_later(clock, store):
    crew = Crew()
    async with staged(store, crew, environ=THREE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        await stage.supervisor.pause_agent("social")
        assert all(run.activity.held for run in crew.runs)
        crew.crash.add(0)
        await trio.sleep(1)
        assert crew.runs[3].activity.held
        assert stage.supervisor.get_status()["social"].health.held
        await stage.supervisor.resume_agent("social")
        assert not any(worker.health.held for worker in workers_of(stage))


async def test_a_restart_lets_the_work_of_all_finish_and_starts_all_anew(clock, store):
    crew = Crew()
    async with staged(store, crew, environ=THREE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        await stage.supervisor.restart_agent("social")
        await trio.sleep(1)
        assert sorted(crew.finished) == [0, 1, 2]
        assert len(crew.runs) == 6
        status = stage.supervisor.get_status()["social"]
        assert (status.workers_running, status.error_count) == (3, 0)


async def test_a_drain_waits_for_the_work_of_all_at_once(clock, store):
    crew = Crew()
    async with staged(store, crew, environ=THREE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        began = trio.current_time()
        await stage.supervisor.stop_all()
        assert sorted(crew.finished) == [0, 1, 2]
        assert trio.current_time() - began == pytest.approx(2.0)
        assert stage.status()["status"] == "stopped"
        await stage.records.flush()
        assert {run.outcome for run in await store.runs("social")} == {RunOutcome.STOPPED}


async def test_a_drain_that_is_too_long_is_cut_for_all(clock, store):
    crew = Crew()
    async with staged(store, crew, environ=THREE, drain_timeout=1.0) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(0.5)
        began = trio.current_time()
        await stage.supervisor.stop_all()
        assert crew.finished == []
        assert trio.current_time() - began == pytest.approx(1.0)


async def test_all_are_cancelled_where_the_daemon_must_stop_at_once(clock, store):
    crew = Crew()
    async with staged(store, crew, environ=THREE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        began = trio.current_time()
        await stage.supervisor.cancel_all()
        assert trio.current_time() == began
        assert stage.status()["error_count"] == 0


async def test_of_a_single_agent_all_workers_run_in_one_daemon_and_give_way_together(clock, store):
    crew = Crew()
    environ = THREE | {"SOCIAL_MEDIA_AGENT_SINGLE": "yes"}
    async with staged(store, crew, environ=environ, single_lease=60.0) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        assert stage.supervisor.get_status()["social"].workers_running == 3
        holder = await store.hold_lease("social", OTHER, lease=60)
        assert holder.instance == INSTANCE
        await store.drop_lease("social", INSTANCE)
        await store.touch_worker("worker-2", OTHER, {}, silent_after=1000)
        await store.hold_lease("social", OTHER, lease=10_000)
        await trio.sleep(60)
        status = stage.supervisor.get_status()["social"]
        assert (status.status, status.workers_running, status.error_count) == ("standby", 0, 0)
        await store.drop_lease("social", OTHER)
        await trio.sleep(60)
        assert stage.supervisor.get_status()["social"].workers_running == 3


async def test_another_number_of_workers_holds_from_the_next_run_on(clock, store):
    crew = Crew()
    async with staged(store, crew, environ=THREE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        (config,) = (a for a in load_settings({}, env_file=None).agents if a.agent_id == "social")
        assert stage.supervisor.reconfigure(replace(config, single=False, workers=2))
        await stage.supervisor.restart_agent("social")
        await trio.sleep(1)
        assert stage.supervisor.get_status()["social"].workers_running == 2


async def test_the_registry_hears_of_the_agent_as_long_as_one_worker_lives(clock, store):
    async with staged(store, live_on, environ=THREE) as stage:
        await stage.supervisor.start_all()
        stage.nursery.start_soon(stage.heartbeat.start, 30.0)
        stage.nursery.start_soon(stage.supervisor.watch_loop)
        await trio.sleep(100)
        (row,) = [row for row in await store.agents() if row.agent_id == "social"]
        assert row.last_heartbeat is not None
        assert row.health["doing"] == "starting"


# Nine tasks of three seconds.


@asynccontextmanager
async def at_work(store, **environ):
    environ = {
        "ANTHROPIC_API_KEY": "k",
        "SOCIAL_MEDIA_AGENT_CLASS": "several_workers:Slow",
        "SOCIAL_MEDIA_AGENT_SINGLE": "no",
        **environ,
    }
    settings = load_settings(environ, env_file=None).with_agents(["social"])
    launcher = AgentLauncher(replace(settings, worker_id=WORKER), store, INSTANCE)
    async with staged(store, launcher.run, environ=environ) as stage:
        await stage.supervisor.start_all()
        stage.nursery.start_soon(stage.supervisor.watch_loop)
        yield stage


async def test_three_workers_do_nine_tasks_of_three_seconds_in_ten(clock, store):
    for number in range(9):
        await store.add_task(f"t{number}", "social", f"task {number}")
    async with at_work(store, **THREE) as stage:
        began = trio.current_time()
        while (await store.count_tasks()).get("social", {}).get(TaskStatus.SUCCEEDED, 0) < 9:
            assert trio.current_time() - began < 10.0
            await trio.sleep(0.25)
        by_run = [task.result["by"] for task in await store.tasks(agent_type="social")]
        assert sorted(map(by_run.count, set(by_run))) == [3, 3, 3]
        assert sum(worker.health.tasks_done for worker in workers_of(stage)) == 9
        assert stage.status()["tasks_done"] == 9


async def test_a_task_that_is_cancelled_ends_alone(clock, store):
    for number in range(3):
        await store.add_task(f"t{number}", "social", f"task {number}")
    async with at_work(store, **THREE) as stage:
        await trio.sleep(2)
        assert stage.supervisor.get_status()["social"].workers_busy == 3
        await store.cancel_task("t1")
        stage.supervisor.notify_task("social")
        await trio.sleep(8)
        ended = {task.id: task.status for task in await store.tasks(agent_type="social")}
        assert ended == {"t0": "succeeded", "t1": "cancelled", "t2": "succeeded"}


# What is shown.


def test_the_agent_is_paused_or_throttled_only_where_all_its_workers_are():
    busy = AgentHealth(doing="turn 2", task_id="t", step=2, tasks_done=1, heartbeat_age=3.0)
    paused = AgentHealth(doing="paused", paused="the budget is spent", heartbeat_age=1.0)
    throttled = AgentHealth(doing="waiting", throttled_age=9.0, throttled_why="overloaded")
    health = combined([paused, busy, throttled])
    assert (health.doing, health.task_id, health.step) == ("1 of 3 at work: turn 2", "t", 2)
    assert (health.paused, health.throttled_age, health.throttled_why) == (None, None, None)
    assert (health.tasks_done, health.heartbeat_age) == (1, 1.0)
    assert combined([paused, paused]).paused == "the budget is spent"
    assert combined([throttled, throttled]).throttled_age == 9.0
    assert combined([busy]) is busy


async def test_metrics_and_terminal_show_the_workers(clock, store):
    crew = Crew()
    async with staged(store, crew, environ=THREE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        crew.runs[0].activity.progress("task: a", task_id="t")
        statuses = stage.supervisor.get_status()
        figures = {
            metric.name: [sample.value for sample in metric.samples]
            for metric in of_agents(statuses, 0.0)
        }
        assert figures["actp_agent_workers"] == [3.0]
        assert figures["actp_agent_workers_busy"] == [1.0]
        assert row_of(statuses["social"]).doing == "1 of 3 at work: task: a"


async def test_what_a_run_has_spent_is_its_workers_own(clock, store):
    crew = Crew()
    async with staged(store, crew, environ=THREE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        crew.runs[1].activity.spent_usd += 0.25
        spent = {worker.run_id: worker.spent_usd for worker in workers_of(stage)}
        assert spent[crew.runs[1].run_id] == 0.25
        assert sum(spent.values()) == 0.25


def test_what_was_spent_crosses_from_a_process_of_the_agents_own():
    there, here = Activity(lambda: 1.0), Activity(lambda: 1.0)
    there.spent_usd = 1.5
    here.take_over(there.state(), 0.0)
    assert here.spent_usd == 1.5


@pytest.mark.parametrize("number", ["0", "51", "many", "-1", "1.5"])
def test_a_number_of_workers_that_makes_no_sense_is_refused(number):
    with pytest.raises(SettingsError, match="SOCIAL_MEDIA_AGENT_WORKERS"):
        load_settings({"SOCIAL_MEDIA_AGENT_WORKERS": number}, env_file=None)


async def test_what_is_watched_for_changes_is_the_state_that_is_shown_but_for_waits(clock, store):
    crew = Crew()

    def states(stage):
        supervisor = stage.supervisor
        shown = {agent_id: each.state for agent_id, each in supervisor.get_status().items()}
        assert supervisor.states() == shown
        return supervisor.states()["social"]

    async with staged(store, crew, environ=THREE) as stage:
        assert states(stage) == "starting"
        await stage.supervisor.start_all()
        await trio.sleep(1)
        assert states(stage) == "running"
        for number, run in enumerate(crew.runs):
            run.activity.pause("the budget is spent")
            assert states(stage) == ("paused" if number == 2 else "running")
        crew.runs[1].activity.resume()
        assert states(stage) == "running"
        await stage.supervisor.pause_agent("social")
        crew.crash |= {0, 1, 2}
        await trio.sleep(0.5)
        assert states(stage) == "paused"
        await stage.supervisor.stop_agent("social")
        assert states(stage) == "stopped"


async def test_a_wait_for_the_model_is_no_change_of_state(clock, store):
    crew = Crew()
    async with staged(store, crew) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        crew.runs[0].activity.throttle(5.0, "Claude is overloaded")
        assert stage.supervisor.get_status()["social"].state == "waiting"
        assert stage.supervisor.states()["social"] == "running"
