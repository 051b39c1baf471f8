"""What a class must be to run as an agent, what it is given, and how it is run."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import subprocess
import sys
import types
from typing import Any

import pytest
import trio

from actp_supervise import open_supervisor
from actp_supervise.bridge import asyncio_child
from app.agents.activity import Activity, SignsOfLife
from app.agents.base import DomainAgent
from app.agents.contract import (
    AgentClassError,
    AgentContext,
    has_routine,
    load_agent_class,
    make_agent,
    takes_context,
)
from app.agents.host import run_agent, run_routine
from app.agents.spec import AGENT_SPECS
from app.store.protocol import REQUIRED_TABLES, DomainTable


class Working:
    async def run_as_daemon(self, poll_interval: float) -> None:
        """Do nothing."""


class Plain(Working):
    pass


class ByName(Working):
    def __init__(self, *, model: str, context: AgentContext, verbose: bool = False) -> None:
        self.given = (context, model, verbose)


class ByPosition(Working):
    def __init__(self, ctx: AgentContext, model: str) -> None:
        self.given = (ctx, model)


class ModelFirst(Working):
    def __init__(self, model: str, ctx: AgentContext, **others: Any) -> None:
        self.given = (ctx, model, others["context"])


class ContextFirst(Working):
    def __init__(self, context: AgentContext) -> None:
        self.given = (context,)


class OnlyPositional(Working):
    def __init__(self, context: AgentContext, /) -> None:
        self.given = (context,)


class Anything(Working):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.given = (kwargs["context"], kwargs["model"])


class WantsMore(Working):
    def __init__(self, context: AgentContext, api_key: str, secret: str) -> None:
        pass


class WantsTwo(Working):
    def __init__(self, ctx: AgentContext, secret: str) -> None:
        pass


class WantsByName(Working):
    def __init__(self, *, api_key: str) -> None:
        pass


class Blocking:
    def run_as_daemon(self, poll_interval: float) -> None:
        pass


class NoInterval:
    async def run_as_daemon(self) -> None:
        pass


class Idle:
    pass


class Abstract(Working, abc.ABC):
    @abc.abstractmethod
    def work(self) -> None:
        pass


class Unsigned(Working, dict):
    pass


NOT_A_CLASS = Working()


@pytest.fixture
def module(monkeypatch, tmp_path):
    """Make the classes above those of a module that can be imported by name."""
    (tmp_path / "my_agents_that_exit.py").write_text("raise SystemExit(0)")
    source = "def __getattr__(name): raise LookupError('nothing is here')"
    (tmp_path / "my_agents_that_raise.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    made = types.ModuleType("my_agents")
    made.__dict__.update(globals())
    monkeypatch.setitem(sys.modules, "my_agents", made)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("my_agents", "not of the form package.module:Class"),
        ("my_agents:", "not of the form package.module:Class"),
        ("no_such_module:Agent", "cannot import 'no_such_module'"),
        ("my_agents:Agent", "has no class 'Agent'"),
        ("my_agents:NOT_A_CLASS", "has no class 'NOT_A_CLASS'"),
        ("my_agents:Idle", "has no 'async def run_as_daemon(self, poll_interval)'"),
        ("my_agents:Blocking", "has no 'async def run_as_daemon(self, poll_interval)'"),
        ("my_agents:NoInterval", "must take a poll_interval"),
        ("my_agents:Abstract", "is abstract; it does not define work"),
        ("my_agents:WantsMore", "its constructor wants 'api_key'"),
        ("my_agents:WantsTwo", "its constructor wants 'secret'"),
        ("my_agents:WantsByName", "its constructor wants 'api_key'"),
        ("my_agents:Unsigned", "what its constructor takes is not known"),
        ("my_agents_that_exit:Agent", "cannot import 'my_agents_that_exit'"),
        ("my_agents_that_raise:Agent", "LookupError: nothing is here"),
    ],
)
def test_a_class_that_breaks_the_contract_is_refused_in_one_line(module, path, said):
    with pytest.raises(AgentClassError) as caught:
        load_agent_class(path)

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Plain", "ByName", "ByPosition", "ContextFirst", "Anything"])
def test_a_class_that_keeps_the_contract_is_loaded(module, name):
    assert load_agent_class(f"my_agents:{name}") is globals()[name]


def context() -> Any:
    return types.SimpleNamespace(model="claude-x")


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (ByName, lambda given: (given, "claude-x", False)),
        (ByPosition, lambda given: (given, "claude-x")),
        (ModelFirst, lambda given: (given, "claude-x", given)),
        (ContextFirst, lambda given: (given,)),
        (OnlyPositional, lambda given: (given,)),
        (Anything, lambda given: (given, "claude-x")),
    ],
)
def test_a_constructor_gets_what_it_has_parameters_for(cls, expected):
    given = context()

    assert make_agent(cls, given).given == expected(given)


def test_a_class_without_a_constructor_gets_nothing():
    assert isinstance(make_agent(Plain, context()), Plain)


def test_the_four_agents_keep_the_contract_and_have_their_routines():
    for spec in AGENT_SPECS:
        cls = load_agent_class(spec.class_path)
        assert issubclass(cls, DomainAgent)
        assert all(has_routine(cls, routine.method) for routine in spec.routines)
        assert set(spec.tables) < {*REQUIRED_TABLES, *DomainTable}


def test_a_routine_that_is_missing_or_not_async_is_none():
    class Lacking:
        def run_daily_check(self):
            pass

    assert not has_routine(Lacking, "run_daily_check")
    assert not has_routine(Lacking, "run_cost_audit")


def test_what_describes_agents_does_not_load_the_sdk():
    """Loading it takes seconds, and most commands start no agent."""
    modules = "spec, contract, activity, handle, host, prices, verdicts, outcomes, days, lease"
    code = f"import sys; from app.agents import {modules}; print('anthropic' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True
    )
    assert answer.stdout == "False\n"


# How it is run.


def living(activity: Activity) -> Any:
    return types.SimpleNamespace(model="claude-x", activity=activity, aclose=nothing)


async def nothing() -> None:
    """Close nothing."""


async def test_a_class_that_takes_no_context_is_known_to_be_at_its_own_work(autojump_clock):
    class Alone:
        def __init__(self) -> None:
            pass

        async def run_as_daemon(self, poll_interval):
            await asyncio.sleep(1_000.0)

    class Given(Alone):
        def __init__(self, anything: AgentContext) -> None:
            pass

    for cls, doing in ((Alone, "at its own work"), (Given, "starting"), (Anything, "starting")):
        assert takes_context(cls) is (doing == "starting")
        activity = Activity(trio.lowlevel.current_clock().current_time)
        if cls is Anything:
            continue
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asyncio_child(run_agent), cls, living(activity), 30.0)
            await trio.sleep(5)
            assert activity.doing == doing
            nursery.cancel_scope.cancel()


async def test_a_heartbeat_vouches_for_the_agents_own_loop(autojump_clock):
    class Working:
        async def run_as_daemon(self, poll_interval):
            await asyncio.sleep(1_000.0)

    activity = Activity(trio.lowlevel.current_clock().current_time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asyncio_child(run_agent), Working, living(activity), 30.0)
        await trio.sleep(500.5)
        assert activity.why_stale(2.0) is None
        nursery.cancel_scope.cancel()

    await trio.sleep(10.0)
    assert "has not turned" in activity.why_stale(2.0), "nobody vouches for what has ended"


class Sleeping:
    """An agent for which nothing is to be done."""

    async def run_as_daemon(self, poll_interval):
        await asyncio.sleep(100_000.0)


class Steps(trio.abc.Instrument):
    """How many steps Trio's tasks take."""

    def __init__(self):
        self.taken = 0

    def before_task_step(self, task):
        self.taken += 1


