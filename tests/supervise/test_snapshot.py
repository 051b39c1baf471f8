"""What is to be seen of a child and of a tree, for people and for machines."""

from __future__ import annotations

import dataclasses
import json

import pytest
import trio
from actors import (
    Actor,
    crash_after,
    hold_out,
    live_on,
    never_ready,
    ready_and_live_on,
    return_after,
)

from actp_supervise import Backoff, ChildState, DoNotRestart, Restart, Strategy, open_supervisor


async def branch():
    async with open_supervisor(name="pool", strategy=Strategy.ONE_FOR_ALL) as supervisor:
        supervisor.start_soon(live_on, name="leaf")


async def gives_up():
    raise DoNotRestart("no key")


async def test_each_state_of_a_child_is_shown_as_it_is(autojump_clock):
    async with open_supervisor(limit=None, backoff=Backoff(initial=90.0)) as supervisor:
        async with trio.open_nursery() as nursery:
            fresh = supervisor.start_soon(live_on, name="fresh")
            assert fresh.state is ChildState.STARTING
            nursery.start_soon(supervisor.start, never_ready)
            supervisor.start_soon(live_on, name="runs")
            supervisor.start_soon(crash_after, 5.0, name="waits")
            supervisor.start_soon(hold_out, 100.0, name="stops", shutdown_timeout=0.0)
            supervisor.start_soon(live_on, name="stopped", shutdown_timeout=0.0)
            supervisor.start_soon(return_after, 1.0, name="done", restart=Restart.TRANSIENT)
            supervisor.start_soon(gives_up, name="failed")
            await trio.sleep(2)
            await supervisor.stop("stopped")
            nursery.start_soon(supervisor.stop, "stops")
            await trio.sleep(8)
            assert {child.name: str(child.state) for child in supervisor.children} == {
                "fresh": "running",
                "never_ready": "starting",
                "runs": "running",
                "waits": "backing_off",
                "stops": "stopping",
                "stopped": "stopped",
                "done": "finished",
                "failed": "failed",
            }
            nursery.cancel_scope.cancel()
        await supervisor.shutdown()


async def test_the_facts_of_a_child(autojump_clock):
    async with open_supervisor(name="root", limit=None) as supervisor:
        await trio.sleep(2)
        child = supervisor.start_soon(Actor("a", [], 3.0), backoff=Backoff(initial=10.0))
        assert (child.path, child.started_at, child.last_error) == (("root", "a"), None, None)
        await trio.sleep(1)
        assert (child.started_at, child.uptime, child.restart_at) == (2.0, 1.0, None)
        await trio.sleep(4)
        assert (child.started_at, child.uptime, child.restart_at) == (2.0, 0.0, 15.0)
        assert (child.crashes, child.restarts) == (1, 0)
        assert child.last_error.startswith("Traceback (most recent call last):\n")
        assert child.last_error.endswith("Crash: a\n")
        await trio.sleep(10)
        assert (child.started_at, child.uptime, child.restart_at) == (15.0, 2.0, None)
        assert (child.crashes, child.restarts) == (1, 1)
        assert child.last_error.endswith("Crash: a\n")
        assert repr(child) == "<Child root/a: running>"
        assert repr(supervisor) == "<Supervisor 'root': 1 children>"
        await supervisor.shutdown()


async def test_the_children_that_run_can_be_counted_and_one_that_waits_is_not_among_them(
    autojump_clock,
):
    async with open_supervisor(limit=None, backoff=Backoff(initial=90.0)) as supervisor:
        supervisor.start_soon(crash_after, 1.0)
        supervisor.start_soon(live_on)
        supervisor.start_soon(return_after, 1.0, restart=Restart.TRANSIENT)
        await trio.sleep(10)
        states = [child.state for child in supervisor.children]
        assert len(states) == 3
        assert states.count(ChildState.RUNNING) == 1
        assert states.count(ChildState.BACKING_OFF) == 1
        await supervisor.shutdown()


async def test_a_tree_is_a_snapshot_that_does_not_change(autojump_clock):
    async with open_supervisor(name="root") as supervisor:
        supervisor.start_soon(live_on)
        await trio.sleep(3)
        before = supervisor.tree()
        await supervisor.shutdown()
        assert before.children[0].state == "running"
        assert supervisor.tree().children[0].state == "stopped"
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.name = "other"
    assert [supervisor.tree().state, before.state] == ["stopped", "running"]


