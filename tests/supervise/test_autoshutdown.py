"""When significant children end the supervisor, and when they do not."""

from __future__ import annotations

import pytest
import trio
from actors import (
    Actor,
    Crash,
    crash_after,
    live_on,
    never_ready,
    return_after,
    states,
)

from actp_supervise import AutoShutdown, Backoff, DoNotRestart, Restart, Strategy, open_supervisor

BOTH = [AutoShutdown.ANY_SIGNIFICANT, AutoShutdown.ALL_SIGNIFICANT]
TRANSIENT = {"restart": Restart.TRANSIENT, "significant": True}
TEMPORARY = {"restart": Restart.TEMPORARY, "significant": True}


@pytest.mark.parametrize("policy", BOTH)
async def test_a_significant_transient_child_that_returns_ends_the_supervisor(
    autojump_clock, policy
):
    async with open_supervisor(auto_shutdown=policy, shutdown_timeout=0.0) as supervisor:
        supervisor.start_soon(return_after, 3.0, **TRANSIENT)
        other = supervisor.start_soon(live_on)
        await trio.sleep_forever()
    assert trio.current_time() == 3.0
    assert other.state == "stopped"


async def test_a_significant_transient_child_that_crashes_is_restarted(autojump_clock):
    async with open_supervisor(auto_shutdown=AutoShutdown.ANY_SIGNIFICANT) as supervisor:
        child = supervisor.start_soon(Actor("a", [], 1.0), **TRANSIENT)
        await trio.sleep(10)
        assert (child.state, child.restarts) == ("running", 1)
        await supervisor.shutdown()


@pytest.mark.parametrize("end", [return_after, crash_after])
async def test_a_significant_temporary_child_ends_it_however_it_ended(autojump_clock, end):
    async with open_supervisor(auto_shutdown=AutoShutdown.ANY_SIGNIFICANT) as supervisor:
        supervisor.start_soon(end, 3.0, **TEMPORARY)
        await trio.sleep_forever()
    assert trio.current_time() == 3.0


async def test_a_significant_child_that_gives_up_for_good_ends_it(autojump_clock):
    async def gives_up():
        raise DoNotRestart

    async with open_supervisor(auto_shutdown=AutoShutdown.ANY_SIGNIFICANT) as supervisor:
        supervisor.start_soon(gives_up, **TRANSIENT)
        await trio.sleep_forever()
    assert trio.current_time() == 0.0


async def test_any_significant_ends_it_with_the_first(autojump_clock):
    async with open_supervisor(
        auto_shutdown=AutoShutdown.ANY_SIGNIFICANT, shutdown_timeout=0.0
    ) as supervisor:
        supervisor.start_soon(return_after, 2.0, **TRANSIENT)
        supervisor.start_soon(return_after, 5.0, **TEMPORARY)
    assert trio.current_time() == 2.0


async def test_all_significant_waits_for_the_last_of_them(autojump_clock):
    async with open_supervisor(
        auto_shutdown=AutoShutdown.ALL_SIGNIFICANT, shutdown_timeout=0.0
    ) as supervisor:
        supervisor.start_soon(return_after, 2.0, **TRANSIENT)
        supervisor.start_soon(crash_after, 5.0, **TEMPORARY)
        supervisor.start_soon(return_after, 3.0, name="c", **TRANSIENT)
        supervisor.start_soon(live_on)
        await trio.sleep_forever()
    assert trio.current_time() == 5.0


async def test_all_significant_waits_for_one_that_backs_off(autojump_clock):
    async def crashes_then_returns():
        if child.restarts == 0:
            raise Crash

    async with open_supervisor(
        auto_shutdown=AutoShutdown.ALL_SIGNIFICANT,
        backoff=Backoff(initial=10.0),
        limit=None,
        shutdown_timeout=0.0,
    ) as supervisor:
        child = supervisor.start_soon(crashes_then_returns, **TRANSIENT)
        supervisor.start_soon(return_after, 3.0, **TRANSIENT)
        supervisor.start_soon(live_on)
    assert trio.current_time() == 10.0


