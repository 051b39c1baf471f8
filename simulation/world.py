"""The world of a simulation: time, the database, Claude, machines with daemons on them, people."""

from __future__ import annotations

import hashlib
import logging
import shutil
import signal
import tempfile
from collections import Counter, deque
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio
from trio.testing import MockClock
from typing_extensions import override

from actp_supervise.testing import TrioWallClock
from app.settings import load_settings

from .agents import CLASSES
from .chance import seeded
from .claude import Claude
from .life import Life, current_life
from .pace import paced, stretch
from .plan import AGENTS, DAY, Plan, Step, What
from .rules import Broken, Rules
from .store import Memory

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from app.settings import Settings

SETTLE: Final = 6 * 3600.0
"""Seconds after the last day in which nothing goes wrong, and all that is left is to be done."""

KEPT: Final = 100
"""Events of each daemon that are shown when a rule is broken."""

CLAUDE: Final = frozenset(
    {
        What.OVERLOADED,
        What.RATE_LIMITED,
        What.NO_REPLY,
        What.CUT_OFF,
        What.NONSENSE,
        What.REFUSAL,
        What.SPEND_LIMIT,
    }
)
CODE: Final = frozenset({What.CRASH, What.HANG, What.BLOCK, What.SWALLOW, What.LEAK})


@dataclass(kw_only=True)
class Result:
    """How a run went."""

    plan: Plan
    hash: str
    """SHA-256 of all events, in hexadecimal."""
    events: int
    broken: Broken | None
    """The first rule that did not hold; None where all did."""
    last: dict[str, list[str]]
    """The last events of each daemon."""
    happened: Counter[str]
    """How often what has happened."""


class MachineClock:
    """A machine's clock, which may differ from the database's.

    Args:
        true: The database's.
    """

    def __init__(self, true: TrioWallClock) -> None:
        self._true = true
        self._ahead = timedelta()

    def now(self) -> datetime:
        """Return the present moment."""
        return self._true.now() + self._ahead

    def step(self, seconds: float) -> None:
        """Set it."""
        self._ahead += timedelta(seconds=seconds)


