"""AgentSupervisor: restarts, backoff, what is recorded, what may be asked."""

from __future__ import annotations

import pytest
import trio
from agents_stage import Flaky, Recorder, hang, live_on, staged

from actp_supervise import SupervisorClosedError, current_child
from actp_supervise.service import make_redactor
from app.crashes import DAY, HOUR, CrashHistory
from app.store.protocol import OBEYED, RunOutcome, StoreUnavailable
from app.supervisor import AgentDisabledError, UnknownAgentError


async def test_supervisor_restarts_crashed_agent(clock, store):
    agent = Recorder(ends=[ValueError("the model answered nonsense")])
    async with staged(store, agent) as stage:
        await stage.supervisor.start_all()
        await stage.settle()
        assert agent.starts == [0.0, 0.0]
        assert stage.status()["status"] == "running"
        assert (stage.status()["restarts"], stage.status()["crashes"]) == (1, 1)
        running, crashed = await store.runs("social")
    assert crashed.outcome is RunOutcome.CRASHED
    assert crashed.error.startswith("Traceback")
    assert crashed.error.endswith("ValueError: the model answered nonsense\n")
    assert running.outcome is None


async def test_supervisor_backoff_after_5_crashes(clock, store):
    agent = Recorder(ends=[ValueError("again")] * 9)
    async with staged(store, agent) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1000)
        # R9: five restarts at once, then after 64, 128, 256, 300 and 300 seconds.
        since_start = [start - agent.starts[0] for start in agent.starts]
        assert since_start == [0.0] * 6 + [64.0, 192.0, 448.0, 748.0]
        assert await stage.supervisor.get_crash_count("social") == 9


async def test_an_agent_in_backoff_says_when_it_restarts(clock, store):
    async with staged(store, Recorder(ends=[ValueError("again")] * 6)) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(4)
        assert stage.status()["status"] == "backing_off"
        assert stage.status()["restart_in"] == 60.0
        assert stage.status()["heartbeat_age"] == 4.0
        assert stage.status()["pid"] is None
        assert (await store.agents())[0].status == "backing_off"


async def test_more_than_five_crashes_in_an_hour_are_waited_for(clock, store):
    agent = Recorder(ends=[ValueError("again")] * 6)
    async with staged(store, agent) as stage:
        assert not stage.supervisor._should_backoff("social")
        assert stage.supervisor._backoff_delay("social") == 0.0
        await stage.supervisor.start_all()
        await trio.sleep(1)
        assert stage.supervisor._should_backoff("social")
        assert stage.supervisor._backoff_delay("social") == 64.0
        await trio.sleep(3600)
        assert not stage.supervisor._should_backoff("social")
        assert stage.status()["error_count"] == 6


async def test_crashes_from_before_the_daemon_began_count(clock, store):
    await store.touch_worker("before", "instance-0", {}, silent_after=1000.0)
    for number in range(5):
        await store.start_run(f"run-{number}", "social", "instance-0")
        await store.finish_run(f"run-{number}", RunOutcome.CRASHED, error="no")
    agent = Recorder(ends=[ValueError("the sixth")])
    async with staged(store, agent) as stage:
        await stage.supervisor.start_all()
        assert stage.status()["error_count"] == 5
        await trio.sleep(100)
        assert len(agent.starts) == 2
        assert agent.starts[1] - agent.starts[0] == 64.0


async def test_crashes_that_the_store_has_of_this_daemon_too_count_once(clock):
    history = CrashHistory()
    await trio.sleep(50)
    history.note()
    await trio.sleep(10)
    history.load([10.0, 500.0, 4000.0])
    assert (history.count(HOUR), history.count(DAY)) == (2, 3)
    await trio.sleep(3200)
    assert history.count(HOUR) == 1


async def test_a_crash_counts_once_though_the_store_was_away_at_the_start(clock, store):
    flaky = Flaky(store)
    agent = Recorder(ends=[ValueError("once")])
    async with staged(flaky, agent) as stage:
        flaky.away = True
        await stage.supervisor.start_all()
        await trio.sleep(30)
        flaky.away = False
        await trio.sleep(30)
        assert await stage.supervisor.get_crash_count("social") == 1
        assert stage.status()["error_count"] == 1


async def test_a_store_that_is_away_stops_no_agent_and_loses_no_record(clock, store):
    flaky = Flaky(store)
    agent = Recorder(ends=[ValueError("first"), ValueError("second")])
    async with staged(flaky, agent) as stage:
        flaky.away = True
        await stage.supervisor.start_all()
        await trio.sleep(100)
        assert len(agent.starts) == 3
        assert stage.status()["status"] == "running"
        assert stage.records.away_because == "connection refused"
        assert await store.runs("social") == []
        flaky.away = False
        await trio.sleep(10)
        outcomes = [run.outcome for run in await store.runs("social")]
        assert outcomes == [None, RunOutcome.CRASHED, RunOutcome.CRASHED]
        assert stage.records.away_because is None
        assert (await store.agents())[0].status == "running"


