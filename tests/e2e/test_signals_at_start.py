"""A signal at any moment of a start: none is lost, none is misreported, nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import trio
from daemons import PATIENCE, until
from processes import processes_of

from app.store.sqlite import open_sqlite_store

SYSTEM = Path("/proc")
pytestmark = [
    pytest.mark.usefixtures("real_start"),
    pytest.mark.skipif(
        not (SYSTEM / "self/status").exists(),
        reason="the system does not tell what a process handles",
    ),
]

OFFSETS = 4
"""Moments of a start at which a signal is sent; many more in a long run."""


async def until_it_listens(process):
    """Wait until SIGTERM is handled, which is the first thing that the program does."""

    def listens():
        assert process.poll() is None
        status = (SYSTEM / str(process.pid) / "status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        return caught >> (signal.SIGTERM - 1) & 1

    await until(listens)


async def seconds_of_a_start(place):
    """Return how long a start takes on this machine, to where work is done, and a little more."""
    async with place.starting_daemon("--agents", "social") as daemon:
        await until_it_listens(daemon.process)
        began = trio.current_time()
        await until(lambda: daemon.logged("task_succeeded"))
        span = trio.current_time() - began
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
    return 1.1 * span


async def signalled(place, number, seconds):
    """Start a daemon and send it a signal after so long; gives its exit code."""
    worker_id = f"start-{os.getpid()}-{next(_numbers)}"
    async with place.starting_daemon("--agents", "social", WORKER_ID=worker_id) as daemon:
        await until_it_listens(daemon.process)
        await trio.sleep(seconds)  # in real time, for the moment is what it is all about
        daemon.signal(number)
        code = await daemon.wait()
        assert "Traceback" not in daemon.log.read_text()
        assert processes_of(worker_id) == []
    return code


_numbers = count()


@pytest.mark.parametrize(
    "offsets",
    [
        OFFSETS,
        pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
)
async def test_a_signal_at_any_moment_of_a_start_ends_it_well_and_loses_nothing(place, offsets):
    place.environ["SOCIAL_MEDIA_AGENT_SINGLE"] = "no"
    goals = iter(range(offsets + 1))

    async def post():
        async with open_sqlite_store(place.database) as store:
            await store.add_task(f"task-{next(goals)}", "social", "Recall what we know")

    await post()
    span = await seconds_of_a_start(place)
    moments = iter([(n, span * n / (offsets - 1)) for n in range(offsets)])
    ends = {}

    async def one_after_another():
        for n, seconds in moments:
            await post()
            ends[n] = await signalled(place, (signal.SIGTERM, signal.SIGINT)[n % 2], seconds)

    with trio.fail_after(2 * offsets * PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(2):  # daemons at a time, which share the database
                nursery.start_soon(one_after_another)
    assert set(ends.values()) <= {0, 130}, ends
    assert set(place.statuses().values()) == {"stopped"}
    assert place.locks == []
    async with place.daemon("--agents", "social"):
        tasks = "select status, attempts from actp_agent_tasks"
        await until(lambda: {task["status"] for task in place.rows(tasks)} == {"succeeded"})
    assert place.rows(tasks) == [{"status": "succeeded", "attempts": 1}] * (offsets + 1)


FIRST_CATCH = """
import runpy, signal, sys

def caught(*_):
    print([name for name in sys.argv[1:] if name in sys.modules])
    raise SystemExit

signal.signal = caught
runpy.run_module("app.main", run_name="__main__")
"""


def test_the_signals_are_caught_before_anything_that_takes_time_is_imported():
    slow = ["trio", "argparse", "json", "logging", "actp_supervise", "app.settings"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CATCH, *slow], cwd=root, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