async def test_a_supervisor_that_stops_is_shown_as_stopping(autojump_clock):
    async with trio.open_nursery() as nursery, open_supervisor(shutdown_timeout=5.0) as supervisor:
        supervisor.start_soon(live_on)
        await trio.sleep(1)
        nursery.start_soon(supervisor.shutdown)
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        assert supervisor.tree().state == "stopping"


async def test_a_tree_turns_into_json_with_all_its_levels(autojump_clock):
    async with open_supervisor(name="root") as supervisor:
        supervisor.start_soon(branch, name="branch")
        await trio.sleep(3)
        decoded = json.loads(json.dumps(supervisor.tree().to_dict()))
        await supervisor.shutdown()
    child = {
        "kind": "child",
        "restart": "permanent",
        "restarts": 0,
        "crashes": 0,
        "last_error": None,
        "started_at": 0.0,
        "uptime": 3.0,
        "restart_at": None,
        "overdue": False,
        "pid": None,
        "time": 3.0,
        "state": "running",
    }
    assert decoded == {
        "kind": "supervisor",
        "name": "root",
        "state": "running",
        "strategy": "one_for_one",
        "children": [
            {
                **child,
                "name": "branch",
                "children": [
                    {
                        "kind": "supervisor",
                        "name": "pool",
                        "state": "running",
                        "strategy": "one_for_all",
                        "children": [{**child, "name": "leaf", "children": []}],
                    }
                ],
            }
        ],
    }


async def test_a_tree_prints_as_a_tree(autojump_clock):
    async with open_supervisor(name="root", limit=None) as supervisor:
        await supervisor.start(ready_and_live_on, name="store")
        supervisor.start_soon(branch, name="branch")
        supervisor.start_soon(Actor("a", [], 1.0, 1.0), backoff=Backoff(initial=30.0))
        supervisor.start_soon(gives_up, name="failed")
        await trio.sleep(12.5)
        text = str(supervisor.tree())
        await supervisor.shutdown()
    assert text.splitlines() == [
        "root [one_for_one, running]",
        "├── store: running, up 12.5 s",
        "├── branch: running, up 12.5 s",
        "│   └── pool [one_for_all, running]",
        "│       └── leaf: running, up 12.5 s",
        "├── a: backing_off, restarts in 18.5 s, actors.Crash: a",
        "└── failed: failed, actp_supervise.errors.DoNotRestart: no key",
    ]


async def test_a_subtree_leaves_the_tree_with_its_run_and_comes_back_with_the_next(autojump_clock):
    async def crashing_branch():
        async with open_supervisor(name="pool") as below:
            below.start_soon(live_on, name="leaf")
            await trio.sleep(2)
            raise ValueError

    async with open_supervisor(
        limit=None, backoff=Backoff(initial=10.0), shutdown_timeout=0.0
    ) as supervisor:
        supervisor.start_soon(crashing_branch)
        seen = []
        for _ in range(4):
            await trio.sleep(1)
            seen.append(len(supervisor.tree().children[0].children))
            await trio.sleep(5)
        await supervisor.shutdown()
    # Up from 0 to 2, and again from 12 to 14.
    assert seen == [1, 0, 1, 0]


async def test_a_child_may_open_several_supervisors(autojump_clock):
    async def child_fn():
        async with open_supervisor(name="one") as one, open_supervisor(name="two") as two:
            one.start_soon(live_on)
            two.start_soon(live_on)

    async with open_supervisor(name="root", shutdown_timeout=0.0) as supervisor:
        supervisor.start_soon(child_fn, name="c")
        await trio.sleep(1)
        (child,) = supervisor.tree().children
        assert [below.name for below in child.children] == ["one", "two"]
        await supervisor.shutdown()


async def test_the_path_of_a_child_names_all_levels(autojump_clock):
    paths = []

    async def subtree():
        async with open_supervisor(name="sub") as below:
            paths.append(below.path)
            paths.append(below.start_soon(return_after, 1.0, name="leaf").path)
            await below.shutdown()

    async with open_supervisor(name="root") as supervisor:
        supervisor.start_soon(subtree, name="branch", restart=Restart.TRANSIENT)
    assert supervisor.path == ("root",)
    assert paths == [("root", "branch", "sub"), ("root", "branch", "sub", "leaf")]


async def test_a_supervisor_opened_in_the_body_of_another_is_a_tree_of_its_own(autojump_clock):
    async with open_supervisor(name="one"), open_supervisor(name="two") as two:
        assert two.path == ("two",)
