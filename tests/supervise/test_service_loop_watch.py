"""A loop that does not turn: who keeps it, for how long, and what is no fault of anybody's."""

from __future__ import annotations

import inspect
import logging
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import trio

from actp_supervise import Restart, open_supervisor
from actp_supervise.service import Block, LoopWatch, log_context
from actp_supervise.service.loop_watch import LATE, REMEMBERED, Looks

# These tests really wait, for a thread and a loop that is blocked know no virtual time.
SOON = 0.5
INTERVAL = 0.1


ALL = -math.inf


def looks():
    return Looks(100.0, 7.0)


def test_a_look_that_comes_in_time_or_a_little_late_lets_all_time_count():
    watched = looks()
    assert watched.counts_from(102.0, 7.0, 2.0) == ALL
    assert watched.counts_from(104.0 + LATE, 7.0, 2.0) == ALL


def test_of_a_sleep_and_the_time_before_it_nothing_counts():
    watched = looks()
    assert watched.counts_from(3702.0, 7.0, 2.0) == 3702.0
    assert watched.counts_from(3704.0, 7.0, 2.0) == ALL


def test_time_in_which_the_process_was_computing_counts():
    watched = looks()
    assert watched.counts_from(112.0, 17.0, 2.0) == ALL  # it held the interpreter all the while
    assert watched.held == 8.0
    assert watched.counts_from(3714.0, 18.5, 2.0) == 3712.5
    assert watched.held == 0.0
    assert watched.counts_from(3716.5, 21.0, 2.0) == ALL  # hardly late, so nothing was held
    assert watched.held == 0.0


def test_a_block_is_told_in_one_line():
    block = Block(who="worker/content", where="own.py:12", seconds=11.7)
    assert block.text == "the loop was blocked for 12 s by worker/content at own.py:12"
    assert Block(who=None, where="own.py:1", seconds=3.0).text == (
        "the loop was blocked for 3 s by own.py:1"
    )


def sleep_too_long():
    time.sleep(2 * SOON)  # noqa: TID251  (what must not be done)


BLOCKING_LINE = inspect.getsourcelines(sleep_too_long)[1] + 1


async def block_the_loop():
    sleep_too_long()


async def watched(async_fn, *args):
    """Run a function as a child in a loop that is watched; gives what was told, and the watch."""

    async def child():
        with log_context(agent_id="a7"):
            await async_fn(*args)

    told = []
    watch = LoopWatch(told.append, blocked_after=SOON, interval=INTERVAL)
    async with trio.open_nursery() as nursery:
        await nursery.start(watch.run)
        async with open_supervisor(name="worker") as supervisor:
            supervisor.start_soon(child, name="content", restart=Restart.TEMPORARY)
            await trio.sleep(5 * INTERVAL)
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(2 * INTERVAL)
        nursery.cancel_scope.cancel()
    return told, watch


async def test_a_block_is_logged_with_child_and_stack_and_told_when_it_is_over(caplog):
    (block,), watch = await watched(block_the_loop)
    assert (block.who, block.fields) == ("worker/content", {"agent_id": "a7"})
    assert block.where == f"{Path(__file__).name}:{BLOCKING_LINE}"
    assert block.seconds >= SOON
    assert watch.problem() == block.text
    begun, over = [line for line in caplog.records if line.name.endswith("loop_watch")]
    assert (begun.action, begun.agent_id) == ("loop_blocked", "a7")
    assert begun.threadName != over.threadName
    assert "in sleep_too_long\n    time.sleep(2 * SOON)" in begun.getMessage()
    assert "_run.py" not in begun.getMessage()
    assert (over.action, over.agent_id) == ("loop_blocked_over", "a7")
    assert over.created - begun.created >= SOON / 4


async def test_it_is_a_problem_from_the_first_moment_on():
    watch = LoopWatch(blocked_after=SOON, interval=INTERVAL)
    async with trio.open_nursery() as nursery:
        await nursery.start(watch.run)
        sleep_too_long()
        assert watch.problem() == (
            f"the loop was blocked for {2 * SOON:.0f} s by {Path(__file__).name}:{BLOCKING_LINE}"
        )
        nursery.cancel_scope.cancel()


