"""A machine of a simulation: its clock, its way to the store, its daemon that is kept running."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import trio

from app.settings import load_settings

from .agents import CLASSES
from .life import Life
from .pace import stretch

if TYPE_CHECKING:
    from actp_supervise.testing import TrioWallClock
    from app.settings import Settings

    from .plan import Step, What
    from .world import World


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

    @property
    def ahead(self) -> timedelta:
        """How far it is ahead of the database's."""
        return self._ahead

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
        self.torn: dict[str, float] = {}
        """At which verbs the store is to go away, and for how many seconds."""
        self.kills: deque[Step] = deque()
        """By which its daemon is killed once it takes a task."""
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
    def back_at(self) -> float:
        """When the store is, or was, back after it was last away, by Trio's time."""
        return max(self._away_until, self._slow_until)

    @property
    def is_slow(self) -> bool:
        """Whether the store answers slowly."""
        return trio.current_time() < self._slow_until

    def keep_away(self, seconds: float) -> None:
        """Take the store away from this machine."""
        now = trio.current_time()
        if not self.store_is_away:
            self.away_since = now
        self._away_until = max(self._away_until, now + seconds)

    def slow_down(self, seconds: float) -> None:
        """Make the store slow for this machine."""
        self._slow_until = trio.current_time() + seconds

    def heal(self) -> None:
        """End all that goes wrong here."""
        self._away_until = self._slow_until = float("-inf")
        self.answers_to_lose = 0
        self.torn.clear()
        self.kills.clear()
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
        if plan.total_budget is not None:
            environ["WORKER_DAILY_BUDGET_USD"] = str(plan.total_budget)
        for prefix, path in CLASSES.items():
            environ[f"{prefix}CLASS"] = path
            environ[f"{prefix}ISOLATION"] = "loop"
            environ[f"{prefix}POLL_INTERVAL"] = str(self.poll_interval or 90.0 * pace)
            if plan.budget is not None:
                environ[f"{prefix}DAILY_BUDGET_USD"] = str(plan.budget)
            if plan.task_budget is not None:
                environ[f"{prefix}TASK_BUDGET_USD"] = str(plan.task_budget)
        return load_settings(environ, env_file=None)

    async def keep_running(self) -> None:
        """Start the daemon, and again whenever it is gone, until the world ends."""
        number = 0
        async with trio.open_nursery() as lives:
            while not self.world.is_over:
                number += 1
                life = self.life = Life(self.world, self, number)
                self.down_for = 5.0
                lives.start_soon(life.run)
                await life.gone.wait()
                await trio.sleep(self.down_for)
