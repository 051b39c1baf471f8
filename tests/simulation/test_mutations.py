"""The simulation can fail: each fault that is put into the daemon is found."""

from __future__ import annotations

import pytest
import trio_asyncio  # noqa: F401  (before anything takes asyncio's own way to find the loop)
from mutations import MUTATIONS

from simulation.world import simulate

MOST_SEEDS = 200


def seeds_until_found(name, most=MOST_SEEDS):
    """Return how many seeds it took to find a mutation, and which rule was broken."""
    mutation = MUTATIONS[name]
    with mutation.put_in():
        for seed in range(1, most + 1):
            broken = simulate(mutation.plan(seed)).broken
            if broken is not None:
                assert broken.rule in mutation.breaks, broken
                return seed, broken.rule
    return None, None


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_fault_that_is_put_in_is_found(name):
    seed, _ = seeds_until_found(name)
    assert seed is not None, f"not found in {MOST_SEEDS} seeds"
