"""The scheduler beside APScheduler 3: each figure of both in one run, as a table and as JSON.

    python benchmarks/scheduler.py [--quick] [--json FILE]

Each measurement is a process of its own, so that no garbage of one disturbs the next; both sides
take turns, and the best of three is kept (idling and memory are measured once). The ratio says how
many times better ours is; below 1 it is worse. A herd is of daily cron jobs, with 55 different
expressions, that fall due in the same second; a run's cost includes finding the next moment.
APScheduler runs coroutine jobs on asyncio, its quickest way.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable

BERLIN = ZoneInfo("Europe/Berlin")
EXPRESSIONS = ("0 6 * * *", "*/5 * * * *", "0 11,15 * * MON-FRI", "30 2 1 * *", "0 20 * * SUN")
PAIRS = tuple(combinations(range(1, 12), 2))
START = datetime(2026, 1, 1, tzinfo=BERLIN)

Figures = dict[str, float]


def fields_far_away(number: int, count: int) -> dict[str, int]:
    """Return the fields of a cron job that is due some time tomorrow, spread over the day."""
    second = number * 86_400 // count
    day = (datetime.now(UTC) + timedelta(days=1)).day
    return {
        "second": second % 60,
        "minute": second // 60 % 60,
        "hour": second // 3600,
        "day": day,
    }


def months_of(due: datetime, number: int) -> str:
    """Return a field that holds the month of `due` and two of the 11 others."""
    first, second = PAIRS[number % len(PAIRS)]
    return ",".join(str((due.month - 1 + step) % 12 + 1) for step in (0, first, second))


def rss() -> int:
    """Return how many bytes of memory this process has."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def cpu() -> float:
    """Return the processor seconds that this process has used."""
    return time.process_time()


def summary(due: datetime, started: list[float], cpu_used: float) -> Figures:
    """Return the figures of a herd of jobs that was due at one moment."""
    late = sorted(moment - due.timestamp() for moment in started)
    return {
        "late_median_ms": statistics.median(late) * 1e3,
        "late_p99_ms": late[int(len(late) * 0.99)] * 1e3,
        "cpu_us_per_run": cpu_used / len(late) * 1e6,
    }


# Ours.


def ours_next(count: int) -> Figures:
    from actp_supervise import Cron

    triggers = [Cron(expression, "Europe/Berlin") for expression in EXPRESSIONS]
    began = time.perf_counter()
    for trigger in triggers:
        moment = START
        for _ in range(count):
            found = trigger.next_after(moment)
            assert found is not None
            moment = found
    return {"per_second": count * len(triggers) / (time.perf_counter() - began)}


def ours_jobs(count: int, idle: float) -> Figures:
    import trio

    from actp_supervise import Cron, open_scheduler

    async def job() -> None:
        pass

    async def main() -> Figures:
        async with open_scheduler(timezone="UTC") as scheduler:
            gc.collect()
            memory, began = rss(), time.perf_counter()
            for number in range(count):
                fields = fields_far_away(number, count)
                trigger = Cron("{second} {minute} {hour} {day} * *".format(**fields))
                scheduler.add(job, name=f"job-{number}", trigger=trigger)
            seconds = time.perf_counter() - began
            gc.collect()
            figures = {"add_us": seconds / count * 1e6, "bytes": (rss() - memory) / count}
            await trio.sleep(1)
            used = cpu()
            await trio.sleep(idle)
            figures["idle_cpu_ms"] = (cpu() - used) * 1e3
            await scheduler.shutdown()
        return figures

    return trio.run(main)


def ours_herd(count: int) -> Figures:
    import trio

    from actp_supervise import Cron, open_scheduler

    started: list[float] = []
    done = trio.Event()

    async def job() -> None:
        started.append(time.time())
        if len(started) == count:
            done.set()

    async def main() -> Figures:
        async with open_scheduler(timezone="UTC") as scheduler:
            due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=4 + count // 10_000)
            for number in range(count):
                daily = f"{due.second} {due.minute} {due.hour} * {months_of(due, number)} *"
                trigger = Cron(daily)
                scheduler.add(job, name=f"job-{number}", trigger=trigger, misfire_grace=None)
            gc.collect()
            await trio.sleep((due - datetime.now(UTC)).total_seconds() - 0.5)
            used = cpu()
            await done.wait()
            await scheduler.shutdown()
            return summary(due, started, cpu() - used)

    return trio.run(main)


# APScheduler's.


def theirs_next(count: int) -> Figures:
    from apscheduler.triggers.cron import CronTrigger

    triggers = [CronTrigger.from_crontab(text, timezone=BERLIN) for text in EXPRESSIONS]
    began = time.perf_counter()
    for trigger in triggers:
        moment, previous = START, None
        for _ in range(count):
            previous = trigger.get_next_fire_time(previous, moment)
            moment = previous
    return {"per_second": count * len(triggers) / (time.perf_counter() - began)}


