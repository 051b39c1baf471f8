"""The store's clock is followed, so that ages are right where it differs from the machine's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from actp_supervise.testing import TrioWallClock
from app.store.clock import StoreClock

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


async def test_until_the_store_was_asked_the_machines_clock_is_followed(autojump_clock):
    assert StoreClock(TrioWallClock(NOON)).now() == NOON


async def test_a_store_whose_clock_is_ahead_or_behind_is_followed(autojump_clock):
    machine = TrioWallClock(NOON)
    clock = StoreClock(machine)
    for minutes in (10, -10):
        clock.follow(NOON + timedelta(minutes=minutes), took=0.0)
        assert clock.now() == NOON + timedelta(minutes=minutes)
        machine.step(5)
        assert clock.now() == NOON + timedelta(minutes=minutes, seconds=5)
        machine.step(-5)


async def test_the_way_of_the_answer_counts_half(autojump_clock):
    clock = StoreClock(TrioWallClock(NOON))
    clock.follow(NOON, took=2.0)
    assert clock.now() == NOON + timedelta(seconds=1)
