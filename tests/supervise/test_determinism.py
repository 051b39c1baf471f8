"""The same seed gives the same events, down to the order inside one instant."""

from __future__ import annotations

import contextlib
import random
from functools import partial

import pytest
import trio
from trio._core import _run as trio_scheduler
from trio.testing import MockClock

from actp_supervise import (
    Backoff,
    Restart,
    RestartLimitExceeded,
    ShutdownOrder,
    Strategy,
    open_supervisor,
)


@pytest.fixture
def seeded(monkeypatch):
    """Return a function that makes Trio's scheduler and all else start from one seed."""
    monkeypatch.setattr(trio_scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    state = trio_scheduler._r.getstate()

    def seed(number):
        trio_scheduler._r.seed(number)
        return random.Random(number)

    yield seed
    trio_scheduler._r.setstate(state)


async def restless(rng):
    """Live on whole seconds, so that many children of a tree are due at one instant, then end."""
    await trio.sleep(rng.randint(1, 3))
    if rng.random() < 0.8:
        raise ValueError("this run is over")


async def subtree(strategy, rng):
    async with open_supervisor(
        name="sub", strategy=strategy, backoff=Backoff(initial=1.0, jitter=0.5), rng=rng
    ) as supervisor:
        for number in range(4):
            supervisor.start_soon(restless, rng, name=f"child-{number}")


async def play(rng, events):
    """A stormy minute: subtrees that crash, wait, give up, and at last are stopped at once."""
    with contextlib.suppress(RestartLimitExceeded):
        async with open_supervisor(
            name="root",
            limit=None,
            backoff=Backoff(initial=0.5, maximum=4.0, jitter=0.2),
            shutdown_order=ShutdownOrder.TOGETHER,
            on_event=lambda event: events.append(str(event.to_dict())),
            rng=rng,
        ) as supervisor:
            for strategy in Strategy:
                supervisor.start_soon(subtree, strategy, rng, name=strategy)
            for number in range(20):
                supervisor.start_soon(
                    restless, rng, name=f"child-{number}", restart=Restart.TRANSIENT
                )
            await trio.sleep(60)
            await supervisor.shutdown()


def events_of(seeded, number):
    events = []
    rng = seeded(number)
    trio.run(partial(play, rng, events), clock=MockClock(autojump_threshold=0))
    return events


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_same_seed_gives_the_same_events(seeded, number):
    first = events_of(seeded, number)
    assert len(first) > 500
    assert all(events_of(seeded, number) == first for _ in range(5))


def test_another_seed_gives_other_events(seeded):
    assert events_of(seeded, 1) != events_of(seeded, 2)
