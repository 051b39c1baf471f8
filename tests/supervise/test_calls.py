"""What `stop`, `restart` and `remove` do, also to a child that is busy with something else."""

from __future__ import annotations

import math

import pytest
import trio
from actors import (
    Actor,
    Crash,
    Log,
    crash_after,
    hold_out,
    live_on,
    never_ready,
    ready_and_live_on,
    return_after,
    states,
)

from actp_supervise import (
    ChildNotFoundError,
    DoNotRestart,
    Restart,
    RestartLimit,
    SupervisionError,
    SupervisorClosedError,
    current_child,
    open_supervisor,
)

# Who is inside the child that it stops.


async def test_a_task_that_a_child_has_put_outside_its_run_waits_for_the_childs_work(
    autojump_clock, record
):
    """The task inherits the child's context, but it is not what the child waits for."""

    async def stops_the_child():
        await trio.sleep(1)
        await supervisor.stop("c")
        record.append(("stopped", trio.current_time()))
        await supervisor.shutdown()

    async def child_fn():
        outer.start_soon(stops_the_child)
        await current_child().stopping.wait()
        await trio.sleep(1)
        record.append(("work done", trio.current_time()))

    async with trio.open_nursery() as outer, open_supervisor() as supervisor:
        supervisor.start_soon(child_fn, name="c")
    assert record == [("work done", 2.0), ("stopped", 2.0)]


async def test_a_supervisor_opened_by_such_a_task_is_a_tree_of_its_own(autojump_clock):
    async def opens_one():
        async with open_supervisor(name="own") as own:
            paths.append(own.path)

    async def child_fn():
        outer.start_soon(opens_one)
        await trio.sleep_forever()

    paths = []
    async with trio.open_nursery() as outer, open_supervisor() as supervisor:
        supervisor.start_soon(child_fn, name="c")
        await trio.sleep(1)
        await supervisor.shutdown()
    assert paths == [("own",)]


# A shutdown that does not wait.


async def test_a_shutdown_may_be_requested_without_waiting_for_it(autojump_clock, record):
    async with open_supervisor() as supervisor:
        for name in "ab":
            supervisor.start_soon(Actor(name, record))
        await trio.sleep(1)
        supervisor.request_shutdown()
        record.append("requested")
        await trio.sleep(1)  # the body goes on, since it asked itself
    assert record[2:] == ["requested", ("-b", 1.0), ("-a", 1.0)]
    assert trio.current_time() == 2.0


async def test_a_callback_of_events_may_request_a_shutdown(autojump_clock):
    def callback(event):
        if event.action == "child_crashed":
            supervisor.request_shutdown()

    async with open_supervisor(on_event=callback) as supervisor:
        child = supervisor.start_soon(crash_after, 1.0)
        await trio.sleep(100)
    assert (trio.current_time(), child.restarts) == (1.0, 0)


async def test_a_shutdown_may_be_requested_of_a_supervisor_that_has_stopped(autojump_clock):
    async with open_supervisor() as supervisor:
        pass
    supervisor.request_shutdown()


# Stop and remove.


async def test_a_stopped_child_stays_in_the_list_and_can_be_restarted(autojump_clock):
    async with open_supervisor(shutdown_timeout=2.0) as supervisor:
        child = supervisor.start_soon(live_on)
        await trio.sleep(1)
        await supervisor.stop("live_on")
        assert trio.current_time() == 3.0
        await trio.sleep(100)
        assert states(supervisor) == {"live_on": "stopped"}
        await supervisor.restart("live_on")
        assert (child.state, child.restarts) == ("running", 1)
        await supervisor.shutdown()


async def test_stopping_what_does_not_run_succeeds_and_leaves_it_as_it_is(autojump_clock):
    async def gives_up():
        raise DoNotRestart

    async with open_supervisor() as supervisor:
        supervisor.start_soon(return_after, 0, name="finished", restart=Restart.TRANSIENT)
        supervisor.start_soon(gives_up, name="failed")
        supervisor.start_soon(live_on, name="stopped", shutdown_timeout=0.0)
        await trio.sleep(1)
        for _ in range(2):
            for name in ("finished", "failed", "stopped"):
                await supervisor.stop(name)
                assert states(supervisor)[name] == name


