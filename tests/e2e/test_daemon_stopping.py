"""How a daemon ends: by signals, by kill -9, and that nothing is lost or done twice."""

from __future__ import annotations

import signal
from itertools import cycle

import pytest
import trio
from daemons import until

LIKE = "List the engagement actions and queue a like for the post 'Hiring is broken'"
SLOW = f"{LIKE} [simulate: slow 0.7]"
ENDLESS = "Recall what we know [simulate: slow 60]"


async def begun(place, task_id):
    await until(lambda: place.task(task_id)["status"] == "running")


async def done(place, task_id):
    await until(lambda: place.task(task_id)["status"] == "succeeded")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_graceful_shutdown_drains_in_flight(place, number):
    async with place.daemon("--agents", "social") as daemon:
        in_flight = await daemon.post("social", SLOW)
        waiting = await daemon.post("social", "Recall what we know")
        await begun(place, in_flight)
        daemon.signal(number)
        assert await daemon.wait() == 0
    assert place.task(in_flight)["status"] == "succeeded"
    assert (place.task(waiting)["status"], place.task(waiting)["attempts"]) == ("queued", 0)
    assert set(place.statuses().values()) == {"stopped"}
    runs = place.rows("select outcome, error from actp_agent_runs")
    assert runs == [{"outcome": "stopped", "error": None}]
    assert place.locks == []


async def test_while_draining_the_daemon_says_so_and_takes_no_work(place):
    async with place.daemon("--agents", "social") as daemon:
        in_flight = await daemon.post("social", SLOW)
        await begun(place, in_flight)
        daemon.signal(signal.SIGTERM)
        await daemon.until_agent("social", "draining")
        assert (await daemon.get("/health"))["reasons"][0] == "the daemon is stopping"
        assert (await daemon.http.get("/readyz")).status_code == 503
        assert place.statuses()["social"] == "draining"
        assert await daemon.wait() == 0


async def test_a_second_signal_stops_at_once_and_the_task_is_queued_again(place):
    async with place.daemon("--agents", "social") as daemon:
        in_flight = await daemon.post("social", ENDLESS)
        await begun(place, in_flight)
        daemon.signal(signal.SIGTERM)
        await until(lambda: daemon.logged("stop_requested"))
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
        assert daemon.logged("stop_at_once")
    task = place.task(in_flight)
    assert (task["status"], task["attempts"], task["lease_token"]) == ("queued", 0, None)
    assert set(place.statuses().values()) == {"stopped"}


@pytest.mark.usefixtures("real_start")
async def test_signals_that_come_while_it_ends_do_not_change_how_it_ends(idle_place):
    async with idle_place.daemon() as daemon:
        daemon.signal(signal.SIGTERM)
        await until(lambda: daemon.logged("stop_requested"))
        for number in cycle((signal.SIGHUP, signal.SIGTERM, signal.SIGINT)):
            if daemon.process.poll() is not None:
                break
            daemon.signal(number)
            await trio.sleep(0.003)  # so that some come at the very end
        assert await daemon.wait() == 0
    assert set(idle_place.statuses().values()) == {"stopped"}


async def test_what_is_not_finished_in_time_is_queued_again(place):
    async with place.daemon("--agents", "social", WORKER_DRAIN_TIMEOUT="0.3") as daemon:
        in_flight = await daemon.post("social", ENDLESS)
        await begun(place, in_flight)
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
    assert (place.task(in_flight)["status"], place.task(in_flight)["attempts"]) == ("queued", 0)


DEAF = """
import asyncio

class Agent:
    async def run_as_daemon(self, poll_interval):
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass
"""

BLOCKED = """
import time

class Agent:
    async def run_as_daemon(self, poll_interval):
        time.sleep(3600)
"""


LEAVES_A_THREAD = """
import threading, time
from actp_supervise import current_child

class Agent:
    async def run_as_daemon(self, poll_interval):
        threading.Thread(target=time.sleep, args=(3600,)).start()
        await current_child().stopping.wait()
"""


@pytest.mark.parametrize(
    ("source", "isolation"),
    [
        (DEAF, "loop"),
        pytest.param(DEAF, "thread", marks=pytest.mark.long),
        (BLOCKED, "thread"),
        (LEAVES_A_THREAD, "loop"),
    ],
)
async def test_an_agent_that_will_not_stop_does_not_keep_the_daemon(idle_place, source, isolation):
    idle_place.use_class(source, "Agent")
    options = {"WORKER_DRAIN_TIMEOUT": "0.2", "SOCIAL_MEDIA_AGENT_ISOLATION": isolation}
    async with idle_place.daemon(**options) as daemon:
        await daemon.until_agent("social", "running")
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
    assert set(idle_place.statuses().values()) == {"stopped"}


async def test_after_kill_9_the_next_start_finishes_the_task_once(place):
    async with place.daemon("--agents", "social") as daemon:
        in_flight = await daemon.post("social", SLOW)
        # In the middle: the like is queued, the conversation goes on.
        await until(lambda: place.rows("select 1 from actp_engagement_actions"))
        daemon.signal(signal.SIGKILL)
        await daemon.wait()
    assert place.task(in_flight)["status"] == "running"
    # The lease is 60 s, and nobody waits for it.
    async with place.daemon("--agents", "social") as daemon:
        await done(place, in_flight)
        assert daemon.logged("worker_died")
    assert place.task(in_flight)["attempts"] == 2
    assert len(place.rows("select * from actp_engagement_actions")) == 1
    first, *_ = place.rows("select outcome from actp_agent_runs order by started_at")
    assert first["outcome"] == "interrupted"


