"""The world of a simulation: time, the database, Claude, machines with daemons on them, people."""

from __future__ import annotations

import hashlib
import logging
import random
import shutil
import signal
import tempfile
from collections import Counter, deque
from collections.abc import Callable
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from trio.testing import MockClock

from actp_supervise.testing import TrioWallClock, after_steps

from .chance import collect, collected_when_asked, seeded
from .claude import Claude
from .life import Life, current_life
from .machine import Machine
from .pace import paced, stretch
from .people import People
from .plan import AGENTS, CLAUDE, CODE, DAY, PEOPLE, TORN_AT, Plan, Step, What
from .promises import Broken
from .rules import Rules
from .store import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator


SETTLE: Final = 6 * 3600.0
"""Seconds after the last day in which nothing goes wrong, and all that is left is to be done."""

KEPT: Final = 100
"""Events of each daemon that are shown when a rule is broken."""


@dataclass(kw_only=True)
class Result:
    """How a run went."""

    plan: Plan
    hash: str
    """SHA-256 of all events, in hexadecimal."""
    events: int
    broken: Broken | None
    """The first rule that did not hold; None where all did."""
    ended_at: float
    """Seconds since the beginning."""
    last: dict[str, list[str]]
    """The last events of each daemon."""
    happened: Counter[str]
    """How often what has happened."""
    work: Counter[str]
    """How much the daemons have done."""