async def test_remove_stops_the_child_and_frees_its_name(autojump_clock):
    async with open_supervisor(shutdown_timeout=2.0) as supervisor:
        child = supervisor.start_soon(live_on, name="c")
        await trio.sleep(1)
        await supervisor.remove("c")
        assert trio.current_time() == 3.0
        assert (child.state, child.last_error) == ("stopped", None)
        assert supervisor.children == ()
        supervisor.start_soon(live_on, name="c")
        await supervisor.shutdown()


async def test_a_stopped_child_can_be_removed_and_a_removed_one_is_not_found(autojump_clock):
    async with open_supervisor(shutdown_timeout=0.0) as supervisor:
        supervisor.start_soon(live_on, name="c")
        await supervisor.stop("c")
        await supervisor.remove("c")
        with pytest.raises(ChildNotFoundError):
            await supervisor.remove("c")


async def test_several_callers_may_stop_one_child(autojump_clock):
    async def caller():
        await supervisor.stop("c")
        returned.append(trio.current_time())

    returned = []
    async with open_supervisor(shutdown_timeout=2.0) as supervisor, trio.open_nursery() as nursery:
        supervisor.start_soon(live_on, name="c")
        await trio.sleep(1)
        nursery.start_soon(caller)
        await trio.sleep(1)
        nursery.start_soon(caller)
        await trio.sleep(2)
        assert returned == [3.0, 3.0]


async def test_a_child_that_returns_when_it_is_asked_is_stopped_and_not_restarted(autojump_clock):
    async def obeys():
        await current_child().stopping.wait()

    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        child = supervisor.start_soon(obeys)
        await trio.sleep(1)
        await supervisor.stop("obeys")
        assert (child.state, trio.current_time()) == ("stopped", 1.0)
        assert log.of("child_finished", "child_stopped") == [("obeys", "child_stopped", 1.0)]


async def test_a_child_that_crashes_when_it_is_asked_is_stopped_and_its_error_is_kept(
    autojump_clock,
):
    async def crashes_when_asked():
        await current_child().stopping.wait()
        raise Crash("on the way out")

    log = Log()
    async with open_supervisor(on_event=log, limit=RestartLimit(0)) as supervisor:
        child = supervisor.start_soon(crashes_when_asked)
        await trio.sleep(1)
        await supervisor.stop("crashes_when_asked")
        assert (child.state, child.crashes) == ("stopped", 0)
        assert "on the way out" in child.last_error
        assert isinstance(log.last("child_stopped").error, Crash)


async def test_a_caller_of_stop_that_is_cancelled_leaves_the_stop_going_on(autojump_clock):
    async with open_supervisor(shutdown_timeout=5.0) as supervisor:
        child = supervisor.start_soon(live_on)
        await trio.sleep(1)
        with trio.move_on_after(2):
            await supervisor.stop("live_on")
        assert (trio.current_time(), child.state) == (3.0, "stopping")
        await trio.sleep(3.5)
        assert child.state == "stopped"


async def test_a_caller_of_remove_that_is_cancelled_leaves_the_removal_going_on(autojump_clock):
    async with open_supervisor(shutdown_timeout=5.0) as supervisor:
        supervisor.start_soon(live_on)
        await trio.sleep(1)
        with trio.move_on_after(2):
            await supervisor.remove("live_on")
        assert states(supervisor) == {"live_on": "stopping"}
        await trio.sleep(3.5)
        assert supervisor.children == ()


async def test_a_child_that_is_being_removed_cannot_be_restarted(autojump_clock):
    async with open_supervisor(shutdown_timeout=5.0) as supervisor, trio.open_nursery() as nursery:
        supervisor.start_soon(live_on, name="c")
        await trio.sleep(1)
        nursery.start_soon(supervisor.remove, "c")
        await trio.sleep(1)
        with pytest.raises(ChildNotFoundError, match="being removed"):
            await supervisor.restart("c")


async def test_a_call_on_one_child_does_not_wait_for_another_that_will_not_stop(autojump_clock):
    async with open_supervisor(shutdown_timeout=0.0) as supervisor, trio.open_nursery() as nursery:
        supervisor.start_soon(hold_out, 30.0, name="slow")
        supervisor.start_soon(live_on, name="quick")
        await trio.sleep(1)
        nursery.start_soon(supervisor.stop, "slow")
        await trio.sleep(1)
        await supervisor.stop("quick")
        await supervisor.restart("quick")
        assert trio.current_time() == 2.0
        assert states(supervisor) == {"slow": "stopping", "quick": "running"}
        await supervisor.stop("quick")


