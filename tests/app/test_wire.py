"""What an agent's process and the daemon say to each other, and what neither takes."""

from __future__ import annotations

import math
import socket
import struct
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest
import trio

from app.agents.activity import LONGEST_WAIT, Activity
from app.agents.process import AT_ONCE, VERBS, _AgentProcess
from app.agents.wire import (
    LONGEST,
    Call,
    FromAgent,
    FromDaemon,
    GiveUp,
    HandsAre,
    Report,
    Wire,
    WireError,
    arguments_of,
    call_of,
    encode,
)
from app.status import ToolStatus
from app.store.protocol import Store


@pytest.fixture
async def ends():
    """The daemon's end of a wire, and the bare socket of the agent's."""
    ours, theirs = socket.socketpair()
    theirs = trio.socket.from_stdlib_socket(theirs)
    yield Wire(ours, FromAgent), theirs
    theirs.close()
    ours.close()


def framed(content):
    return struct.pack("!I", len(content)) + content


def new_activity(ahead=0.0):
    return Activity(lambda: trio.current_time() + ahead)


def report(**changes):
    """A report as JSON has it, so that anything can be put into it."""
    content = msgspec.to_builtins(Report(new_activity().state(), trio.current_time()))
    content["state"] |= changes
    return msgspec.msgpack.encode(content)


async def test_a_message_comes_as_it_was_put():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        daemon, agent = Wire(ours, FromAgent), Wire(theirs, FromDaemon)
        message = Report(new_activity().state(), trio.current_time())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent.send)
            sent = [agent.put(message), agent.put(GiveUp(7))]
            assert [await daemon.receive(), await daemon.receive()] == [message, GiveUp(7)]
            for each in sent:
                await each.wait()
            agent.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        encode({"type": "Ended"}),
        encode({"type": "Ended", "crash": None, "more": 1}),
        encode({"type": "Work", "setup": {}}),
        encode({"type": "GiveUp"}),
        encode({"type": "Wait", "number": 1, "seconds": math.inf}),
        encode({"type": "Wait", "number": 1, "seconds": math.nan}),
        encode([1, 2, 3]),
    ],
)
async def test_what_is_no_message_is_refused(ends, content):
    daemon, agent = ends
    await agent.send(framed(content))

    with pytest.raises(WireError, match="no message"):
        await daemon.receive()


@pytest.mark.parametrize(
    "changes",
    [
        {"throttled_until": math.inf},
        {"waiting_until": math.nan},
        {"beat_at": -1.0},
        {"progress_at": "now"},
        {"doing": "x" * 10_000},
        {"doing": None},
    ],
)
async def test_a_report_that_says_what_no_agent_can_is_refused(ends, changes):
    daemon, agent = ends
    await agent.send(framed(report(**changes)))

    with pytest.raises(WireError, match="no message"):
        await daemon.receive()


async def test_a_message_that_would_be_too_long_is_neither_sent_nor_read(ends):
    daemon, agent = ends
    with pytest.raises(WireError, match="too many"):
        daemon.put(Call(1, "x" * (LONGEST + 1), msgspec.Raw(b"\xc0")))
    await agent.send(struct.pack("!I", LONGEST + 1))

    with pytest.raises(WireError, match="too many"):
        await daemon.receive()


@pytest.mark.parametrize("arguments", [[], {"what": 1}, {"task_id": [[[]]], "token": "k"}])
def test_what_no_verb_takes_is_refused(arguments):
    call = Call(1, "renew_task", msgspec.Raw(encode(arguments)))

    with pytest.raises(WireError, match="renew_task"):
        arguments_of(call, VERBS["renew_task"])


def test_a_moment_of_any_zone_is_handed_over_as_the_same_moment():
    moment = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    verb = VERBS["costs"]

    read = arguments_of(call_of(1, verb, {"since": moment}), verb)

    assert read["since"] == moment.astimezone(UTC)


async def test_no_heartbeat_lies_ahead_though_the_first_word_of_it_came_late(autojump_clock):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        activity = new_activity()
        agent = _AgentProcess(ours, activity, Store(), trio.sleep)
        elsewhere = new_activity(1000.0)  # as another process counts
        late = Report(elsewhere.state(), trio.current_time() + 1000.0)
        async with trio.open_nursery() as nursery:
            await trio.sleep(3)
            await agent._take(late, nursery)
            elsewhere.beat()
            await agent._take(Report(elsewhere.state(), trio.current_time() + 1000.0), nursery)
            await trio.sleep(1)
        assert activity.snapshot()["heartbeat_age"] == 1.0


async def test_what_a_process_says_of_itself_is_put_into_bounds(autojump_clock):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        activity = new_activity()
        agent = _AgentProcess(ours, activity, Store(), trio.sleep)
        claimed = new_activity()
        claimed.beat_at, claimed.throttled_until = 1e12, 1e12
        async with trio.open_nursery() as nursery:
            await agent._take(Report(claimed.state(), 0.0), nursery)
        assert activity.beat_at <= trio.current_time()
        assert activity.throttled_until <= trio.current_time() + LONGEST_WAIT


async def test_what_a_process_says_of_its_tools_is_put_into_bounds(autojump_clock):
    ours, theirs = socket.socketpair()
    told = []
    with ours, theirs:
        agent = _AgentProcess(ours, new_activity(), Store(), trio.sleep, told.append)
        tool = ToolStatus(name="n" * 9999, source="hand", effect=None, approval="never")
        async with trio.open_nursery() as nursery:
            await agent._take(HandsAre((tool,), ("p" * 9999,)), nursery)
    (kept,) = told
    assert len(kept.tools[0].name) <= 200
    assert len(kept.problems[0]) <= 500
    many = encode(HandsAre((tool,) * 1001, ()))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(many, type=FromAgent)


class Slow(Store):
    """A store that answers nothing."""

    def __init__(self):
        self.asked = 0

    async def perform(self, _verb, _arguments):
        self.asked += 1
        await trio.sleep_forever()


async def test_an_agent_has_so_many_calls_done_at_once_and_no_number_twice():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        store = Slow()
        agent = _AgentProcess(ours, new_activity(), store, trio.sleep)
        nothing = msgspec.Raw(encode({}))
        async with trio.open_nursery() as nursery:
            for number in range(AT_ONCE):
                await agent._take(Call(number, "ping", nothing), nursery)
            with pytest.raises(WireError, match="under way already"):
                await agent._take(Call(1, "ping", nothing), nursery)
            with trio.move_on_after(0.05) as waited:  # it does not come to this, in real time
                await agent._take(Call(AT_ONCE, "ping", nothing), nursery)
            assert waited.cancelled_caught
            assert store.asked == AT_ONCE
            nursery.cancel_scope.cancel()
