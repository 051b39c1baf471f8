"""Absences of the journal, with steps of the clock, pauses and restarts, against a small model."""

from __future__ import annotations

import logging

import pytest
from absence_model import START, Options, World
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actp_supervise.cron import Cron, Every, Overlap

MINUTE = Cron("* * * * *")
TRIGGERS = [MINUTE, Cron("*/7 * * * *"), Every(97.0, START), Cron("0 * * * *")]


@pytest.fixture(autouse=True, scope="module")
def quiet():
    """Keep the log out of what pytest shows: a long absence fills it."""
    logger = logging.getLogger("actp_supervise")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


SECONDS = st.one_of(st.integers(1, 90), st.integers(90, 5400)).map(lambda n: n + 0.5)
COMMANDS = st.lists(
    st.one_of(
        st.tuples(st.just("go"), SECONDS),
        st.tuples(
            st.sampled_from(["away", "lost", "there", "pause", "resume", "readd"]), st.just(0.0)
        ),
        st.tuples(st.just("step"), st.integers(-7200, 7200).map(float)),
    ),
    min_size=2,
    max_size=12,
)
OPTIONS = st.builds(
    Options,
    trigger=st.sampled_from(TRIGGERS),
    misfire_grace=st.sampled_from([1.0, 90.0, 600.0, 3600.0, None]),
    coalesce=st.booleans(),
    overlap=st.sampled_from(list(Overlap)),
    duration=st.sampled_from([0.0, 20.0, 100.0]),
    delay=st.sampled_from([0.0, 0.01, 2.0]),
)


def check(options: Options, commands) -> None:
    world = World(options)
    world.play(commands)
    assert world.faults() == []


@given(options=OPTIONS, commands=COMMANDS)
@settings(max_examples=150, deadline=None)
@example(Options(MINUTE), [("go", 65.0), ("away", 0.0), ("go", 1800.0)])
@example(Options(MINUTE), [("away", 0.0), ("go", 601.0), ("pause", 0.0), ("go", 601.0)])
@example(  # the journal answers with True for a claim that is ours already
    Options(MINUTE, overlap=Overlap.ALLOW, duration=20.0),
    [("go", 60.5), ("readd", 0.0), ("step", -1.0)],
)
@example(  # what a pause let go of came again once the journal had said where the job goes on
    Options(MINUTE),
    [("away", 0.0), ("go", 60.5), ("pause", 0.0), ("step", -1.0), ("resume", 0.0)],
)
@example(  # the end of what was claimed in the last moment was not told
    Options(MINUTE, misfire_grace=1.0, coalesce=False, duration=100.0),
    [("go", 65.5), ("lost", 0.0), ("go", 85.5)],
)
def test_whatever_happens_while_the_journal_is_away_each_moment_is_dealt_with_once(
    options, commands
) -> None:
    check(options, commands)


@given(
    options=OPTIONS,
    commands=st.lists(
        st.one_of(
            st.tuples(st.just("go"), SECONDS),
            st.tuples(st.sampled_from(["away", "lost", "there", "pause"]), st.just(0.0)),
            st.tuples(st.just("restart"), st.integers(0, 3600).map(lambda n: n + 0.5)),
        ),
        min_size=2,
        max_size=12,
    ),
)
@settings(max_examples=100, deadline=None)
def test_a_daemon_that_is_started_again_in_or_after_an_absence_deals_with_each_moment_once(
    options, commands
) -> None:
    check(options, commands)