async def test_after_kill_9_another_daemon_finishes_the_task_when_its_lease_is_over(place):
    async with place.daemon("--agents", "social", WORKER_TASK_LEASE="1") as doomed:
        in_flight = await doomed.post("social", "Recall what we know [simulate: slow 10]")
        await begun(place, in_flight)
        async with place.daemon("--agents", "social", WORKER_TASK_LEASE="1") as other:
            place.rows("select 1")
            assert place.task(in_flight)["attempts"] == 1
            doomed.signal(signal.SIGKILL)
            await doomed.wait()
            await until(lambda: place.task(in_flight)["attempts"] == 2)
            assert place.task(in_flight)["worker_id"].endswith(str(other.process.pid))


async def test_two_daemons_on_one_file_do_each_task_once(place):
    place.environ["SOCIAL_MEDIA_AGENT_SINGLE"] = "no"
    async with (
        place.daemon("--agents", "social") as one,
        place.daemon("--agents", "social") as two,
    ):
        tasks = [await one.post("social", LIKE.replace("Hiring", str(n))) for n in range(8)]
        tasks += [await two.post("social", LIKE.replace("Hiring", str(n))) for n in range(8, 16)]
        for task_id in tasks:
            await done(place, task_id)
        assert {place.task(task_id)["attempts"] for task_id in tasks} == {1}
        assert len({place.task(task_id)["worker_id"] for task_id in tasks}) == 2
        assert len(place.rows("select * from actp_engagement_actions")) == 16
        # One ends, and the agent goes on in the other.
        one.signal(signal.SIGTERM)
        assert await one.wait() == 0
        after = await two.post("social", "Recall what we know")
        await done(place, after)
        two.signal(signal.SIGTERM)
        assert await two.wait() == 0
    assert set(place.statuses().values()) == {"stopped"}


async def test_a_database_that_goes_away_for_a_while_loses_nothing(place):
    async with place.daemon("--agents", "social") as daemon:
        in_flight = await daemon.post("social", SLOW)
        await begun(place, in_flight)
        place.database.rename(place.folder / "away.db")
        health = await daemon.until("/health", lambda health: "was removed or" in str(health))
        assert health["status"] == "degraded"
        assert (await daemon.http.get("/readyz")).status_code == 503
        assert (await daemon.http.get("/livez")).status_code == 200
        (place.folder / "away.db").rename(place.database)
        await done(place, in_flight)
        await daemon.until("/health", lambda health: health["status"] == "healthy")
        assert (await daemon.get("/agents/social"))["crashes"] == 0
    assert place.task(in_flight)["attempts"] == 1


async def test_crashes_from_before_a_kill_count_for_the_backoff(idle_place):
    idle_place.use_class(
        """
class Crashing:
    async def run_as_daemon(self, poll_interval):
        raise ValueError("the feed is gone")
""",
        "Crashing",
    )
    crashes = "select 1 from actp_agent_runs where outcome = 'crashed'"
    async with idle_place.daemon() as daemon:
        agent = await daemon.until_agent("social", "backing_off")
        assert agent["error_count"] == 6
        assert 50 < agent["restart_in"] <= 64
        assert "ValueError: the feed is gone" in agent["last_error"]
        assert (await daemon.http.get("/health")).status_code == 503
        await until(lambda: len(idle_place.rows(crashes)) == 6)
        daemon.signal(signal.SIGKILL)
        await daemon.wait()
    async with idle_place.daemon() as daemon:
        agent = await daemon.until_agent("social", "backing_off")
        assert agent["error_count"] == 7
        assert 100 < agent["restart_in"] <= 128


NAPPER = """
import asyncio

class Agent:
    async def run_as_daemon(self, poll_interval):
        while True:
            print("looked for work", flush=True)
            await asyncio.sleep(poll_interval)
"""


@pytest.mark.parametrize("isolation", ["loop", "thread", "process"])
async def test_a_class_that_knows_nothing_of_us_stops_between_two_polls(place, isolation):
    place.use_class(NAPPER, "Agent")
    environ = {
        "SOCIAL_MEDIA_AGENT_ISOLATION": isolation,
        "SOCIAL_MEDIA_AGENT_POLL_INTERVAL": "3600",
        "WORKER_DRAIN_TIMEOUT": "600",
    }
    async with place.daemon("--agents", "social", **environ) as daemon:
        await until(lambda: "looked for work" in daemon.stdout + daemon.log.read_text())
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
    (run,) = place.rows("select outcome, error from actp_agent_runs")
    assert run == {"outcome": "stopped", "error": None}


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["loop", "thread", "process"])
async def test_a_daemon_that_was_suspended_accuses_no_agent(place, isolation):
    environ = {
        "SOCIAL_MEDIA_AGENT_ISOLATION": isolation,
        "WORKER_STALE_THRESHOLD": "5",
        "WORKER_HEARTBEAT_INTERVAL": "1",
    }
    async with place.daemon("--agents", "social", **environ) as daemon:
        in_flight = await daemon.post("social", f"{LIKE} [simulate: slow 2]")
        await begun(place, in_flight)
        for _ in range(2):
            daemon.signal(signal.SIGSTOP)
            await trio.sleep(9)
            daemon.signal(signal.SIGCONT)
            await trio.sleep(1)
        await done(place, in_flight)
        assert (await daemon.get("/agents/social"))["error_count"] == 0
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
    assert place.task(in_flight)["attempts"] == 1
    assert {run["outcome"] for run in place.rows("select outcome from actp_agent_runs")} == {
        "stopped"
    }