async def test_an_agent_that_returns_unasked_has_crashed(clock, store):
    async with staged(store, Recorder(ends=[None])) as stage:
        await stage.supervisor.start_all()
        await stage.settle()
        _, ended = await store.runs("social")
    assert ended.outcome is RunOutcome.CRASHED
    assert "nobody had asked it to stop" in ended.error


async def test_an_asked_restart_is_a_new_run_and_no_crash(clock, store):
    agent = Recorder()
    async with staged(store, agent) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(2)
        await stage.supervisor.restart_agent("social")
        await stage.settle()
        assert len(agent.starts) == 2
        assert stage.status()["crashes"] == 0
        outcomes = [run.outcome for run in await store.runs("social")]
    assert outcomes == [None, RunOutcome.STOPPED]


async def test_a_restart_cuts_a_backoff_short(clock, store):
    agent = Recorder(ends=[ValueError("again")] * 6)
    async with staged(store, agent) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(10)
        await stage.supervisor.restart_agent("social")
        assert agent.starts[-1] == 10.0


async def test_stopping_all_lets_work_in_flight_finish_and_starts_nothing_any_more(clock, store):
    finished = []

    async def work(config, run):
        await current_child().stopping.wait()
        await trio.sleep(7)
        finished.append(trio.current_time())

    async with staged(store, work, drain_timeout=30) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        stage.nursery.start_soon(stage.supervisor.stop_all)
        await trio.sleep(1)
        assert stage.status()["status"] == "draining"
        await trio.sleep(7)
        assert finished == [8.0]
        assert stage.status()["status"] == "stopped"
        with pytest.raises(SupervisorClosedError):
            await stage.supervisor.restart_agent("social")
        assert [run.outcome for run in await store.runs("social")] == [RunOutcome.STOPPED]


async def test_what_is_stopped_while_the_start_waits_for_the_store_is_never_started(clock, store):
    async with staged(store, hang) as stage:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.supervisor.start_all)
            await trio.lowlevel.checkpoint()
            await stage.supervisor.stop_all()
        assert stage.status()["status"] == "stopped"
        assert stage.status()["uptime"] == 0.0


async def test_what_is_not_finished_after_the_drain_timeout_is_cancelled(clock, store):
    async with staged(store, hang, drain_timeout=30) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        await stage.supervisor.stop_all()
        assert trio.current_time() == 31.0


async def test_cancelling_all_is_at_once_and_no_crash(clock, store):
    async with staged(store, hang, drain_timeout=30) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        stage.nursery.start_soon(stage.supervisor.stop_all)
        await trio.sleep(1)
        await stage.supervisor.cancel_all()
        assert trio.current_time() == 2.0
        await stage.settle()
        assert [run.outcome for run in await store.runs("social")] == [RunOutcome.STOPPED]


async def test_cancelling_all_without_asking_first_is_no_crash_either(clock, store):
    async with staged(store, hang) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        await stage.supervisor.cancel_all()
        await stage.settle()
        assert stage.status()["crashes"] == 0
        assert [run.outcome for run in await store.runs("social")] == [RunOutcome.STOPPED]


async def test_an_error_on_the_way_out_is_recorded_and_is_no_crash(clock, store):
    async def launch(config, run):
        await current_child().stopping.wait()
        raise ValueError("could not say goodbye")

    async with staged(store, launch) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        await stage.supervisor.stop_agent("social")
        await stage.settle()
        (run,) = await store.runs("social")
        assert run.outcome is RunOutcome.STOPPED
        assert "could not say goodbye" in run.error
        assert await stage.supervisor.get_crash_count("social") == 0


async def test_a_hung_agent_is_restarted_and_that_is_a_crash(clock, store):
    runs = iter([hang, live_on])

    async def launch(config, run):
        await next(runs)(config, run)

    async with staged(store, launch, watch_interval=10, stale_threshold=90) as stage:
        await stage.supervisor.start_all()
        stage.nursery.start_soon(stage.supervisor.watch_loop)
        await trio.sleep(89)
        assert stage.status()["restarts"] == 0
        await trio.sleep(2)
        assert (stage.status()["status"], stage.status()["restarts"]) == ("running", 1)
        assert stage.status()["crashes"] == stage.status()["error_count"] == 1
        await stage.settle()
        _, hung = await store.runs("social")
    assert hung.outcome is RunOutcome.CRASHED
    assert hung.error == "the agent hung: its loop has not turned for 90 s"


