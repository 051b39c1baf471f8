"""A loop that does not turn: who keeps it, for how long, and what is no fault of anybody's."""

from __future__ import annotations

import inspect
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import trio

from actp_supervise import Restart, open_supervisor
from actp_supervise.service import Block, LoopWatch, log_context
from actp_supervise.service.loop_watch import REMEMBERED, Beats

# These tests really wait, for a thread and a loop that is blocked know no virtual time.
SOON = 0.5
INTERVAL = 0.1


def beats():
    return Beats(0.5, now=100.0)


def test_the_age_of_the_latest_beat_counts():
    watched = beats()
    ages = [watched.look(now, 0.0) for now in (100.5, 101.0, 101.5)]
    assert ages == [0.5, 1.0, 1.5]
    assert watched.beat(101.75) == 1.75
    assert watched.look(102.0, 0.0) == 0.25


def test_time_in_which_nothing_ran_does_not_count():
    watched = beats()
    watched.look(100.5, 0.0)
    assert watched.look(3700.5, 0.1) == 1.5  # of the hour one second, which a look may take
    assert watched.beat(3700.75) == 1.75


def test_a_beat_given_just_before_or_after_the_sleep_changes_nothing():
    before = beats()
    before.look(100.5, 0.0)
    before.beat(100.6)
    assert before.look(3700.5, 0.0) == pytest.approx(0.9)
    after = beats()
    after.look(100.5, 0.0)
    after.beat(3700.4)
    assert after.look(3700.5, 0.0) == 0.0
    assert after.look(3701.0, 0.0) == 0.5


def test_time_in_which_the_process_was_computing_counts_in_full():
    watched = beats()
    watched.look(100.5, 7.0)
    assert watched.look(110.5, 17.0) == 10.5


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


async def test_code_that_never_lets_go_of_the_interpreter_is_found_out(caplog):
    async def search():
        before = time.process_time()
        size = 18
        while time.process_time() - before < 4 * SOON:  # on a fast machine once more
            size += 2
            re.match("(a+)+b", "a" * size)

    (block, *_), _ = await watched(search)
    assert block.who == "worker/content"
    assert block.where.startswith("test_service_loop_watch.py:")


async def test_a_loop_with_nothing_to_do_is_not_blocked():
    told, _ = await watched(trio.sleep, 2 * SOON)
    assert told == []


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
