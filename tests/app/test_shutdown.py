"""GracefulShutdown: what its handler does with real signals of this process."""

from __future__ import annotations

import logging
import signal

import pytest
import trio
from agents_stage import hang, staged

from actp_supervise.service.signals import SIGNALS
from app.routine import DailyRoutineScheduler
from app.settings import load_settings
from app.shutdown import GracefulShutdown


@pytest.fixture
async def stage(store):
    async with staged(store, hang) as stage:
        yield stage


@pytest.fixture
def shutdown(stage):
    """The end of a daemon, registered for the time of the test."""
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    routines = DailyRoutineScheduler(
        [], run=hang, store=stage.store, instance="i", timezone=load_settings({}).timezone
    )
    shutdown = GracefulShutdown(stage.supervisor, routines, stage.registry, stage.records)
    shutdown.register()
    yield shutdown
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_signal_is_logged_and_sets_the_stop_event(shutdown, caplog, number):
    caplog.set_level(logging.INFO)
    assert signal.getsignal(number) == shutdown.handler
    signal.raise_signal(number)
    with trio.fail_after(60):
        await shutdown.stop_event.wait()
    (line,) = [line for line in caplog.records if line.name == "actp_supervise.service.signals"]
    assert (line.action, line.signal) == ("stop_requested", number.name)


async def test_a_second_signal_ends_the_wait_for_work_in_flight(stage, shutdown):
    await stage.supervisor.start_all()
    signal.raise_signal(signal.SIGTERM)
    await shutdown.stop_event.wait()
    signal.raise_signal(signal.SIGINT)
    with trio.fail_after(60):
        assert not await shutdown.drain_wait(1000)
    await shutdown.force_stop()


async def test_a_signal_that_comes_twice_at_once_is_one(shutdown, caplog):
    """As timeout(1) sends it: to the process, and to its group."""
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    await shutdown.stop_event.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert [line for line in caplog.records if line.levelname == "WARNING"] == []


async def test_a_log_that_fails_does_not_keep_the_daemon_from_ending(shutdown):
    def fail(record):
        raise ValueError("a filter of an agent's")

    logging.getLogger("actp_supervise.service.signals").addFilter(fail)
    try:
        signal.raise_signal(signal.SIGTERM)
        with trio.fail_after(60):
            await shutdown.stop_event.wait()
    finally:
        logging.getLogger("actp_supervise.service.signals").removeFilter(fail)
