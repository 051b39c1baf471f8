"""What a type checker makes of events, the bridge, processes and the helpers for tests.

It is only read, never run.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, assert_type

import trio

from actp_supervise import Child, ChildState, Supervisor, open_supervisor
from actp_supervise.bridge import asyncio_child, run_in_trio
from actp_supervise.events import ChildCrashed, ChildReady, Event, RestartScheduled
from actp_supervise.process import process_child
from actp_supervise.testing import crashing, wait_for_event, wait_for_state

if TYPE_CHECKING:
    from collections.abc import Callable


async def agent(interval: float, *, name: str = "") -> int:
    await asyncio.sleep(interval)
    return 1


async def count(word: str) -> int:
    await trio.lowlevel.checkpoint()
    return len(word)


async def events_are_told_apart(supervisor: Supervisor) -> None:
    async with supervisor.subscribe(max_buffer=10) as events:
        assert_type(events.dropped, int)
        async for event in events:
            assert_type(event, Event)
            assert_type(event.path, tuple[str, ...])
            assert_type(event.time, float)
            if isinstance(event, ChildCrashed):
                assert_type(event.error, BaseException)
                assert_type(event.crashes, int)
            elif isinstance(event, RestartScheduled):
                assert_type(event.delay, float)
            else:
                print(event.delay)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
            event.time = 0.0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def a_listener_takes_any_event() -> None:
    def any_event(event: Event) -> None: ...

    def crashes_alone(event: ChildCrashed) -> None: ...

    open_supervisor(on_event=any_event)
    open_supervisor(on_event=crashes_alone)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def asyncio_code_keeps_its_arguments(supervisor: Supervisor) -> None:
    child = asyncio_child(agent, isolation="thread")
    assert_type(supervisor.start_soon(child, 1.5), Child)
    await child(1.5, name="a")
    await child("soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await child()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    supervisor.start_soon(child, "soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    asyncio_child(agent, isolation="container")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    asyncio_child(print)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await run_in_trio(count, "word"), int)
    await run_in_trio(count, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def a_process_is_a_child(supervisor: Supervisor) -> None:
    supervisor.start_soon(process_child(["sleep", "60"]), name="sleep")
    supervisor.start_soon(process_child((Path("/bin/true"),), cwd=Path(), on_output=print))
    process_child(["sleep", 60])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    process_child("sleep 60", shell=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def helpers_for_tests(supervisor: Supervisor, child: Child) -> None:
    supervisor.start_soon(crashing(1), name="w1")
    assert_type(await wait_for_state(child, ChildState.RUNNING), ChildState)
    assert_type(await wait_for_event(supervisor, ChildReady, child="w1"), ChildReady)
    await wait_for_event(supervisor, ChildState)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


def what_can_be_started(made: Callable[[], object], supervisor: Supervisor) -> None:
    supervisor.start_soon(made)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