async def test_one_trio_task_gives_the_signs_of_life_of_all_loops_in_its_thread(autojump_clock):
    async def steps_in_an_hour(agents):
        signs, steps = SignsOfLife(), Steps()
        clock = trio.lowlevel.current_clock().current_time
        activities = [Activity(clock, threshold=90.0, signs=signs) for _ in range(agents)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(signs.give, 90.0)
            for activity in activities:
                child = asyncio_child(run_agent)
                nursery.start_soon(child, Sleeping, living(activity), 30.0)
            await trio.sleep(100.5)
            trio.lowlevel.add_instrument(steps)
            await trio.sleep(3_600.0)
            trio.lowlevel.remove_instrument(steps)
            assert [activity.why_stale(3.0) for activity in activities] == [None] * agents
            nursery.cancel_scope.cancel()
        await trio.sleep(100.0)
        assert all("has not turned" in activity.why_stale(90.0) for activity in activities)
        return steps.taken

    few, many = await steps_in_an_hour(1), await steps_in_an_hour(30)
    assert few <= many <= few + 10, "no loop wakes by itself"


async def test_an_agent_that_blocks_its_loop_gives_no_sign_of_life():
    release = trio.Event()

    class Blocked:
        async def run_as_daemon(self, poll_interval):
            await asyncio.sleep(0.01)
            trio.from_thread.run(release.wait, trio_token=token)

    token = trio.lowlevel.current_trio_token()
    activity = Activity(trio.lowlevel.current_clock().current_time)
    async with trio.open_nursery() as nursery:
        child = asyncio_child(run_agent, isolation="thread")
        nursery.start_soon(child, Blocked, living(activity), 30.0)
        await trio.sleep(1.5)  # real, for a thread really blocks
        assert "its loop has not turned" in activity.why_stale(1.0)
        release.set()


async def test_an_error_of_an_agent_is_the_childs_error(autojump_clock):
    class Failing:
        async def run_as_daemon(self, poll_interval):
            raise KeyError("broken")

    activity = Activity(trio.lowlevel.current_clock().current_time)
    with pytest.raises(KeyError, match="broken"):
        await asyncio_child(run_agent)(Failing, living(activity), 30.0)


async def test_a_routine_runs_on_an_instance_of_its_own(autojump_clock):
    instances, called = [], []

    class Routine:
        def __init__(self, context):
            instances.append(context)

        async def run_daily_check(self):
            called.append(self)

    given = living(Activity(trio.lowlevel.current_clock().current_time))
    results = []

    async def code():
        results.append(await run_routine(Routine, given, "run_daily_check"))

    await asyncio_child(code)()
    assert (results, instances, len(called)) == ([None], [given], 1)


# How it is stopped, though it never looks whether it is asked. It has 30 s.


async def seconds_to_stop(cls, after: float, poll_interval: float = 30.0) -> float:
    activity = Activity(trio.lowlevel.current_clock().current_time)
    async with open_supervisor(shutdown_timeout=30.0) as supervisor:
        supervisor.start_soon(asyncio_child(run_agent), cls, living(activity), poll_interval)
        await trio.sleep(after)
        asked_at = trio.current_time()
        await supervisor.shutdown()
    return trio.current_time() - asked_at


class Poller:
    """As people write them: ten seconds of work, then a nap."""

    finished = 0

    async def run_as_daemon(self, poll_interval):
        while True:
            await self.work()
            type(self).finished += 1
            await asyncio.sleep(poll_interval)

    async def work(self):
        await asyncio.sleep(10)


async def test_a_class_that_sleeps_between_polls_stops_at_once(autojump_clock):
    assert await seconds_to_stop(Poller, after=25.0) < 1.0


async def test_a_class_at_work_finishes_it_and_then_stops(autojump_clock):
    Poller.finished = 0
    assert 5.0 <= await seconds_to_stop(Poller, after=5.0) < 6.0
    assert Poller.finished == 1


async def test_a_pause_in_the_midst_of_work_is_not_taken_for_the_wait_for_the_next_poll(
    autojump_clock,
):
    class Pauses:
        async def run_as_daemon(self, poll_interval):
            await asyncio.sleep(12)  # of its own: it is not the poll interval
            await self.rest(poll_interval)

        async def rest(self, seconds):
            await asyncio.sleep(seconds)  # further down

    assert await seconds_to_stop(Pauses, after=1.0) == 30.0


async def test_what_such_a_class_does_at_its_end_is_waited_for(autojump_clock):
    class Tidy:
        async def run_as_daemon(self, poll_interval):
            try:
                await asyncio.sleep(poll_interval)
            finally:
                await asyncio.sleep(2)
                done.append("tidied up")

    done = []
    assert 2.0 <= await seconds_to_stop(Tidy, after=1.0) < 3.0
    assert done == ["tidied up"]


async def test_an_error_at_such_an_end_is_not_lost(autojump_clock):
    class Broken:
        async def run_as_daemon(self, poll_interval):
            try:
                await asyncio.sleep(poll_interval)
            finally:
                raise KeyError("broken")

    async with open_supervisor(shutdown_timeout=30.0) as supervisor:
        activity = Activity(trio.lowlevel.current_clock().current_time)
        child = supervisor.start_soon(asyncio_child(run_agent), Broken, living(activity), 30.0)
        await trio.sleep(1)
        await supervisor.shutdown()
    assert "KeyError: 'broken'" in child.last_error


async def test_one_that_is_cancelled_as_well_is_cancelled(autojump_clock):
    class Stubborn:
        async def run_as_daemon(self, poll_interval):
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(poll_interval)

    assert await seconds_to_stop(Stubborn, after=1.0) >= 30.0
