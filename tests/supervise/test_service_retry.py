"""Trying again: which errors, how often, for how long, and what ends it."""

from __future__ import annotations

import asyncio
import random

import pytest
import trio

from actp_supervise import Backoff
from actp_supervise.service import retry


class Failing:
    """Something that fails so many times; `times` says when it was tried."""

    def __init__(self, failures, error=OSError):
        self.failures = failures
        self.error = error
        self.times = []

    async def __call__(self):
        self.times.append(trio.current_time())
        if len(self.times) <= self.failures:
            raise self.error(f"failure {len(self.times)}")
        return "done"


BACKOFF = Backoff(initial=1.0, factor=2.0, maximum=4.0)


async def test_what_fails_is_tried_again_after_the_pauses_of_the_backoff(autojump_clock):
    attempt = Failing(4)
    assert await retry(attempt, OSError, backoff=BACKOFF) == "done"
    assert attempt.times == [0.0, 1.0, 3.0, 7.0, 11.0]


async def test_what_succeeds_at_once_waits_for_nothing(autojump_clock):
    assert await retry(Failing(0), OSError) == "done"
    assert trio.current_time() == 0.0


async def test_an_error_of_another_type_is_raised_at_once(autojump_clock):
    attempt = Failing(1, ValueError)
    with pytest.raises(ValueError, match="failure 1"):
        await retry(attempt, (OSError, LookupError), backoff=BACKOFF)
    assert attempt.times == [0.0]


async def test_when_its_time_is_over_the_last_error_is_raised_as_it_is(autojump_clock):
    attempt = Failing(100)
    with pytest.raises(OSError, match="failure 3") as caught:
        await retry(attempt, OSError, backoff=BACKOFF, within=5.0)
    assert attempt.times == [0.0, 1.0, 3.0]  # the next would have been at 7
    assert caught.value.__context__ is None


async def test_the_pause_is_told_why_and_for_how_long_and_what_it_raises_ends_the_tries(
    autojump_clock,
):
    told = []

    async def pause(error, seconds):
        told.append((str(error), seconds))
        if len(told) == 3:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        await retry(Failing(100), OSError, backoff=BACKOFF, pause=pause)
    assert told == [("failure 1", 1.0), ("failure 2", 2.0), ("failure 3", 4.0)]


async def test_cancelled_while_it_waits_it_ends_at_once(autojump_clock):
    attempt = Failing(100)
    with trio.move_on_after(1.5):
        await retry(attempt, OSError, backoff=Backoff(initial=1.0, factor=100.0))
    assert attempt.times == [0.0, 1.0]
    assert trio.current_time() == 1.5


async def test_the_pauses_are_spread_by_the_given_chance(autojump_clock):
    backoff = Backoff(initial=1.0, factor=1.0, jitter=0.5)
    first, second = Failing(5), Failing(5)
    await retry(first, OSError, backoff=backoff, rng=random.Random(1))
    began = trio.current_time()
    await retry(second, OSError, backoff=backoff, rng=random.Random(1))
    assert [time - began for time in second.times] == pytest.approx(first.times)
    assert first.times[-1] != 5.0


def test_it_works_in_asyncio_with_a_pause_of_asyncio():
    tries = []

    async def attempt():
        tries.append(True)
        if len(tries) < 3:
            raise OSError
        return "done"

    async def pause(_error, _seconds):
        await asyncio.sleep(0)

    assert asyncio.run(retry(attempt, OSError, pause=pause)) == "done"
    assert len(tries) == 3