async def test_children_that_are_not_significant_never_end_it(autojump_clock):
    for policy in BOTH:
        async with open_supervisor(auto_shutdown=policy, shutdown_timeout=0.0) as supervisor:
            supervisor.start_soon(live_on, **TRANSIENT)
            supervisor.start_soon(return_after, 1.0, restart=Restart.TRANSIENT)
            supervisor.start_soon(crash_after, 2.0, restart=Restart.TEMPORARY)
            await trio.sleep(10)
            assert supervisor["live_on"].state == "running"
            await supervisor.shutdown()


async def test_never_is_the_default(autojump_clock):
    async with open_supervisor() as supervisor:
        supervisor.start_soon(return_after, 1.0, restart=Restart.TRANSIENT)
        other = supervisor.start_soon(live_on)
        await trio.sleep(10)
        assert other.state == "running"
        await supervisor.shutdown()


# Ends that somebody asked for.


@pytest.mark.parametrize("policy", BOTH)
@pytest.mark.parametrize("options", [TRANSIENT, TEMPORARY])
@pytest.mark.parametrize("call", ["stop", "restart", "remove"])
async def test_stopping_a_significant_child_by_a_call_never_ends_it(
    autojump_clock, policy, options, call
):
    async with open_supervisor(auto_shutdown=policy, shutdown_timeout=0.0) as supervisor:
        supervisor.start_soon(live_on, name="significant", **options)
        other = supervisor.start_soon(live_on)
        await trio.sleep(1)
        await getattr(supervisor, call)("significant")
        await trio.sleep(10)
        assert other.state == "running"
        await supervisor.shutdown()


@pytest.mark.parametrize("policy", BOTH)
@pytest.mark.parametrize("options", [TRANSIENT, TEMPORARY])
async def test_stopping_one_with_its_group_never_ends_it(autojump_clock, policy, options):
    async with open_supervisor(
        auto_shutdown=policy, strategy=Strategy.ONE_FOR_ALL, shutdown_timeout=0.0
    ) as supervisor:
        other = supervisor.start_soon(Actor("a", [], 1.0))
        supervisor.start_soon(live_on, name="significant", **options)
        await trio.sleep(10)
        assert (other.state, other.restarts) == ("running", 1)
        assert ("significant" in supervisor) == (options is TRANSIENT)
        await supervisor.shutdown()


async def test_a_start_that_fails_never_ends_it(autojump_clock):
    async def fails(*, task_status):
        raise Crash

    async with open_supervisor(auto_shutdown=AutoShutdown.ANY_SIGNIFICANT) as supervisor:
        with pytest.raises(Crash):
            await supervisor.start(fails, **TEMPORARY)
        with trio.move_on_after(1):
            await supervisor.start(never_ready, **TEMPORARY)
        other = supervisor.start_soon(live_on)
        await trio.sleep(10)
        assert other.state == "running"
        await supervisor.shutdown()


# What it does.


async def test_the_block_of_a_supervisor_that_ends_so_is_left_without_an_error(autojump_clock):
    async with open_supervisor(auto_shutdown=AutoShutdown.ANY_SIGNIFICANT) as supervisor:
        supervisor.start_soon(crash_after, 1.0, **TEMPORARY)
        await trio.sleep_forever()
    assert states(supervisor) == {}


async def test_it_travels_up_only_through_children_that_are_significant_themselves(
    autojump_clock,
):
    async def subtree():
        async with open_supervisor(auto_shutdown=AutoShutdown.ANY_SIGNIFICANT) as below:
            below.start_soon(return_after, 1.0, **TRANSIENT)
            await trio.sleep_forever()

    async with open_supervisor(auto_shutdown=AutoShutdown.ANY_SIGNIFICANT) as supervisor:
        supervisor.start_soon(subtree, **TRANSIENT)
        await trio.sleep_forever()
    assert trio.current_time() == 1.0

    async with open_supervisor(auto_shutdown=AutoShutdown.ANY_SIGNIFICANT) as supervisor:
        child = supervisor.start_soon(subtree, restart=Restart.TRANSIENT)
        await trio.sleep(10)
        assert (supervisor.tree().state, child.state) == ("running", "finished")
