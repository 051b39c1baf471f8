"""The decisions, as pure functions: backoff, limit, who is restarted, who goes with it."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actp_supervise import AutoShutdown, Backoff, Restart, RestartLimit, Strategy
from actp_supervise.policies import affected, decide_by_kind, is_auto_shutdown

backoffs = st.builds(
    Backoff,
    initial=st.floats(0, 1e6),
    factor=st.just(1.0) | st.floats(1.001, 1e3),
    maximum=st.floats(0, 1e6),
    free_restarts=st.integers(0, 50),
)


# Backoff.


def test_by_default_a_restart_waits_not_at_all():
    assert [Backoff().delay(n) for n in (1, 2, 1000)] == [0.0, 0.0, 0.0]


def test_the_sixth_crash_of_an_agent_waits_64_seconds_then_twice_that_up_to_300():
    agent = Backoff(initial=64, factor=2, maximum=300, free_restarts=5)

    assert [agent.delay(n) for n in range(1, 11)] == [0, 0, 0, 0, 0, 64, 128, 256, 300, 300]


def test_each_wait_is_the_last_one_times_the_factor():
    assert [Backoff(initial=1, factor=3).delay(n) for n in (1, 2, 3, 4)] == [1, 3, 9, 27]


def test_a_factor_of_one_keeps_the_wait_constant():
    assert {Backoff(initial=7, factor=1).delay(n) for n in range(1, 100)} == {7}


@pytest.mark.parametrize("factor", [2, 2.0, 1e300])
def test_a_wait_too_large_to_count_is_the_maximum(factor):
    assert Backoff(initial=1, factor=factor, maximum=60).delay(5000) == 60


@given(backoffs, st.integers(1, 200))
def test_a_wait_never_shrinks_with_a_further_crash_and_never_passes_the_maximum(backoff, crashes):
    assert 0 <= backoff.delay(crashes) <= backoff.delay(crashes + 1) <= backoff.maximum


@given(
    backoffs,
    st.integers(1, 200),
    st.floats(0, 1).flatmap(lambda jitter: st.tuples(st.just(jitter), st.randoms())),
)
def test_jitter_spreads_a_wait_by_at_most_its_fraction_to_either_side(backoff, crashes, chance):
    jitter, rng = chance
    spread = Backoff(
        initial=backoff.initial,
        factor=backoff.factor,
        maximum=backoff.maximum,
        free_restarts=backoff.free_restarts,
        jitter=jitter,
    )
    wait = backoff.delay(crashes)

    low, high = wait * (1 - jitter), wait * (1 + jitter)
    delay = spread.delay(crashes, rng)
    assert low <= delay <= high or delay == pytest.approx(low) or delay == pytest.approx(high)
    assert spread.delay(crashes) == wait


def test_jitter_uses_both_sides_and_follows_the_generator_that_it_is_given():
    backoff = Backoff(initial=100.0, factor=1, jitter=0.5)

    waits = [backoff.delay(1, rng) for rng in [random.Random(7)] for _ in range(200)]

    assert min(waits) < 60
    assert max(waits) > 140
    assert waits == [backoff.delay(1, rng) for rng in [random.Random(7)] for _ in range(200)]


@given(backoffs, st.integers(0, 1000))
def test_beyond_its_memory_a_backoff_does_not_change(backoff, more):
    assert backoff.delay(backoff.memory + more) == backoff.delay(backoff.memory)


def test_the_memory_of_an_extreme_backoff_is_a_number_too():
    assert Backoff(initial=5e-324, maximum=1e308).memory > 0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("initial", -1),
        ("initial", math.nan),
        ("initial", math.inf),
        ("factor", 0.5),
        ("factor", math.nan),
        ("maximum", -1),
        ("maximum", math.inf),
        ("free_restarts", -1),
        ("free_restarts", 1.5),
        ("free_restarts", True),
        ("window", 0),
        ("window", math.nan),
        ("jitter", -0.1),
        ("jitter", 1.1),
        ("jitter", math.nan),
    ],
)
def test_a_bad_number_in_a_backoff_is_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"^{option} must be .*, not {value!r}$"):
        Backoff(**{option: value})


# The limit.


def test_so_many_restarts_are_fine_and_the_next_is_too_many():
    limit = RestartLimit(max_restarts=3, within=5.0)

    assert not limit.exceeded([1.0, 2.0, 3.0], now=3.0)
    assert limit.exceeded([1.0, 2.0, 3.0, 4.0], now=4.0)


def test_a_restart_exactly_as_old_as_the_window_counts_and_an_older_one_does_not():
    limit = RestartLimit(max_restarts=1, within=5.0)

    assert limit.exceeded([0.0, 5.0], now=5.0)
    assert not limit.exceeded([0.0, 5.25], now=5.25)


def test_a_limit_of_none_at_all_is_exceeded_by_the_first():
    assert RestartLimit(max_restarts=0).exceeded([8.0], now=8.0)


def test_a_backoff_that_spreads_the_restarts_over_more_than_the_window_puts_it_out_of_reach():
    limit = RestartLimit(max_restarts=3, within=5.0)

    assert limit.out_of_reach(Backoff(initial=1.0))  # 1 + 2 + 4
    assert not limit.out_of_reach(Backoff(initial=1.0, free_restarts=1))  # 0 + 1 + 2
    assert not limit.out_of_reach(Backoff(initial=1.0, jitter=0.5))  # at least half of it
    assert not limit.out_of_reach(Backoff())


@pytest.mark.timeout(5)
def test_a_very_large_limit_is_no_work_to_look_at():
    huge = RestartLimit(max_restarts=10**12, within=5.0)

    assert huge.out_of_reach(Backoff(initial=1.0))
    assert not huge.out_of_reach(Backoff())
    assert huge.out_of_reach(Backoff(initial=1e-9, maximum=1e-9))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_restarts", -1),
        ("max_restarts", 2.5),
        ("max_restarts", True),
        ("within", 0),
        ("within", math.nan),
    ],
)
def test_a_bad_number_in_a_limit_is_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"^{option} must be .*, not {value!r}$"):
        RestartLimit(**{option: value})


# Who is restarted, who goes with it, when a supervisor stops.


@pytest.mark.parametrize(
    ("restart", "after_return", "after_crash"),
    [
        (Restart.PERMANENT, True, True),
        (Restart.TRANSIENT, False, True),
        (Restart.TEMPORARY, False, False),
    ],
)
def test_the_restart_kind_says_after_which_end_a_child_is_restarted(
    restart, after_return, after_crash
):
    assert decide_by_kind(restart, returned=True).restart is after_return
    assert decide_by_kind(restart, returned=False).restart is after_crash


@pytest.mark.parametrize(
    ("strategy", "group"),
    [
        (Strategy.ONE_FOR_ONE, ["b"]),
        (Strategy.ONE_FOR_ALL, ["c", "b", "a"]),
        (Strategy.REST_FOR_ONE, ["b", "a"]),
    ],
)
def test_a_group_is_in_start_order_never_in_the_order_of_names(strategy, group):
    assert list(affected(strategy, ["c", "b", "a"], 1)) == group


@pytest.mark.parametrize(
    ("policy", "with_others", "as_the_last"),
    [
        (AutoShutdown.NEVER, False, False),
        (AutoShutdown.ANY_SIGNIFICANT, True, True),
        (AutoShutdown.ALL_SIGNIFICANT, False, True),
    ],
)
def test_auto_shutdown_follows_the_first_or_the_last_significant_child(
    policy, with_others, as_the_last
):
    assert is_auto_shutdown(policy, 1) is with_others
    assert is_auto_shutdown(policy, 0) is as_the_last
