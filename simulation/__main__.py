"""`python -m simulation`: play seeds, and print what came of them. See `make simulate`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import trio_asyncio  # noqa: F401  (before anything takes asyncio's own way to find the loop)

from .plan import PROFILES, draw
from .shrink import script, shrink
from .world import Result, simulate


def main(arguments: list[str] | None = None) -> int:
    """Simulate, and return the exit code."""
    given = _arguments(arguments)
    happened: Counter[str] = Counter()
    failed = 0
    for seed in range(given.seed, given.seed + given.seeds):
        plan = draw(
            seed, days=given.days, daemons=given.daemons, profile=given.profile, pace=given.pace
        )
        began = time.process_time()
        result = simulate(plan, watch=_print if given.log else lambda _line: None)
        took = time.process_time() - began
        happened += result.happened
        if result.broken is not None:
            failed += 1
            _tell(result, given)
        how = "fine" if result.broken is None else f"broken: {result.broken.rule}"
        _print(f"seed {seed}: {how}; {result.events} events, {took:.1f} s; {result.hash}")
    if given.seeds > 1:
        faults = ", ".join(f"{what} {times}" for what, times in sorted(happened.items()))
        _print(f"{given.seeds} seeds, {failed} broken; {faults}")
    return 1 if failed else 0


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from SEED on")
    parser.add_argument("--days", type=float, default=1.0)
    parser.add_argument("--daemons", type=int, default=1)
    parser.add_argument("--profile", choices=sorted(PROFILES), default="usual")
    parser.add_argument("--pace", type=float, default=60.0, help="how rarely the daemon looks")
    parser.add_argument("--log", action="store_true", help="print each event")
    parser.add_argument(
        "--shrink", action="store_true", help="take out what is not needed for a failure"
    )
    return parser.parse_args(arguments)


def _tell(result: Result, given: argparse.Namespace) -> None:
    """Print which rule was broken, when, what came before, and how to repeat it."""
    assert result.broken is not None  # noqa: S101
    for daemon, lines in result.last.items():
        _print(f"--- the last events of {daemon}")
        _print("\n".join(lines))
    day = int(result.ended_at // 86_400) + 1
    _print(f"--- seed {result.plan.seed}, day {day}: {result.broken}")
    options = f"SEED={result.plan.seed} DAYS={given.days:g} DAEMONS={given.daemons}"
    _print(f"To repeat it: make simulate {options} PROFILE={given.profile} PACE={given.pace:g}")
    if given.shrink:
        shortest = shrink(result, _print)
        _print(f"{script(shortest.plan)}\n{shortest.broken}")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
