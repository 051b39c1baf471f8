"""A campaign of kills: three daemons at a time on one database, under load, each to its end.

What came of it is looked at in `accounts`.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import httpx
import trio
from daemons import PATIENCE, Daemon, Place, SupabasePlace, until
from processes import processes_of
from scripted import ScriptedClaude, goal, how_many_notes

from app.store.protocol import ApprovalStatus, StoreError, StoreUnavailable
from app.store.sqlite import open_sqlite_store
from app.store.supabase import open_supabase_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.store.protocol import Store

AGENTS = ("social", "content")
SLOTS = ("one", "two", "three")
"""Daemons that run at a time."""
WORKERS = 3
IN_WORK = 16
"""Tasks that are posted and not done, at any time."""
LONGEST_LIFE = 8.0
"""Seconds after which a daemon is ended though it has done little."""

OPEN = "select count(*) as n from actp_agent_tasks where status in ('queued','running','waiting')"


@asynccontextmanager
async def open_the_store(place: Place) -> AsyncIterator[Store]:
    """Open what a place's daemons share, as another program on another machine would."""
    if isinstance(place, SupabasePlace):
        async with open_supabase_store(place.project.url, place.project.service_key) as store:
            yield store
    else:
        async with open_sqlite_store(place.database) as store:
            yield store


