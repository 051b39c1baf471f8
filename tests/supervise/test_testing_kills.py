"""Runs that a seed repeats, and programs that are killed between two checkpoints."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from actp_supervise.testing import Killed, Mortal, after_steps, seeded


def run(async_fn, *args):
    return trio.run(async_fn, *args, clock=MockClock(autojump_threshold=0))


async def order_of_ten():
    order = []

    async def task(number):
        await trio.sleep(1.0)
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(task, number)
    return order


def test_a_seed_repeats_the_order_of_tasks_that_are_due_at_one_instant():
    def orders(seed):
        with seeded(seed):
            return [run(order_of_ten) for _ in range(4)]

    assert orders(1) == orders(1)
    assert len({str(order) for seed in range(9) for order in orders(seed)}) > 1


async def write(life, world):
    try:
        for number in range(5):
            await trio.sleep(1.0)
            life.check()
            world.append(number)
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(1.0)
            life.check()
            world.append("cleanup")


@pytest.mark.parametrize("steps", range(1, 9))
def test_a_killed_program_has_no_effect_any_more(steps):
    world = []

    async def main():
        life = Mortal()
        await life.run(write, life, world, kill_after=steps)
        return life.is_dead

    is_dead = run(main)
    assert is_dead is (steps <= 6)
    assert world == [*range(min(steps - 1, 5)), *(() if is_dead else ("cleanup",))]


def test_only_the_steps_of_a_programs_own_tasks_count():
    async def main():
        life, world = Mortal(), []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(order_of_ten)
            await life.run(write, life, world)
        assert not life.is_dead

    run(main)


def test_an_error_of_a_program_that_lives_leaves_it():
    async def fail():
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        run(Mortal().run, fail)


def test_what_is_to_be_done_after_some_steps_is_done_between_two_and_can_be_given_up():
    async def main():
        done = []
        after_steps(3, lambda: done.append("third"))
        after_steps(2, lambda: done.append("never"))()
        for _ in range(6):
            await trio.lowlevel.checkpoint()
        return done

    assert run(main) == ["third"]


def test_a_dead_program_is_told_so():
    life = Mortal()
    life.check()
    life.kill()
    with pytest.raises(Killed):
        life.check()
