"""The scheduler beside APScheduler 3, on one machine in one run.

``python benchmarks/scheduler.py [--quick]``. Each measurement runs in a process of its own,
ours and theirs by turns, and the best of three is kept. APScheduler runs coroutine jobs on asyncio,
its quickest way; its default, threads, is slower.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import subprocess
import sys
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.insert(0, str(Path(__file__).parent.parent))  # runs from a checkout too

NEW_YORK = "America/New_York"
EXPRESSIONS = ("0 6 * * *", "*/5 * * * *", "0 9 * * mon-fri", "0 0 29 2 *")

late: list[float] = []


async def job(due: float | None) -> None:
    """What all jobs run: note how late it is."""
    if due is not None:
        late.append(time.time() - due)


def spread(count: int) -> list[str]:
    """Return expressions of jobs spread over tomorrow, second by second."""
    day = (datetime.now(UTC) + timedelta(days=1)).day
    seconds = [n * 86400 // count for n in range(count)]
    return [f"{s % 60} {s // 60 % 60} {s // 3600} {day} * *" for s in seconds]


def herd(due: datetime, count: int) -> list[str]:
    """Return expressions of jobs that all fall due at one second; 59 are different."""
    others = [second for second in range(60) if second != due.second]
    return [f"{due.second},{others[n % 59]} {due.minute} {due.hour} * * *" for n in range(count)]


# Both schedulers behind the same few functions.


class Ours:
    """actp_supervise on Trio."""

    @staticmethod
    def next_times(expression: str, count: int) -> float:
        """Return the seconds that `count` fire times in a row take."""
        from actp_supervise.cron import Cron

        trigger = Cron(expression, NEW_YORK)
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        begin = time.process_time()
        for _ in range(count):
            moment = trigger.next_after(moment)
        return time.process_time() - begin

    @staticmethod
    def run(body: Callable[..., object]) -> None:
        """Run a body with a scheduler, whose jobs it adds, and something to sleep with."""
        from actp_supervise.cron import Cron, open_scheduler

        async def main() -> None:
            async with open_scheduler(timezone=ZoneInfo("UTC")) as scheduler:

                def add(expression: str, name: str, due: float | None) -> None:
                    scheduler.add(job, due, trigger=Cron(expression), name=name)

                await trio.sleep(0.1)
                await body(add, trio.sleep)
                await scheduler.shutdown()

        trio.run(main)


class Theirs:
    """APScheduler 3 on asyncio, jobs in memory."""

    @staticmethod
    def trigger(expression: str, timezone: str) -> object:
        """Return the trigger for six fields; `from_crontab` reads only five."""
        from apscheduler.triggers.cron import CronTrigger

        names = ("second", "minute", "hour", "day", "month", "day_of_week")
        fields = expression.split() if expression.count(" ") == 5 else ["0", *expression.split()]
        return CronTrigger(**dict(zip(names, fields, strict=True)), timezone=timezone)

    @staticmethod
    def next_times(expression: str, count: int) -> float:
        """Return the seconds that `count` fire times in a row take."""
        trigger = Theirs.trigger(expression, NEW_YORK)
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        begin = time.process_time()
        for _ in range(count):
            moment = trigger.get_next_fire_time(None, moment) + timedelta(microseconds=1)
        return time.process_time() - begin

    @staticmethod
    def run(body: Callable[..., object]) -> None:
        """Run a body with a scheduler, whose jobs it adds, and something to sleep with."""
        from apscheduler.schedulers.asyncio import AsyncIOScheduler

        async def main() -> None:
            scheduler = AsyncIOScheduler(timezone="UTC")
            scheduler.start()

            def add(expression: str, name: str, due: float | None) -> None:
                scheduler.add_job(
                    job,
                    Theirs.trigger(expression, "UTC"),
                    args=(due,),
                    id=name,
                    misfire_grace_time=3600,
                    coalesce=True,
                )

            await asyncio.sleep(0.1)
            await body(add, asyncio.sleep)
            scheduler.shutdown(wait=False)

        asyncio.run(main())


SIDES = {"ours": Ours, "theirs": Theirs}


# Measurements. Each runs in a process of its own and returns named numbers.


def measure_next(side: type, *, quick: bool) -> dict[str, float]:
    """How many fire times a second, for several expressions."""
    count = 500 if quick else 5000
    return {
        f"next fire times of `{expression}`, per second": count / side.next_times(expression, count)
        for expression in EXPRESSIONS
    }


def measure_add(side: type, *, quick: bool) -> dict[str, float]:
    """How long adding many jobs to a running scheduler takes."""
    count = 10_000 if quick else 100_000
    took = []

    async def body(add: Callable[..., None], sleep: Callable[[float], object]) -> None:
        expressions = spread(count)
        begin = time.perf_counter()
        for n, expression in enumerate(expressions):
            add(expression, f"job {n}", None)
        took.append(time.perf_counter() - begin)

    side.run(body)
    return {f"adding {count:,} jobs, seconds": took[0]}


def measure_memory(side: type, *, quick: bool) -> dict[str, float]:
    """How many bytes a job takes, by Python's own count."""
    count = 2_000 if quick else 20_000
    sizes = []

    async def body(add: Callable[..., None], sleep: Callable[[float], object]) -> None:
        add("0 0 0 1 1 *", "first", None)
        expressions = spread(count)
        gc.collect()
        tracemalloc.start()
        for n, expression in enumerate(expressions):
            add(expression, f"job {n}", None)
        await sleep(0.1)
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0] / count)

    side.run(body)
    return {"memory per job, bytes": sizes[0]}


