"""What an operator tells agents, routines and tasks from a terminal, which finds the daemon."""

from __future__ import annotations

import json
import signal

import pytest
import trio
from daemons import Place, until
from test_terminal import command

LOGGING = """
import asyncio, logging

class Logging:
    async def run_as_daemon(self, poll_interval):
        for number in range(1_000_000):
            logging.getLogger("feeds").warning("feed %d is slow", number)
            print("printed", number, flush=True)
            await asyncio.sleep(0.2)
"""

ANYWHERE = {"WORKER_HEALTH_PORT": "", "WORKER_DB_PATH": ""}
"""Neither a port nor a store is set, as in the README."""


async def run(place: Place, *arguments: str, **changes: str):
    return await place.run(*arguments, **changes)


# --stop, --start, --pause, --resume, --run


async def test_an_agent_is_stopped_and_started_from_a_terminal(idle_place):
    async with idle_place.daemon() as daemon:
        await daemon.until_agent("social", "running")
        stopped = await run(idle_place, "--stop", "social")
        assert (stopped.code, stopped.err) == (0, "")
        assert stopped.out.startswith("social is asked to stop")
        await daemon.until_agent("social", "stopped")
        started = await run(idle_place, "--start", "social", "--json")
        assert json.loads(started.out) == {
            "agent_id": "social",
            "action": "start",
            "status": "stopped",
        }
        await daemon.until_agent("social", "running")


async def test_an_agent_and_a_routine_are_paused_and_go_on(place):
    async with place.daemon("--agents", "social,content") as daemon:
        await daemon.until_agent("content", "running")
        paused = await run(place, "--pause", "content")
        assert (paused.code, paused.err) == (0, "")
        assert "until --resume content" in paused.out
        health = (await daemon.get("/agents/content"))["health"]
        assert "paused" in health["paused"]
        assert (await run(place, "--resume", "content")).out == "content goes on.\n"
        await daemon.until("/agents/content", lambda agent: agent["health"]["paused"] is None)

        job = "content.run_daily_pipeline"
        assert (await run(place, "--pause", job)).code == 0
        shown = (await run(place, "--show", "routines")).out
        assert "paused by " in shown
        assert f", until --resume {job}" in shown
        assert json.loads((await run(place, "--resume", job, "--json")).out)["paused"] is False


async def test_a_routine_runs_when_it_is_told_to(place):
    async with place.daemon("--agents", "revenue") as daemon:
        await daemon.until_agent("revenue", "running")
        begun = await run(place, "--run", "revenue.run_cost_audit")
        assert (begun.code, begun.err) == (0, "")
        assert begun.out.startswith("revenue.run_cost_audit runs now")
        await until(lambda: place.rows("select 1 from actp_agent_tasks where routine is not null"))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--stop", "scoial"], 2, "there is no agent 'scoial'; known are social, content"),
        (["--pause", "scoial"], 2, "there is no agent or routine 'scoial'; known are social, con"),
        (["--run", "content.nothing"], 2, "there is no routine 'content.nothing'; known are con"),
        (["--run", "content.run_daily_pipeline"], 1, "is disabled: ENABLE_CONTENT_AGENT is false"),
        (["--stop", "content"], 1, "the daemon refused: Agent 'content' is disabled"),
        (["--show", "cook"], 1, "there is no task 'cook', and no such list; lists are tasks, rou"),
        (["--show", "tasks", "--limit", "0"], 2, "limit: Input should be greater than or equal"),
        (["--retry", "cook"], 1, "1 of 1 tasks were left as they are"),
    ],
)
async def test_what_cannot_be_done_is_one_error_line(idle_place, arguments, code, says):
    async with idle_place.daemon():
        ended = await run(idle_place, *arguments)
    assert (ended.code, ended.out) == (code, "")
    *_, line = ended.err.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert [each for each in ended.err.splitlines() if each.startswith("error: ")] == [line]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--retry"], "--retry: give ids, or say which: --all or --agent or"),
        (["--cancel", "a", "--all"], "--cancel: give ids or say which, not both"),
        (["--cancel", "--status", "asleep"], "must be one of queued, running"),
        (["--retry", "--since", "yesterday"], "must be a time as in"),
        (["--all"], "--all goes with --retry or --cancel"),
        (["--limit", "3"], "--limit goes with --show"),
        (["--tail", "social", "--agent", "content"], "--tail: name one agent"),
        (["--stop", "social", "--pause", "social"], "not allowed with argument"),
        (["--completion", "fish"], "must be bash or zsh"),
    ],
)
async def test_wrong_use_of_them_is_one_line_and_exit_code_2(idle_place, arguments, says):
    ended = await run(idle_place, *arguments)
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert says in line


# --retry, --cancel, --show


