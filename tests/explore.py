"""Plays the property tests with fresh seeds until its time is up: `make explore`.

`make test` tries the same examples each time, so that it fails for who broke something and for no
one else. What nobody has thought of is looked for here. A round is one run of all property tests
with one seed, by which it can be repeated; each processor plays rounds of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Final

import trio

ROOT: Final = Path(__file__).parents[1]

FOUND: Final = ROOT / ".hypothesis" / "found"
"""Where the text of what failed is kept; the examples are beside it, and are tried first."""

ROUND_TIMEOUT: Final = 1800.0
"""Seconds after which a round counts as hung; even shrinking on a slow machine takes less."""

SEEDS: Final = 2**32


class Explorer:
    """Plays rounds.

    Args:
        until: When the last round may begin, by Trio's clock.
    """

    def __init__(self, until: float) -> None:
        self.until = until
        self.failed = False
        self.rounds = 0
        self._files = sorted(
            str(path.relative_to(ROOT))
            for path in (ROOT / "tests").rglob("test_*.py")
            if re.search(r"^@given", path.read_text(), re.MULTILINE)
        )

    async def play_rounds(self) -> None:
        """Play one round after another, until the time is up or something has failed."""
        while trio.current_time() < self.until and not self.failed:
            await self.play(random.SystemRandom().randrange(SEEDS))

    async def play(self, seed: int) -> None:
        """Play the round of a seed, and tell how it ended."""
        began = trio.current_time()
        command = [
            *(sys.executable, "-m", "pytest", "-n0", "-q", "-m", "hypothesis", "--timeout=0"),
            *("--hypothesis-profile=explore", f"--hypothesis-seed={seed}", *self._files),
        ]
        with trio.fail_after(ROUND_TIMEOUT):
            ended = await trio.run_process(
                command, cwd=ROOT, capture_stdout=True, stderr=subprocess.STDOUT, check=False
            )
        self.rounds += 1
        seconds = trio.current_time() - began
        print(
            f"seed {seed}: {'failed' if ended.returncode else 'fine'}, {seconds:.0f} s", flush=True
        )
        if ended.returncode:
            self.failed = True
            _tell(seed, ended.stdout.decode(errors="replace"))


def _tell(seed: int, text: str) -> None:
    """Print what failed and how to repeat it, and keep both."""
    text += f"\nTo repeat it: make explore SEED={seed}\n"
    FOUND.mkdir(parents=True, exist_ok=True)
    path = FOUND / f"seed-{seed}.txt"
    path.write_text(text)
    print(f"{text}It is kept in {path.relative_to(ROOT)}", flush=True)


async def _explore(minutes: float, seed: int | None) -> bool:
    explorer = Explorer(trio.current_time() + 60 * minutes)
    if seed is not None:
        await explorer.play(seed)
    else:
        async with trio.open_nursery() as nursery:
            for _ in range(os.cpu_count() or 1):
                nursery.start_soon(explorer.play_rounds)
        print(f"{explorer.rounds} rounds")
    return explorer.failed


def main() -> int:
    """Explore, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="when the last round may begin")
    parser.add_argument("--seed", type=int, help="play only the round of this seed")
    given = parser.parse_args()
    return int(trio.run(partial(_explore, given.minutes, given.seed)))


if __name__ == "__main__":
    sys.exit(main())