# Restart.


async def test_restart_stops_a_running_child_and_returns_when_the_next_run_is_there(
    autojump_clock, record
):
    async with open_supervisor(shutdown_timeout=2.0) as supervisor:
        await supervisor.start(Actor("a", record, ready_after=3.0))
        assert await supervisor.restart("a") == 2
        assert record == [("+a", 0.0), ("-a", 5.0), ("+a", 5.0)]
        assert trio.current_time() == 8.0
        await supervisor.shutdown()


async def test_callers_of_restart_at_one_time_share_one_restart(autojump_clock, record):
    async def caller():
        values.append(await supervisor.restart("a"))

    values = []
    async with open_supervisor(shutdown_timeout=2.0) as supervisor, trio.open_nursery() as nursery:
        await supervisor.start(Actor("a", record))
        for _ in range(5):
            nursery.start_soon(caller)
        await trio.sleep(1)
        nursery.start_soon(caller)
        await trio.sleep(2)
        assert values == [2] * 6
        assert supervisor["a"].restarts == 1
        await supervisor.shutdown()


async def test_a_restart_that_fails_raises_and_the_child_stays_as_failed(autojump_clock):
    async def starts_once(*, task_status):
        if supervisor["c"].restarts == 1:
            raise Crash("no port")
        task_status.started()
        await trio.sleep_forever()

    async with open_supervisor(shutdown_timeout=0.0, limit=RestartLimit(0)) as supervisor:
        await supervisor.start(starts_once, name="c")
        with pytest.raises(Crash, match="no port"):
            await supervisor.restart("c")
        assert states(supervisor) == {"c": "failed"}
        assert "no port" in supervisor["c"].last_error
        await supervisor.restart("c")
        assert states(supervisor) == {"c": "running"}
        await supervisor.shutdown()


async def test_readiness_of_the_old_run_does_not_end_a_restart(autojump_clock):
    async def ready_when_asked(*, task_status):
        run = supervisor["c"].restarts
        if run == 1:
            await current_child().stopping.wait()
        task_status.started(run)
        await trio.sleep(1)
        if run == 0:
            raise Crash
        await trio.sleep_forever()

    async with open_supervisor(shutdown_timeout=2.0) as supervisor:
        await supervisor.start(ready_when_asked, name="c")
        child = supervisor["c"]
        await trio.sleep(2)
        assert (child.state, child.restarts) == ("starting", 1)
        assert await supervisor.restart("c") == 2
        assert (child.state, child.restarts, trio.current_time()) == ("running", 2, 4.0)
        await supervisor.shutdown()


@pytest.mark.parametrize("end", ["finished", "failed", "stopped"])
async def test_restart_starts_a_child_that_does_not_run(autojump_clock, end):
    async def ends():
        if child.restarts == 0:
            if end == "finished":
                return
            if end == "failed":
                raise DoNotRestart
        await trio.sleep_forever()

    async with open_supervisor(shutdown_timeout=0.0) as supervisor:
        child = supervisor.start_soon(ends, restart=Restart.TRANSIENT)
        await trio.sleep(1)
        if end == "stopped":
            await supervisor.stop("ends")
        assert child.state == end
        await supervisor.restart("ends")
        assert (child.state, child.restarts) == ("running", 1)
        await supervisor.shutdown()


async def test_a_temporary_child_can_be_restarted_by_a_caller_while_it_runs(autojump_clock):
    async with open_supervisor(shutdown_timeout=0.0) as supervisor:
        child = supervisor.start_soon(live_on, restart=Restart.TEMPORARY)
        await trio.sleep(1)
        await supervisor.restart("live_on")
        assert (child.state, child.restarts) == ("running", 1)
        await supervisor.shutdown()
        assert supervisor.children == ()


async def test_a_caller_of_restart_that_is_cancelled_leaves_the_restart_going_on(
    autojump_clock, record
):
    async with open_supervisor(shutdown_timeout=5.0) as supervisor:
        await supervisor.start(Actor("a", record))
        with trio.move_on_after(2):
            await supervisor.restart("a")
        await trio.sleep(10)
        assert record == [("+a", 0.0), ("-a", 5.0), ("+a", 5.0)]
        await supervisor.shutdown()