async def test_tasks_are_cancelled_and_retried_by_their_ids_and_by_a_filter(idle_place):
    async with idle_place.daemon() as daemon:
        ids = [await daemon.post("content", f"Post number {number}.") for number in range(3)]
        other = await daemon.post("revenue", "Sum it up.")
        ended = await run(idle_place, "--cancel", ids[0], "nowhere", ids[1])
        assert ended.code == 1
        assert ended.out == f"{ids[0]} is cancelled\n{ids[1]} is cancelled\n"
        assert ended.err.splitlines()[-1] == "error: 1 of 3 tasks were left as they are"
        again = await run(idle_place, "--retry", ids[0], "--json")
        assert [task["status"] for task in json.loads(again.out)] == ["queued"]

        some = await run(idle_place, "--cancel", "--agent", "content", "--text", "number 2")
        assert (some.code, some.out) == (0, "1 task cancelled, or asked to end\n")
        assert idle_place.task(ids[2])["status"] == "cancelled"
        assert idle_place.task(ids[0])["status"] == "queued"
        old = await run(idle_place, "--cancel", "--until", "2020-01-01T00:00:00Z")
        assert old.out == "0 tasks cancelled, or asked to end\n"
        whole = await run(idle_place, "--cancel", "--all", "--json")
        assert json.loads(whole.out) == {"tasks": 2}
        assert idle_place.task(other)["status"] == "cancelled"
        retried = await run(idle_place, "--retry", "--agent", "content", "--status", "cancelled")
        assert retried.out == "3 tasks queued again\n"


async def test_a_conversation_is_shown_by_the_daemon_and_without_it_by_the_store(place):
    async with place.daemon("--agents", "social") as daemon:
        task_id = await daemon.post("social", "Recall what we know")
        await until(lambda: place.task(task_id)["status"] == "succeeded")
        shown = await run(place, "--show", task_id)
        assert (shown.code, shown.err) == (0, "")
        daemon.signal(signal.SIGTERM)
        await daemon.wait()
    for part in ("succeeded  attempt 1 of 3", "Recall what we know", "-> recall", "reply 1"):
        assert part in shown.out
    alone = await run(place, "--show", task_id)
    assert (alone.code, alone.out) == (0, shown.out)
    assert "none of yours runs" in alone.err
    as_json = json.loads((await run(place, "--show", task_id, "--json")).out)
    assert as_json["task"]["id"] == task_id
    assert [turn["role"] for turn in as_json["turns"]][:2] == ["user", "assistant"]
    listed = await run(place, "--show", "tasks", "--status", "succeeded", "--text", "WHAT we")
    assert task_id in listed.out
    assert (await run(place, "--show", "tasks", "--text", "nonsense")).out == (
        "There are no such tasks.\n"
    )
    approvals = await run(place, "--approvals")
    assert (approvals.code, approvals.out) == (0, "Nothing waits for approval.\n")
    assert (await run(place, "--show", "tasks", "--status", "failed")).out == (
        "There are no such tasks.\n"
    )


async def test_what_a_task_says_cannot_steer_the_terminal(idle_place):
    async with idle_place.daemon() as daemon:
        task_id = await daemon.post("content", "Clear \x1b[2J the screen\u202e.")
        for arguments in (("--show", task_id), ("--show", "tasks")):
            shown = (await run(idle_place, *arguments)).out
            assert "Clear \\x1b[2J the screen" in shown
            assert not {"\x1b", "\u202e"} & set(shown)


# --tail AGENT


@pytest.mark.parametrize("isolation", ["loop", "process"])
async def test_the_tail_of_an_agent_has_its_log_lines_and_output(idle_place, isolation):
    idle_place.use_class(LOGGING, "Logging")
    async with (
        idle_place.daemon(SOCIAL_MEDIA_AGENT_ISOLATION=isolation) as daemon,
        command(idle_place, "--tail", "social") as tail,
    ):
        await until(lambda: "| WARNING feed 3 is slow" in tail.out.read_text())
        if isolation == "process":  # else nobody can say whose it is
            await until(lambda: "| printed 3" in tail.out.read_text())
        assert tail.out.read_text().count("feed 3 is slow") == 1
        log = await daemon.get("/agents/social/log?limit=1")
        assert [line["level"] for line in log] in (["warning"], ["info"])
        assert await daemon.get(f"/agents/social/log?after={log[0]['id'] + 1000}") == []
        assert await daemon.get("/agents/content/log") == []


# Which daemon.


async def test_the_readmes_commands_find_the_demonstration(place):
    no_port = {**ANYWHERE, "WORKER_HEALTH_PORT": "0"}
    async with place.daemon("--demo", **no_port, ANTHROPIC_API_KEY="") as demo:
        await until(lambda: "Ctrl-C" in demo.stdout)
        assert "WORKER_DB_PATH" not in demo.stdout.partition("In another terminal")[2]
        await demo.until_agent("content", "running")
        agents = json.loads((await run(place, "--list-agents", "--json", **ANYWHERE)).out)
        assert {agent["agent_id"] for agent in agents} >= {"content", "social"}
        done = await run(
            place, "--task", "Recall what we know", "--agent", "content", "--wait", **ANYWHERE
        )
        assert done.code == 0
        tasks = await run(place, "--show", "tasks", "--agent", "content", **ANYWHERE)
        assert "Recall what we know" in tasks.out
        asked = await run(place, "--restart-agent", "content", **ANYWHERE)
        assert "The restart of content is requested" in asked.out
    assert not place.database.exists()


