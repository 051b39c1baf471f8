"""What a type checker takes and what it refuses of the supervisor. It is only read, never run.

Each line that must be refused says so to mypy and to pyright, and both complain where nothing is
to be ignored: so what is refused no longer fails the check, as does what is refused wrongly.
"""

from __future__ import annotations

import math
from typing import Any, assert_type

import trio

from actp_supervise import (
    AutoShutdown,
    Backoff,
    Child,
    ChildState,
    Restart,
    RestartLimit,
    RestartLimitExceeded,
    ShutdownOrder,
    Strategy,
    Supervisor,
    current_child,
    open_supervisor,
)


async def idle() -> None: ...


async def work(number: int, word: str = "", *, loud: bool = False) -> str:
    raise NotImplementedError


def plain(number: int) -> None: ...


class Server:
    async def serve(
        self, port: int, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None: ...


async def it_is_opened() -> None:
    async with open_supervisor() as supervisor:
        assert_type(supervisor, Supervisor)
    async with open_supervisor(
        name="root",
        strategy=Strategy.REST_FOR_ONE,
        limit=RestartLimit(max_restarts=3, within=5.0),
        backoff=Backoff(initial=1, jitter=0.1),
        shutdown_timeout=math.inf,
        shutdown_order=ShutdownOrder.TOGETHER,
        auto_shutdown=AutoShutdown.ANY_SIGNIFICANT,
        on_event=print,
    ):
        pass
    open_supervisor(limit=None)
    open_supervisor(strategy="one_for_one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    open_supervisor(limit=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    open_supervisor(on_event=idle)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    open_supervisor(max_restarts=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with open_supervisor():  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass


async def a_child_is_started_with_its_arguments(supervisor: Supervisor) -> None:
    assert_type(supervisor.start_soon(idle), Child)
    assert_type(supervisor.start_soon(work, 1), Child)
    assert_type(supervisor.start_soon(work, 1, "one", name="w1"), Child)
    assert_type(supervisor.start_soon(Server().serve, 80), Child)
    supervisor.start_soon(work)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    supervisor.start_soon(work, "one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    supervisor.start_soon(work, 1, "one", 2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    supervisor.start_soon(idle, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    supervisor.start_soon(plain, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    supervisor.start_soon(idle())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    supervisor.start_soon()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def a_child_is_started_with_its_options(supervisor: Supervisor) -> None:
    supervisor.start_soon(
        work,
        1,
        name="w1",
        restart=Restart.TRANSIENT,
        backoff=Backoff(initial=64, factor=2, maximum=300, free_restarts=5),
        shutdown_timeout=0,
        watchdog=90.0,
        significant=True,
    )
    supervisor.start_soon(idle, name=None, backoff=None, shutdown_timeout=None, watchdog=None)
    supervisor.start_soon(work, 1, loud=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    supervisor.start_soon(idle, nmae="w1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    supervisor.start_soon(idle, name=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    supervisor.start_soon(idle, restart="always")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    supervisor.start_soon(idle, backoff=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    supervisor.start_soon(idle, shutdown_timeout="5 s")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    supervisor.start_soon(idle, significant=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def what_start_returns_is_not_known(supervisor: Supervisor) -> None:
    assert_type(await supervisor.start(Server().serve, 80, name="http"), Any)
    assert_type(await supervisor.restart("http"), Any)
    supervisor.start_soon(supervisor.start, idle)
    await supervisor.start(plain, 80)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await supervisor.start(Server().serve, 80, restart="always")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await supervisor.start(Server().serve, 80, nmae="http")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def children_are_looked_up_and_commanded(supervisor: Supervisor) -> None:
    child = supervisor["w1"]
    assert_type(child, Child)
    assert_type(supervisor.children, tuple[Child, ...])
    assert_type("w1" in supervisor, bool)
    assert_type(child.state, ChildState)
    assert_type(child.restarts, int)
    assert_type(child.restart_at, float | None)
    await supervisor.stop("w1")
    await supervisor.remove("w1")
    await supervisor.shutdown()
    supervisor[0]  # type: ignore[index]  # pyright: ignore[reportArgumentType]
    await supervisor.stop(child)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    supervisor.stop("w1")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]


def a_state_is_one_of_seven(child: Child) -> str:
    match child.state:
        case ChildState.STARTING | ChildState.RUNNING | ChildState.BACKING_OFF:
            return "at work"
        case ChildState.STOPPING | ChildState.STOPPED:
            return "stopped"
        case ChildState.FINISHED | ChildState.FAILED:
            return "over"


async def inside_a_child() -> None:
    child = current_child()
    child.beat()
    assert_type(bool(child.stopping), bool)
    with child.cancel_on_stop():
        await child.stopping.wait()
    child.beat(within=600)
    child.beat(600)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def what_leaves_the_block_can_be_asked() -> None:
    try:
        async with open_supervisor():
            pass
    except RestartLimitExceeded as error:
        assert_type(error.path, tuple[str, ...])
