"""Commands that talk to a running daemon: watched, followed and given work from a terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from contextlib import asynccontextmanager

import pytest
import trio
from daemons import MAIN, PATIENCE, until

from app.store.protocol import Question
from app.store.sqlite import open_sqlite_store

CRASHING = """
import asyncio

class Crashing:
    async def run_as_daemon(self, poll_interval):
        await asyncio.sleep(0.2)
        raise ValueError("the feed is gone")
"""


def port_of(daemon):
    return daemon.page.rpartition(":")[2]


@asynccontextmanager
async def command(place, *arguments, **changes):
    """Run a command beside the test; its output goes to files."""
    out, err = place.folder / "command.out", place.folder / "command.err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        async with place.start(*arguments, stdout=stdout, stderr=stderr, **changes) as process:
            process.out, process.err = out, err
            yield process


async def interrupt(process):
    process.send_signal(signal.SIGINT)
    with trio.fail_after(PATIENCE):
        return await process.wait()


# --tail


async def test_what_happens_is_told_line_by_line(idle_place):
    idle_place.use_class(CRASHING, "Crashing")
    async with (
        idle_place.daemon() as daemon,
        command(idle_place, "--tail", WORKER_HEALTH_PORT=port_of(daemon)) as tail,
    ):
        await until(lambda: "social crashed: ValueError: the feed is gone" in tail.out.read_text())
        assert "\x1b" not in tail.out.read_text(), "colours are for terminals"
        assert await interrupt(tail) == 0
        assert tail.err.read_text() == ""


async def test_events_come_as_json_and_of_one_agent(idle_place):
    async with (
        idle_place.daemon() as daemon,
        command(
            idle_place, "--tail", "--json", "--agent", "social", WORKER_HEALTH_PORT=port_of(daemon)
        ) as tail,
    ):
        await daemon.post("content", "Not this.")
        await daemon.post("social", "This.")
        await until(lambda: '"social: queued: This."' in tail.out.read_text())
        complete = tail.out.read_text().rpartition("\n")[0]
        events = [json.loads(line) for line in complete.splitlines()]
        assert {event["agent_id"] for event in events} == {"social"}
        assert "social: queued: This." in [event["text"] for event in events]


async def test_a_daemon_that_starts_again_is_followed_again(idle_place):
    async with idle_place.daemon() as daemon:
        port = port_of(daemon)
        async with command(idle_place, "--tail", WORKER_HEALTH_PORT=port) as tail:
            await until(lambda: "social started" in tail.out.read_text())
            daemon.signal(signal.SIGTERM)
            await daemon.wait()
            await until(lambda: "has gone" in tail.err.read_text())
            async with idle_place.daemon(WORKER_HEALTH_PORT=port) as again:
                await until(lambda: "is back" in tail.err.read_text())
                await again.post("social", "After the restart.")
                await until(lambda: "After the restart." in tail.out.read_text())


# --list-agents --watch


async def test_agents_are_watched_in_blocks_where_there_is_no_terminal(idle_place):
    async with (
        idle_place.daemon() as daemon,
        command(
            idle_place, "--list-agents", "--watch", WORKER_HEALTH_PORT=port_of(daemon)
        ) as watching,
    ):
        await until(lambda: watching.out.read_text().count("AGENT") >= 2)
        shown = watching.out.read_text()
        assert "healthy, up " in shown
        assert "ENABLE_CONTENT_AGENT is false" in shown
        assert await interrupt(watching) == 0


async def test_without_a_daemon_the_store_is_watched(idle_place):
    async with command(idle_place, "--list-agents", "--watch", WORKER_HEALTH_PORT="1") as watching:
        await until(lambda: "the store says" in watching.out.read_text())
        assert "No agent is registered" in watching.out.read_text()


async def test_on_a_terminal_the_table_is_live_and_coloured(idle_place):
    async with idle_place.daemon() as daemon:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(  # noqa: ASYNC220  (quick, and Trio's has no terminal)
            [*MAIN, "--list-agents", "--watch"],
            cwd=idle_place.folder,
            env={
                **idle_place.environment(WORKER_HEALTH_PORT=port_of(daemon)),
                "TERM": "xterm-256color",
                "COLUMNS": "120",
            },
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        with trio.fail_after(PATIENCE):
            while shown.count(b"AGENT") < 2 or b"\x1b[32m" not in shown:
                shown += await trio.to_thread.run_sync(os.read, ours, 4096)
        process.send_signal(signal.SIGINT)
        with trio.fail_after(PATIENCE):
            assert await trio.to_thread.run_sync(process.wait) == 0
        os.close(ours)
        assert b"running" in shown


# --approvals, --approve, --deny


@asynccontextmanager
async def asking(place):
    """A daemon, and two tasks that wait for approval in its store."""
    async with place.daemon() as daemon, open_sqlite_store(place.database) as store:
        for number in (1, 2):
            token = f"k{number}"
            await store.begin_task(
                f"t{number}0", "social", "Write to Ada.", worker_id="w", instance="i",
                token=token, lease=60.0,
            )  # fmt: skip
            question = Question(
                id=f"a{number}",
                task_id=f"t{number}0",
                agent_id="social",
                about="use 1",
                tool="send_mail",
                arguments={"to": f"ada{number}@example.org"},
                why="She asked.",
            )
            await store.ask_approval(question)
            await store.park_task(f"t{number}0", token)
        yield daemon, store


async def test_what_waits_is_shown_and_decided_from_a_terminal(idle_place):
    async with asking(idle_place) as (daemon, store):
        port = {"WORKER_HEALTH_PORT": port_of(daemon)}
        shown = await idle_place.run("--approvals", **port)
        assert (shown.code, shown.err) == (0, "")
        for part in ("a1", "send_mail", "ada1@example.org", "She asked.", "ada2@example.org"):
            assert part in shown.out
        listed = await idle_place.run("--approvals", "--json", **port)
        assert [row["id"] for row in json.loads(listed.out)] == ["a2", "a1"]

        approved = await idle_place.run("--approve", "a1", "--comment", "Briefly.", **port)
        assert approved.code == 0
        assert approved.out == "send_mail of social is approved; task t10 goes on.\n"
        row = await store.approval("a1")
        assert (row.status, row.comment) == ("approved", "Briefly.")
        assert row.decided_by.endswith(" (terminal)")

        denied = await idle_place.run("--deny", "a2", "--json", **port)
        assert json.loads(denied.out)["status"] == "denied"
        too_late = await idle_place.run("--approve", "a2", **port)
        assert too_late.code == 1
        assert "It was decided before: denied by" in too_late.err
        nothing = await idle_place.run("--approvals", **port)
        assert nothing.out == "Nothing waits for approval.\n"
        nowhere = await idle_place.run("--approve", "a3", **port)
        assert (nowhere.code, nowhere.out) == (1, "")
        assert "There is no such approval" in nowhere.err


# --task


async def test_a_task_is_posted_and_its_id_printed(place):
    async with place.daemon("--agents", "social") as daemon:
        ended = await place.run(
            *("--task", "Count to three.", "--agent", "social"),
            *("--context", '{"post": 17}', "--priority", "5"),
            *("--not-before", "2999-12-01T08:00:00+01:00", "--timeout", "90"),
            *("--max-attempts", "2", "--unique-key", "count"),
            WORKER_HEALTH_PORT=port_of(daemon),
        )
        assert (ended.code, ended.err) == (0, "")
        task = place.task(ended.out.strip())
        assert (task["goal"], task["priority"]) == ("Count to three.", 5)
        assert task["not_before"] == "2999-12-01T07:00:00.000000Z"
        assert (task["timeout"], task["max_attempts"], task["unique_key"]) == (90.0, 2, "count")
        assert json.loads(task["context"]) == {"post": 17}


async def test_a_task_that_is_waited_for_prints_its_result(place):
    async with place.daemon("--agents", "social") as daemon:
        ended = await place.run(
            *("--task", "Recall what we know", "--agent", "social", "--wait"),
            WORKER_HEALTH_PORT=port_of(daemon),
        )
        assert ended.code == 0
        assert "simulated reply" in ended.out
        assert "social: recall in " in ended.err
        as_json = await place.run(
            *("--task", "Recall what we know", "--agent", "social", "--wait", "--json"),
            WORKER_HEALTH_PORT=port_of(daemon),
        )
        assert json.loads(as_json.out)["status"] == "succeeded"


async def test_a_task_that_fails_is_exit_code_1(place):
    async with place.daemon("--agents", "social") as daemon:
        ended = await place.run(
            *("--task", "Recall [simulate: refusal]", "--agent", "social", "--wait"),
            WORKER_HEALTH_PORT=port_of(daemon),
        )
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines()[-1].startswith("error: the task failed: ")


async def test_ctrl_c_leaves_the_task_and_says_so(idle_place):
    async with (
        idle_place.daemon() as daemon,
        command(
            *(idle_place, "--task", "Wait for ever.", "--agent", "content", "--wait"),
            WORKER_HEALTH_PORT=port_of(daemon),
        ) as waiting,
    ):
        await until(lambda: "content is disabled, so the task waits" in waiting.err.read_text())
        assert await interrupt(waiting) == 130
        assert "The task goes on without you: http://127.0.0.1:" in waiting.err.read_text()
        assert "Traceback" not in waiting.err.read_text()
        (task,) = idle_place.rows("select status from actp_agent_tasks")
        assert task["status"] == "queued"


async def test_the_token_goes_with_it(idle_place):
    token = {"WORKER_API_TOKEN": "a-token-of-sixteen-chars"}
    async with idle_place.daemon(**token) as daemon:
        port = port_of(daemon)
        arguments = ("--task", "Do it.", "--agent", "social")
        assert (await idle_place.run(*arguments, WORKER_HEALTH_PORT=port, **token)).code == 0
        refused = await idle_place.run(*arguments, WORKER_HEALTH_PORT=port)
    assert refused.code == 1
    assert refused.err.startswith("error: the daemon refused: This needs the header")


# What goes wrong.


@pytest.mark.parametrize(
    "arguments", [("--tail",), ("--task", "Do it.", "--agent", "social", "--wait")]
)
async def test_where_no_daemon_answers_it_is_said_which_and_how_to_start_one(idle_place, arguments):
    ended = await idle_place.run(*arguments, WORKER_HEALTH_PORT="1")
    assert (ended.code, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("error: a daemon at http://127.0.0.1:1 is not there")
    assert "python -m app.main" in line


async def test_a_port_that_cannot_be_known_is_wrong_configuration(idle_place):
    ended = await idle_place.run("--tail")
    assert ended.code == 2
    assert ended.err.startswith("error: WORKER_HEALTH_PORT=0: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--watch"], "--watch goes with --list-agents"),
        (["--wait"], "--wait goes with --task"),
        (["--comment", "x"], "--comment goes with --approve or --deny"),
        (["--approve", "a", "--deny", "a"], "not allowed with argument"),
        (["--approvals", "--agents", "social"], "--approvals runs nothing"),
        (["--task", "Do it."], "--task needs --agent"),
        (["--agent", "social"], "--agent goes with --task or --tail"),
        (["--task", "x", "--agent", "social", "--context", "[1]"], "must be a JSON object"),
        (["--task", "x", "--agent", "social", "--context", "{"], "no JSON"),
        (["--task", "x", "--agent", "social", "--priority", "high"], "invalid int value"),
        (["--list-agents", "--watch", "--json"], "--watch is for people, and goes without --json"),
        (["--tail", "--task", "x"], "not allowed with argument"),
        (["--tail", "--agents", "social"], "--agents says what is run, and --tail runs nothing"),
    ],
)
async def test_wrong_use_is_one_line_and_exit_code_2(idle_place, arguments, says):
    ended = await idle_place.run(*arguments)
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert says in line


async def test_an_unknown_agent_is_named_by_the_daemon(idle_place):
    async with idle_place.daemon() as daemon:
        ended = await idle_place.run(
            *("--task", "Do it.", "--agent", "cook"), WORKER_HEALTH_PORT=port_of(daemon)
        )
    assert ended.code == 2
    assert "agent_type: Unknown agent; known are" in ended.err
