"""Figures for Prometheus: named as it wants them, bounded, and true."""

from __future__ import annotations

import os
import re
import shutil

import pytest
import trio
from http_daemon import make_daemon, served, status
from prometheus_client.parser import text_string_to_metric_families
from store_calls import add, claim, cost, tool_call

from actp_supervise.clock import SystemWallClock
from actp_supervise.service import LoopWatch
from app.event_kinds import EventKind
from app.event_log import EventLog
from app.metrics import MOST_NAMES, Metrics
from app.store.protocol import Store, StoreUnavailable, TaskStatus
from app.web.scrape import Scrape
from app.web.views import STORE_TIMEOUT


@pytest.fixture
def daemon(store):
    return make_daemon(store)


@pytest.fixture
def counted():
    events, metrics = EventLog(), Metrics()
    events.listeners.append(metrics.count)
    return events, metrics


async def scraped(client):
    """Return (name, labels) -> value of all samples."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_the_state_of_each_agent_is_one_of_the_known_ones(daemon):
    daemon.supervisor.statuses["social"] = status(status="backing_off", restarts=7, crashes=6)
    async with served(daemon) as client:
        samples = await scraped(client)
    agent = ("agent", "social")
    assert samples["actp_agent_state", agent, ("state", "backing_off")] == 1
    assert samples["actp_agent_state", agent, ("state", "running")] == 0
    assert samples["actp_agent_restarts_total", agent] == 7
    assert samples["actp_agent_crashes_total", agent] == 6
    heartbeat = samples["actp_agent_last_heartbeat_timestamp_seconds", agent]
    assert abs(SystemWallClock().now().timestamp() - heartbeat) < 60


async def test_what_agents_do_adds_up(daemon):
    store = daemon.store
    async with served(daemon) as client:
        await add(store)
        await add(store, "t2")
        await claim(store)
        await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED)
        await store.record_tool_call(tool_call("c1", duration=0.25))
        await store.record_tool_call(tool_call("c2", duration=2.0, error="no"))
        await store.record_cost(cost("e1", usd=0.5, duration=2.0))
        await store.record_cost(cost("e2", usd=0.25))
        samples = await scraped(client)
    agent = ("agent", "social")
    tool = ("tool", "list_actions")
    assert samples["actp_tasks", agent, ("status", "queued")] == 1
    assert samples["actp_tasks", agent, ("status", "succeeded")] == 1
    assert samples["actp_oldest_queued_task_age_seconds", agent] >= 0
    assert samples["actp_task_duration_seconds_count", agent, ("outcome", "succeeded")] == 1
    assert samples["actp_tool_duration_seconds_count", agent, tool] == 2
    assert samples["actp_tool_duration_seconds_bucket", agent, ("le", "0.5"), tool] == 1
    assert samples["actp_tool_errors_total", agent, tool] == 1
    model = ("model", "opus")
    assert samples["actp_cost_usd_total", agent, model] == 0.75
    assert samples["actp_tokens_total", agent, model, ("use", "output")] == 40
    assert samples["actp_model_calls_total", agent, model] == 2
    assert samples["actp_model_call_duration_seconds_sum", agent, model] == 2.0
    ended = agent, ("outcome", "succeeded")
    assert samples["actp_tasks_finished_total", *ended] == 1


async def test_a_routine_tells_how_late_it_began_and_how_it_ended(counted):
    events, metrics = counted
    events.publish(EventKind.ROUTINE_STARTED, "", job="content.run", late=3.0)
    events.publish(
        EventKind.ROUTINE_FINISHED, "", job="content.run", outcome="succeeded", seconds=60.0
    )
    events.publish(EventKind.ROUTINE_FINISHED, "", job="content.run", outcome="missed")
    events.publish(EventKind.ROUTINE_STARTED, "", job="content.run", late=-2.0)  # the clock was set
    text = metrics.text().decode()
    assert 'actp_routine_runs_total{outcome="succeeded",routine="content.run"} 1.0' in text
    assert 'actp_routine_runs_total{outcome="missed",routine="content.run"} 1.0' in text
    assert 'actp_routine_lateness_seconds_sum{routine="content.run"} 3.0' in text
    assert 'actp_routine_duration_seconds_count{routine="content.run"} 1.0' in text


async def test_a_task_cancelled_in_the_queue_is_counted_but_took_no_time(daemon):
    async with served(daemon) as client:
        await add(daemon.store)
        await daemon.store.cancel_task("t1")
        samples = await scraped(client)
    ended = ("agent", "social"), ("outcome", "cancelled")
    assert samples["actp_tasks_finished_total", *ended] == 1
    assert ("actp_task_duration_seconds_count", *ended) not in samples


async def test_while_the_store_is_away_only_the_queue_is_left_out(daemon):
    class Away(Store):
        async def perform(self, verb, arguments):
            raise StoreUnavailable("gone")

    daemon.store = Away()
    daemon.records.away_because = "gone"
    async with served(daemon) as client:
        samples = await scraped(client)
    assert samples["actp_store_up",] == 0
    assert ("actp_agent_state", ("agent", "social"), ("state", "running")) in samples
    assert not any(name == "actp_tasks" for name, *_ in samples)


class Queue:
    """A store that is asked for the queue alone, and takes its time."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.asked = 0

    async def count_tasks(self):
        self.asked += 1
        await trio.sleep(self.seconds)
        return {"social": {TaskStatus.QUEUED: self.asked}}

    async def oldest_queued(self):
        return {}