async def test_beside_a_daemon_and_a_demonstration_the_daemon_is_meant(idle_place):
    no_port = {**ANYWHERE, "WORKER_HEALTH_PORT": "0"}
    async with (
        idle_place.daemon(**no_port, WORKER_ID="the-daemon") as daemon,
        idle_place.daemon("--demo", **no_port, ANTHROPIC_API_KEY="") as demo,
    ):
        task_id = (await run(idle_place, "--task", "x", "--agent", "social", **ANYWHERE)).out
        task = await daemon.get(f"/tasks/{task_id.strip()}")
        assert task["goal"] == "x"
        port = demo.page.rpartition(":")[2]
        shown = await run(idle_place, "--show", "routines", WORKER_HEALTH_PORT=port,
                          WORKER_DB_PATH="")  # fmt: skip
        assert "content.run_daily_pipeline" in shown.out


async def test_where_several_daemons_run_one_has_to_be_named(idle_place):
    async with idle_place.daemon(WORKER_ID="a") as a, idle_place.daemon(WORKER_ID="b") as b:
        ended = await run(idle_place, "--stop", "social")
        assert (ended.code, ended.out) == (2, "")
        ports = [daemon.page.rpartition(":")[2] for daemon in (a, b)]
        assert ended.err.strip().endswith(
            f"set it to one: a (WORKER_HEALTH_PORT={ports[0]}), b (WORKER_HEALTH_PORT={ports[1]})"
        )
        named = await run(idle_place, "--stop", "social", WORKER_HEALTH_PORT=ports[1])
        assert named.code == 0
        await b.until_agent("social", "stopped")
        assert (await a.get("/agents/social"))["status"] == "running"
        # They share a store, so what is read from it needs no name.
        assert (await run(idle_place, "--list-agents")).code == 0


async def test_a_daemon_that_was_killed_is_found_no_more(idle_place):
    running = idle_place.folder / ".local" / "share" / "actp-worker" / "running"
    async with idle_place.daemon() as daemon:
        (file,) = running.iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        assert "e2e-secret-key" not in file.read_text()
        daemon.signal(signal.SIGKILL)
        await daemon.wait()
    assert list(running.iterdir()) == [file]
    ended = await run(idle_place, "--tail")
    assert ended.code == 2
    assert "none of yours runs on this machine" in ended.err
    assert list(running.iterdir()) == []


async def test_a_daemon_that_ends_takes_its_file_along(idle_place):
    running = idle_place.folder / ".local" / "share" / "actp-worker" / "running"
    async with idle_place.daemon() as daemon:
        assert len(list(running.iterdir())) == 1
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
    assert list(running.iterdir()) == []


async def test_a_data_directory_that_cannot_be_written_keeps_no_daemon_from_running(idle_place):
    taken = idle_place.folder / ".local" / "share" / "actp-worker"
    taken.parent.mkdir(parents=True)
    taken.write_text("a file where the folder should be")
    async with idle_place.daemon() as daemon:
        warned = [line["message"] for line in daemon.lines if line["level"] == "warning"]
        assert [line for line in warned if line.startswith("commands find this daemon by WORKER")]
        port = daemon.page.rpartition(":")[2]
        ended = await run(idle_place, "--show", "routines", WORKER_HEALTH_PORT=port)
        assert ended.code == 0


async def test_where_reading_needs_a_token_the_commands_give_it(idle_place):
    tokens = {
        "WORKER_API_TOKEN": "a-token-of-sixteen-chars",
        "WORKER_READ_TOKEN": "another-of-sixteen-chars",
    }
    async with idle_place.daemon(**tokens):
        for given in (tokens, {"WORKER_API_TOKEN": tokens["WORKER_API_TOKEN"]}):
            assert (await run(idle_place, "--show", "routines", **given)).code == 0
        async with command(idle_place, "--tail", **tokens) as tail:
            await until(lambda: "social started" in tail.out.read_text())
        refused = await run(idle_place, "--show", "routines")
    assert refused.code == 1
    assert refused.err.startswith("error: the daemon refused: Reading needs the header")


async def silent(_stream):
    await trio.sleep_forever()


async def test_a_command_that_is_interrupted_ends_with_130(idle_place):
    async with trio.open_nursery() as nursery:
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        nursery.start_soon(trio.serve_listeners, silent, [listener])
        port = str(listener.socket.getsockname()[1])
        async with command(idle_place, "--stop", "social", WORKER_HEALTH_PORT=port) as stop:
            await trio.sleep(1)
            stop.send_signal(signal.SIGINT)
            assert await stop.wait() == 130
        nursery.cancel_scope.cancel()
