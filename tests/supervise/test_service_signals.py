"""SIGTERM and SIGINT: what they do to a command, and to a service."""

from __future__ import annotations

import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import trio
import trio.testing

from actp_supervise.service import Interrupts, StopSignals, tell_trio
from actp_supervise.service.signals import IN_EARNEST, INTERRUPTED, SIGNALS

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


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_before_trio_runs_a_signal_ends_the_process_on_the_spot(number):
    program = (
        "import signal\n"
        "from actp_supervise.service import Interrupts\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # as a shell does to background jobs
        "Interrupts().catch()\n"
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
from actp_supervise.service import Interrupts

INTERRUPTS = Interrupts()

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


# A service.


@pytest.fixture
def stop_signals():
    """What makes, in Trio, requests to stop of the signals of this process."""
    before = [(number, signal.getsignal(number)) for number in SIGNALS]

    def made():
        signals = StopSignals()
        signals.register()
        return signals

    yield made
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
async def test_the_first_signal_asks_for_a_stop_and_a_second_ends_the_patience(
    stop_signals, number, caplog
):
    caplog.set_level("INFO")
    signals = stop_signals()
    signal.raise_signal(number)
    with trio.fail_after(60):
        await signals.stop_event.wait()
        assert not signals.patience.cancel_called
        signal.raise_signal(number)
        with signals.patience:
            await trio.sleep_forever()
    assert [line.action for line in caplog.records] == ["stop_requested", "stop_at_once"]


async def test_a_signal_sent_twice_at_once_is_one_request(stop_signals):
    """As timeout(1) sends it: to the process, and to its group."""
    signals = stop_signals()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    await signals.stop_event.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert not signals.patience.cancel_called
