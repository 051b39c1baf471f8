"""What a crash, a hook, a policy or the log can do to the tree: nothing.

The state machine plays hostile errors, callbacks and log filters at random; here stand the cases
that have a name.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import gc
import logging
import pickle
import random
import weakref

import pytest
import trio
from actors import Crash, Log, crash_after, live_on, states
from stage import Absurd, FromFrozen, Frozen, Unreadable

from actp_supervise import (
    Backoff,
    Restart,
    RestartLimit,
    RestartLimitExceeded,
    Strategy,
    current_child,
    open_supervisor,
)
from actp_supervise.events import ChildCrashed
from actp_supervise.policies import Decision
from actp_supervise.testing import wait_for_event


def absurd_group():
    return Absurd("absurd", [Frozen(), Unreadable(), FromFrozen()])


def deeply_grouped():
    error = Frozen()
    for _ in range(5_000):
        error = ExceptionGroup("deep", [error])
    return error


def long_chain():
    first = error = Crash()
    for _ in range(5_000):
        error.__context__ = Crash()
        error = error.__context__
    return first


HOSTILE = [
    Frozen,
    Unreadable,
    FromFrozen,
    absurd_group,
    deeply_grouped,
    long_chain,
    asyncio.CancelledError,
]


# Errors.


@pytest.mark.parametrize("make", HOSTILE)
@pytest.mark.parametrize("restart", Restart)
@pytest.mark.parametrize("strategy", Strategy)
async def test_an_error_that_refuses_what_one_does_with_errors_is_a_crash_like_any_other(
    autojump_clock, make, restart, strategy
):
    runs = []

    async def child_fn():
        runs.append(1)
        if len(runs) < 3:
            await trio.sleep(1)
            raise make()
        await trio.sleep_forever()

    async with open_supervisor(strategy=strategy) as supervisor:
        child = supervisor.start_soon(child_fn, name="c", restart=restart)
        supervisor.start_soon(live_on, name="sibling")
        await trio.sleep(5)
        assert child.last_error
        if restart is Restart.TEMPORARY:
            assert states(supervisor) == {"sibling": "running"}
        else:
            assert states(supervisor) == {"c": "running", "sibling": "running"}
            assert (child.crashes, len(runs)) == (2, 3)
        await supervisor.shutdown()


@pytest.mark.parametrize("make", HOSTILE)
async def test_the_block_is_left_though_its_last_child_ended_by_such_an_error(autojump_clock, make):
    async def child_fn():
        raise make()

    async with open_supervisor() as supervisor:
        supervisor.start_soon(child_fn, restart=Restart.TEMPORARY)


@pytest.mark.parametrize("make", HOSTILE)
async def test_such_an_error_can_be_the_cause_why_a_supervisor_gives_up(autojump_clock, make):
    async def child_fn():
        raise make()

    with pytest.raises(RestartLimitExceeded) as caught:
        async with open_supervisor(limit=RestartLimit(0)) as supervisor:
            supervisor.start_soon(child_fn)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("make", [Frozen, Unreadable, FromFrozen])
async def test_such_an_error_leaves_the_body_bare(autojump_clock, make):
    error = make()
    with pytest.raises(type(error)) as caught:
        async with open_supervisor() as supervisor:
            supervisor.start_soon(live_on)
            raise error
    assert caught.value is error


async def test_such_an_error_may_pass_a_block_that_is_cancelled_on_a_stop(autojump_clock):
    async def child_fn():
        with current_child().cancel_on_stop():
            raise Frozen

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(child_fn, restart=Restart.TEMPORARY)
    assert "Frozen" in child.last_error
    assert "FrozenInstanceError" not in child.last_error


async def test_an_asyncio_cancellation_out_of_a_thread_is_a_crash(autojump_clock):
    async def cancels_itself():
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    async def child_fn():
        await trio.to_thread.run_sync(asyncio.run, cancels_itself())

    async with open_supervisor() as supervisor:
        sibling = supervisor.start_soon(live_on)
        supervisor.start_soon(child_fn, name="c", restart=Restart.TEMPORARY)
        await wait_for_event(supervisor, ChildCrashed, child="c")
        assert sibling.state == "running"
        await supervisor.shutdown()


async def test_what_hangs_on_an_error_is_shown_though_the_error_is_false(autojump_clock):
    class IsEmpty(Exception):
        def __len__(self):
            return 0

    async def child_fn():
        try:
            raise KeyError("the reason")
        except KeyError as error:
            raise IsEmpty("empty") from error

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(child_fn, restart=Restart.TEMPORARY)
    assert "KeyError: 'the reason'" in child.last_error
    assert "direct cause" in child.last_error
    assert "in child_fn" in child.last_error
    assert child.last_error.endswith("IsEmpty: empty\n")


async def test_an_error_and_what_it_holds_is_let_go_at_once(autojump_clock, silent):
    class Payload:
        pass

    async def child_fn():
        payload = Payload()
        kept.append(weakref.ref(payload))
        raise Crash(payload)

    kept = []
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(child_fn, restart=Restart.TRANSIENT, backoff=Backoff(90.0))
        await trio.sleep(1)
        gc.collect()
        assert [ref() for ref in kept] == [None]
        assert "Payload object" in child.last_error
        await supervisor.shutdown()


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]
)
def test_an_error_of_the_library_survives_being_copied(again):
    error = RestartLimitExceeded("too often", path=("root", "c"), max_restarts=3, within=5.0)
    other = again(error)
    assert (type(other), str(other)) == (RestartLimitExceeded, "too often")
    assert (other.path, other.max_restarts, other.within) == (("root", "c"), 3, 5.0)


# Callbacks of events.


async def async_callback(event):
    raise AssertionError("never awaited")


class AsyncCallback:
    async def __call__(self, event):
        raise AssertionError("never awaited")


@pytest.mark.parametrize(
    "callback",
    [async_callback, functools.partial(async_callback), AsyncCallback()],
    ids=["function", "partial", "object"],
)
def test_an_async_callback_of_events_is_refused(callback):
    with pytest.raises(TypeError, match="on_event is called at once"):
        open_supervisor(on_event=callback)


async def test_a_coroutine_that_a_callback_returns_is_told_in_the_log(autojump_clock, caplog):
    async with open_supervisor(on_event=lambda event: async_callback(event)) as supervisor:
        supervisor.start_soon(crash_after, 1.0, restart=Restart.TEMPORARY)
    failures = [r for r in caplog.records if getattr(r, "action", "") == "on_event_failed"]
    assert failures
    assert "on_event returned a coroutine" in failures[0].getMessage()


@pytest.mark.parametrize("make", [Frozen, Unreadable, FromFrozen])
async def test_a_callback_may_raise_such_an_error_too(autojump_clock, make):
    def callback(event):
        raise make()

    async with open_supervisor(on_event=callback) as supervisor:
        child = supervisor.start_soon(crash_after, 1.0)
        await trio.sleep(1.5)
        assert (child.state, child.restarts) == ("running", 1)
        await supervisor.shutdown()


# The log.


@pytest.fixture(params=["filter", "handler"])
def broken_log(request):
    """The library's log, which raises at each record; what is lost goes to stderr."""

    class Broken(logging.Handler):
        def emit(self, record):
            raise OSError(28, "No space left on device")

    def refuse(record):
        raise OSError(28, "No space left on device")

    logger, handler = logging.getLogger("actp_supervise"), Broken()
    logger.setLevel(logging.DEBUG)
    logger.addFilter(refuse) if request.param == "filter" else logger.addHandler(handler)
    yield
    logger.removeFilter(refuse)
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


