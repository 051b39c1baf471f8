"""Plans played one after another, or several at once in processes of their own."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import trio_asyncio  # noqa: F401  (before anything takes asyncio's own way to find the loop)

from .world import Result, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .plan import Plan

IN_ONE_PROCESS = 20
"""Seeds after which a process is a new one: what a library keeps for ever is not the daemon's."""


def played(
    plans: Sequence[Plan], *, processes: int = 1, log: bool = False
) -> Iterator[tuple[Result, float]]:
    """Play plans; give how each went and the seconds of the processor that it took, in order.

    Args:
        plans: Which.
        processes: How many are played at once.
        log: Whether each event is printed.
    """
    play = partial(_play, log=log)
    if processes == 1:
        yield from map(play, plans)
        return
    with ProcessPoolExecutor(processes, max_tasks_per_child=IN_ONE_PROCESS) as pool:
        yield from pool.map(play, plans)


def _play(plan: Plan, *, log: bool) -> tuple[Result, float]:
    began = time.process_time()
    result = simulate(plan, watch=_print if log else lambda _line: None)
    return result, time.process_time() - began


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
