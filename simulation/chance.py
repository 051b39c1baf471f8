"""One source of all chance, so that a seed gives the same run to the byte.

For the time of the block it takes the place of `uuid.uuid4`, of each generator that is made without
a seed, and of Trio's choice which of several tasks goes first. No thread runs, for when one ends is
nobody's choice: what is given to one is done at once. Nor does Python choose when to collect
garbage: a coroutine that is closed then still runs its clean-up.
"""

from __future__ import annotations

import gc
import random
import uuid
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import trio

from actp_supervise import testing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COLLECT_EVERY: Final = 2 * 3600.0
"""Seconds between two collections of what is new."""

COLLECT_ALL: Final = 48
"""Every so many collections is one of all there is: that takes as long as two simulated hours."""

YOUNG: Final = 1
"""The generation of objects up to which a collection looks that leaves out the old ones."""


@contextmanager
def seeded(seed: int) -> Iterator[random.Random]:
    """Make all chance in the block follow from a seed; gives a generator for the block's own use.

    Args:
        seed: Any number.
    """
    ids = random.Random(f"ids {seed}")
    unseeded = random.Random(f"unseeded {seed}")

    class Seeded(random.Random):
        """In place of `random.Random`, which takes its seed from the system if it is given none."""

        def __init__(self, x: object = None) -> None:
            super().__init__(unseeded.getrandbits(64) if x is None else x)  # type: ignore[arg-type]

    def uuid4() -> uuid.UUID:
        return uuid.UUID(int=ids.getrandbits(128), version=4)

    with (
        testing.seeded(seed),
        mock.patch.object(random, "Random", Seeded),
        mock.patch.object(uuid, "uuid4", uuid4),
        mock.patch.object(trio.to_thread, "run_sync", _run_at_once),
    ):
        yield Seeded(f"world {seed}")


@contextmanager
def collected_when_asked() -> Iterator[None]:
    """Keep Python from collecting garbage by itself in the block; see `collect`.

    What there is before is never looked at, or each collection took longer than a simulated hour.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    gc.collect()  # else what is garbage now would stay for the whole block
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


async def collect() -> None:
    """Collect garbage now and then by Trio's clock, until cancelled."""
    for number in count(1):
        await trio.sleep(COLLECT_EVERY)
        if number % COLLECT_ALL:
            gc.collect(YOUNG)
        else:
            gc.collect()


async def _run_at_once(
    sync_fn: Callable[..., Any],
    *args: Any,  # noqa: ANN401  (the function's own)
    thread_name: str | None = None,
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> Any:  # noqa: ANN401
    del thread_name, abandon_on_cancel, limiter
    await trio.lowlevel.checkpoint()
    return sync_fn(*args)