async def test_a_restart_whose_caller_has_gone_and_that_fails_is_an_ordinary_crash(autojump_clock):
    async def starts_every_other_time(*, task_status):
        if supervisor["c"].restarts == 1:
            raise Crash("no port")
        task_status.started()
        await trio.sleep_forever()

    async with open_supervisor(shutdown_timeout=5.0) as supervisor:
        await supervisor.start(starts_every_other_time, name="c")
        with trio.move_on_after(2):
            await supervisor.restart("c")
        await trio.sleep(10)
        child = supervisor["c"]
        assert (child.state, child.restarts, child.crashes) == ("running", 2, 1)
        await supervisor.shutdown()


async def test_a_stop_while_a_restart_waits_for_the_old_run_wins(autojump_clock):
    async def caller():
        with pytest.raises(SupervisionError, match="stopped before it was ready"):
            await supervisor.restart("live_on")
        returned.append(trio.current_time())

    returned = []
    async with open_supervisor(shutdown_timeout=5.0) as supervisor, trio.open_nursery() as nursery:
        child = supervisor.start_soon(live_on)
        await trio.sleep(1)
        nursery.start_soon(caller)
        await trio.sleep(1)
        await supervisor.stop("live_on")
        await trio.sleep(1)
        assert (child.state, child.restarts, returned) == ("stopped", 0, [6.0])


async def test_a_restart_while_a_stop_waits_for_the_old_run_wins(autojump_clock):
    async def caller():
        await supervisor.stop("live_on")
        returned.append(trio.current_time())

    returned = []
    async with open_supervisor(shutdown_timeout=5.0) as supervisor, trio.open_nursery() as nursery:
        child = supervisor.start_soon(live_on)
        await trio.sleep(1)
        nursery.start_soon(caller)
        await trio.sleep(1)
        await supervisor.restart("live_on")
        assert trio.current_time() == 6.0
        await trio.sleep(1)
        assert (child.state, child.restarts, returned) == ("running", 1, [6.0])
        await supervisor.shutdown()


async def test_a_remove_while_a_restart_waits_for_the_old_run_wins(autojump_clock):
    async def caller():
        with pytest.raises(ChildNotFoundError, match="removed before it was ready"):
            await supervisor.restart("live_on")

    async with open_supervisor(shutdown_timeout=5.0) as supervisor, trio.open_nursery() as nursery:
        supervisor.start_soon(live_on)
        await trio.sleep(1)
        nursery.start_soon(caller)
        await trio.sleep(1)
        await supervisor.remove("live_on")
        assert supervisor.children == ()


async def test_a_restart_while_its_supervisor_stops_fails_in_the_caller(autojump_clock):
    async def caller():
        with pytest.raises(SupervisorClosedError, match="began to stop before"):
            await supervisor.restart("live_on")
        with pytest.raises(SupervisorClosedError, match="has begun to stop"):
            await supervisor.restart("later")

    async with trio.open_nursery() as nursery:
        async with open_supervisor(shutdown_timeout=5.0) as supervisor:
            supervisor.start_soon(hold_out, 20.0, name="later")
            supervisor.start_soon(live_on)
            await trio.sleep(1)
            nursery.start_soon(caller)
            await trio.sleep(1)
            await supervisor.shutdown()
        assert supervisor["live_on"].restarts == 0


async def test_a_crash_while_the_child_is_being_restarted_is_no_second_restart(autojump_clock):
    async with open_supervisor(shutdown_timeout=5.0, limit=RestartLimit(0)) as supervisor:
        child = supervisor.start_soon(Actor("a", [], 2.0))
        await trio.sleep(1)
        await supervisor.restart("a")
        assert (trio.current_time(), child.restarts, child.crashes) == (2.0, 1, 0)
        await supervisor.shutdown()


# A child that asks this of itself, or of those around it.


async def test_a_child_that_stops_itself_is_cancelled_there(autojump_clock, record):
    async def stops_itself():
        try:
            await supervisor.stop("stops_itself")
            record.append("went on")
        finally:
            record.append(trio.current_time())

    async with open_supervisor(shutdown_timeout=math.inf) as supervisor:
        child = supervisor.start_soon(stops_itself)
        await trio.sleep(1)
        assert child.state == "stopped"
    assert record == [0.0]