class Machine:
    """A machine on which one daemon is kept running.

    Args:
        world: Where it stands.
        number: Which it is.
    """

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"w{number + 1}"
        self.clock = MachineClock(world.true_clock)
        self.life: Life | None = None
        self.answers_to_lose = 0
        self.down_for = 5.0
        """Seconds until the daemon is started anew."""
        self.poll_interval: float | None = None
        self._away_until = self._slow_until = float("-inf")
        self.away_since: float | None = None
        self._troubles: dict[str, deque[What]] = {}
        self._folder = world.folder / self.name

    @property
    def store_is_away(self) -> bool:
        """Whether the store cannot be reached from here."""
        return trio.current_time() < self._away_until

    @property
    def is_slow(self) -> bool:
        """Whether the store answers slowly."""
        return trio.current_time() < self._slow_until

    def keep_away(self, seconds: float) -> None:
        """Let the store be away from here."""
        now = trio.current_time()
        if not self.store_is_away:
            self.away_since = now
        self._away_until = max(self._away_until, now + seconds)

    def slow_down(self, seconds: float) -> None:
        """Let the store be slow from here."""
        self._slow_until = trio.current_time() + seconds

    def heal(self) -> None:
        """End all that goes wrong here."""
        self._away_until = self._slow_until = float("-inf")
        self.answers_to_lose = 0
        for troubles in self._troubles.values():
            troubles.clear()
        if self.life is not None:
            for faults in self.life.faults.values():
                faults.clear()

    def troubles_of(self, agent_id: str) -> deque[What]:
        """Return what is to happen to an agent's next calls of Claude."""
        return self._troubles.setdefault(agent_id, deque())

    def settings(self) -> Settings:
        """Return the settings of its daemon."""
        plan = self.world.plan
        pace = stretch(plan.pace)
        environ = {
            "ANTHROPIC_API_KEY": "sk-ant-simulated",
            "WORKER_DB_PATH": str(self._folder / "worker.db"),
            "WORKER_ID": self.name,
            "WORKER_TIMEZONE": plan.zone,
            "WORKER_HEARTBEAT_INTERVAL": str(30.0 * pace),
            "WORKER_STALE_THRESHOLD": str(90.0 * pace),
            "WORKER_TASK_LEASE": str(60.0 * pace),
            "SUPERVISOR_WATCH_INTERVAL": str(20.0 * pace),
        }
        for prefix, path in CLASSES.items():
            environ[f"{prefix}CLASS"] = path
            environ[f"{prefix}ISOLATION"] = "loop"
            environ[f"{prefix}POLL_INTERVAL"] = str(self.poll_interval or 60.0 * pace)
            if plan.budget is not None:
                environ[f"{prefix}DAILY_BUDGET_USD"] = str(plan.budget)
        return load_settings(environ, env_file=None)

    async def keep_running(self) -> None:
        """Start the daemon, and again whenever it is gone, until the world ends."""
        number = 0
        async with trio.open_nursery() as lives:
            while not self.world.is_over:
                number += 1
                life = self.life = Life(self.world, self, number)
                self.world.lives.append(life)
                self.down_for = 5.0
                lives.start_soon(life.run)
                await life.gone.wait()
                if self.world.is_over:
                    break
                await trio.sleep(self.down_for)


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
    lives: list[Life] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)

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
        self.claude = Claude(self.rng, self.rules.sent)
        self.machines = [Machine(self, number) for number in range(self.plan.daemons)]
        try:
            async with trio.open_nursery() as nursery:
                self.people = nursery
                for machine in self.machines:
                    nursery.start_soon(machine.keep_running)
                nursery.start_soon(self.rules.look)
                await self._play()
                nursery.cancel_scope.cancel(reason="the world is over")
        finally:
            for life in self.lives:
                life.close()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning, those included in which the machines slept."""
        return (self.true_clock.now() - self.plan.start).total_seconds()

    def note(self, who: str, text: str) -> None:
        """Write a line into the log of the run."""
        line = f"{self.elapsed:.3f} {who} {text}"
        self.events += 1
        self.digest.update(line.encode(errors="surrogatepass") + b"\n")
        daemon = who.partition(".")[0]
        self.last.setdefault(daemon, deque(maxlen=KEPT)).append(line)
        self.watch(line)

    async def _play(self) -> None:
        for step in self.plan.steps:
            await self._sleep_until(step.at)
            self._do(step)
        await self._sleep_until(self.plan.days * DAY)
        await self._settle()

    async def _sleep_until(self, elapsed: float) -> None:
        while (left := elapsed - self.elapsed) > 0:
            await trio.sleep(left)

    async def _settle(self) -> None:
        """Let nothing go wrong any more, until all is done; then stop every daemon."""
        self.note("world", "nothing goes wrong any more")
        self.rules.calm_since = trio.current_time()
        for machine in self.machines:
            machine.heal()
        for machine in self.machines:
            for agent in AGENTS:
                self.people.start_soon(self._resume, machine, agent)
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
        life = machine.life
        self.happened[step.what] += 1
        self.note("world", f"{step.what} {machine.name} {step.agent} {step.amount:g}")
        if step.what in CLAUDE:
            machine.troubles_of(step.agent).extend([step.what] * round(step.amount))
        elif step.what in CODE:
            if life is not None:
                times = 1 if step.what is What.BLOCK else round(step.amount)
                life.faults_of(step.agent).extend([(step.what, step.amount)] * times)
        else:
            self._do_more(step, machine, life)

    def _do_more(self, step: Step, machine: Machine, life: Life | None) -> None:
        match step.what:
            case What.STORE_AWAY:
                machine.keep_away(step.amount)
            case What.STORE_AWAY_FOR_ALL:
                for each in self.machines:
                    each.keep_away(step.amount)
            case What.STORE_SLOW:
                machine.slow_down(step.amount)
            case What.LOSE_ANSWERS:
                machine.answers_to_lose += round(step.amount)
            case What.SLEEP:
                self.true_clock.step(step.amount)
                self.rules.slept(step.amount)
            case What.CLOCK_SET:
                machine.clock.step(step.amount)
            case What.ROW:
                self._insert_row(step)
            case _ if life is None or life.is_dead:
                self.note("world", "there is no such daemon just now")
            case What.STOP | What.STOP_TWICE | What.KILL:
                machine.down_for = step.amount
                self.people.start_soon(self._end, life, step)
            case What.RELOAD:
                machine.poll_interval = (30.0 + 60.0 * step.pick) * stretch(self.plan.pace)
                life.send(signal.SIGHUP)
            case _:
                self.people.start_soon(self._ask, life, step)

    async def _end(self, life: Life, step: Step) -> None:
        if step.what is What.KILL:
            KillSoon(life, after=1 + int(step.pick * 300)).arm()
            await trio.sleep(120.0)
            life.kill()
            return
        life.send(signal.SIGTERM)
        if step.what is What.STOP_TWICE:
            await trio.sleep(0.2 + 10 * step.pick)
            if not life.is_dead:
                life.send(signal.SIGTERM)

    # People.

    async def _ask(self, life: Life, step: Step) -> None:
        match step.what:
            case What.POST:
                await self._post(life, step)
            case What.CANCEL:
                if (task := self._some_task(step, "queued", "running")) is not None:
                    await self._request(life, "POST", f"/tasks/{task}/cancel")
            case What.RETRY:
                if (task := self._some_task(step, "failed", "cancelled")) is not None:
                    await self._request(life, "POST", f"/tasks/{task}/retry")
            case What.PAUSE:
                status, _ = await self._request(life, "POST", f"/agents/{step.agent}/pause")
                if status in (200, 202):
                    self.rules.paused(life, step.agent)
                    await trio.sleep(step.amount)
                    await self._resume(life.machine, step.agent)
            case What.RESTART:
                life.restarted[step.agent] = trio.current_time()
                await self._request(life, "POST", f"/agents/{step.agent}/restart")
            case What.ROUTINE:
                jobs = sorted(self.rules.routines)
                job = jobs[int(step.pick * len(jobs))]
                await self._request(life, "POST", f"/scheduler/jobs/{job}/run")

    async def _post(self, life: Life, step: Step) -> None:
        """Post a task as a good client does: again, with the same key, until it is acknowledged."""
        key = f"posted-{self.happened[What.POST]}"
        wanted = {
            "agent_type": step.agent,
            "goal": _GOALS[step.agent][int(step.pick * len(_GOALS[step.agent]))],
            "context": {"number": self.happened[What.POST]},
            "priority": int(step.pick * 1000) % 3,
        }
        for _ in range(5):
            given = life if not life.is_dead else life.machine.life
            if given is not None:
                status, body = await self._request(given, "POST", "/agents/task", wanted, key)
                if status in (200, 201):
                    self.rules.acknowledged(body["id"])
                    return
            await trio.sleep(30.0)

    async def _resume(self, machine: Machine, agent: str) -> None:
        life = machine.life
        if life is not None and agent in life.held:
            self.rules.resumed(life, agent)
            await self._request(life, "POST", f"/agents/{agent}/resume")

    async def _request(
        self,
        life: Life,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> tuple[int | None, Any]:
        """Ask a daemon's web application; the status of its answer and its JSON, if any."""
        app = life.app
        if app is None or life.is_dead:
            return None, None
        headers = {"Host": "localhost:8090"} | ({} if key is None else {"Idempotency-Key": key})
        token = current_life.set(life)
        try:
            with trio.move_on_after(60.0):
                response = await app.test_client().open(
                    path, method=method, json=body if body is not None else {}, headers=headers
                )
                if life.is_dead:
                    return None, None
                life.note(f"{method} {path}: {response.status_code}")
                return response.status_code, await response.get_json()
        finally:
            current_life.reset(token)
        return None, None

    def _some_task(self, step: Step, *statuses: str) -> str | None:
        marks = ", ".join("?" * len(statuses))
        rows = self.memory.connection.execute(
            f"select id from actp_agent_tasks where status in ({marks}) order by rowid desc "
            "limit 20",
            statuses,
        ).fetchall()
        return rows[int(step.pick * len(rows))][0] if rows else None

    def _insert_row(self, step: Step) -> None:
        self.memory.connection.execute(
            "insert or ignore into actp_agent_tasks (id, agent_type, goal, created_at) "
            "values (?, ?, 'by hand', strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))",
            [f"by-hand-{self.happened[What.ROW]}", step.agent],
        )