async def test_a_log_that_cannot_be_written_harms_nobody(autojump_clock, broken_log, capsys):
    async with open_supervisor(limit=None) as supervisor:
        child = supervisor.start_soon(crash_after, 1.0, name="c")
        supervisor.start_soon(live_on, name="sibling")
        await trio.sleep(3.5)
        assert (child.restarts, supervisor["sibling"].state) == (3, "running")
        await supervisor.shutdown()
    assert "not logged, OSError: [Errno 28] No space left on device" in capsys.readouterr().err


async def test_the_block_is_left_though_the_log_cannot_be_written(autojump_clock, broken_log):
    async with open_supervisor() as supervisor:
        supervisor.start_soon(crash_after, 1.0, restart=Restart.TEMPORARY)


# What else may fail while a supervisor decides.


class BrokenChance(random.Random):
    def uniform(self, a, b):
        raise ArithmeticError("no chance")


@pytest.mark.parametrize("strategy", Strategy)
async def test_whatever_fails_in_deciding_leaves_the_block_with_that_error(
    autojump_clock, strategy
):
    backoff = Backoff(initial=1.0, jitter=0.5)
    with pytest.raises(ArithmeticError, match="no chance"):
        async with open_supervisor(
            strategy=strategy, backoff=backoff, rng=BrokenChance()
        ) as supervisor:
            supervisor.start_soon(live_on)
            supervisor.start_soon(crash_after, 1.0)
    assert trio.current_time() == 1.0