@dataclass
class Campaign:
    """Daemons that are killed, and people who post tasks and approve calls meanwhile."""

    place: Place
    claude: ScriptedClaude
    rng: random.Random
    up: list[Daemon] = field(default_factory=list)
    """Those that serve just now."""
    posted: dict[int, str] = field(default_factory=dict)
    """The number of a task -> its id, as the answer told it."""
    counts: Counter[str] = field(default_factory=Counter)
    span: float = 2.0
    """The seconds that a start takes on this machine."""
    _numbers: count[int] = field(default_factory=lambda: count(1))

    @property
    def ended(self) -> int:
        """How many daemons were killed or ended."""
        return self.counts["kill_-9"] + self.counts["SIGTERM"]

    # The daemons.

    async def round(self) -> None:
        """Run daemons until all are dead, then approve some calls while nobody lives."""
        async with trio.open_nursery() as nursery:
            for slot in SLOTS:
                nursery.start_soon(self._live, slot)
        async with open_the_store(self.place) as store:
            self.counts["approved_while_dead"] += await self.decide(store, share=0.5)
        print(f"{trio.current_time():.0f} {dict(self.counts)}", flush=True)

    async def _live(self, slot: str) -> None:
        """Run a daemon to its end by one signal or two, at a moment of chance."""
        worker_id = f"{slot}-{next(self._numbers)}-{self.rng.randrange(10**9)}"
        arguments = ("--agents", ",".join(AGENTS))
        changes = {
            "WORKER_ID": worker_id,
            "CONTENT_AGENT_ISOLATION": self.rng.choice(("loop", "loop", "thread", "process")),
        }
        async with self.place.starting_daemon(*arguments, **changes) as daemon:
            is_up = self.rng.random() < 0.75
            if is_up:
                began = trio.current_time()
                await daemon.until_up()
                self.span = (self.span + trio.current_time() - began) / 2
                self.up.append(daemon)
                await self._let_work()
            else:
                self.counts["during_the_start"] += 1
                await trio.sleep(self.rng.uniform(0, self.span))
            await self._end(daemon, is_up=is_up)
            if daemon in self.up:
                self.up.remove(daemon)
            await until(lambda: not processes_of(worker_id))  # those of its agents, too
            self.read_the_log(daemon)

    async def _let_work(self) -> None:
        """Wait until some effects were had, however fast the machine is, and a little longer."""
        wanted = how_many_notes(self.place) + self.rng.randrange(12)
        with trio.move_on_after(LONGEST_LIFE):
            # Tools note what they do in a file.
            while how_many_notes(self.place) < wanted:  # noqa: ASYNC110
                await trio.sleep(0.02)
        await trio.sleep(self.rng.uniform(0, 0.2))

    async def _end(self, daemon: Daemon, *, is_up: bool) -> None:
        if self.rng.random() < 0.7:
            self.counts["kill_-9"] += 1
            daemon.signal(signal.SIGKILL)
            await daemon.wait()
            return
        self.counts["SIGTERM"] += 1
        daemon.signal(signal.SIGTERM)
        if self.rng.random() < 0.5:  # and killed while it drains
            with trio.move_on_after(self.rng.uniform(0, 0.4)):
                await daemon.process.wait()
            if daemon.process.poll() is None:
                self.counts["killed_while_draining"] += 1
                daemon.signal(signal.SIGKILL)
                await daemon.wait()
                return
        code = await daemon.wait()
        assert code in ({0} if is_up else {0, 130, -signal.SIGTERM}), daemon.log.read_text()

    def read_the_log(self, daemon: Daemon) -> None:
        """Look for errors and accusations in what a daemon has logged, and throw it away."""
        text = daemon.log.read_text()
        assert "Traceback" not in text, text
        assert "child_crashed" not in text, text
        assert "child_stalled" not in text, text
        daemon.log.unlink()
        daemon.log.with_suffix(".out").unlink()

    # The people.

    async def keep_posting(self) -> None:
        """Post tasks so that there is always work; each until it is acknowledged."""
        while True:
            await trio.sleep(0.1)
            missing = IN_WORK - self.place.rows(OPEN)[0]["n"] if self.up else 0
            async with trio.open_nursery() as nursery:
                for _ in range(missing):
                    nursery.start_soon(self.post, next(self._numbers))

    async def post(self, number: int) -> None:
        body = {
            "agent_type": AGENTS[number // 7 % 2],
            "goal": goal(number),
            "max_attempts": 100,
        }
        while True:
            if self.up:
                daemon = self.rng.choice(self.up)
                try:
                    answer = await daemon.http.post(
                        "/agents/task", json=body, headers={"Idempotency-Key": f"no-{number}"}
                    )
                except (httpx.HTTPError, RuntimeError):  # it was killed, or its client is closed
                    answer = None
                if answer is not None and answer.status_code != 503:
                    assert answer.status_code == 201, answer.text
                    self.posted[number] = answer.json()["id"]
                    return
                self.counts["posts_repeated"] += 1
            await trio.sleep(0.1)

    async def keep_deciding(self, share: float = 0.2) -> None:
        """Decide about calls now and then, on the page of a daemon that lives."""
        while True:
            await trio.sleep(0.3)
            if not self.up:
                continue
            daemon = self.rng.choice(self.up)
            try:
                waiting = await daemon.http.get("/approvals?status=waiting")
                for approval in waiting.json() if waiting.status_code == 200 else ():
                    if self.rng.random() < share:
                        answer = await daemon.http.post(
                            f"/approvals/{approval['id']}", json={"approve": self._wants()}
                        )
                        self.counts["decided_on_a_page"] += answer.status_code == 200
            except (httpx.HTTPError, RuntimeError, ValueError):
                pass  # it was killed meanwhile; whether it was decided shows in the store

    def _wants(self) -> bool:
        return self.rng.random() < 0.9

    async def decide(self, store: Store, share: float) -> int:
        """Decide about calls that wait, in the store itself; return how many."""
        decided = 0
        for approval in await store.approvals(status=ApprovalStatus.WAITING, limit=200):
            if self.rng.random() < share:
                await store.decide_approval(
                    approval.id, approve=self._wants(), decided_by="a person while all were dead"
                )
                decided += 1
        return decided


async def wage(campaign: Campaign, kills: int, longest: float) -> None:
    """Kill daemons so often, under load; then let one do what is left.

    Args:
        campaign: The campaign.
        kills: How often.
        longest: The seconds after which it is enough, however many there were.
    """
    until = trio.current_time() + longest
    async with trio.open_nursery() as nursery:
        nursery.start_soon(campaign.keep_posting)
        nursery.start_soon(campaign.keep_deciding)
        while campaign.ended < kills and trio.current_time() < until:
            await campaign.round()
        nursery.cancel_scope.cancel()
    await finish(campaign)


async def finish(campaign: Campaign) -> None:
    """Let one daemon do all that is left, and end it as one ends a daemon."""
    place = campaign.place
    async with place.daemon("--agents", ",".join(AGENTS), WORKER_ID="last") as last:
        campaign.up.append(last)
        async with open_the_store(place) as store:
            with trio.fail_after(4 * PATIENCE):
                while place.rows(OPEN)[0]["n"]:
                    with suppress(StoreUnavailable, StoreError):
                        await campaign.decide(store, share=1.0)
                    await trio.sleep(0.1)
        for agent in AGENTS:
            assert (await last.get(f"/agents/{agent}"))["error_count"] == 0
        last.signal(signal.SIGTERM)
        assert await last.wait() == 0
        campaign.read_the_log(last)
