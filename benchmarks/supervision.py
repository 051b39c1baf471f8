"""The tree beside a bare nursery, a bare loop and Erlang/OTP, on one machine in one run.

``python benchmarks/supervision.py [--quick] [--json FILE] [--only FIGURE ...]``. Those who are
compared run by turns, and the best turn of each counts: on a machine that has other work to do, the
best is what repeats. Memory is measured in processes of their own. OTP takes part if ``erl`` is
there (Debian: ``apt-get install erlang-base``). The library's log is off, and so is OTP's.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import logging
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter

import trio
from trio.testing import wait_all_tasks_blocked

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # runs from a checkout too

from actp_supervise import (  # noqa: E402
    Restart,
    RestartLimit,
    Strategy,
    Supervisor,
    open_supervisor,
)

MICROSECONDS = 1e6
OURS = "actp_supervise"
OTP = "Erlang/OTP"

Timed = Callable[[], Awaitable[float]]
"""An async function that returns how many seconds it took for each thing that it did."""


@dataclass
class Figure:
    """One measurement: who got what, and what was aimed at."""

    name: str
    unit: str
    values: dict[str, float]
    goal: str
    met: bool | None
    """None where whoever it is compared to is not there."""
    notes: list[str] = field(default_factory=list)


def by_turns(
    turns: int, runs: Mapping[str, Timed], otp: Mapping[str, Callable[[], float]]
) -> dict[str, float]:
    """Return the best of some turns of each, in microseconds."""
    best = dict.fromkeys([*runs, *otp], float("inf"))
    for _ in range(turns):
        for name, run in runs.items():
            gc.collect()
            best[name] = min(best[name], trio.run(run) * MICROSECONDS)
        for name, measure in otp.items():
            best[name] = min(best[name], measure())
    return best


class Otp:
    """The same measurements in `erlang/supervision_bench.erl`, each in a process of its own."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        if directory is not None:
            source = HERE / "erlang" / "supervision_bench.erl"
            subprocess.run(["erlc", "-o", directory, source], check=True)

    @property
    def release(self) -> str | None:
        """Which release it is; None where there is no Erlang."""
        if self.directory is None:
            return None
        return self.run("-eval", 'io:format("~s", [erlang:system_info(otp_release)]), halt().')

    def run(self, *arguments: str) -> str:
        """Run ``erl`` and return what it prints."""
        command = ["erl", "-noshell", "-pa", str(self.directory), *arguments]
        return subprocess.check_output(command, text=True, timeout=300)

    def measure(self, what: str, count: int) -> float:
        """Return one measurement: microseconds, or bytes, for each of so many."""
        return float(self.run("-run", "supervision_bench", "main", what, str(count)))

    def named(self, name: str, what: str, count: int) -> dict[str, Callable[[], float]]:
        """Return a measurement for `by_turns`; nothing where there is no Erlang."""
        return {} if self.directory is None else {name: partial(self.measure, what, count)}


# Start and finish.


async def nothing() -> None:
    """The child that ends at once."""


async def nothing_in_a_scope() -> None:
    """The same, so that it could be cancelled without the others."""
    with trio.CancelScope():
        await nothing()


async def start_bare(child: Callable[[], Awaitable[None]], count: int) -> float:
    start = perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(child)
    return (perf_counter() - start) / count


async def start_ours(count: int) -> float:
    start = perf_counter()
    async with open_supervisor() as supervisor:
        for _ in range(count):
            supervisor.start_soon(nothing, restart=Restart.TEMPORARY)
    return (perf_counter() - start) / count


def start_and_finish(scale: Scale, otp: Otp) -> Figure:
    """Start and finish 100,000 children."""
    count = scale.of(100_000)
    values = by_turns(
        scale.turns,
        {
            "bare nursery": partial(start_bare, nothing, count),
            "bare nursery, a scope for each": partial(start_bare, nothing_in_a_scope, count),
            OURS: partial(start_ours, count),
        },
        otp.named(OTP, "start", count),
    )
    return Figure(
        f"start and finish each of {count:,} children",
        "us",
        values,
        "at most 2.5 x a bare nursery",
        values[OURS] <= 2.5 * values["bare nursery"],
        ["OTP: started one after the other, each awaited until it is spawned"],
    )


# Crash and restart.