async def queued(view):
    """Return how many tasks wait by the answer, and the seconds that it took."""
    began = trio.current_time()
    text = (await (await view()).get_data()).decode()
    found = re.search(r'^actp_tasks{agent="social",status="queued"} (.*)$', text, re.MULTILINE)
    return found and float(found[1]), trio.current_time() - began


async def test_a_slow_store_is_not_waited_for(daemon, autojump_clock):
    daemon.store = Queue(60)
    view = Scrape(daemon)._metrics
    assert await queued(view) == (None, STORE_TIMEOUT)


async def test_what_a_store_said_that_is_slow_now_is_not_said_again(daemon, autojump_clock):
    daemon.store = Queue(0)
    view = Scrape(daemon)._metrics
    assert await queued(view) == (1, 0)
    daemon.store.seconds = 60
    await trio.sleep(5)
    assert await queued(view) == (None, STORE_TIMEOUT)


async def test_however_often_one_asks_the_store_is_asked_every_5_s(daemon, autojump_clock):
    daemon.store = Queue(0)
    view = Scrape(daemon)._metrics
    got = []
    for _ in range(8):
        got.append((await queued(view))[0])
        await trio.sleep(1)
    assert got == [1, 1, 1, 1, 1, 2, 2, 2]


async def test_made_up_tools_of_an_agent_share_a_series(counted):
    events, metrics = counted
    facts = {"seconds": 0.1, "failed": False}
    for number in range(MOST_NAMES + 20):
        events.publish(EventKind.TOOL_CALLED, "", agent_id="a", tool=f"tool-{number}", **facts)
    events.publish(EventKind.TOOL_CALLED, "", agent_id="b", tool="tool-1", **facts)
    text = metrics.text().decode()
    assert 'actp_tool_duration_seconds_count{agent="a",tool="other"} 20.0' in text
    assert 'actp_tool_duration_seconds_count{agent="b",tool="tool-1"} 1.0' in text
    assert text.count('actp_tool_duration_seconds_count{agent="a"') == MOST_NAMES + 1


async def test_two_daemons_in_one_process_count_apart(counted):
    events, metrics = counted
    events.publish(EventKind.STORE_BACK, "")
    assert 'actp_events_total{kind="store_back"} 1.0' in metrics.text().decode()
    assert 'kind="x"' not in Metrics().text().decode()


async def test_when_a_series_was_made_is_left_out(counted):
    events, metrics = counted
    events.publish(EventKind.STORE_BACK, "")
    assert "_created" not in metrics.text().decode()


async def test_a_server_that_starts_again_has_each_figure_once(daemon):
    async with served(daemon) as client:
        await scraped(client)
    async with served(daemon) as client:
        text = (await client.get("/metrics")).text
    assert text.count("actp_store_up 1.0") == 1


async def test_the_lag_of_the_loop_is_measured_with_each_beat_of_its_watch(autojump_clock):
    metrics, watch = Metrics(), LoopWatch()
    watch.on_beat = metrics.note_lag
    with trio.move_on_after(31):
        await watch.run()
    assert "actp_event_loop_lag_seconds_count 3.0" in metrics.text().decode()


async def test_promtool_finds_nothing_to_complain_of(daemon):
    promtool = shutil.which("promtool")
    if promtool is None:
        missing = "no promtool: apt-get install prometheus"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    async with served(daemon) as client:
        await add(daemon.store)
        await claim(daemon.store)
        await daemon.store.finish_task("t1", "k1", TaskStatus.SUCCEEDED)
        await daemon.store.record_tool_call(tool_call("c1"))
        await daemon.store.record_cost(cost("e1"))
        daemon.events.publish(EventKind.ROUTINE_STARTED, "", job="content.run", late=0.5)
        daemon.events.publish(EventKind.ROUTINE_FINISHED, "", job="content.run", outcome="failed")
        text = (await client.get("/metrics")).content
    checked = await trio.run_process(
        [promtool, "check", "metrics"],
        stdin=text,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stderr == b""
