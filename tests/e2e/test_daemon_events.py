"""What a real daemon tells of itself while things happen to it: `/events` and `/metrics`."""

from __future__ import annotations

import json
import signal
import socket
from contextlib import asynccontextmanager

import trio
from daemons import PATIENCE

LIKE = "List the engagement actions and queue a like for the post 'Hiring is broken'"

CRASHER = """
from actp_supervise import current_child

crashed = False

class Crasher:
    async def run_as_daemon(self, poll_interval):
        global crashed
        if not crashed:
            crashed = True
            raise ValueError("no luck with e2e-secret-key")
        await current_child().stopping.wait()
"""


class Watcher:
    """Reads the events of a daemon from a connection."""

    def __init__(self, stream):
        self.stream = stream
        self.text = ""

    async def line(self):
        """Return the next line; None at the end."""
        while "\n" not in self.text:
            received = await self.stream.receive_some()
            if not received:
                return None
            self.text += received.decode()
        line, _, self.text = self.text.partition("\n")
        return line.rstrip()

    async def up_to(self, kind):
        """Return the events up to the first of a kind."""
        found, now = [], None
        with trio.fail_after(PATIENCE):
            while (line := await self.line()) is not None:
                name, _, value = line.partition(": ")
                if name == "event":
                    now = value
                elif name == "data":
                    found.append({**json.loads(value), "kind": now})
                    if now == kind:
                        return found
        raise AssertionError(f"the stream ended after {found}")


@asynccontextmanager
async def watching(daemon, query=""):
    """Watch for the time of the block."""
    async with await trio.open_tcp_stream("127.0.0.1", daemon.http.base_url.port) as stream:
        # In HTTP/1.0, so that the body comes as it is and ends with the connection.
        await stream.send_all(f"GET /events{query} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        watcher = Watcher(stream)
        with trio.fail_after(PATIENCE):
            assert " 200" in await watcher.line()
            while await watcher.line() != "retry: 2000":
                pass
        yield watcher


async def figure(daemon, series):
    """Return what Prometheus would be told."""
    text = (await daemon.http.get("/metrics")).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    return float(values[series])


async def test_a_crash_and_the_restart_are_told_in_words_and_without_secrets(idle_place):
    idle_place.use_class(CRASHER, "Crasher")
    async with idle_place.daemon() as daemon:
        await daemon.until_agent("social", "running")
        query = "?recent=100&agent_id=social"
        async with watching(daemon, query) as events:
            found = await events.up_to("restart_scheduled")
        of_tree = [event for event in found if event["kind"] != "agent_status"]
        kinds = [event["kind"] for event in of_tree]
        assert kinds == ["child_started", "child_crashed", "restart_scheduled"]
        assert of_tree[1]["text"] == "social crashed: ValueError: no luck with [redacted]"
        assert of_tree[1]["path"].startswith("worker/agents/")
        assert await figure(daemon, 'actp_agent_crashes_total{agent="social"}') == 1
        assert await figure(daemon, 'actp_events_total{kind="child_crashed"}') == 1


async def test_a_task_is_told_step_by_step_and_adds_up(place):
    async with place.daemon("--agents", "social") as daemon, watching(daemon) as events:
        task_id = await daemon.post("social", LIKE)
        found = [event for event in await events.up_to("task_finished") if event["task_id"]]
        assert {event["task_id"] for event in found} == {task_id}
        kinds = [event["kind"] for event in found]
        assert kinds[:2] == ["task_queued", "task_claimed"]
        assert {"turn", "model_called", "tool_called"} < set(kinds)
        assert found[-1]["text"] == "social: task succeeded"
        asked = [event for event in found if event["kind"] == "model_called"]
        assert all(event["seconds"] > 0 for event in asked)
        labels = f'{{agent="social",model="{asked[0]["model"]}"}}'
        assert await figure(daemon, f"actp_model_calls_total{labels}") == len(asked)
        assert await figure(daemon, f"actp_model_call_duration_seconds_count{labels}") == len(asked)
        ended = '{agent="social",outcome="succeeded"}'
        assert await figure(daemon, f"actp_tasks_finished_total{ended}") == 1


async def test_a_routine_run_by_hand_is_told_of(place):
    async with place.daemon("--agents", "content") as daemon:
        jobs = await daemon.get("/scheduler/jobs")
        name = next(job["name"] for job in jobs if job["agent_id"] == "content")
        async with watching(daemon, "?agent_id=content") as events:
            answer = await daemon.http.post(f"/scheduler/jobs/{name}/run")
            assert answer.status_code == 202
            found = await events.up_to("routine_finished")
        told = [event["text"] for event in found if event["kind"].startswith("routine")]
        assert told == [f"{name} started", f"{name} succeeded"]
        runs = f'actp_routine_runs_total{{outcome="succeeded",routine="{name}"}}'
        assert await figure(daemon, runs) == 1


async def test_open_pages_do_not_hold_the_stop_even_those_that_do_not_read(idle_place):
    async with idle_place.daemon() as daemon, watching(daemon) as events:
        stalled = []
        for _ in range(20):
            connection = socket.create_connection(("127.0.0.1", daemon.http.base_url.port))
            connection.sendall(b"GET /events?recent=100 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            stalled.append(connection)
        await daemon.until("/health", lambda health: health["status"] == "healthy")
        daemon.signal(signal.SIGTERM)
        with trio.fail_after(PATIENCE):
            found = await events.up_to("bye")
            assert [await events.line(), await events.line()] == ["", None]
            assert await daemon.wait() == 0
        assert "daemon_stopping" in {event["kind"] for event in found}
        for connection in stalled:
            connection.close()