class Crasher:
    """A child that crashes at once, so many times; then `done` is set."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.done = trio.Event()

    async def run(self) -> None:
        """Crash, if it is not yet enough."""
        if self.left:
            self.left -= 1
            raise ValueError
        self.done.set()
        await trio.sleep_forever()


async def restart_in_a_loop(times: int) -> float:
    """The cheapest there is: one task, no scope, no count."""
    start = perf_counter()
    for _ in range(times):
        try:  # noqa: SIM105  (suppress() costs more than all the rest)
            await fail()
        except ValueError:
            pass
    return (perf_counter() - start) / times


async def fail() -> None:
    raise ValueError


async def restart_bare(times: int) -> float:
    """A fresh task and a scope for each run, and nothing else: the dying one spawns the next."""
    child = Crasher(times)

    async def run() -> None:
        try:
            with trio.CancelScope():
                await child.run()
        except ValueError:
            pass
        nursery.start_soon(run)

    start = perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await child.done.wait()
        took = perf_counter() - start
        nursery.cancel_scope.cancel()
    return took / times


async def restart_ours(
    times: int, *, before: int = 0, on_event: Callable[[object], None] | None = None
) -> float:
    """Crash and restart, with so many restarts `before` them in the window."""
    limit = RestartLimit(max_restarts=10 * (before + times), within=3600.0)
    async with quick_supervisor(limit=limit, on_event=on_event) as supervisor:
        if before:
            await crash(supervisor, before)
        each = await crash(supervisor, times)
        await supervisor.shutdown()
    return each


async def crash(supervisor: Supervisor, times: int) -> float:
    child = Crasher(times)
    start = perf_counter()
    supervisor.start_soon(child.run, name="child")
    await child.done.wait()
    took = perf_counter() - start
    await supervisor.remove("child")
    return took / times


quick_supervisor = partial(open_supervisor, shutdown_timeout=0.0)
"""A supervisor that cancels its children without asking them first."""


def restart(scale: Scale, otp: Otp) -> Figure:
    """Crash and restart, again and again; 1,000 restarts are in the window."""
    values = by_turns(
        5 * scale.turns,
        {
            "bare try/except loop": partial(restart_in_a_loop, 1000),
            "bare fresh task": partial(restart_bare, 1000),
            OURS: partial(restart_ours, 1000),
            f"{OURS}, with on_event": partial(restart_ours, 1000, on_event=ignore),
        },
        otp.named(OTP, "restarts", 1000),
    )
    return Figure(
        "crash and restart, sustained",
        "us",
        values,
        "at most 1.5 x a bare fresh task",
        values[OURS] <= 1.5 * values["bare fresh task"],
    )


def ignore(event: object) -> None:
    """Take an event; that it is made at all is what costs."""


def window(scale: Scale, otp: Otp) -> Figure:
    """Crash and restart with ever more restarts inside the limit's window."""
    sizes = (1000, 10_000, scale.of(100_000))
    otp_sizes = (1000, 10_000) if scale.quick else (1000, 10_000, 30_000)
    theirs = [otp.named(f"{OTP}, mean of the first {n:,}", "restarts", n) for n in otp_sizes]
    ours = {n: f"{OURS}, after {n:,} in the window" for n in sizes}
    values = by_turns(
        scale.turns,
        {name: partial(restart_ours, 1000, before=n) for n, name in ours.items()},
        {name: measure for each in theirs for name, measure in each.items()},
    )
    few, many = values[ours[sizes[0]]], values[ours[sizes[-1]]]
    return Figure(
        "crash and restart, by the restarts in the window",
        "us",
        values,
        "does not grow (at most 1.3 x)",
        many <= 1.3 * few,
    )


async def latency_ours(times: int) -> float:
    """The median time from telling a child to crash until its successor runs."""
    async with quick_supervisor(limit=None) as supervisor:
        told = Told()
        supervisor.start_soon(told.run)
        median = await told.median(times)
        await supervisor.shutdown()
    return median


async def latency_bare(times: int) -> float:
    told = Told()

    async def run() -> None:
        try:
            with trio.CancelScope():
                await told.run()
        except ValueError:
            pass
        nursery.start_soon(run)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        median = await told.median(times)
        nursery.cancel_scope.cancel()
    return median


async def latency_loop(times: int) -> float:
    told = Told()

    async def run() -> None:
        while True:
            with contextlib.suppress(ValueError):
                await told.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        median = await told.median(times)
        nursery.cancel_scope.cancel()
    return median


class Told:
    """A child that crashes when it is told to."""

    def __init__(self) -> None:
        self.up = trio.Event()
        self.crash = trio.Event()

    async def run(self) -> None:
        """Wait to be told."""
        self.crash = trio.Event()
        self.up.set()
        await self.crash.wait()
        raise ValueError

    async def median(self, times: int) -> float:
        """Tell it so many times, and return the median time until the next run waits."""
        await self.up.wait()
        taken = []
        for _ in range(times):
            self.up = trio.Event()
            start = perf_counter()
            self.crash.set()
            await self.up.wait()
            taken.append(perf_counter() - start)
        return statistics.median(taken)


