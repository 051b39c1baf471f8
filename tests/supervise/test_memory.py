"""What a restart leaves behind: nothing."""

from __future__ import annotations

import contextlib
import gc
import sys
import weakref

import pytest
import trio
from actors import Crash, Log, crash_at_once, live_on, return_after
from trio.testing import wait_all_tasks_blocked

from actp_supervise import (
    AutoShutdown,
    Backoff,
    DoNotRestart,
    Restart,
    RestartLimit,
    RestartLimitExceeded,
    Strategy,
    open_supervisor,
)


class Burden:
    """Something large that a run holds in a variable."""


async def many_restarts(count, **options):
    """Crash so often, and return the growth of Python's heap, in objects."""

    async def crashes():
        nonlocal baseline
        if child.restarts == count // 4:
            gc.collect()
            baseline = len(gc.get_objects())
        if child.restarts == count:
            gc.collect()
            growth.append(len(gc.get_objects()) - baseline)
            return
        raise Crash("again")

    growth, baseline = [], 0
    async with open_supervisor(**options) as supervisor:
        child = supervisor.start_soon(crashes, restart=Restart.TRANSIENT)
    assert child.crashes == count
    return growth[0]


async def test_memory_is_flat_over_many_restarts(autojump_clock, silent):
    assert await many_restarts(20_000, limit=None) < 50


async def test_memory_is_flat_with_a_limit_a_backoff_and_a_group(autojump_clock, silent):
    growth = await many_restarts(
        2_000,
        limit=RestartLimit(100, 1.0),
        backoff=Backoff(initial=0.5, maximum=2.0),
        strategy=Strategy.ONE_FOR_ALL,
    )
    assert growth < 50


async def test_memory_is_flat_over_many_temporary_children(autojump_clock):
    async def start_and_finish(count):
        for i in range(count):
            supervisor.start_soon(return_after, 0, restart=Restart.TEMPORARY)
            if i % 100 == 99:
                await trio.sleep(1)
        gc.collect()
        return len(gc.get_objects())

    async with open_supervisor() as supervisor:
        before = await start_and_finish(1_000)
        after = await start_and_finish(10_000)
    assert after - before < 50


async def test_a_dead_run_keeps_nothing_of_its_variables_alive(autojump_clock, silent):
    burdens = []

    async def crashes():
        burden = Burden()
        burdens.append(weakref.ref(burden))
        if child.restarts == 3:
            await trio.sleep_forever()
        helper(burden)

    def helper(burden):
        try:
            raise ValueError("first")
        except ValueError:
            raise Crash("second")  # noqa: B904

    gc.collect()
    gc.disable()  # nothing here is a reference cycle either
    try:
        async with open_supervisor(shutdown_timeout=0.0) as supervisor:
            child = supervisor.start_soon(crashes)
            await trio.sleep(1)
            assert [burden() is None for burden in burdens] == [True, True, True, False]
            assert "in helper" in child.last_error
            assert "ValueError: first" in child.last_error
            await supervisor.shutdown()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "end", ["stopped", "failed for good", "stalled", "not started", "not restarted", "gave up"]
)
async def test_a_run_that_ended_in_another_way_keeps_nothing_alive_either(autojump_clock, end):
    burdens = []

    async def child_fn(*, task_status=trio.TASK_STATUS_IGNORED):
        burden = Burden()
        burdens.append(weakref.ref(burden))
        if end == "failed for good":
            raise DoNotRestart
        if end == "not restarted" and len(burdens) == 1:
            task_status.started()
            await trio.sleep_forever()
        if end in {"not started", "not restarted", "gave up"}:
            raise Crash
        try:
            await trio.sleep_forever()
        finally:
            raise Crash(f"{type(burden)} in the cleanup")

    with contextlib.suppress(RestartLimitExceeded):
        async with open_supervisor(shutdown_timeout=0.0, limit=RestartLimit(0)) as supervisor:
            if end in {"not started", "not restarted"}:
                with contextlib.suppress(Crash):
                    await supervisor.start(child_fn, name="c")
                    await supervisor.restart("c")
            else:
                watchdog = 0.5 if end == "stalled" else None
                supervisor.start_soon(child_fn, name="c", watchdog=watchdog)
                await trio.sleep(1)
                await supervisor.stop("c")
    gc.collect()
    assert {burden() for burden in burdens} == {None}
    assert len(supervisor.children) == (end != "not started")


