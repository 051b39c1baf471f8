"""An agent in a process of its own: the same contract, and nothing it does reaches the others."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio
from agents_at_work import FINAL, until
from agents_stage import INSTANCE, WORKER, Stage, staged
from processes import is_alive

from actp_supervise import Restart, open_supervisor
from actp_supervise.service import configure_logging, make_redactor
from app.agents.process import AgentCrashedError, AgentProcessError
from app.demo.claude import Reply, SimulatedClaude, serve_claude
from app.launcher import AgentLauncher
from app.settings import load_settings
from app.store.protocol import ApprovalStatus, Before, RunOutcome, StoreUnavailable, TaskStatus

pytestmark = pytest.mark.long

SECRET = "sk-ant-very-secret"
ENVIRON = {
    "ANTHROPIC_API_KEY": SECRET,
    "SOCIAL_MEDIA_AGENT_CLASS": "isolated_agents:Told",
    "SOCIAL_MEDIA_AGENT_ISOLATION": "process",
    "CONTENT_AGENT_CLASS": "isolated_agents:Told",
    "CONTENT_AGENT_ISOLATION": "process",
}


@dataclass
class Scene:
    """Agents in processes, and their store."""

    stage: Stage
    launcher: AgentLauncher

    @property
    def store(self):
        return self.stage.store

    async def post(self, goal, agent_id="social", **options):
        """Queue a task that is called as its goal."""
        await self.store.add_task(goal, agent_id, goal, **options)
        self.stage.supervisor.notify_task(agent_id)

    async def when(self, goal, is_so, *, within=90.0):
        with trio.fail_after(within):
            while not is_so(task := await self.store.task(goal)):  # noqa: ASYNC110
                await trio.sleep(0.01)
        return task

    async def done(self, goal, agent_id="social"):
        """Have a task done; gives it."""
        await self.post(goal, agent_id)
        return await self.when(goal, lambda task: task.status in FINAL)

    async def begun(self, goal, agent_id="social", **options):
        await self.post(goal, agent_id, **options)
        await self.when(goal, lambda task: task.status is TaskStatus.RUNNING)
        await until(lambda: self.stage.status(agent_id)["task_id"] == goal)

    async def routine(self, method):
        """Run a routine of the social agent as a supervised child, as the scheduler does."""
        errors = []

        async def code():
            try:
                await self.launcher.run_routine("social", method)
            except Exception as error:  # noqa: BLE001  (the test's to judge)
                errors.append(error)

        async with open_supervisor(name="routines") as tree:
            tree.start_soon(code, restart=Restart.TEMPORARY)
        if errors:
            raise errors[0]

    async def crashed(self, agent_id="social"):
        """Wait for a crash that is on record; gives its text."""
        await until(lambda: self.stage.status(agent_id)["crashes"], within=90.0)
        with trio.fail_after(60):
            while True:
                for run in await self.store.runs(agent_id):
                    if run.outcome is RunOutcome.CRASHED:
                        assert run.error == self.stage.status(agent_id)["last_error"]
                        return run.error
                await trio.sleep(0.01)


@asynccontextmanager
async def scene(store, *, agent_ids=("social",), environ=None, **options):
    environ = {**ENVIRON, **(environ or {})}
    settings = load_settings(environ, env_file=None).with_agents(["social", "content"])
    launcher = AgentLauncher(replace(settings, worker_id=WORKER), store, INSTANCE)
    async with staged(
        store, launcher.run, agent_ids=agent_ids, environ=environ, watch_interval=0.2, **options
    ) as stage:
        await stage.supervisor.start_all()
        stage.nursery.start_soon(stage.supervisor.watch_loop)
        yield Scene(stage, launcher)


@pytest.fixture
async def place(store):
    async with scene(store) as place:
        yield place


# What stays as it is.


async def test_a_cancel_reaches_it_at_once_and_not_with_the_next_renewal_of_its_lease(place):
    await place.begun("sleep 100")

    await place.store.cancel_task("sleep 100")
    place.stage.supervisor.notify_task("social")

    task = await place.when("sleep 100", lambda task: task.status in FINAL, within=18.0)
    assert task.status is TaskStatus.CANCELLED


async def test_it_does_tasks_in_another_process_whose_number_is_shown(place):
    task = await place.done("nothing")

    assert task.status is TaskStatus.SUCCEEDED
    assert task.result["pid"] == place.stage.status()["pid"] != os.getpid()


async def test_its_heartbeat_and_doings_are_those_of_the_daemon(place):
    await place.begun("sleep 60")

    beats = set()
    with trio.fail_after(60):
        while len(beats) < 3:
            status = place.stage.status()
            beats.add(round(trio.current_time() - status["heartbeat_age"], 1))
            assert status["doing"] == "task: sleep 60"
            await trio.sleep(0.1)
    (run,) = await place.store.runs("social")
    assert run.outcome is None


async def test_a_task_that_is_posted_wakes_it(place):
    await place.done("nothing")

    await place.done("sleep 0")  # within 20 s, and it looks every 30 s


async def test_what_is_counted_and_logged_passes_through_the_daemons_store(store):
    claude = SimulatedClaude()
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_claude, claude)
        environ = {
            "SOCIAL_MEDIA_AGENT_CLASS": "isolated_agents:Conversing",
            "ANTHROPIC_BASE_URL": url,
            "SOCIAL_MEDIA_AGENT_DAILY_BUDGET_USD": "5",
        }
        async with scene(Noting(store), environ=environ) as place:
            claude.plan(Reply(tools=(("remember", {"key": "k", "value": "v"}),)), Reply(text="Ok."))
            task = await place.done("Remember it.")
            assert task.result["text"] == "Ok."
            assert place.store.noted >= {
                "claim_task",
                "reserve",
                "record_answer",
                "record_cost",
            }
            await until(lambda: place.stage.status()["tasks_done"] == 1)
        nursery.cancel_scope.cancel()
    (memory,) = await store.recall("social")
    assert memory.value == "v"


async def test_it_asks_a_person_and_cannot_answer_in_their_place(store):
    claude = SimulatedClaude()
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_claude, claude)
        environ = {
            "SOCIAL_MEDIA_AGENT_CLASS": "isolated_agents:Asking",
            "ANTHROPIC_BASE_URL": url,
        }
        async with scene(store, environ=environ) as place:
            claude.plan(Reply(tools=(("send_mail", {"to": "ada"}),)))
            await place.post("Write.")
            await place.when("Write.", lambda task: task.status is TaskStatus.WAITING)
            (row,) = await store.approvals()
            claude.plan(Reply(tools=(("approve_all", {}),)), Reply(text="Done."))
            await place.done("Help yourself.")
            assert claude.requests[-1]["messages"][-1]["content"][0]["is_error"]
            assert (await store.approval(row.id)).status is ApprovalStatus.WAITING
            await store.decide_approval(row.id, approve=True, decided_by="Grace")
            place.stage.supervisor.notify_task("social")
            claude.plan(Reply(text="Done."))
            await place.when("Write.", lambda task: task.status in FINAL)
        nursery.cancel_scope.cancel()
    (block,) = claude.requests[-1]["messages"][-1]["content"]
    assert json.loads(block["content"])["pid"] != os.getpid()


@pytest.mark.parametrize(
    "line",
    [
        '{"time": 1.5, "level": "info", "logger": "x", "message": "y"}',
        '{"time": "2026-11-23T10:00:00Z", "level": 7, "logger": "x", "message": "y"}',
        '{"time": "0001-01-01T00:00:00Z", "level": "info", "logger": "x", "message": "y"}',
        '{"time": ' + "[" * 40_000,
    ],
    ids=["time", "level", "long ago", "deep"],
)
async def test_a_line_that_only_looks_like_one_of_the_log_does_no_harm(place, line):
    await place.post("say " + line)

    task = await place.when("say " + line, lambda task: task.status in FINAL)

    assert task.status is TaskStatus.SUCCEEDED
    assert place.stage.status()["crashes"] == 0


class Noting(Before):
    """A store that knows what was called, and that can be away."""

    def __init__(self, store):
        super().__init__(store)
        self.noted = set()
        self.away = False

    async def perform(self, verb, arguments):
        self.noted.add(verb.name)
        if self.away:
            raise StoreUnavailable("connection refused")
        return await super().perform(verb, arguments)


async def test_it_waits_while_the_store_is_away(store):
    async with scene(Noting(store)) as place:
        await place.begun("sleep 1")
        place.store.away = True
        await until(lambda: place.stage.status()["doing"] == "waiting for the store")
        place.store.away = False
        task = await place.when("sleep 1", lambda task: task.status in FINAL)
        assert task.status is TaskStatus.SUCCEEDED


async def test_an_operator_can_pause_and_resume_it(place):
    await place.done("nothing")
    await place.stage.supervisor.pause_agent("social")
    await place.post("sleep 0")
    await trio.sleep(0.5)
    assert (await place.store.task("sleep 0")).status is TaskStatus.QUEUED
    assert place.stage.status()["paused"] == "paused by an operator"

    await place.stage.supervisor.resume_agent("social")
    await place.when("sleep 0", lambda task: task.status is TaskStatus.SUCCEEDED)


async def test_what_throttles_it_is_seen_and_its_task_is_back_without_an_attempt(place):
    await place.post("rest")
    await until(lambda: place.stage.status()["throttled_until"])

    task = await place.store.task("rest")
    assert (task.status, task.attempts) == (TaskStatus.QUEUED, 0)
    assert place.stage.status()["doing"] == "waiting: the model is busy"


# How it ends.


async def test_asked_to_stop_it_finishes_what_is_in_flight(place):
    await place.begun("sleep 1.5")
    pid = place.stage.status()["pid"]

    await place.stage.supervisor.stop_agent("social")

    task = await place.store.task("sleep 1.5")
    assert task.status is TaskStatus.SUCCEEDED
    assert task.result["said"] == "asked"
    assert not is_alive(pid)
    await place.stage.records.flush()
    (run,) = await place.store.runs("social")
    assert (run.outcome, run.error) == (RunOutcome.STOPPED, None)


@pytest.mark.parametrize("goal", ["sleep 1000", "block 1000", "spin"])
async def test_what_is_not_finished_in_time_goes_back_without_an_attempt(store, goal):
    async with scene(store, drain_timeout=0.5) as place:
        await place.begun(goal)
        pid = place.stage.status()["pid"]
        began = trio.current_time()
        await place.stage.supervisor.stop_agent("social")
        assert trio.current_time() - began >= 0.5
        task = await place.store.task(goal)
        assert (task.status, task.attempts, task.error) == (TaskStatus.QUEUED, 0, None)
        assert not is_alive(pid)


async def test_a_thread_that_it_left_behind_does_not_hold_up_its_end(place):
    await place.done("linger")

    with trio.fail_after(60):
        await place.stage.supervisor.stop_agent("social")


async def test_stopped_before_it_has_begun_it_is_stopped_and_no_crash(place):
    await trio.sleep(0.1)
    await place.stage.supervisor.stop_agent("social")

    assert place.stage.status()["status"] == "stopped"
    assert place.stage.status()["last_error"] is None


async def test_a_restart_is_another_process(place):
    first = (await place.done("nothing")).result["pid"]
    await place.stage.supervisor.restart_agent("social")
    second = (await place.done("sleep 0")).result["pid"]

    assert first != second
    assert place.stage.status()["crashes"] == 0


async def test_a_crash_has_its_own_traceback_and_its_task_counts_it(place):
    await place.post("fail", max_attempts=1)
    error = await place.crashed()

    assert "LookupError: there is no such thing" in error.splitlines()[-1]
    assert 'isolated_agents.py", line ' in error
    assert "in fail" in error
    task = await place.store.task("fail")
    assert task.status is TaskStatus.FAILED
    assert task.error == "the agent crashed with LookupError while it did this"


async def test_one_that_cannot_be_made_is_a_crash(store):
    environ = {"SOCIAL_MEDIA_AGENT_CLASS": "isolated_agents:Unstartable"}
    async with scene(store, environ=environ) as place:
        assert "RuntimeError: cannot be made" in await place.crashed()


async def test_a_process_that_cannot_be_started_is_a_crash_that_says_why(store, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    async with scene(store) as place:
        error = await place.crashed()

    last_line = error.splitlines()[-1]
    assert last_line.endswith("cannot start '/no/such/python': No such file or directory")


@pytest.mark.parametrize(
    ("goal", "how"),
    [
        ("exit 3", "exited with status 3\n  the last word"),
        ("exit 0", "ended without a word"),
        ("segfault", "was killed by SIGSEGV"),
    ],
)
async def test_a_process_that_dies_is_a_crash_and_its_task_is_back_at_once(place, goal, how):
    await place.post(goal, max_attempts=1)

    assert f"AgentProcessError: the agent's process {how}" in await place.crashed()
    task = await place.store.task(goal)
    assert task.status is TaskStatus.FAILED
    assert task.error == f"while the agent did this: its process {how.splitlines()[0]}"


async def test_killed_from_outside_it_is_a_crash_and_its_task_is_begun_again(place):
    await place.begun("sleep 2")
    os.kill(place.stage.status()["pid"], signal.SIGKILL)

    assert "was killed by SIGKILL" in await place.crashed()
    task = await place.when("sleep 2", lambda task: task.attempts == 2)
    assert task.status is TaskStatus.RUNNING
    task = await place.when("sleep 2", lambda task: task.status in FINAL)
    assert task.status is TaskStatus.SUCCEEDED


async def test_a_claim_whose_answer_was_lost_is_handed_back(store):
    async with scene(Slow(store)) as place:
        await until(lambda: place.stage.status()["doing"] == "idle")
        await place.post("nothing", max_attempts=1)
        await place.store.claimed.wait()
        os.kill(place.stage.status()["pid"], signal.SIGKILL)
        task = await place.when("nothing", lambda task: task.status in FINAL)
        assert (task.status, task.attempts) == (TaskStatus.SUCCEEDED, 1)


class Slow(Before):
    """A store whose first answer to a claim comes late."""

    def __init__(self, store):
        super().__init__(store)
        self.claimed = trio.Event()

    async def claim_task(self, *args, **options):
        task = await super().claim_task(*args, **options)
        if task is not None and not self.claimed.is_set():
            self.claimed.set()
            await trio.sleep_forever()
        return task


async def test_memory_that_it_cannot_have_is_its_own_crash(place):
    await place.post("devour")

    assert "MemoryError" in await place.crashed()


@pytest.mark.parametrize("goal", ["block 1000", "spin"])
async def test_one_that_hangs_is_found_stale_killed_and_started_again(store, goal):
    async with scene(store, stale_threshold=3.0) as place:
        await place.post(goal, max_attempts=1)
        error = await place.crashed()
        assert "the agent hung: its loop has not turned for " in error
        task = await place.when(goal, lambda task: task.status is TaskStatus.FAILED)
        assert task.error.startswith("the agent hung: its loop has not turned")
        await place.done("nothing")


async def test_what_it_started_ends_with_it(place):
    started = int((await place.done("leave")).result["said"])
    assert is_alive(started)
    os.kill(place.stage.status()["pid"], signal.SIGKILL)
    await place.crashed()

    await until(lambda: not is_alive(started))


# What does not reach the others.


@pytest.mark.parametrize("goal", ["block 1000", "spin", "flood"])
async def test_nothing_it_does_delays_the_daemon_or_another_agent(store, goal):
    async with scene(store, agent_ids=("social", "content"), drain_timeout=0.5) as place:
        await place.done("nothing", "content")
        await place.begun(goal)
        worst = 0.0
        for _ in range(100):
            before = trio.current_time()
            await trio.sleep(0.01)
            worst = max(worst, trio.current_time() - before)
        assert (
            worst < 15
        )  # seconds, on a machine that is busy; one that it held up would be for ever
        await place.done("sleep 0", "content")


async def test_what_the_store_does_not_take_is_an_error_of_the_call_alone(
    place, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    task = await place.done("argue")

    assert task.result["said"] == "StoreError StoreError StoreError not its to call"
    assert not (tmp_path / "unpickled-in-the-daemon").exists()


@pytest.mark.parametrize("content", ["91" * 174, "c1", "", "81a474797065a4576f726b"])
async def test_what_is_no_message_is_the_crash_of_who_says_it(store, content):
    async with scene(store, agent_ids=("social", "content")) as place:
        await place.post(f"say_nonsense {content}", max_attempts=1)
        assert "said what it must not: no message" in await place.crashed()
        await place.done("nothing", "content")


async def test_a_wait_without_end_is_shown_as_a_long_one(place):
    await place.post("wait_for_ever")
    await until(lambda: place.stage.status()["throttled_until"])

    assert place.stage.status()["status"] == "running"


async def test_who_says_too_much_of_itself_does_not_hold_up_another(store):
    async with scene(store, agent_ids=("social", "content"), drain_timeout=0.5) as place:
        await place.begun("chatter")
        await place.done("nothing", "content")


async def test_no_line_that_it_prints_passes_for_one_of_another(place, log):
    await place.done("forge")
    await until(lambda: any("content has lost" in line["message"] for line in log()))

    (line,) = [line for line in log() if "content has lost" in line["message"]]
    (run,) = await place.store.runs("social")
    assert line["logger"] == "agent.social.app.supervisor"
    assert (line["agent_id"], line["run"]) == ("social", run.id)
    assert "worker_id" not in line
    assert not line["time"].startswith("2001")


async def test_it_may_handle_signals_as_any_program(place):
    assert (await place.done("handle_signals")).result["said"] == "loop plain"


async def test_what_it_started_in_a_session_of_its_own_ends_with_it(place):
    started = int((await place.done("leave_in_session")).result["said"])
    assert is_alive(started)
    os.kill(place.stage.status()["pid"], signal.SIGKILL)
    await place.crashed()

    await until(lambda: not is_alive(started))


async def test_many_calls_at_once_are_answered_each_and_given_up_ones_harm_nobody(place):
    assert (await place.done("many")).result["said"] == "50"


# What is seen of it.


@pytest.fixture
def log():
    """Log as the daemon does; gives what was logged so far."""
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    stream = io.StringIO()
    configure_logging(stream, redact=make_redactor([SECRET]), as_json=True)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raises
    logging.captureWarnings(capture=False)


async def test_its_log_is_in_the_daemons_with_agent_run_and_task(place, log):
    await place.done("talk")
    await until(lambda: any(line["message"] == "Task succeeded" for line in log()))
    lines = log()
    (said,) = [line for line in lines if line.get("action") == "talked"]
    (run,) = await place.store.runs("social")
    assert said["message"] == "something to say"
    assert said["level"] == "warning"
    assert said["logger"] == "agent.social.isolated_agents"
    assert said["number"] == 7
    assert (said["agent_id"], said["run"], said["task"]) == ("social", run.id, "talk")
    (bare,) = [line for line in lines if line["message"] == "a bare line"]
    assert (bare["agent_id"], bare["run"]) == ("social", run.id)
    (wrong,) = [line for line in lines if line["message"] == "it went wrong"]
    assert wrong["error"].endswith("ValueError: as an example")


async def test_no_secret_is_among_its_arguments_or_in_its_environment(place):
    pid = (await place.done("nothing")).result["pid"]

    shown = await trio.run_process(["ps", "eww", "-o", "args=", str(pid)], capture_stdout=True)
    assert b" -m app.agents.process_main social" in shown.stdout
    assert b"PATH=" in shown.stdout
    assert SECRET.encode() not in shown.stdout


# Routines.


async def test_a_routine_runs_in_a_process_beside_the_agents(place):
    await place.begun("sleep 3")
    await place.routine("good")

    assert (await place.store.task("sleep 3")).status is TaskStatus.RUNNING


@pytest.mark.parametrize(
    ("method", "kind", "text"),
    [
        ("bad", AgentCrashedError, "RoutineFailedError: it came to nothing"),
        ("vanish", AgentProcessError, "ended without a word"),
    ],
)
async def test_a_routine_that_comes_to_no_good_end_says_why(place, method, kind, text):
    with pytest.raises(kind, match=text):
        await place.routine(method)


async def test_the_task_of_a_routine_whose_process_dies_is_back_at_once(store):
    async with scene(store, environ={"WORKER_TASK_LEASE": "600"}) as place:
        with pytest.raises(AgentProcessError, match="exited with status 3"):
            await place.routine("die")
        task = await place.when("its-task", lambda task: task.status in FINAL)
        assert (task.status, task.attempts) == (TaskStatus.SUCCEEDED, 2)


async def test_a_routine_that_is_cancelled_is_killed(place):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.routine, "long")
        with trio.fail_after(60):
            while not (memories := await place.store.recall("social", key="pid")):  # noqa: ASYNC110
                await trio.sleep(0.01)
        pid = int(memories[0].value)
        assert is_alive(pid)
        nursery.cancel_scope.cancel()
    assert not is_alive(pid)