@dataclass(kw_only=True)
class World:
    """One run of a plan."""

    plan: Plan
    folder: Path
    rng: random.Random
    clock: MockClock
    watch: Callable[[str], object] = lambda _line: None
    """Gets each line of the log."""
    is_over: bool = False
    happened: Counter[str] = field(default_factory=Counter)
    work: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        """Play the plan, raise `Broken` at the first rule that does not hold."""
        self.last: dict[str, deque[str]] = {}
        self.events = 0
        self.digest = hashlib.sha256()
        self.true_clock = TrioWallClock(self.plan.start)
        self.true_clock.now()
        self.memory = Memory(self.true_clock)
        self.rules = Rules(self)
        self.rules.watch(self.memory.connection)
        self.claude = Claude(self.rng)
        self.people = People(self)
        self.machines = [Machine(self, number) for number in range(self.plan.daemons)]
        # Its triggers call the rules: open, it would keep all this, unseen by the collector.
        with closing(self.memory.connection):
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                for machine in self.machines:
                    nursery.start_soon(machine.keep_running)
                nursery.start_soon(self.rules.look)
                nursery.start_soon(collect)
                await self._play()
                nursery.cancel_scope.cancel(reason="the world is over")

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning, those included in which the machines slept."""
        return (self.true_clock.now() - self.plan.start).total_seconds()

    def note(self, who: str, text: str) -> None:
        """Write a line into the log of the run."""
        self.events += 1
        self.ended_at = self.elapsed
        line = f"{self.ended_at:.3f} {who} {text}"
        self.digest.update(line.encode(errors="surrogatepass") + b"\n")
        daemon = who.partition(".")[0]
        self.last.setdefault(daemon, deque(maxlen=KEPT)).append(line)
        self.watch(line)

    async def _play(self) -> None:
        for step in self.plan.steps:
            await self._sleep_until(step.at)
            if self.elapsed - step.at < 1.0:  # else the machines slept, and nobody could do it
                self._do(step)
        await self._sleep_until(self.plan.days * DAY)
        await self._settle()

    async def _sleep_until(self, elapsed: float) -> None:
        while (left := elapsed - self.elapsed) > 0:  # noqa: ASYNC110  (machines may sleep)
            await trio.sleep(left)

    async def _settle(self) -> None:
        """End all faults, wait until all is done, and stop every daemon."""
        self.note("world", "nothing goes wrong any more")
        self.rules.calm_since = trio.current_time()
        for machine in self.machines:
            machine.heal()
        for agent in AGENTS:
            self.nursery.start_soon(self.people.resume, agent)
        self.nursery.start_soon(self.people.decide_all)
        if any(step.what is What.SPEND_LIMIT for step in self.plan.steps):
            self.nursery.start_soon(self.people.raise_limit)
        await trio.sleep(SETTLE)
        await self.rules.judge_the_end()
        self.is_over = True
        self.note("world", "ends")
        for machine in self.machines:
            if machine.life is not None and not machine.life.is_dead:
                machine.life.send(signal.SIGTERM)
        for machine in self.machines:
            if machine.life is not None:
                await machine.life.gone.wait()
        self.rules.judge_what_is_left()

    def _do(self, step: Step) -> None:
        machine = self.machines[step.daemon % len(self.machines)]
        life = machine.life if machine.life is not None and not machine.life.is_dead else None
        self.happened[step.what] += 1
        self.rules.happens(step)
        self.note("world", f"{step.what} {machine.name} {step.agent} {step.amount:g}")
        if step.what in CLAUDE:
            machine.troubles_of(step.agent).extend([step.what] * round(step.amount))
        elif step.what in CODE:
            if life is not None:
                times = 1 if step.what is What.BLOCK else round(step.amount)
                life.faults_of(step.agent).extend([(step.what, step.amount)] * times)
        else:
            self._do_outside(step, machine)
            if life is not None:
                self._do_to(life, step)

    def _do_outside(self, step: Step, machine: Machine) -> None:
        match step.what:
            case What.SLEEP:
                self.true_clock.step(step.amount)
                self.rules.slept(step.amount)
            case What.CLOCK_SET:
                machine.clock.step(step.amount)
            case What.ROW:
                self.people.insert_row(step)
            case What.KILL_AT_WORK:
                machine.kills.append(step)
            case _:
                self._do_to_store(step, machine)

    def _do_to_store(self, step: Step, machine: Machine) -> None:
        match step.what:
            case What.STORE_AWAY:
                machine.keep_away(step.amount)
            case What.STORE_AWAY_FOR_ALL:
                for each in self.machines:
                    each.keep_away(step.amount)
            case What.STORE_TORN:
                machine.torn[TORN_AT[int(step.pick * len(TORN_AT))]] = step.amount
            case What.STORE_SLOW:
                machine.slow_down(step.amount)
            case What.LOSE_ANSWERS:
                machine.answers_to_lose += round(step.amount)
            case _:
                pass

    def _do_to(self, life: Life, step: Step) -> None:
        match step.what:
            case What.STOP | What.STOP_TWICE | What.KILL:
                life.machine.down_for = step.amount
                self.nursery.start_soon(self._end, life, step)
            case What.RELOAD:
                life.machine.poll_interval = (30.0 + 60.0 * step.pick) * stretch(self.plan.pace)
                life.send(signal.SIGHUP)
            case _ if step.what in PEOPLE:
                self.nursery.start_soon(self.people.ask, life, step)
            case _:
                pass

    async def kill_at_work(self, life: Life, step: Step) -> None:
        """Kill a daemon that has just taken a task, within a minute and between two checkpoints."""
        await trio.sleep(60.0 * step.pick)
        life.machine.down_for = step.amount
        give_up = after_steps(1 + int(step.pick * 1e5) % 50, life.kill, of=life.has)
        await trio.sleep(20.0)
        give_up()
        life.kill()

    async def _end(self, life: Life, step: Step) -> None:
        if step.what is What.KILL:
            steps = 1 + int(step.pick * 300)
            give_up = after_steps(steps, life.kill, of=life.has)
            await trio.sleep(120.0)
            give_up()
            life.kill()
            return
        life.send(signal.SIGTERM)
        if step.what is What.STOP_TWICE:
            await trio.sleep(0.2 + 10 * step.pick)
            if not life.is_dead:
                life.send(signal.SIGTERM)


class _Lines(logging.Handler):
    """Hands on what a life logs, from warnings on."""

    def emit(self, record: logging.LogRecord) -> None:
        life = current_life.get(None)
        if life is not None:
            life.note(f"{record.levelname.lower()}: {record.getMessage():.200}")


@contextmanager
def _logged() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [_Lines()]
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def simulate(plan: Plan, *, watch: Callable[[str], object] = lambda _line: None) -> Result:
    """Play a plan to its end, or to the first rule that does not hold.

    Args:
        plan: What happens.
        watch: Gets each line of the log.
    """
    folder = Path(tempfile.mkdtemp(prefix="simulation-"))
    try:
        with collected_when_asked(), seeded(plan.seed) as rng, paced(plan.pace), _logged():
            clock = MockClock(autojump_threshold=0)
            world = World(plan=plan, folder=folder, rng=rng, clock=clock, watch=watch)
            broken = _outcome(partial(trio.run, world.run, clock=clock))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Result(
        plan=plan,
        hash=world.digest.hexdigest(),
        events=world.events,
        broken=broken,
        ended_at=world.ended_at,
        last={daemon: list(lines) for daemon, lines in world.last.items()},
        happened=world.happened,
        work=world.work,
    )


def _outcome(run: Callable[[], object]) -> Broken | None:
    try:
        run()
    except BaseExceptionGroup as group:
        found = _first_broken(group)
        if found is None:
            raise
        return found
    except Broken as broken:
        return broken
    return None


def _first_broken(error: BaseException) -> Broken | None:
    if isinstance(error, Broken):
        return error
    for inner in getattr(error, "exceptions", ()):
        if (found := _first_broken(inner)) is not None:
            return found
    return None