async def test_a_child_that_restarts_itself_begins_anew(autojump_clock, record):
    async def restarts_itself():
        record.append(trio.current_time())
        await trio.sleep(1)
        if child.restarts < 2:
            await supervisor.restart("restarts_itself")
            record.append("went on")

    async with open_supervisor(shutdown_timeout=math.inf, limit=RestartLimit(0)) as supervisor:
        child = supervisor.start_soon(restarts_itself, restart=Restart.TRANSIENT)
    assert record == [0.0, 1.0, 2.0]
    assert (child.state, child.restarts, child.crashes) == ("finished", 2, 0)


async def test_a_child_that_removes_itself_is_gone(autojump_clock):
    async def removes_itself():
        await trio.sleep(1)
        await supervisor.remove("removes_itself")

    async with open_supervisor(shutdown_timeout=math.inf) as supervisor:
        supervisor.start_soon(removes_itself)
        await trio.sleep(2)
        assert supervisor.children == ()


@pytest.mark.parametrize("call", ["stop", "restart", "remove"])
async def test_a_child_deep_in_a_subtree_may_end_the_subtree_that_it_is_in(
    autojump_clock, record, call
):
    async def subtree():
        async with open_supervisor(name="sub", shutdown_timeout=math.inf) as below:
            subtrees.append(below)
            below.start_soon(ends_the_subtree)

    async def ends_the_subtree():
        if record:
            await current_child().stopping.wait()
            return
        await trio.sleep(1)
        await getattr(supervisor, call)("subtree")
        record.append(("asked", trio.current_time()))

    subtrees = []
    async with open_supervisor(shutdown_timeout=math.inf, limit=RestartLimit(0)) as supervisor:
        child = supervisor.start_soon(subtree)
        await trio.sleep(5)
        assert record == [("asked", 1.0)]
        if call == "restart":
            assert (child.state, child.started_at) == ("running", 1.0)
            await subtrees[-1].remove("ends_the_subtree")
            await supervisor.stop("subtree")
        assert child.state == "stopped"


async def test_a_child_may_stop_and_restart_its_siblings(autojump_clock, record):
    async def boss():
        await trio.sleep(1)
        await supervisor.restart("a")
        await supervisor.stop("b")
        record.append(trio.current_time())

    async with open_supervisor(shutdown_timeout=2.0) as supervisor:
        supervisor.start_soon(live_on, name="a")
        supervisor.start_soon(boss, restart=Restart.TRANSIENT)
        supervisor.start_soon(live_on, name="b")
        await trio.sleep(10)
        assert states(supervisor) == {"a": "running", "boss": "finished", "b": "stopped"}
        assert record == [5.0]
        await supervisor.shutdown()


# Calls that come too late.


async def test_a_call_on_a_supervisor_that_has_stopped_fails_at_once(autojump_clock):
    async with open_supervisor(name="gone") as supervisor:
        supervisor.start_soon(return_after, 0, name="c", restart=Restart.TRANSIENT)
    with pytest.raises(SupervisorClosedError, match="'gone' has begun to stop"):
        supervisor.start_soon(live_on)
    with pytest.raises(SupervisorClosedError, match="'gone' has begun to stop"):
        await supervisor.start(ready_and_live_on)
    for call in (supervisor.stop, supervisor.restart, supervisor.remove):
        for name in ("c", "unknown"):
            with pytest.raises(SupervisorClosedError, match="'gone' has stopped"):
                await call(name)
    await supervisor.shutdown()
    assert states(supervisor) == {"c": "finished"}
    assert trio.current_time() == 0.0


async def test_a_supervisor_that_stops_starts_nothing_but_lets_itself_be_told_to_stop_a_child(
    autojump_clock,
):
    async def late_calls():
        await trio.sleep(1)
        with pytest.raises(SupervisorClosedError, match="has begun to stop"):
            supervisor.start_soon(live_on)
        with pytest.raises(SupervisorClosedError, match="has begun to stop"):
            await supervisor.start(never_ready)
        await supervisor.stop("first")
        stopped_at.append(trio.current_time())

    stopped_at = []
    async with (
        trio.open_nursery() as nursery,
        open_supervisor(shutdown_timeout=2.0) as supervisor,
    ):
        supervisor.start_soon(live_on, name="first")
        supervisor.start_soon(live_on, name="second", shutdown_timeout=10.0)
        nursery.start_soon(late_calls)
        await trio.sleep(0.5)
        await supervisor.shutdown()
    assert stopped_at == [3.0]
