"""What is told about a tree: by callback, by stream and in the log."""

from __future__ import annotations

import dataclasses
import json
import logging
import math

import pytest
import trio
from actors import (
    Actor,
    Crash,
    Log,
    crash_after,
    crash_at_once,
    hold_out,
    live_on,
    ready_and_live_on,
    return_after,
)
from trio.testing import wait_all_tasks_blocked

from actp_supervise import (
    DoNotRestart,
    Restart,
    RestartLimit,
    RestartLimitExceeded,
    events,
    open_supervisor,
)


async def one_of_each(supervisor):
    """Let each kind of event happen, but for the end."""
    supervisor.start_soon(crash_after, 1.0, name="crash", restart=Restart.TEMPORARY)
    supervisor.start_soon(hold_out, 6.0, name="stalls", watchdog=2.0)
    await supervisor.start(ready_and_live_on, name="ready")
    supervisor.start_soon(return_after, 3.0, name="return", restart=Restart.TRANSIENT)
    await trio.sleep(9)


# What an event is.


async def test_the_events_of_a_run_tell_its_whole_story(autojump_clock):
    log = Log()
    with pytest.raises(RestartLimitExceeded):
        async with open_supervisor(name="root", on_event=log, limit=RestartLimit(0)) as supervisor:
            await one_of_each(supervisor)
    by_child = {}
    for name, action, time in log.of():
        by_child.setdefault(name, []).append((action, time))
    assert by_child == {
        "crash": [("child_started", 0.0), ("child_crashed", 1.0), ("child_failed", 1.0)],
        "stalls": [
            ("child_started", 0.0),
            ("child_stalled", 2.0),
            ("stop_overdue", 7.0),
            ("child_crashed", 8.0),
            ("restart_limit_reached", 8.0),
        ],
        "ready": [
            ("child_started", 0.0),
            ("child_ready", 0.0),
            ("stop_requested", 8.0),
            ("child_stopped", 8.0),
        ],
        "return": [("child_started", 0.0), ("child_finished", 3.0)],
        "root": [("supervisor_stopped", 8.0)],
    }


async def test_an_event_says_where_when_and_in_which_order(autojump_clock):
    log = Log()
    async with open_supervisor(name="root", on_event=log) as supervisor:
        supervisor.start_soon(crash_after, 1.5, name="c", restart=Restart.TEMPORARY)
    assert [(event.path, event.time, event.sequence) for event in log] == [
        (("root", "c"), 0.0, 1),
        (("root", "c"), 1.5, 2),
        (("root", "c"), 1.5, 3),
        (("root",), 1.5, 4),
    ]


async def test_an_event_cannot_be_changed(autojump_clock):
    log = Log()
    async with open_supervisor(on_event=log):
        pass
    with pytest.raises(dataclasses.FrozenInstanceError):
        log[0].time = 5.0


async def test_every_event_turns_into_json_and_prints_as_one_line(autojump_clock):
    log = Log()
    with pytest.raises(RestartLimitExceeded):
        async with open_supervisor(name="root", on_event=log, limit=RestartLimit(0)) as supervisor:
            await one_of_each(supervisor)
    for event in log:
        decoded = json.loads(json.dumps(event.to_dict()))
        assert decoded["action"] == event.action
        assert decoded["path"] == list(event.path)
        assert str(event).startswith(f"{'/'.join(event.path)}: {event.action}")
        assert "\n" not in str(event)
    crashed = log.last("child_crashed")
    assert crashed.to_dict()["error"] == "Stalled: no beat for 2.0 s"
    assert crashed.to_dict()["traceback"].endswith("Stalled: no beat for 2.0 s\n")
    assert (
        str(crashed) == "root/stalls: child_crashed (error=Stalled: no beat for 2.0 s, crashes=1)"
    )


async def test_an_error_that_cannot_be_printed_is_a_crash_like_any_other(autojump_clock):
    class Unprintable(Exception):
        def __str__(self):
            raise ValueError

    async def child_fn():
        if child.restarts == 0:
            raise Unprintable
        await trio.sleep_forever()

    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        child = supervisor.start_soon(child_fn)
        await trio.sleep(1)
        assert (child.state, child.crashes) == ("running", 1)
        assert "Unprintable" in child.last_error
        assert "Unprintable" in str(log.last("child_crashed"))
        json.dumps(log.last("child_crashed").to_dict())
        await supervisor.shutdown()


def issubclass_of_event(kind):
    return isinstance(kind, type) and issubclass(kind, events.Event) and kind is not events.Event


def test_every_kind_of_event_has_a_word_of_its_own():
    kinds = [kind for kind in vars(events).values() if issubclass_of_event(kind)]
    assert len(kinds) == 12
    assert len({kind.action for kind in kinds}) == 12


# By callback.


