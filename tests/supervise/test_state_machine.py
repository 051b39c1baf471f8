"""A real tree and the model of its rules play one random script, and must agree at each step.

``STATE_MACHINE_EXAMPLES=5000`` in the environment plays that many scripts.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from dataclasses import replace
from functools import partial
from itertools import chain, cycle, product

import pytest
import trio
from hypothesis import HealthCheck, currently_in_test_context, event, given, note, settings
from hypothesis import strategies as st
from model import Ambiguous, World
from script import (
    Backoff,
    Block,
    Call,
    CancelCaller,
    Options,
    Puppet,
    Script,
    Shutdown,
    Sleep,
    Start,
    Subtree,
    Tell,
)
from stage import ERRORS, Stage, Unreadable
from trio.testing import MockClock, wait_all_tasks_blocked

EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "500"))


# How hypothesis makes a script.


def one_of_each(cls, **values):
    """Sample the instances with all combinations of these values; the first is the simplest.

    One choice in place of many: hypothesis takes most of the time of this test.
    """
    combinations = product(*values.values())
    return st.sampled_from([cls(**dict(zip(values, c, strict=True))) for c in combinations])


ENDS = ["crash", "return", "give_up"]
openings = st.lists(
    st.sampled_from(["wait", "ready", *(f"{r}+{e}" for r in ("ready", "wait") for e in ENDS)]),
    max_size=4,
).map(tuple)
backoffs = st.just(Backoff()) | one_of_each(
    Backoff,
    initial=[1.0, 3.0],
    maximum=[8.0, 2.0],
    free_restarts=[0, 1, 2],
    window=[4.0, 16.0],
)
supervisors = one_of_each(
    Options,
    strategy=["one_for_one", "one_for_all", "rest_for_one"],
    max_restarts=[100, 100, 100, 3, 2, 1, 0],
    within=[100.0, 5.0, 2.0],
    shutdown_order=["reverse", "reverse", "together"],
    auto_shutdown=["never", "never", "any_significant", "all_significant"],
)


kinds = one_of_each(
    Puppet,
    name=[""],
    restart=["permanent", "permanent", "transient", "temporary", "own"],
    reports_ready=[False, True],
    significant=[False, True],
)
manners = one_of_each(
    dict,
    timeout=[4.0, None, 2.0, 0.0, math.inf],
    watchdog=[None, None, None, 3.0],
    when_asked=["obey", "ignore", "ignore", "crash"],
    cleanup=[0.0, 0.0, 3.0, 12.0],
    after_cleanup=["cancelled", "crash", "return"],
)


def puppets(subtrees):
    return st.builds(
        lambda kind, manners, **rest: replace(kind, **manners, **rest),
        kinds,
        manners,
        backoff=backoffs,
        error=st.sampled_from(["Crash", "Crash", *ERRORS]),
        crash_ages=st.sampled_from([(), (), (1.0, 20.0), (0.5, 0.75, 3.0)]),
        autostart=st.sampled_from([True, True, True, True, True, False]),
        openings=st.just(()) | openings,
        subtree=subtrees,
    )


nested = st.builds(Subtree, options=supervisors, puppet=st.none() | puppets(st.none()))
starts = (
    st.builds(Start, puppets(st.none()))
    | st.builds(Start, puppets(st.none()), nested=st.just(True))
    | st.builds(Start, puppets(nested))
)
targets = [0, 1, 2, 3, 0, 1, 0, 7]
commands = st.one_of(
    one_of_each(Tell, what=["crash", "crash", "return", "give_up"], target=targets),
    one_of_each(Sleep, seconds=[1.0, 2.0, 3.0, 4.0]),
    one_of_each(Call, method=["stop", "restart", "restart", "remove"], target=targets),
    one_of_each(Tell, what=["crash", "ready", "ready", "beat"], target=targets),
    one_of_each(Call, method=["stop", "restart"], target=targets),
    starts
    | one_of_each(CancelCaller, target=range(4))
    | one_of_each(Tell, what=["stop_me"], target=targets),
)
finishes = (
    one_of_each(Block, how=["leave", "fail", "cancel"])
    | one_of_each(Shutdown, nested=[False, True])
    | one_of_each(Tell, what=["exit", "shutdown"], target=targets)
)


def legal(puppet, options, name, number):
    """Give a puppet a name, times of its own, and only options that go together."""

    def distinct(seconds, part):
        return seconds + (8 * number + part) / 8192 if seconds else seconds

    subtree = puppet.subtree
    if subtree is not None and subtree.puppet is not None:
        inner = legal(subtree.puppet, subtree.options, "a", number + 0.5)
        # Before the subtree's block is left, it waits for nobody. What it does at once would
        # overlap with the start of the next member of its group.
        alone = options.strategy == "one_for_one"
        inner = replace(inner, reports_ready=False, openings=inner.openings if alone else ())
        subtree = replace(subtree, puppet=inner)
    may_be_significant = options.auto_shutdown != "never" and puppet.restart != "permanent"
    return replace(
        puppet,
        name=name if subtree is None else "s",
        timeout=distinct(puppet.timeout, 0),
        cleanup=distinct(puppet.cleanup, 1),
        watchdog=distinct(puppet.watchdog, 2),
        backoff=replace(puppet.backoff, initial=distinct(puppet.backoff.initial, 3)),
        own_delay=distinct(puppet.own_delay, 4),
        autostart=puppet.autostart or puppet.reports_ready or number % 1 > 0,
        significant=puppet.significant and may_be_significant,
        reports_ready=puppet.reports_ready and subtree is None,
        subtree=subtree,
    )


@st.composite
def scripts(draw):
    root = draw(supervisors)
    hostile = draw(st.booleans())
    first = draw(st.lists(starts, max_size=4))
    parts = draw(st.lists(st.lists(commands, max_size=10), max_size=10))
    end = draw(st.lists(finishes, max_size=1))
    after = draw(st.lists(commands | finishes, max_size=8))
    script = []
    names = cycle("abcdef")
    for number, command in enumerate(chain(first, *parts, end, after), 1):
        if isinstance(command, Start):
            # Which supervisor will be in "s" then is not known here.
            parent = Options(auto_shutdown="never") if command.nested else root
            command = replace(command, puppet=legal(command.puppet, parent, next(names), number))
        script.append(command)
    return Script(root, tuple(script), hostile=hostile)


# One play.


class Play:
    """One script, played by both."""

    def __init__(self, script):
        self.script = script
        self.world = World(script.options)
        self.number = 0  # of the step; a call is known by that of its step
        self.forgotten = set()  # the calls whose callers were cancelled
        self.log = []
        self.difference = None

    async def run(self):
        async with trio.open_nursery() as callers:
            self.stage = Stage(callers, hostile=self.script.hostile)
            await callers.start(self.stage.run_block, self.script.options)
            try:
                for command in self.script.commands:
                    await self.step(command)
                await self.finish()
            except Ambiguous:
                event("cut short: two things at one instant")
            except AssertionError as error:
                self.difference = error
            finally:
                await self.stage.end()
                callers.cancel_scope.cancel()

    async def finish(self):
        """Stop the tree, and let go whoever does not want to."""
        await self.step(Shutdown())
        while self.number < 1000 and self.stage.left_by is None:
            await self.step(Sleep(40.0))
            while any(node.listens for node in self.nodes()):
                await self.step(Tell("return", 0))
        assert self.stage.left_by is not None

    async def step(self, command):
        self.number += 1
        seen = len(self.world.events)
        self.world.unordered = False
        act = self.play_in_model(command)
        if act is None:
            return
        self.world.settle()
        waiting = act()
        if waiting is not None:
            await waiting
        await wait_all_tasks_blocked()
        self.compare(seen)

    def play_in_model(self, command):
        """Play a command in the model; return how it is played in reality, None if not at all."""
        world, stage, number = self.world, self.stage, self.number
        match command:
            case Sleep(seconds):
                world.sleep(seconds)
                self.note("sleep", seconds)
                return partial(trio.sleep, seconds)
            case Block(how):
                getattr(world.root, how)()
                self.note("block", how)
                return partial(stage.block, how)
            case Start(puppet, nested) if tree := world.nested if nested else world.root:
                tree.start(puppet, number)
                self.note("start", *tree.path, puppet.name)
                return partial(stage.start, number, tree.path, puppet)
            case Shutdown(nested) if tree := world.nested if nested else world.root:
                tree.shutdown(number)
                self.note("shutdown", *tree.path)
                return partial(stage.call, number, tree.path, "shutdown")
            case Call(method, target):
                node = pick([*self.nodes(), None], target)
                path = node.path if node else ("root", "nobody")
                tree = world.root if len(path) == 2 else world.nested
                getattr(tree, method)(path[-1], number)
                self.note(method, *path)
                return partial(stage.call, number, path[:-1], method, path[-1])
            case Tell(what, target):
                if node := pick([node for node in self.nodes() if node.understands(what)], target):
                    world.tell(node, what)
                    self.note("tell", *node.path, what)
                    return partial(stage.tell, node.path, what)
            case CancelCaller(target):
                known = world.outcomes.keys() | self.forgotten
                caller = pick([caller for caller in stage.scopes if caller not in known], target)
                if caller is not None:
                    self.forgotten.add(caller)
                    world.forget(caller)
                    self.note("cancel the caller of step", caller)
                    return partial(stage.cancel_caller, caller)
        return None

    def nodes(self):
        return [node for tree in self.world.trees for node in tree.nodes] or self.world.root.nodes

    def note(self, *words):
        self.log.append(f"{self.number}. at {self.world.now}: {' '.join(map(str, words))}")

    def compare(self, seen):
        world, stage = self.world, self.stage
        expected, events = world.events[seen:], stage.events[seen:]
        if world.unordered:
            # Those who are asked at once answer in any order.
            expected.sort(key=lambda event: event[:2])
            events.sort(key=lambda event: event[:2])
        assert events == expected
        for tree in filter(None, (world.root, world.nested)):
            assert stage.view(tree.path) == tree.view()
        assert stage.outcomes == world.outcomes
        assert stage.left_by == world.left_by


def pick(candidates, number):
    return candidates[number % len(candidates)] if candidates else None


@pytest.fixture(autouse=True, scope="module")
def _no_log():
    logger = logging.getLogger("actp_supervise")
    logger.disabled = True
    yield
    logger.disabled = False


@contextlib.contextmanager
def hostile_log():
    """Have each line of the log raise, as a filter on a full disk does."""

    def refuse(record):
        raise Unreadable

    logger = logging.getLogger("actp_supervise")
    level, raises = logger.level, logging.raiseExceptions
    logger.disabled, logging.raiseExceptions = False, False
    logger.setLevel(logging.DEBUG)
    logger.addFilter(refuse)
    try:
        yield
    finally:
        logger.removeFilter(refuse)
        logger.setLevel(level)
        logger.disabled, logging.raiseExceptions = True, raises


def play(script):
    play = Play(script)
    with hostile_log() if script.hostile else contextlib.nullcontext():
        trio.run(play.run, clock=MockClock(autojump_threshold=0))
    if play.difference is not None:
        if currently_in_test_context():
            note("\n".join(play.log))
        raise play.difference


@pytest.mark.timeout(600)  # shrinking a failure takes its time
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scripts())
def test_the_tree_does_what_the_model_of_its_rules_does(script):
    play(script)


ALL = Options(strategy="one_for_all", max_restarts=100)
FOUND = {
    "a group goes on without a member that was stopped before it was ready": Script(
        ALL,
        (
            Start(Puppet("a", reports_ready=True, openings=("ready", "wait"), cleanup=3.0)),
            Start(Puppet("b")),
            Tell("crash", 0),
            Tell("stop_me", 0),
        ),
    ),
    "a group waits for a member that is being restarted before it was ready": Script(
        ALL,
        (
            Start(
                Puppet(
                    "a",
                    reports_ready=True,
                    openings=("ready", "wait"),
                    when_asked="ignore",
                    timeout=2.0,
                )
            ),
            Start(Puppet("b")),
            Tell("crash", 0),
            Call("restart", 0),
        ),
    ),
    "a stalled child that is then asked to stop is overdue from its stall on": Script(
        Options(),
        (Start(Puppet("a", watchdog=1.0, cleanup=12.5)), Sleep(2.0), Shutdown()),
    ),
    "a member of a group that is being stopped does not wait for it after a shutdown": Script(
        ALL,
        (Start(Puppet("a", when_asked="ignore")), Start(Puppet("b")), Tell("crash", 1), Shutdown()),
    ),
    "a stall is a crash also where a group's restart comes upon it": Script(
        ALL,
        (
            Start(Puppet("a")),
            Start(Puppet("b", watchdog=1.0, cleanup=12.0)),
            Sleep(2.0),
            Tell("crash", 0),
        ),
    ),
    "a group does not start while a member that a caller stopped is still there": Script(
        ALL,
        (
            Start(Puppet("a")),
            Start(Puppet("b", when_asked="ignore")),
            Start(Puppet("c", when_asked="ignore")),
            Tell("crash", 0),
            Call("stop", 1),
            Tell("return", 1),
        ),
    ),
    "a restart during a group's restart is not ended by a crash of the old run": Script(
        ALL,
        (
            Start(Puppet("a")),
            Start(Puppet("b")),
            Start(Puppet("c", when_asked="ignore")),
            Tell("crash", 0),
            Call("restart", 1),
            Tell("crash", 0),
        ),
    ),
    "a child whose caller was cancelled is not started with its group": Script(
        ALL,
        (
            Start(Puppet("a", reports_ready=True, openings=("wait",))),
            Start(Puppet("b", backoff=Backoff(initial=3.0))),
            Tell("crash", 1),
            CancelCaller(0),
            Sleep(4.0),
        ),
    ),
    "a run that ended at once when asked leaves the overdue report to the next one": Script(
        Options(),
        (
            Start(Puppet("a", watchdog=1.0, cleanup=12.0, reports_ready=True)),
            Call("restart", 0),
            Sleep(2.0),
        ),
    ),
    "a cancellation that came sooner than planned counts from then on": Script(
        Options(),
        (
            Start(
                Puppet(
                    "a", reports_ready=True, openings=("wait",), when_asked="ignore", cleanup=12.0
                )
            ),
            Call("stop", 0),
            CancelCaller(0),
            Sleep(6.0),
        ),
    ),
    "who joins a group late is stopped in its turn": Script(
        ALL,
        (
            Start(Puppet("a")),
            Start(Puppet("b")),
            Start(Puppet("c")),
            Start(Puppet("d", when_asked="ignore")),
            Tell("crash", 1),
            Start(Puppet("e")),
            Tell("crash", 1),
            Tell("return", 1),
        ),
    ),
    "a restart does not put off the start of the group": Script(
        ALL,
        (
            Start(Puppet("a")),
            Start(Puppet("b", when_asked="ignore")),
            Tell("crash", 0),
            Sleep(1.0),
            Call("restart", 0),
        ),
    ),
    "an old run that gets ready answers nobody who waits for the next one": Script(
        Options(max_restarts=100, within=100.0),
        (
            Start(Puppet("a", timeout=4.0009765625)),
            Start(
                Puppet(
                    "b",
                    reports_ready=True,
                    timeout=4.001953125,
                    openings=("wait",),
                    when_asked="ignore",
                )
            ),
            Call("restart", 1),
            Block("fail"),
            Tell("ready", 1),
        ),
    ),
    "a member that fails in its first step fails before the next one is started": Script(
        ALL,
        (
            Start(Puppet("a")),
            Start(Puppet("b", openings=("ready", "ready+crash"))),
            Start(Puppet("c")),
            Tell("crash", 0),
        ),
    ),
    "a member that joins late waits until the one before it is gone": Script(
        ALL,
        (
            Start(Puppet("a", when_asked="ignore", timeout=2.0)),
            Start(Puppet("b")),
            Call("stop", 0),
            Tell("crash", 1),
            Start(Puppet("c")),
            Start(Puppet("d")),
            Tell("crash", 1),
        ),
    ),
    "a restart still waited for when the tree stops is answered when the old run returns": Script(
        ALL,
        (
            Start(Puppet("a")),
            Start(Puppet("b", when_asked="ignore")),
            Start(Puppet("c")),
            Tell("crash", 2),
            Call("restart", 0),
            Block("fail"),
            Tell("return", 0),
        ),
    ),
}


@pytest.mark.parametrize("script", [pytest.param(FOUND[rule], id=rule) for rule in FOUND])
def test_what_went_wrong_once(script):
    play(script)