def theirs_jobs(count: int, idle: float) -> Figures:
    from apscheduler.schedulers.asyncio import AsyncIOScheduler
    from apscheduler.triggers.cron import CronTrigger

    async def job() -> None:
        pass

    async def main() -> Figures:
        scheduler = AsyncIOScheduler(timezone="UTC")
        scheduler.start()
        gc.collect()
        memory, began = rss(), time.perf_counter()
        for number in range(count):
            trigger = CronTrigger(**fields_far_away(number, count), timezone="UTC")
            scheduler.add_job(job, trigger, id=f"job-{number}")
        seconds = time.perf_counter() - began
        gc.collect()
        figures = {"add_us": seconds / count * 1e6, "bytes": (rss() - memory) / count}
        await asyncio.sleep(1)
        used = cpu()
        await asyncio.sleep(idle)
        figures["idle_cpu_ms"] = (cpu() - used) * 1e3
        scheduler.shutdown(wait=False)
        return figures

    return asyncio.run(main())


def theirs_herd(count: int) -> Figures:
    from apscheduler.schedulers.asyncio import AsyncIOScheduler
    from apscheduler.triggers.cron import CronTrigger

    started: list[float] = []

    async def main() -> Figures:
        done = asyncio.Event()

        async def job() -> None:
            started.append(time.time())
            if len(started) == count:
                done.set()

        scheduler = AsyncIOScheduler(timezone="UTC")
        scheduler.start(paused=True)
        due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=4 + count // 1_000)
        for number in range(count):
            trigger = CronTrigger(
                month=months_of(due, number),
                hour=due.hour,
                minute=due.minute,
                second=due.second,
                timezone="UTC",
            )
            scheduler.add_job(job, trigger, id=f"job-{number}", misfire_grace_time=None)
        scheduler.resume()
        gc.collect()
        await asyncio.sleep((due - datetime.now(UTC)).total_seconds() - 0.5)
        used = cpu()
        await done.wait()
        scheduler.shutdown(wait=False)
        return summary(due, started, cpu() - used)

    return asyncio.run(main())


MEASURES: dict[str, Callable[..., Figures]] = {
    "ours_next": ours_next,
    "ours_jobs": ours_jobs,
    "ours_herd": ours_herd,
    "theirs_next": theirs_next,
    "theirs_jobs": theirs_jobs,
    "theirs_herd": theirs_herd,
}


def measure(name: str, *numbers: float) -> Figures:
    """Take a measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, *(f"{n:g}" for n in numbers)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    figures: Figures = json.loads(answer.stdout)
    return figures


def both(name: str, *numbers: float, rounds: int) -> tuple[Figures, Figures]:
    """Take a measurement of both sides by turns; return the best figures of each."""
    ours: Figures = {}
    theirs: Figures = {}
    for _ in range(rounds):
        for side, best in (("ours", ours), ("theirs", theirs)):
            for figure, value in measure(f"{side}_{name}", *numbers).items():
                choose = max if figure == "per_second" else min
                best[figure] = choose(best.get(figure, value), value)
    return ours, theirs


def compare(*, quick: bool) -> list[dict[str, object]]:
    """Take all measurements of both, and put them side by side."""
    nexts, jobs, idle = (2_000, 10_000, 5) if quick else (20_000, 100_000, 60)
    rounds = 1 if quick else 3
    rows: list[dict[str, object]] = []

    def row(what: str, ours: float, theirs: float, *, more_is_better: bool = False) -> None:
        ratio = ours / theirs if more_is_better else theirs / max(ours, 1e-9)
        rows.append({"what": what, "ours": ours, "apscheduler": theirs, "times_better": ratio})

    ours, theirs = both("next", nexts, rounds=rounds)
    what = "next fire times per second"
    row(what, ours["per_second"], theirs["per_second"], more_is_better=True)
    ours, theirs = both("jobs", jobs, idle, rounds=1)
    row(f"add one of {jobs:,} jobs, us", ours["add_us"], theirs["add_us"])
    row("memory of a job, bytes", ours["bytes"], theirs["bytes"])
    what = f"idle CPU with {jobs:,} jobs over {idle} s, ms"
    row(what, ours["idle_cpu_ms"], theirs["idle_cpu_ms"])
    for herd in (1_000, 10_000):
        ours, theirs = both("herd", herd, rounds=rounds)
        due = f"{herd:,} due in one second: "
        row(f"{due}late, median, ms", ours["late_median_ms"], theirs["late_median_ms"])
        row(f"{due}late, 99th, ms", ours["late_p99_ms"], theirs["late_p99_ms"])
        row(f"{due}CPU of a run, us", ours["cpu_us_per_run"], theirs["cpu_us_per_run"])
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller numbers, half a minute")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        logging.disable()
        name, *numbers = options.measure
        values = [float(number) if "." in number else int(float(number)) for number in numbers]
        print(json.dumps(MEASURES[name](*values)))
        return
    rows = compare(quick=options.quick)
    print(f"{'':48}{'ours':>12}{'APScheduler':>14}{'times better':>14}")
    for row in rows:
        ours, theirs, ratio = row["ours"], row["apscheduler"], row["times_better"]
        print(f"{row['what']:48}{ours:>12,.1f}{theirs:>14,.1f}{ratio:>14.1f}")
    report = {"python": platform.python_version(), "quick": options.quick, "rows": rows}
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    else:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