@pytest.mark.parametrize("end", ["temporary", "removed"])
async def test_the_arguments_of_a_child_that_left_the_list_are_let_go(autojump_clock, end):
    async def uses(burden):
        await trio.sleep(1)

    async with open_supervisor() as supervisor:
        burden = Burden()
        alive = weakref.ref(burden)
        child = supervisor.start_soon(
            uses,
            burden,
            name="c",
            restart=Restart.TEMPORARY if end == "temporary" else Restart.TRANSIENT,
        )
        del burden
        await trio.sleep(2)
        if end == "removed":
            await supervisor.remove("c")
        gc.collect()
        assert alive() is None
        assert child.state == "finished"


async def test_tracebacks_do_not_grow_and_errors_do_not_chain(autojump_clock):
    texts, contexts = [], []
    error = Crash("always the same object")

    async def crashes():
        raise error

    def note(event):
        if event.action == "child_crashed":
            texts.append(str(event.traceback))
            contexts.append(event.error.__context__)

    with pytest.raises(RestartLimitExceeded):
        async with open_supervisor(limit=RestartLimit(50), on_event=note) as supervisor:
            supervisor.start_soon(crashes)
    assert len(texts) == 51
    assert len(set(texts)) == 1
    assert set(contexts) == {None}


async def test_a_very_long_chain_of_errors_is_kept_as_text_too(autojump_clock):
    async def crashes():
        error = ValueError("the first")
        for _ in range(3 * sys.getrecursionlimit()):
            following = Crash("next")
            following.__cause__ = error
            error = following
        raise error

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(crashes, restart=Restart.TEMPORARY)
        await trio.sleep(1)
        assert "the first" in child.last_error


async def test_an_event_keeps_no_frames(autojump_clock):
    log = Log()
    with pytest.raises(RestartLimitExceeded):
        async with open_supervisor(limit=RestartLimit(1), on_event=log) as supervisor:
            supervisor.start_soon(crash_at_once)
    first, last = (event for event in log if event.action == "child_crashed")
    assert first.error.__traceback__ is None
    assert last.error.__traceback__ is not None  # it left the block, as the cause


# Cost, counted in calls of functions: ten times the work may cost twenty times, as Trio's scheduler
# has its choices, but not a hundred times.


def calls_of(async_fn, *args):
    calls = 0

    def count(frame, event, arg):
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        trio.run(async_fn, *args)
    finally:
        sys.setprofile(None)
    return calls


async def start_and_stop(count):
    async with open_supervisor(shutdown_timeout=0.0) as supervisor:
        for _ in range(count):
            supervisor.start_soon(live_on)
        await wait_all_tasks_blocked()
        await supervisor.shutdown()


def test_starting_and_stopping_many_children_costs_linear_time(silent):
    assert calls_of(start_and_stop, 2_000) < 20 * calls_of(start_and_stop, 200)


async def fail_all_at_once(count, strategy):
    go = trio.Event()

    async def fails():
        if not go.is_set():
            await go.wait()
            raise Crash
        await trio.sleep_forever()

    async with open_supervisor(strategy=strategy, limit=None) as supervisor:
        for _ in range(count):
            supervisor.start_soon(fails)
        await wait_all_tasks_blocked()
        go.set()
        await wait_all_tasks_blocked()
        assert {child.state for child in supervisor.children} == {"running"}
        await supervisor.shutdown()


@pytest.mark.parametrize("strategy", Strategy)
def test_a_group_of_many_that_fail_at_once_costs_linear_time(silent, strategy):
    few = calls_of(fail_all_at_once, 100, strategy)
    assert calls_of(fail_all_at_once, 1_000, strategy) < 20 * few


async def end_all_at_once(count):
    go = trio.Event()
    async with open_supervisor(auto_shutdown=AutoShutdown.ALL_SIGNIFICANT) as supervisor:
        for _ in range(count):
            supervisor.start_soon(go.wait, restart=Restart.TEMPORARY, significant=True)
        await wait_all_tasks_blocked()
        go.set()


def test_many_significant_children_that_end_at_once_cost_linear_time(silent):
    assert calls_of(end_all_at_once, 1_000) < 20 * calls_of(end_all_at_once, 100)


async def restart_often(count, limit):
    async def crashes():
        if child.restarts < count:
            raise Crash

    async with open_supervisor(limit=limit) as supervisor:
        child = supervisor.start_soon(crashes, restart=Restart.TRANSIENT)


def test_a_restart_costs_the_same_however_many_are_in_the_window(silent):
    limit = RestartLimit(max_restarts=10_000, within=1e9)
    assert calls_of(restart_often, 3_000, limit) < 20 * calls_of(restart_often, 300, limit)
