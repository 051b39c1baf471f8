"""What an agent's process and the daemon hand over to each other."""

from __future__ import annotations

import pickle
import socket
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import TZPATH, ZoneInfo

import pytest
import trio

from actp_supervise.clock import LOCALTIME, local_timezone
from app.agents.activity import Activity
from app.agents.process import _AgentProcess
from app.agents.wire import Kind, Wire, read_plain

ZONE_FILES = [Path(folder) / "Europe" / "Berlin" for folder in TZPATH]


@pytest.fixture
async def wires():
    """Both ends of a wire."""
    pair = socket.socketpair()
    ours, theirs = map(Wire, pair)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send)
        nursery.start_soon(theirs.send)
        yield ours, theirs
        ours.close()
        theirs.close()
    for each in pair:
        each.close()


async def test_moments_of_any_zone_are_handed_over_as_the_same_moments(wires):
    ours, theirs = wires
    moment = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    theirs.put(Kind.STATE, content={"since": moment})

    message = await ours.receive()

    assert read_plain(message.content)["since"] == moment.astimezone(UTC)


async def test_a_zone_without_a_name_is_what_the_machine_has_over_there_too(wires):
    """Where /etc/localtime is a copy, as in most containers, it has none."""
    ours, theirs = wires
    with next(file for file in ZONE_FILES if file.exists()).open("rb") as file:
        theirs.put(Kind.STATE, content=ZoneInfo.from_file(file, key=LOCALTIME))

    message = await ours.receive()

    assert str(pickle.loads(message.content)) == str(local_timezone({}))


async def test_no_heartbeat_lies_ahead_though_the_first_word_of_it_came_late(autojump_clock):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        activity = Activity(trio.current_time)
        agent = _AgentProcess(ours, activity, {})
        elsewhere = Activity(lambda: trio.current_time() + 1000.0)  # as another process counts
        late = elsewhere.state()
        await trio.sleep(3)
        agent._take_over(late)
        elsewhere.beat()
        agent._take_over(elsewhere.state())
        await trio.sleep(1)
        assert activity.snapshot()["heartbeat_age"] == 1.0
