"""`python -m simulation`: play a seed, and print what came of it. See `make simulate`."""

from __future__ import annotations

import argparse
import logging
import sys
import time

import trio_asyncio  # noqa: F401  (before anything takes asyncio's own way to find the loop)

from .plan import PROFILES, draw
from .world import simulate


def main() -> int:
    """Simulate, and return the exit code."""
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from SEED on")
    parser.add_argument("--days", type=float, default=1.0)
    parser.add_argument("--daemons", type=int, default=1)
    parser.add_argument("--profile", choices=sorted(PROFILES), default="usual")
    parser.add_argument("--pace", type=float, default=60.0)
    parser.add_argument("--log", action="store_true", help="print each event")
    given = parser.parse_args()
    logging.raiseExceptions = True
    failed = 0
    for seed in range(given.seed, given.seed + given.seeds):
        plan = draw(
            seed, days=given.days, daemons=given.daemons, profile=given.profile, pace=given.pace
        )
        began = time.process_time()
        result = simulate(plan, watch=print if given.log else lambda _line: None)
        time.process_time() - began
        if result.broken is not None:
            failed += 1
            for _daemon, _lines in result.last.items():
                pass
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
