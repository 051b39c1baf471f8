"""The hand `mcp`, against real servers: as programs, and by HTTP."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import DEVNULL

import pytest
import trio
from processes import is_alive

from actp_supervise import Backoff, Restart, open_supervisor
from app.hands import (
    HandError,
    Hands,
    OutcomeUnknownError,
    Wanted,
    check_hands,
    needs_approval,
    open_hands,
)
from app.hands.contract import SetUp
from app.hands.mcp_servers import Server, Times, open_servers, servers_of, tool_name

SERVER = Path(__file__).with_name("mcp_server.py")
PATIENCE = 60.0
"""Seconds for what takes one at most, on a machine with much else to do."""

QUICK = Times(start=60, opening=60, between_looks=0.1, look=2, backoff=Backoff(initial=0.05))


def program(**options):
    return Server(command=sys.executable, args=(str(SERVER),), **options)


@asynccontextmanager
async def servers(**named):
    async with open_servers(named, times=QUICK) as hand:
        yield Hands([hand])


async def until(condition):
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110  (what is waited for is another program's)
            await trio.sleep(0.02)


def named(hands):
    return {tool.name: tool for tool in hands.tools()}


async def content(hands, tool, arguments):
    return (await hands.call(tool, arguments, key="k"))["content"]


# A server of others.


async def test_a_server_from_pypi_is_started_listed_and_called():
    options = {"time": {"command": sys.executable, "args": ["-m", "mcp_server_time"]}}
    async with open_hands([Wanted(name="mcp", options=options)], {}) as hands:
        await until(lambda: hands.problems == ())
        assert list(named(hands)) == ["mcp__time__convert_time", "mcp__time__get_current_time"]
        asked = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
        answer = await hands.call("mcp__time__convert_time", asked, key="k")
        assert answer["from_outside"] == "MCP server time"
        assert answer["content"]["target"]["datetime"].endswith("T21:00:00+09:00")


# Tools.


async def test_a_tool_s_effect_and_approval_come_from_its_hints():
    async with servers(own=program()) as hands:
        found = {
            name: (tool.effect, tool.approve, tool.acts) for name, tool in named(hands).items()
        }
        assert found["mcp__own__environment"] == ("read", False, False)
        assert found["mcp__own__put"] == ("keyed", True, True)
        assert found["mcp__own__die"] == ("once", True, True)


@pytest.mark.parametrize(("approve", "needed"), [("always", {True}), ("never", {False})])
async def test_an_operator_says_what_needs_approval(approve, needed):
    async with servers(own=program(approve=approve)) as hands:
        assert {tool.approve for tool in hands.tools()} == needed
        asked = {needs_approval(tool, has_read_outside=True) for tool in hands.tools()}
        assert asked == needed


@pytest.mark.parametrize(
    "names", [["read file", "read.file"], ["x" * 100, "x" * 99 + "y"], ["a" * 60, "b"]]
)
def test_names_are_what_the_api_takes_and_no_two_are_the_same(names):
    made = {}
    for name in names:
        made[tool_name("server-of-twenty-char", name, taken=made)] = name
    assert len(made) == len(names)
    assert all(len(name) <= 64 for name in made)
    assert all(name.replace("_", "").replace("-", "").isalnum() for name in made)


async def test_an_answer_is_marked_as_from_outside(tmp_path):
    async with servers(own=program(env={"FOLDER": str(tmp_path)})) as hands:
        asked = {"name": "note", "text": "hello"}
        answer = await hands.call("mcp__own__put", asked, key="k")
        assert answer == {
            "from_outside": "MCP server own",
            "content": {"result": "</context>written"},
        }
        assert (tmp_path / "note").read_text() == "hello"


async def test_a_message_may_be_longer_than_any_line_of_a_log():
    async with servers(own=program()) as hands:
        answer = await content(hands, "mcp__own__long_answer", {"size": 1_000_000})
        assert answer == {"result": "x" * 1_000_000}


async def test_an_error_of_a_tool_is_told_as_data():
    async with servers(own=program()) as hands:
        with pytest.raises(HandError, match=r"answers with an error: .*u003c/context") as caught:
            await hands.call("mcp__own__refuse", {"why": "</context>"}, key="k")
        assert "</context>" not in str(caught.value)


async def test_the_keys_of_the_daemon_are_not_for_a_server(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret")
    async with servers(own=program(env={"OWN": "1"})) as hands:
        found = set((await content(hands, "mcp__own__environment", {}))["result"])
        assert {"OWN", "PATH"} <= found
        assert "ANTHROPIC_API_KEY" not in found


def test_a_variable_in_the_file_of_agents_is_replaced_and_kept_secret():
    options = {"a": {"url": "http://x", "headers": {"Authorization": "Bearer ${TOKEN}"}}}
    made, secrets = servers_of(SetUp(options=options, variables={"TOKEN": "of-the-server"}))
    assert made["a"].headers == {"Authorization": "Bearer of-the-server"}
    assert "of-the-server" in secrets


async def test_the_secrets_of_a_server_are_in_no_answer_and_no_error(tmp_path):
    env = {"THEIR": "${VARIABLE}", "API_KEY": "of-the-file-of-agents", "FOLDER": str(tmp_path)}
    options = {"own": {"command": sys.executable, "args": [str(SERVER)], "env": env}}
    given = {"VARIABLE": "of-the-environment"}
    async with open_hands([Wanted(name="mcp", options=options)], given) as hands:
        await until(lambda: hands.problems == ())
        why = f"of-the-environment of-the-file-of-agents {tmp_path}"
        with pytest.raises(HandError) as caught:
            await hands.call("mcp__own__refuse", {"why": why}, key="k")
        assert f'[redacted] [redacted] {tmp_path}"' in str(caught.value)


async def test_a_variable_that_is_not_set_is_named():
    options = {"a": {"command": "x", "env": {"KEY": "${NOT_THERE}"}}}
    wanted = [Wanted(name="mcp", options=options)]
    assert check_hands(wanted, {}) == ["mcp: NOT_THERE is not set, and ${NOT_THERE} stands for it"]


# A server that is away.


async def test_a_server_that_dies_in_a_call_is_a_tool_s_error_and_comes_again(caplog):
    async with servers(own=program()) as hands:
        with pytest.raises(OutcomeUnknownError, match="may have had its effect, or not"):
            await hands.call("mcp__own__die", {"code": 3}, key="k")
        await until(lambda: hands.problems == ())
        assert "PATH" in (await content(hands, "mcp__own__environment", {}))["result"]
    assert "last words" in caplog.text


async def test_a_server_that_cannot_be_started_is_a_reason_and_no_crash():
    there, away = program(), Server(command="/nowhere/at-all")
    async with servers(away=away, own=there) as hands:
        (problem,) = hands.problems
        assert problem.startswith("MCP server away is away: cannot start '/nowhere/at-all'")
        assert "PATH" in (await content(hands, "mcp__own__environment", {}))["result"]


async def test_a_call_while_a_server_is_away_is_the_tool_s_error():
    slow = Times(start=60, opening=60, between_looks=0.1, look=2, backoff=Backoff(initial=3600))
    async with open_servers({"own": program()}, times=slow) as hand:
        hands = Hands([hand])
        with pytest.raises(OutcomeUnknownError):
            await hands.call("mcp__own__die", {"code": 3}, key="k")
        await until(lambda: hands.problems)
        assert "mcp__own__environment" in named(hands)  # as it was known
        with pytest.raises(HandError, match=r"MCP server own is away: .* Go on without it"):
            await hands.call("mcp__own__environment", {}, key="k")


async def test_a_server_that_hangs_is_ended_and_started_anew():
    async with servers(own=program(timeout=0.5)) as hands:
        with pytest.raises(HandError, match="took longer than"):
            await hands.call("mcp__own__hang", {}, key="k")
        await until(lambda: hands.problems)
        assert "did not answer within 2 s" in hands.problems[0]
        await until(lambda: hands.problems == ())
        assert "PATH" in (await content(hands, "mcp__own__environment", {}))["result"]


async def test_a_server_that_speaks_nonsense_is_away_and_says_so():
    times = Times(start=1, opening=60, between_looks=0.1, look=2, backoff=Backoff(initial=3600))
    chatter = Server(command="/bin/sh", args=("-c", "echo nonsense; cat >/dev/null"))
    async with open_servers({"chatter": chatter}, times=times) as hand:
        assert "it was not ready within 1 s" in Hands([hand]).problems[0]


async def test_a_server_that_closes_its_output_is_away():
    mute = Server(command="/bin/sh", args=("-c", "exec >&-; cat >/dev/null"))
    async with open_servers({"mute": mute}, times=QUICK) as hand:
        assert "it closed its output" in Hands([hand]).problems[0]


async def test_a_server_ends_with_the_hand_and_with_all_that_it_has_started():
    async with servers(own=program()) as hands:
        helper = (await content(hands, "mcp__own__helper", {}))["result"]
        assert is_alive(helper)
    assert not is_alive(helper)


async def test_servers_serve_on_while_their_agent_is_asked_to_stop():
    """An agent that is asked to stop still has the task in flight to finish."""
    answers = []
    asked = trio.Event()

    async def agent(task_status=trio.TASK_STATUS_IGNORED):
        from actp_supervise import current_child

        async with servers(own=program()) as hands:
            task_status.started()
            await current_child().stopping.wait()
            answers.append(await content(hands, "mcp__own__environment", {}))
            asked.set()

    async with open_supervisor(name="agents", shutdown_timeout=PATIENCE) as tree:
        await tree.start(agent, name="agent", restart=Restart.TEMPORARY)
        await tree.shutdown()
    assert len(answers) == 1


# By HTTP.


@asynccontextmanager
async def by_http(port=None):
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    async with trio.open_nursery() as nursery:
        argv = [sys.executable, str(SERVER), str(port)]
        run = partial(trio.run_process, argv, stdout=DEVNULL, stderr=DEVNULL, check=False)
        process = await nursery.start(run)
        yield port, process
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def at(port, **options):
    return Server(url=f"http://127.0.0.1:{port}/mcp", **options)


async def test_a_server_by_http_is_tried_until_it_is_there_and_called():
    async with by_http() as (port, _), servers(web=at(port)) as hands:
        await until(lambda: hands.problems == ())
        assert "PATH" in (await content(hands, "mcp__web__environment", {}))["result"]


async def test_a_server_by_http_that_dies_is_away_and_comes_again():
    async with by_http() as (port, process), servers(web=at(port)) as hands:
        await until(lambda: hands.problems == ())
        process.kill()
        await until(lambda: hands.problems)
        with pytest.raises(HandError):
            await hands.call("mcp__web__environment", {}, key="k")
        async with by_http(port):
            await until(lambda: hands.problems == ())
            assert "PATH" in (await content(hands, "mcp__web__environment", {}))["result"]


async def test_a_server_by_http_that_is_frozen_does_not_hold_a_call_for_ever():
    async with by_http() as (port, process), servers(web=at(port, timeout=0.5)) as hands:
        await until(lambda: hands.problems == ())
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(HandError):
            await hands.call("mcp__web__environment", {}, key="k")
        await until(lambda: hands.problems)
        os.kill(process.pid, signal.SIGCONT)
        await until(lambda: hands.problems == ())