async def test_a_hung_agent_is_found_though_the_store_takes_long_to_answer(clock, store):
    class Slow(Flaky):
        async def beat(self, *args, **options):
            await trio.sleep(5)
            raise StoreUnavailable("timed out")

    runs = iter([hang, live_on])

    async def launch(config, run):
        await next(runs)(config, run)

    async with staged(Slow(store), launch, watch_interval=10, stale_threshold=90) as stage:
        await stage.supervisor.start_all()
        stage.nursery.start_soon(stage.supervisor.watch_loop)
        await trio.sleep(110)
        assert stage.status()["restarts"] == 1
        assert stage.records.away_because == "timed out"


async def test_nobody_is_stale_for_a_time_in_which_the_whole_daemon_stood_still(clock, store):
    agent_ids = ("social", "content", "acquisition", "revenue")
    async with staged(store, live_on, agent_ids=agent_ids) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(11)
        for _ in range(3):
            clock.jump(500)
            await trio.sleep(30)
        assert [stage.status(agent_id)["crashes"] for agent_id in agent_ids] == [0] * 4


async def test_a_restart_asked_for_in_the_registry_is_done_once(clock, store):
    agent = Recorder()
    async with staged(store, agent, watch_interval=10) as stage:
        await stage.supervisor.start_all()
        stage.nursery.start_soon(stage.supervisor.watch_loop)
        await trio.sleep(3)
        assert await stage.registry.set_needs_restart("social", True)
        await trio.sleep(60)
        assert agent.starts == [0.0, 4.5]


async def test_it_is_kept_whether_a_request_to_restart_was_obeyed(clock, store):
    async with staged(store, Recorder(), watch_interval=10) as stage:
        await stage.supervisor.start_all()
        stage.nursery.start_soon(stage.supervisor.watch_loop)
        await store.set_needs_restart("social", value=True, by="ada")
        await trio.sleep(10)
        (row,) = [row for row in await store.agents() if row.agent_id == "social"]
        assert (row.restart_asked_by, row.restart_answer) == ("ada", OBEYED)
        assert row.restart_answered_by == stage.registry.worker_id
        await stage.supervisor.restart_as_told("social", "ben")  # asked of the daemon itself
        await stage.records.flush()
        (row,) = [row for row in await store.agents() if row.agent_id == "social"]
        assert (row.restart_asked_by, row.restart_answer) == ("ben", OBEYED)


async def test_it_is_kept_why_a_request_to_restart_was_refused(clock, store):
    async with staged(store, Recorder()) as stage:
        await stage.supervisor.start_all()
        await stage.supervisor.stop_all()
        with pytest.raises(SupervisorClosedError):
            await stage.supervisor.restart_as_told("social", "ada")
        await stage.records.flush()
        (row,) = [row for row in await store.agents() if row.agent_id == "social"]
        assert row.restart_answer == "refused: the daemon is stopping"


async def test_watching_goes_on_while_the_store_is_away(clock, store):
    flaky = Flaky(store)
    agent = Recorder()
    async with staged(flaky, agent, watch_interval=10) as stage:
        await stage.supervisor.start_all()
        stage.nursery.start_soon(stage.supervisor.watch_loop)
        await trio.sleep(5)
        flaky.away = True
        await store.set_needs_restart("social", value=True)
        await trio.sleep(41)  # between two beats
        flaky.away = False
        await trio.sleep(10)
        assert agent.starts == pytest.approx([0.0, 49.5])


async def test_a_store_that_can_be_read_and_not_written_counts_as_away(clock, store):
    class ReadOnly(Flaky):
        is_full = True

        async def start_run(self, **options):
            if self.is_full:
                raise StoreUnavailable("disk full")
            await self.store.start_run(**options)

    full = ReadOnly(store)
    async with staged(full, Recorder(), watch_interval=1) as stage:
        await stage.supervisor.start_all()
        stage.nursery.start_soon(stage.supervisor.watch_loop)
        await trio.sleep(0.5)
        for _ in range(5):
            assert stage.records.away_because == "disk full"
            await trio.sleep(1)
        full.is_full = False


async def test_a_stopped_agent_stays_stopped_until_it_is_started(clock, store):
    agent = Recorder()
    async with staged(store, agent) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        await stage.supervisor.stop_agent("social")
        await stage.settle()
        assert stage.status()["status"] == "stopped"
        assert (await store.agents())[0].status == "stopped"
        await stage.supervisor.start_agent("social")
        await stage.supervisor.start_agent("social")
        await stage.settle()
        assert stage.status()["status"] == "running"
        assert len(agent.starts) == 2


class SlowToCount(Flaky):
    """A store that takes long to say how often an agent has crashed."""

    async def crash_ages(self, agent_id, *, within):
        await trio.sleep(3)
        return []