async def test_it_is_logged_while_the_loop_is_still_blocked():
    logged = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record):
            logged.set()

    listener = Listener()
    logging.getLogger("actp_supervise.service.loop_watch").addHandler(listener)
    seen = []

    async def block():
        seen.append(logged.wait(10))

    try:
        await watched(block)
    finally:
        logging.getLogger("actp_supervise.service.loop_watch").removeHandler(listener)
    assert seen == [True]


def search_for(seconds):
    """Return a text in which to search takes at least so long, and less than twice that."""
    size, took = 14, 0.0
    while took < 0.05:
        size += 1
        took = time.process_time()
        re.match("(a+)+b", "a" * size)
        took = time.process_time() - took
    return "a" * (size + math.ceil(math.log2(seconds / took)))  # one more takes twice as long


async def test_code_that_never_lets_go_of_the_interpreter_is_found_out():
    async def search():
        re.match("(a+)+b", text)

    text = search_for(2 * SOON + LATE)
    (block,), _ = await watched(search)
    assert block.who == "worker/content"
    assert block.seconds >= SOON


async def test_a_loop_with_nothing_to_do_is_not_blocked():
    told, _ = await watched(trio.sleep, 2 * SOON)
    assert told == []


async def test_a_turn_of_many_tasks_is_as_long_as_their_steps_together():
    def step():
        time.sleep(SOON / 4)  # noqa: TID251  (what must not be done)

    async def child():
        await trio.lowlevel.checkpoint()
        step()

    async def children():
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(child)

    (block,), _ = await watched(children)
    assert block.seconds >= 8 * SOON / 4


async def test_a_loop_that_always_has_something_to_do_is_not_blocked():
    async def work():
        with trio.move_on_after(3 * SOON):
            while True:
                await trio.lowlevel.checkpoint()

    told, _ = await watched(work)
    assert told == []


async def test_each_block_that_takes_long_enough_is_seen_whenever_it_begins():
    async def child():
        for number in range(4):
            await trio.sleep(SOON * (0.2 + 0.23 * number))
            sleep_too_long()

    told, _ = await watched(child)
    assert len(told) == 4


async def test_how_late_the_loop_is_is_measured_at_whole_intervals(autojump_clock):
    beats = []
    watch = LoopWatch(interval=3.0)
    watch.on_beat = lambda late: beats.append((trio.current_time(), late))
    await trio.sleep(1.25)
    with trio.move_on_at(10.0):
        await watch.run()
    assert beats == [(3.0, 0.0), (6.0, 0.0), (9.0, 0.0)]


async def test_time_goes_on_though_that_of_a_beat_is_rounded(autojump_clock):
    beats = []
    watch = LoopWatch(interval=0.1)
    watch.on_beat = lambda late: beats.append(late)
    with trio.move_on_at(2.05):
        await watch.run()
    assert 20 <= len(beats) <= 22  # 1.0 // 0.1 is 9.0, and ten times 0.1 is 1.0 again


async def test_a_block_stays_a_problem_for_some_time(autojump_clock):
    watch = LoopWatch()
    watch._last = (trio.current_time(), Block(who=None, where="own.py:1", seconds=3.0))
    await trio.sleep(REMEMBERED - 1)
    assert watch.problem() is not None
    await trio.sleep(1)
    assert watch.problem() is None


async def test_its_thread_ends_with_it_and_trio_is_as_before():
    before = set(threading.enumerate())
    async with trio.open_nursery() as nursery:
        await nursery.start(LoopWatch().run)
        (thread,) = set(threading.enumerate()) - before
        nursery.cancel_scope.cancel()
    assert thread.daemon
    await trio.to_thread.run_sync(thread.join, 5)
    assert not thread.is_alive()


SUSPENDED = """
import logging, sys, trio
from actp_supervise.service import LoopWatch

logging.basicConfig(stream=sys.stdout)

async def main():
    watch = LoopWatch(blocked_after=1.0, interval=0.05)
    async with trio.open_nursery() as nursery:
        await nursery.start(watch.run)
        print("watching", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        await trio.sleep(0.2)
        print(watch.problem())
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def test_a_process_that_was_suspended_has_blocked_nothing():
    root = Path(__file__).parents[2]
    wait = threading.Event().wait
    with subprocess.Popen(
        [sys.executable, "-c", SUSPENDED],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        for _ in range(2):
            os.kill(process.pid, signal.SIGSTOP)
            wait(1.6)
            os.kill(process.pid, signal.SIGCONT)
            wait(0.12)
        out, _ = process.communicate("\n", timeout=200)
    assert out == "None\n"