async def test_a_restart_policy_that_fails_is_logged_and_the_child_started_again(
    autojump_clock, caplog
):
    def policy(exit_):
        raise Unreadable

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(crash_after, 1.0, restart=policy)
        await trio.sleep(1.5)
        assert (child.state, child.restarts) == ("running", 1)
        await supervisor.shutdown()
    assert "restart_policy_failed" in {getattr(r, "action", "") for r in caplog.records}


async def test_a_policy_that_returns_no_decision_is_one_that_fails(autojump_clock, caplog):
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(crash_after, 1.0, restart=lambda exit_: None)
        await trio.sleep(1.5)
        assert child.restarts == 1
        await supervisor.shutdown()
    assert "a restart policy returns a Decision, not None" in caplog.text


# A restart policy of one's own.


class ExitCode(Exception):
    def __init__(self, returncode):
        super().__init__(returncode)
        self.returncode = returncode


async def test_a_policy_decides_by_exit_code_error_type_and_time(autojump_clock):
    def policy(exit_):
        seen.append((type(exit_.error).__name__, exit_.exit_code, exit_.uptime, exit_.crashes))
        if exit_.exit_code == 78:  # EX_CONFIG: it would fail again
            return Decision(restart=False)
        return Decision(restart=True, delay=10.0 if exit_.uptime < 2 else 0.0)

    ends = iter([(1.0, ValueError()), (3.0, ExitCode(1)), (1.0, None), (1.0, ExitCode(78))])

    async def child_fn():
        seconds, error = next(ends)
        await trio.sleep(seconds)
        if error is not None:
            raise error

    seen, log = [], Log()
    async with open_supervisor(on_event=log) as supervisor:
        child = supervisor.start_soon(child_fn, name="c", restart=policy)
    assert child.state == "failed"
    assert seen == [
        ("ValueError", None, 1.0, 1),
        ("ExitCode", 1, 3.0, 2),
        ("NoneType", 0, 1.0, 2),
        ("ExitCode", 78, 1.0, 3),
    ]
    assert [time for _, _, time in log.of("child_started")] == [0.0, 11.0, 14.0, 25.0]


@pytest.mark.parametrize(
    ("values", "option"),
    [({"restart": "yes"}, "restart"), ({"restart": True, "delay": -1.0}, "delay")],
)
def test_a_bad_decision_is_refused_by_name(values, option):
    with pytest.raises((TypeError, ValueError), match=option):
        Decision(**values)


async def test_a_frozen_dataclass_error_is_what_it_says_it_is():
    """That `Frozen` is the kind that CPython cannot write to, or the tests above prove nothing."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Frozen().__traceback__ = None