def measure_dispatch(side: type, *, quick: bool, count: int) -> dict[str, float]:
    """How late runs are, and what they cost, if many fall due in the same second."""
    result = {}

    async def body(add: Callable[..., None], sleep: Callable[[float], object]) -> None:
        pause = 1 + count * 150e-6  # to add them all before they are due
        due = datetime.fromtimestamp(int(time.time() + pause) + 1, UTC)
        for n, expression in enumerate(herd(due, count)):
            add(expression, f"job {n}", due.timestamp())
        await sleep(due.timestamp() - 0.2 - time.time())
        gc.collect()
        begin = time.process_time()
        while len(late) < count:
            await sleep(0.25)
        cuts = statistics.quantiles(late, n=100)
        result[f"{count:,} jobs due at once: median lateness, ms"] = cuts[49] * 1000
        result[f"{count:,} jobs due at once: 99th percentile, ms"] = cuts[98] * 1000
        result[f"{count:,} jobs due at once: CPU, ms"] = (time.process_time() - begin) * 1000

    side.run(body)
    return result


def measure_idle(side: type, *, quick: bool) -> dict[str, float]:
    """What a minute costs in which none of many jobs is due."""
    count, minute = (10_000, 5.0) if quick else (100_000, 60.0)
    cost = []

    async def body(add: Callable[..., None], sleep: Callable[[float], object]) -> None:
        for n, expression in enumerate(spread(count)):
            add(expression, f"job {n}", None)
        await sleep(1.0)
        gc.collect()
        begin = time.process_time()
        await sleep(minute)
        cost.append((time.process_time() - begin) * 1000)

    side.run(body)
    return {f"{minute:.0f} idle seconds with {count:,} jobs: CPU, ms": cost[0]}


MEASUREMENTS: dict[str, Callable[..., dict[str, float]]] = {
    "next": measure_next,
    "add": measure_add,
    "memory": measure_memory,
    "dispatch-1000": partial(measure_dispatch, count=1_000),
    "dispatch-10000": partial(measure_dispatch, count=10_000),
    "idle": measure_idle,
}
MORE_IS_BETTER = "per second"


def measure(side: str, name: str, *, quick: bool) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", side, name, *(["--quick"] if quick else [])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    numbers: dict[str, float] = json.loads(done.stdout)
    return numbers


def compare(name: str, *, quick: bool) -> None:
    """Run one measurement for both by turns, and print its rows."""
    rounds = 1 if quick or name in {"idle", "memory"} else 3
    best: dict[str, dict[str, float]] = {side: {} for side in SIDES}
    for _ in range(rounds):
        for side, kept in best.items():
            for row, value in measure(side, name, quick=quick).items():
                choose = max if MORE_IS_BETTER in row else min
                kept[row] = choose(kept.get(row, value), value)
    for row, ours in best["ours"].items():
        theirs = best["theirs"][row]
        times = ours / theirs if MORE_IS_BETTER in row else theirs / ours
        print(f"| {row} | {ours:,.1f} | {theirs:,.1f} | {times:.1f} |", flush=True)


def main() -> None:
    """Print a table of all measurements."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer jobs, less time, more noise")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        side, name = options.one
        print(json.dumps(MEASUREMENTS[name](SIDES[side], quick=options.quick)))
        return
    print("| | actp_supervise | APScheduler 3 | times better |\n|---|---|---|---|", flush=True)
    for name in MEASUREMENTS:
        compare(name, quick=options.quick)


if __name__ == "__main__":
    main()
