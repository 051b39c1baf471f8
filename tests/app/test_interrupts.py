"""SIGTERM and SIGINT before there is a daemon: heard from the first line on, and obeyed once."""

from __future__ import annotations

import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import trio

from app.interrupts import IN_EARNEST, INTERRUPTED, SIGNALS, Interrupts, tell_trio

ROOT = Path(__file__).parents[2]


@pytest.fixture
def interrupts():
    """Interrupts that handle the signals of this process, for the time of the test."""
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    interrupts = Interrupts()
    interrupts.catch()
    yield interrupts
    for number, handler in before:
        signal.signal(number, handler)


def run(program):
    """Run a program that may be ended by a signal; gives its exit code and what it printed."""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_signals_are_caught_before_anything_that_takes_time_is_imported():
    command = [sys.executable, "-X", "importtime", "-m", "app.main", "--version"]
    told = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, env={"HOME": str(ROOT)}
    ).stderr
    imported = [line.rpartition("|")[2].strip() for line in told.splitlines()]
    before = set(imported[: imported.index("app.interrupts")])
    assert before.isdisjoint({"trio", "argparse", "json", "logging", "app.settings"})
    assert "trio" in imported


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_before_trio_runs_a_signal_ends_the_process_on_the_spot(number):
    program = (
        "import signal\n"
        "from app.interrupts import INTERRUPTS\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # as a shell does to background jobs
        "INTERRUPTS.catch()\n"
        f"signal.raise_signal(signal.{number})\n"
        "print('not reached')\n"
    )
    assert run(program) == (INTERRUPTED, "")


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_signal_cancels_the_block_in_which_it_comes(interrupts, number):
    cleaned_up = False
    with trio.fail_after(60), interrupts.cancelling() as scope:
        signal.raise_signal(number)
        try:
            await trio.sleep_forever()
        finally:
            cleaned_up = True
    assert scope.cancelled_caught
    assert cleaned_up


async def test_a_block_that_was_not_interrupted_says_so(interrupts):
    with interrupts.cancelling() as scope:
        await trio.lowlevel.checkpoint()
    assert not scope.cancelled_caught


async def test_a_signal_in_the_callback_of_a_weak_reference_is_not_lost(interrupts):
    """A KeyboardInterrupt that is raised there is ignored by Python."""

    class Thing:
        pass

    with trio.fail_after(60), interrupts.cancelling() as scope:
        thing = Thing()
        reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
        del thing
        assert reference() is None
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_the_innermost_block_is_cancelled_and_the_outer_goes_on(interrupts):
    with trio.fail_after(60), interrupts.cancelling() as outer:
        with interrupts.cancelling() as inner:
            signal.raise_signal(signal.SIGTERM)
            await trio.sleep_forever()
        assert inner.cancelled_caught
        await trio.lowlevel.checkpoint()
        assert not outer.cancel_called
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep_forever()
    assert outer.cancelled_caught


async def test_a_signal_after_the_block_changes_nothing(interrupts):
    with interrupts.cancelling():
        pass
    signal.raise_signal(signal.SIGTERM)
    await trio.lowlevel.checkpoint()


def test_what_the_loop_is_told_after_its_end_is_dropped():
    async def token():
        return trio.lowlevel.current_trio_token()

    told = []
    tell_trio(trio.run(token), told.append, "late")
    assert told == []


BLOCKED = f"""
import signal, time, trio
from app.interrupts import INTERRUPTS

async def main():
    with INTERRUPTS.cancelling():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # the same, sent twice, as by timeout(1)
        print("goes on", flush=True)
        time.sleep({IN_EARNEST} + 0.01)
        signal.raise_signal(signal.SIGINT)
        print("not reached")

INTERRUPTS.catch()
trio.run(main)
"""


def test_a_second_signal_ends_a_process_whose_loop_is_blocked():
    assert run(BLOCKED) == (INTERRUPTED, "goes on\n")