async def test_a_callback_is_called_at_once(autojump_clock):
    seen = []
    async with open_supervisor(on_event=lambda event: seen.append(event.action)) as supervisor:
        supervisor.start_soon(live_on)
        assert seen == []
        await wait_all_tasks_blocked()
        assert seen == ["child_started"]
        await supervisor.shutdown()


async def test_an_exception_in_the_callback_is_logged_and_harms_nobody(autojump_clock, caplog):
    def raises(event):
        raise Crash("in the callback")

    caplog.set_level(logging.ERROR, "actp_supervise")
    async with open_supervisor(on_event=raises) as supervisor:
        child = supervisor.start_soon(Actor("a", [], 1.0))
        await trio.sleep(2)
        assert (child.state, child.restarts) == ("running", 1)
        await supervisor.shutdown()
    failures = [r for r in caplog.records if getattr(r, "action", "") == "on_event_failed"]
    assert failures
    assert all("Crash: in the callback" in record.getMessage() for record in failures)


async def test_the_callback_may_call_back_into_the_supervisor(autojump_clock):
    def start_another(event):
        seen.append((event.path[-1], event.action, [*supervisor.tree().to_dict()][:1]))
        if event.action == "child_finished" and event.path[-1] == "first":
            supervisor.start_soon(return_after, 1.0, name="second", restart=Restart.TRANSIENT)

    seen = []
    async with open_supervisor(on_event=start_another) as supervisor:
        supervisor.start_soon(return_after, 1.0, name="first", restart=Restart.TRANSIENT)
    assert trio.current_time() == 2.0
    assert [(name, action) for name, action, _ in seen] == [
        ("first", "child_started"),
        ("first", "child_finished"),
        ("second", "child_started"),
        ("second", "child_finished"),
        ("supervisor", "supervisor_stopped"),
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("action", ["child_started", "child_stopped", "stop_requested"])
async def test_an_exit_in_the_callback_ends_the_tree_and_nobody_waits_for_ever(
    autojump_clock, error, action
):
    def exits(event):
        if event.action == action and event.path[-1] == "c":
            raise error

    async def caller():
        await trio.sleep(0.5)
        await supervisor.stop("c")

    with pytest.raises(error):
        async with open_supervisor(on_event=exits, shutdown_timeout=1.0) as supervisor:
            supervisor.start_soon(live_on, name="other")
            supervisor.start_soon(live_on, name="c")
            supervisor.start_soon(caller, name="caller", restart=Restart.TEMPORARY)
            await trio.sleep(1)
            await supervisor.stop("c")
    assert {child.is_live for child in supervisor.children} == {False}


# By stream.


async def test_a_stream_holds_what_happens_from_entering_on_and_ends_with_the_supervisor(
    autojump_clock,
):
    async def read():
        async with supervisor.subscribe() as stream:
            opened.set()
            seen.extend([(e.action, e.time) async for e in stream])
        ended_at.append(trio.current_time())

    seen, ended_at, opened = [], [], trio.Event()
    async with trio.open_nursery() as nursery, open_supervisor() as supervisor:
        supervisor.start_soon(return_after, 1.0, restart=Restart.TRANSIENT)
        await wait_all_tasks_blocked()
        nursery.start_soon(read)
        await opened.wait()
    assert seen == [("child_finished", 1.0), ("supervisor_stopped", 1.0)]
    assert ended_at == [1.0]


async def test_a_full_stream_drops_the_oldest_and_counts_them_and_never_slows_the_tree(
    autojump_clock,
):
    async with open_supervisor(limit=None) as supervisor:
        async with supervisor.subscribe(max_buffer=4) as stream:
            supervisor.start_soon(crash_after, 1.0, name="c")
            await trio.sleep(10.5)
            # A start, ten times a crash, a restart and a start.
            assert stream.dropped == 1 + 10 * 3 - 4
            held = [await anext(stream) for _ in range(4)]
            assert [event.sequence for event in held] == [28, 29, 30, 31]
            await trio.sleep(1)
            assert (await anext(stream)).sequence == 32
            assert stream.dropped == 27
        await supervisor.shutdown()


async def test_several_readers_each_get_every_event(autojump_clock):
    async def read(into):
        async with supervisor.subscribe() as stream:
            into.extend([event.sequence async for event in stream])

    one, two = [], []
    async with trio.open_nursery() as nursery, open_supervisor() as supervisor:
        nursery.start_soon(read, one)
        nursery.start_soon(read, two)
        await wait_all_tasks_blocked()
        supervisor.start_soon(return_after, 1.0, restart=Restart.TRANSIENT)
    assert one == two == [1, 2, 3]


async def test_a_reader_that_leaves_gets_nothing_more(autojump_clock):
    async with open_supervisor() as supervisor:
        async with supervisor.subscribe() as stream:
            pass
        supervisor.start_soon(return_after, 1.0, restart=Restart.TRANSIENT)
    with trio.move_on_after(1) as scope:
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert not scope.cancelled_caught


async def test_a_reader_can_be_cancelled(autojump_clock):
    async with open_supervisor() as supervisor, supervisor.subscribe() as stream:
        with trio.move_on_after(1) as scope:
            await anext(stream)
        assert scope.cancelled_caught


async def test_a_stream_of_a_supervisor_that_has_stopped_is_at_its_end(autojump_clock):
    async with open_supervisor() as supervisor:
        pass
    async with supervisor.subscribe() as stream:
        assert [event async for event in stream] == []


@pytest.mark.parametrize("size", [0, -1, 1.5])
async def test_a_buffer_that_holds_nothing_is_refused(size):
    async with open_supervisor() as supervisor:
        with pytest.raises(ValueError, match=f"max_buffer must be .*, not {size!r}"):
            supervisor.subscribe(max_buffer=size)


# Trees.


async def test_events_of_a_subtree_reach_every_level_above_in_one_order(autojump_clock):
    async def subtree():
        async with open_supervisor(name="sub", on_event=below) as supervisor:
            supervisor.start_soon(return_after, 1.0, name="leaf", restart=Restart.TRANSIENT)

    below, above, streamed = Log(), Log(), []

    async def read():
        async with supervisor.subscribe() as stream:
            streamed.extend([event async for event in stream])

    async with (
        trio.open_nursery() as nursery,
        open_supervisor(name="root", on_event=above) as supervisor,
    ):
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        supervisor.start_soon(subtree, name="branch", restart=Restart.TRANSIENT)
    assert [(event.path, event.action) for event in above] == [
        (("root", "branch"), "child_started"),
        (("root", "branch", "sub", "leaf"), "child_started"),
        (("root", "branch", "sub", "leaf"), "child_finished"),
        (("root", "branch", "sub"), "supervisor_stopped"),
        (("root", "branch"), "child_finished"),
        (("root",), "supervisor_stopped"),
    ]
    assert [event.sequence for event in above] == [1, 2, 3, 4, 5, 6]
    assert below == above[1:4]
    assert streamed == above


async def test_the_end_of_a_supervisor_says_what_leaves_it(autojump_clock):
    log = Log()
    with pytest.raises(RestartLimitExceeded):
        async with open_supervisor(on_event=log, limit=RestartLimit(0)) as supervisor:
            supervisor.start_soon(crash_at_once)
    assert isinstance(log.last("supervisor_stopped").error, RestartLimitExceeded)
    log.clear()
    with pytest.raises(Crash):
        async with open_supervisor(on_event=log):
            raise Crash
    assert isinstance(log.last("supervisor_stopped").error, Crash)
    log.clear()
    with trio.move_on_after(1):
        async with open_supervisor(on_event=log):
            await trio.sleep_forever()
    assert log.last("supervisor_stopped").error is None
    log.clear()
    async with open_supervisor(on_event=log):
        pass
    assert log.last("supervisor_stopped").error is None


# In the log.


async def test_events_are_logged_with_their_action_and_path_as_fields(autojump_clock, caplog):
    caplog.set_level(logging.DEBUG, "actp_supervise")
    async with open_supervisor(name="root") as supervisor:
        supervisor.start_soon(crash_after, 1.0, name="c", restart=Restart.TEMPORARY)
    assert [(r.levelname, r.action, r.path) for r in caplog.records] == [
        ("DEBUG", "child_started", "root/c"),
        ("ERROR", "child_crashed", "root/c"),
        ("ERROR", "child_failed", "root/c"),
        ("DEBUG", "supervisor_stopped", "root"),
    ]
    assert "in crash_after" in caplog.records[1].getMessage()


async def test_events_that_nobody_wants_are_never_made(autojump_clock, silent, monkeypatch):
    made = []
    original = events.EventHub.emit
    monkeypatch.setattr(
        events.EventHub, "emit", lambda *args, **kw: (made.append(args[1]), original(*args, **kw))
    )
    async with open_supervisor() as supervisor:
        supervisor.start_soon(Actor("a", [], 1.0))
        await trio.sleep(2)
        await supervisor.shutdown()
    assert made == []


async def test_do_not_restart_is_told_as_failed_and_not_as_a_crash(autojump_clock):
    async def gives_up():
        raise DoNotRestart("enough")

    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        supervisor.start_soon(gives_up)
    assert log.of() == [
        ("gives_up", "child_started", 0.0),
        ("gives_up", "child_failed", 0.0),
        ("supervisor", "supervisor_stopped", 0.0),
    ]
    assert log.last("child_failed").error.args == ("enough",)


async def test_a_stop_without_a_limit_is_json_that_a_browser_reads(autojump_clock):
    log = Log()
    async with open_supervisor(on_event=log, shutdown_timeout=math.inf) as supervisor:
        supervisor.start_soon(return_after, 1.0)
        await wait_all_tasks_blocked()
        await supervisor.shutdown()
    assert log.last("stop_requested").timeout == math.inf
    assert (
        json.loads(json.dumps(log.last("stop_requested").to_dict(), allow_nan=False))["timeout"]
        is None
    )
