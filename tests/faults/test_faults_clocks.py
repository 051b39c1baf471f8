"""Clocks that are set under a daemon at work: a day forth and back, and over changes of clocks.

The time of day is faked by libfaketime, whose offset is in a file that it reads again; the clock
that only counts stays real. The daemon looks at the wall clock every 30 seconds, so each step
waits that long.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from accounts import check_all
from campaign import AGENTS, Campaign, finish
from daemons import until
from scripted import ScriptedClaude, install

from actp_supervise.clock import SystemWallClock
from app.store.records import moment_text

if TYPE_CHECKING:
    from daemons import Place

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

LOOK = 30.0
"""Seconds after which the scheduler looks at the wall clock again."""

DAY = 86_400.0

CLASS = """
from actp_supervise import current_child
from app.agents.base import DomainAgent
import pathlib

class Noting(DomainAgent):
    prompt = "Recall what we know."

    async def run_daily_pipeline(self):
        with (pathlib.Path(__file__).parent / "runs").open("a") as runs:
            runs.write("ran\\n")
"""


def find_libfaketime():
    """Return the library, that of the system or of the wheel; None if neither can be used."""
    found = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
    spec = importlib.util.find_spec("libfaketime")
    if spec is not None and spec.origin is not None:
        found += Path(spec.origin).parent.glob("vendor/**/libfaketime.so.1")
    return next((path for path in found if _works(path)), None)


def _works(path):
    """Return whether a library is of this machine's kind and fakes the time of day alone."""
    code = "import time; print(time.time() - time.monotonic())"
    environ = {"PATH": os.environ["PATH"], "DONT_FAKE_MONOTONIC": "1"}
    faked = {**environ, "LD_PRELOAD": str(path), "FAKETIME": "+1000000"}
    plain, shifted = (
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        for env in (environ, faked)
    )
    return shifted.returncode == 0 and float(shifted.stdout) - float(plain.stdout) > 999_000


@dataclass
class FakeClock:
    """The time of day of a place's daemons."""

    path: Path

    def set(self, moment: datetime) -> None:
        """Have it be that moment now."""
        offset = (moment - SystemWallClock().now()).total_seconds()
        new = self.path.with_suffix(".new")
        new.write_text(f"{offset:+.3f}\n")
        new.replace(self.path)
        self.offset = offset

    def now(self) -> datetime:
        return SystemWallClock().now() + timedelta(seconds=self.offset)


@pytest.fixture
def clock(place):
    library = find_libfaketime()
    if library is None:
        pytest.skip("no libfaketime: apt-get install libfaketime, or pip install libfaketime")
    place.use_class(CLASS, "Noting")
    place.environ |= {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(place.folder / "clock"),
        "FAKETIME_CACHE_DURATION": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
        "TZ": "UTC",
        "CONTENT_AGENT_CLASS": "own:Noting",
        "WORKER_TIMEZONE": "UTC",
    }
    return FakeClock(place.folder / "clock")


def ran(place: Place) -> int:
    path = place.folder / "runs"
    return len(path.read_text().splitlines()) if path.exists() else 0


def fires(place: Place) -> list[tuple[str, str]]:
    """Return the moments of the routine that were dealt with, and how each ended."""
    rows = place.rows("select scheduled_at, outcome from actp_job_runs order by scheduled_at")
    return [(row["scheduled_at"], row["outcome"]) for row in rows]


def done(*moments: datetime) -> list[tuple[str, str]]:
    return [(moment_text(moment), "succeeded") for moment in moments]


async def looked_again(daemon):
    """Wait until the wall clock has been looked at, twice to be sure."""
    await trio.sleep(2 * LOOK + 5)
    assert (await daemon.http.get("/livez")).status_code == 200


SLOW = "Recall what we know [simulate: slow 2]"


async def test_steps_of_a_day_forth_and_back_run_nothing_twice_and_accuse_nobody(
    place, clock, figures
):
    began = trio.current_time()
    first = datetime(2026, 6, 1, 6, tzinfo=UTC)
    clock.set(first - timedelta(minutes=5))
    async with place.daemon("--agents", "social,content") as daemon:
        tasks = []

        async def step(moment):
            """Set the clock while a task is at work."""
            tasks.append(await daemon.post("social", f"{SLOW} {len(tasks)}"))
            await until(lambda: place.task(tasks[-1])["status"] == "running")
            clock.set(moment)

        await step(first + timedelta(seconds=1))
        await until(lambda: ran(place) == 1)
        await step(first + timedelta(seconds=DAY + 60))
        await until(lambda: ran(place) == 2)
        await step(first + timedelta(seconds=120))  # a day back
        await looked_again(daemon)
        await step(first + timedelta(seconds=DAY + 180))  # and forth again, over the same moment
        await looked_again(daemon)
        assert ran(place) == 2
        await step(first + timedelta(seconds=4 * DAY + 60))  # three days: the last one is made up
        await until(lambda: ran(place) == 3)
        for task_id in tasks:
            await until(lambda task_id=task_id: place.task(task_id)["status"] == "succeeded")
        assert [place.task(task_id)["attempts"] for task_id in tasks] == [1] * len(tasks)
        for agent in ("social", "content"):
            assert (await daemon.get(f"/agents/{agent}"))["error_count"] == 0
        health = await daemon.get("/health")
        assert health["status"] in {"healthy", "degraded"}, health
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
        assert "Traceback" not in daemon.log.read_text()
    succeeded = [fire for fire in fires(place) if fire[1] == "succeeded"]
    assert succeeded == done(*(first + timedelta(days=days) for days in (0, 1, 4)))
    assert {row["outcome"] for row in place.rows("select outcome from actp_agent_runs")} == {
        "stopped"
    }
    figures("Steps of the clock", steps=5, tasks=len(tasks), seconds=trio.current_time() - began)