def latency(scale: Scale, otp: Otp) -> Figure:
    """From telling a child to crash until its successor runs."""
    runs = {
        "bare try/except loop": partial(latency_loop, 1000),
        "bare fresh task": partial(latency_bare, 1000),
        OURS: partial(latency_ours, 1000),
    }
    values = by_turns(2 * scale.turns, runs, otp.named(OTP, "latency", 1000))
    return Figure(
        "told to crash until the next run begins, median of 1,000",
        "us",
        values,
        "within 3 x OTP",
        values[OURS] <= 3 * values[OTP] if OTP in values else None,
        ["the time in which the teller is told of the new run is in it"],
    )


# Stopping.


async def sleep_in_a_scope(scopes: list[tuple[trio.CancelScope, trio.Event]]) -> None:
    gone = trio.Event()
    with trio.CancelScope() as scope:
        scopes.append((scope, gone))
        await trio.sleep_forever()
    gone.set()


async def stop_bare(count: int) -> float:
    """Cancel each task, in reverse order, and wait until it is gone."""
    scopes: list[tuple[trio.CancelScope, trio.Event]] = []
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(sleep_in_a_scope, scopes)
        await wait_all_tasks_blocked()
        start = perf_counter()
        for scope, gone in reversed(scopes):
            scope.cancel()
            await gone.wait()
        return (perf_counter() - start) / count


async def stop_nursery(count: int) -> float:
    """Cancel all at once, in no order: what a nursery does."""
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(trio.sleep_forever)
        await wait_all_tasks_blocked()
        start = perf_counter()
        nursery.cancel_scope.cancel()
    return (perf_counter() - start) / count


async def stop_ours(count: int) -> float:
    async with open_supervisor() as supervisor:
        for _ in range(count):
            supervisor.start_soon(trio.sleep_forever)
        await wait_all_tasks_blocked()
        start = perf_counter()
        await supervisor.shutdown()
    return (perf_counter() - start) / count


def stop(scale: Scale, otp: Otp) -> Figure:
    """Stop 1,000 and 10,000 plain children in reverse order, one by one."""
    values = by_turns(
        2 * scale.turns,
        {
            "a nursery cancelled, 10,000": partial(stop_nursery, 10_000),
            "bare tasks one by one, 10,000": partial(stop_bare, 10_000),
            f"{OURS}, 1,000": partial(stop_ours, 1000),
            f"{OURS}, 10,000": partial(stop_ours, 10_000),
        },
        otp.named(f"{OTP}, 1,000", "stop", 1000) | otp.named(f"{OTP}, 10,000", "stop", 10_000),
    )
    ours = values[f"{OURS}, 10,000"]
    growth = ours / values[f"{OURS}, 1,000"]
    return Figure(
        "stop each of the children, in reverse order",
        "us",
        values,
        "at most 2 x what cancelling a nursery costs",
        ours <= 2 * values["a nursery cancelled, 10,000"],
        [f"per child {growth:.2f} x from 1,000 to 10,000"],
    )


# A group that fails at once.


async def fail_at_once(count: int) -> float:
    """The seconds until a group is up again, for each of its members, which all failed at once."""
    go = trio.Event()

    async def fails() -> None:
        if not go.is_set():
            await go.wait()
            raise ConnectionError
        await trio.sleep_forever()

    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL, limit=None) as supervisor:
        for _ in range(count):
            supervisor.start_soon(fails)
        await wait_all_tasks_blocked()
        start = perf_counter()
        go.set()
        await wait_all_tasks_blocked()
        took = perf_counter() - start
        await supervisor.shutdown()
    return took / count


def group(scale: Scale, otp: Otp) -> Figure:
    """Groups of 250 and 2,000 children that all fail at once."""
    del otp
    runs = {f"{n:,} members": partial(fail_at_once, n) for n in (250, 2000)}
    values = by_turns(scale.turns, runs, {})
    few, many = values.values()
    return Figure(
        "restart a group whose members all fail at once, for each member",
        "us",
        values,
        "linear (at most 1.5 x)",
        many <= 1.5 * few,
    )


# Memory, each in a process of its own.


async def sleep_in_own_scope() -> None:
    with trio.CancelScope():
        await trio.sleep_forever()