class KillSoon(trio.abc.Instrument):
    """Kills a life between two of its steps.

    Args:
        life: Which.
        after: How many steps of its tasks it has still.
    """

    def __init__(self, life: Life, after: int) -> None:
        self._life = life
        self._left = after

    def arm(self) -> None:
        """Begin to count."""
        trio.lowlevel.add_instrument(self)

    @override
    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.context.get(current_life) is not self._life:
            return
        self._left -= 1
        if self._left <= 0:
            trio.lowlevel.remove_instrument(self)
            self._life.kill()


_GOALS: Final = {
    "social": (
        "Queue a like for the post of Example on linkedin",
        "List the engagement actions that are queued",
        "Remember that the tone of voice is friendly",
    ),
    "content": (
        "Save a viral template about morning routines",
        "Find the templates that worked best",
        "Remember what the audience likes",
    ),
    "acquisition": (
        "Add a deal with Acme Ltd worth 5000",
        "List the deals at stage lead and move them on",
        "Remember the name of the buyer",
    ),
    "revenue": (
        "Set the revenue goal of this month to 10000",
        "Compare what was spent with the goals",
        "Remember the price of the plan",
    ),
}


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
        with seeded(plan.seed) as rng, paced(plan.pace), _logged():
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
        last={daemon: list(lines) for daemon, lines in world.last.items()},
        happened=world.happened,
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