async def test_an_agent_stopped_before_it_has_started_does_not_start_later(clock, store):
    async with staged(SlowToCount(store), Recorder()) as stage:
        stage.nursery.start_soon(stage.supervisor.start_all)
        await trio.sleep(1)
        await stage.supervisor.stop_agent("social")
        assert stage.status()["status"] == "stopped"
        await trio.sleep(10)
        assert stage.status()["status"] == "stopped"


@pytest.mark.parametrize("ask", ["restart_agent", "start_agent"])
async def test_a_start_asked_for_before_the_first_one_waits_for_it(clock, store, ask):
    async with staged(SlowToCount(store), Recorder()) as stage:
        stage.nursery.start_soon(stage.supervisor.start_all)
        await trio.sleep(1)
        await getattr(stage.supervisor, ask)("social")
        assert trio.current_time() == 3.0
        assert stage.status()["status"] == "running"


async def test_a_start_asked_for_that_never_comes_ends_with_the_daemon(clock, store):
    async with staged(store, Recorder()) as stage:
        stage.nursery.start_soon(stage.supervisor.stop_all)
        with pytest.raises(SupervisorClosedError):
            await stage.supervisor.start_agent("social")


async def test_a_disabled_agent_is_listed_and_never_started(clock, store):
    agent = Recorder()
    environ = {"ENABLE_SOCIAL_MEDIA_AGENT": "no"}
    async with staged(store, agent, environ=environ) as stage:
        await stage.supervisor.start_all()
        await stage.settle()
        assert agent.starts == []
        assert stage.status()["status"] == "disabled"
        assert stage.status()["why_disabled"] == "ENABLE_SOCIAL_MEDIA_AGENT is false"
        with pytest.raises(AgentDisabledError, match="ENABLE_SOCIAL_MEDIA_AGENT"):
            await stage.supervisor.restart_agent("social")


async def test_one_agent_crashing_leaves_the_others_alone(clock, store):
    async def launch(config, run):
        if config.agent_id == "social":
            raise ValueError("again")
        await live_on(config, run)

    async with staged(store, launch, agent_ids=("social", "content")) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(500)
        assert stage.status("content")["restarts"] == 0
        assert stage.status("content")["uptime"] == 500.0


@pytest.mark.parametrize("ask", ["restart_agent", "stop_agent", "start_agent", "get_crash_count"])
async def test_an_unknown_agent_is_refused_and_the_known_ones_are_named(clock, store, ask):
    async with staged(store, live_on, agent_ids=("social", "content")) as stage:
        with pytest.raises(UnknownAgentError, match="known are social, content"):
            await getattr(stage.supervisor, ask)("scoial")


async def test_no_secret_is_recorded_of_an_error(clock, store):
    agent = Recorder(ends=[ValueError("401 for key hunter2")])
    async with staged(store, agent, redact=make_redactor(["hunter2"])) as stage:
        await stage.supervisor.start_all()
        await stage.settle()
        _, crashed = await store.runs("social")
        assert "hunter2" not in stage.status()["last_error"]
    assert "hunter2" not in crashed.error
    assert "401 for key [redacted]" in crashed.error


async def test_of_an_error_of_megabytes_a_page_is_kept(clock, store):
    agent = Recorder(ends=[ValueError("x" * 5_000_000)])
    async with staged(store, agent) as stage:
        await stage.supervisor.start_all()
        await stage.settle()
        _, crashed = await store.runs("social")
        assert len(stage.status()["last_error"]) < 25_000
    assert len(crashed.error) < 25_000
    assert "ValueError: xxx" in crashed.error


async def test_a_posted_task_wakes_its_agent_even_if_it_was_not_waiting_yet(clock, store):
    woken = []

    async def launch(config, run):
        await trio.sleep(5)
        while not current_child().stopping:
            with current_child().cancel_on_stop():
                await run.wait_for_work(30)
                woken.append(trio.current_time())

    async with staged(store, launch) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        stage.supervisor.notify_task("social")
        await trio.sleep(9)
        stage.supervisor.notify_task("social")
        await trio.sleep(35)
        assert woken == [5.0, 10.0, 40.0]


async def test_an_operator_pauses_an_agent_over_its_restarts(clock, store):
    async with staged(store, Recorder()) as stage:
        await stage.supervisor.start_all()
        await stage.settle()
        await stage.supervisor.pause_agent("social")
        assert stage.status()["paused"] == "paused by an operator"
        await stage.supervisor.restart_agent("social")
        await stage.settle()
        assert stage.status()["paused"] == "paused by an operator"
        assert stage.status()["status"] == "running"
        await stage.supervisor.resume_agent("social")
        assert stage.status()["paused"] is None


async def test_a_disabled_agent_cannot_be_paused(clock, store):
    off = {"ENABLE_SOCIAL_MEDIA_AGENT": "no"}
    async with staged(store, Recorder(), environ=off) as stage:
        with pytest.raises(AgentDisabledError):
            await stage.supervisor.pause_agent("social")
