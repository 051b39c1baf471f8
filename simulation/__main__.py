"""`python -m simulation`: play seeds, and print what came of them. See `make simulate`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING

from .plan import PROFILES, draw
from .seeds import played
from .shrink import script, shrink

if TYPE_CHECKING:
    from .world import Result


def main(arguments: list[str] | None = None) -> int:
    """Simulate, and return the exit code."""
    given = _arguments(arguments)
    plans = [
        draw(seed, days=given.days, daemons=given.daemons, profile=given.profile, pace=given.pace)
        for seed in range(given.seed, given.seed + given.seeds)
    ]
    happened: Counter[str] = Counter()
    work: Counter[str] = Counter()
    failed = 0
    for result, took in played(plans, processes=given.processes, log=given.log):
        happened += result.happened
        work += result.work
        failed += result.broken is not None
        _tell(result, given, took)
    if given.seeds > 1:
        _sum_up(happened, work, given, failed)
    return 1 if failed else 0


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from SEED on")
    parser.add_argument("--days", type=float, default=1.0)
    parser.add_argument("--daemons", type=int, default=1)
    parser.add_argument("--profile", choices=sorted(PROFILES), default="usual")
    parser.add_argument("--pace", type=float, help="how rarely the daemon looks, from 1")
    parser.add_argument("--processes", type=int, default=1, help="how many seeds at once")
    parser.add_argument("--log", action="store_true", help="print each event")
    parser.add_argument(
        "--shrink", action="store_true", help="take out what is not needed for a failure"
    )
    return parser.parse_args(arguments)


def _tell(result: Result, given: argparse.Namespace, took: float) -> None:
    """Print how a seed went; of one that broke a rule, what came before and how to repeat it."""
    if result.broken is not None:
        for daemon, lines in result.last.items():
            _print(f"--- the last events of {daemon}")
            _print("\n".join(lines))
        day = int(result.ended_at // 86_400) + 1
        _print(f"--- seed {result.plan.seed}, day {day}: {result.broken}")
        span = f"SEED={result.plan.seed} DAYS={given.days:g} DAEMONS={given.daemons}"
        _print(
            f"To repeat it: make simulate {span} PROFILE={given.profile} PACE={result.plan.pace:g}"
        )
        if given.shrink:
            shortest = shrink(result, _print)
            _print(f"{script(shortest.plan)}\n{shortest.broken}")
    how = "fine" if result.broken is None else f"broken: {result.broken.rule}"
    _print(f"seed {result.plan.seed}: {how}; {result.events} events, {took:.1f} s; {result.hash}")


def _sum_up(
    happened: Counter[str], work: Counter[str], given: argparse.Namespace, failed: int
) -> None:
    """Print what happened in all seeds together, and how much was done."""
    _print(f"{given.seeds} seeds of {given.days:g} days and {given.daemons} daemons each")
    for counts in (happened, work):
        _print(", ".join(f"{what} {counts[what]}" for what in sorted(counts)))
    _print(f"{failed} broken")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