async def test_under_load_steps_of_a_day_do_nothing_twice(place, clock, figures):
    began = trio.current_time()
    install(place)
    place.environ |= {"SOCIAL_MEDIA_AGENT_WORKERS": "3", "CONTENT_AGENT_WORKERS": "3"}
    noon = datetime(2026, 6, 1, 12, tzinfo=UTC)
    clock.set(noon)
    async with trio.open_nursery() as nursery:
        claude = ScriptedClaude(random.Random(7), latency=1.0)
        place.claude = await nursery.start(claude.serve)
        campaign = Campaign(place, claude, random.Random(7))
        async with place.daemon("--agents", ",".join(AGENTS)) as daemon:
            campaign.up.append(daemon)
            async with trio.open_nursery() as people:
                people.start_soon(campaign.keep_posting)
                people.start_soon(campaign.keep_deciding)
                for days in (1, 0, 1, 8):
                    await trio.sleep(6)
                    clock.set(noon + timedelta(days=days))
                await trio.sleep(6)
                people.cancel_scope.cancel()
            daemon.signal(signal.SIGTERM)
            assert await daemon.wait() == 0
            campaign.read_the_log(daemon)
        campaign.up.clear()
        await finish(campaign)
        nursery.cancel_scope.cancel()
    found = check_all(campaign)
    figures("Steps of the clock under load", **found, seconds=trio.current_time() - began)


async def test_over_a_change_of_clocks_a_daily_routine_runs_once_each_day(place, clock, figures):
    began = trio.current_time()
    place.environ["WORKER_TIMEZONE"] = "America/New_York"
    (place.folder / "agents.toml").write_text(
        '[agents.content]\nclass = "own:Noting"\n[agents.content.routines]\n'
        'run_daily_pipeline = "30 2 * * *"\n'
    )
    place.environ["WORKER_AGENTS"] = str(place.folder / "agents.toml")
    # In spring 2:30 does not exist: it runs when clocks have gone from 2:00 to 3:00, 7:00 in UTC.
    clock.set(datetime(2026, 3, 7, 7, 0, tzinfo=UTC))
    async with place.daemon("--agents", "content") as daemon:
        clock.set(datetime(2026, 3, 7, 7, 29, 55, tzinfo=UTC))
        await until(lambda: ran(place) == 1)
        clock.set(datetime(2026, 3, 8, 6, 59, 55, tzinfo=UTC))
        await until(lambda: ran(place) == 2)
        clock.set(datetime(2026, 3, 9, 6, 29, 55, tzinfo=UTC))
        await until(lambda: ran(place) == 3)
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
    assert fires(place) == done(
        datetime(2026, 3, 7, 7, 30, tzinfo=UTC),
        datetime(2026, 3, 8, 7, 0, tzinfo=UTC),
        datetime(2026, 3, 9, 6, 30, tzinfo=UTC),
    )
    # In autumn 1:30 comes twice: it runs the first time alone.
    text = (place.folder / "agents.toml").read_text()
    (place.folder / "agents.toml").write_text(text.replace("30 2", "30 1"))
    clock.set(datetime(2026, 11, 1, 5, 20, tzinfo=UTC))
    async with place.daemon("--agents", "content") as daemon:
        before = ran(place)
        clock.set(datetime(2026, 11, 1, 5, 29, 55, tzinfo=UTC))
        await until(lambda: ran(place) == before + 1)
        clock.set(datetime(2026, 11, 1, 6, 30, 5, tzinfo=UTC))
        await looked_again(daemon)
        # Somebody sets the clock back by an hour, as if the machine had not known.
        clock.set(datetime(2026, 11, 1, 5, 30, 5, tzinfo=UTC))
        await looked_again(daemon)
        assert ran(place) == before + 1
        clock.set(datetime(2026, 11, 2, 6, 29, 55, tzinfo=UTC))
        await until(lambda: ran(place) == before + 2)
        assert (await daemon.get("/agents/content"))["error_count"] == 0
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
    # Those of March are older than WORKER_RETENTION_DAYS by then, and gone.
    succeeded = [fire for fire in fires(place) if fire[1] == "succeeded"]
    assert succeeded[-2:] == done(
        datetime(2026, 11, 1, 5, 30, tzinfo=UTC), datetime(2026, 11, 2, 6, 30, tzinfo=UTC)
    )
    figures("Changes of clocks", changes=2, runs=ran(place), seconds=trio.current_time() - began)