async def bytes_of_a_sleeper(kind: str, count: int) -> float:
    async with trio.open_nursery() as nursery, quick_supervisor() as supervisor:
        before = resident()
        for _ in range(count):
            match kind:
                case "bare":
                    nursery.start_soon(trio.sleep_forever)
                case "scope":
                    nursery.start_soon(sleep_in_own_scope)
                case _:
                    supervisor.start_soon(trio.sleep_forever)
        await wait_all_tasks_blocked()
        used = (resident() - before) / count
        await supervisor.shutdown()
        nursery.cancel_scope.cancel()
    return used


async def growth_over_restarts(kind: str, times: int) -> float:
    """The bytes that the process grew by over so many restarts, after a tenth of them."""
    if kind == "bare":
        await restart_bare(times // 10)
        before = resident()
        await restart_bare(times)
    else:
        # As many restarts as the limit remembers fall into its window, and never more.
        limit = RestartLimit(max_restarts=1000, within=0.001)
        async with quick_supervisor(limit=limit) as supervisor:
            await crash(supervisor, times // 10)
            before = resident()
            await crash(supervisor, times)
    return float(resident() - before)


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    kilobytes = subprocess.check_output(["ps", "-o", "rss=", "-p", str(os.getpid())])
    return int(kilobytes) * 1024


PROBES = {"sleeper": bytes_of_a_sleeper, "growth": growth_over_restarts}


def probe(name: str, kind: str, count: int) -> float:
    """Run one of `PROBES` in a fresh process."""
    command = [sys.executable, __file__, "--probe", name, kind, str(count)]
    return float(subprocess.check_output(command, text=True))


def memory(scale: Scale, otp: Otp) -> Figure:
    """What a child weighs that sleeps."""
    count = scale.of(50_000)
    values = {
        "bare task": probe("sleeper", "bare", count),
        "bare task in a scope": probe("sleeper", "scope", count),
        OURS: probe("sleeper", "ours", count),
    }
    values |= {name: run() for name, run in otp.named(OTP, "memory", count).items()}
    return Figure(
        "memory of a sleeping child", "bytes", values, "at most 4,096", values[OURS] <= 4096
    )


def growth(scale: Scale, otp: Otp) -> Figure:
    """How memory grows over a million restarts."""
    del otp
    times = scale.of(1_000_000)
    values = {
        name: probe("growth", kind, times) / 1024
        for name, kind in (("bare fresh task", "bare"), (OURS, "ours"))
    }
    return Figure(
        f"growth of memory over {times:,} restarts",
        "KiB",
        values,
        "less than 1,024",
        values[OURS] < 1024,
    )


# All together.


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    quick: bool

    def of(self, count: int) -> int:
        """Return the count, or a tenth of it."""
        return count // 10 if self.quick else count

    @property
    def turns(self) -> int:
        """How often each of those who are compared runs."""
        return 2 if self.quick else 4


FIGURES = {
    "start": start_and_finish,
    "restart": restart,
    "window": window,
    "latency": latency,
    "stop": stop,
    "group": group,
    "memory": memory,
    "growth": growth,
}


def print_figure(figure: Figure) -> None:
    print(f"\n{figure.name}, {figure.unit}")
    floor = next(iter(figure.values.values()))
    for name, value in figure.values.items():
        print(f"  {name:42}{value:12,.1f}{value / floor if floor else 0:9.2f} x")
    verdict = {True: "met", False: "MISSED", None: "nobody to compare with"}[figure.met]
    print(f"  goal: {figure.goal}: {verdict}")
    for note in figure.notes:
        print(f"  ({note})")


def machine(otp: Otp) -> dict[str, str]:
    """Return what the figures were measured on."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "trio": trio.__version__,
        "otp": otp.release or "not here (no erl): its rows are missing",
    }


def measure(scale: Scale, names: list[str], report: Path | None) -> None:
    """Measure, print, and write the report."""
    has_erlang = shutil.which("erl") is not None and shutil.which("erlc") is not None
    with tempfile.TemporaryDirectory() as directory:
        otp = Otp(Path(directory) if has_erlang else None)
        facts = machine(otp)
        print("\n".join(f"{name}: {value}" for name, value in facts.items()))
        figures = []
        for name in names:
            figures.append(FIGURES[name](scale, otp))
            print_figure(figures[-1])
    if report is not None:
        content = {**facts, "figures": [asdict(figure) for figure in figures]}
        report.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--probe", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.getLogger("actp_supervise").disabled = True
    if arguments.probe:
        name, kind, count = arguments.probe
        print(trio.run(PROBES[name], kind, int(count)))
    else:
        measure(Scale(quick=arguments.quick), arguments.only, arguments.json)


if __name__ == "__main__":
    main()
