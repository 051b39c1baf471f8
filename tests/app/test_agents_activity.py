"""What an agent says of itself, and when it counts as hung."""

from __future__ import annotations

import math

import pytest

from app.agents.activity import Activity
from app.looks import USUAL


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def activity(clock):
    return Activity(clock)


def pass_time(clock, activity, seconds):
    """Let time pass while the agent's loop turns."""
    until = clock.now + seconds
    while clock.now < until:
        clock.now = min(clock.now + USUAL.agents, until)
        activity.beat()


def test_a_loop_that_does_not_turn_is_hung_whatever_was_declared(clock, activity):
    activity.progress("reading", within=3_600.0)

    clock.now += 90.0
    assert activity.why_stale(90.0) is None
    clock.now += 0.5
    assert "has not turned for 90 s" in activity.why_stale(90.0)


def test_code_that_never_reported_progress_need_not(clock, activity):
    pass_time(clock, activity, 10_000.0)

    assert activity.why_stale(90.0) is None


def test_who_reports_progress_must_go_on_doing_so(clock, activity):
    activity.progress("task: x", task_id="t1", step=2)

    pass_time(clock, activity, 90.0)
    assert activity.why_stale(90.0) is None
    pass_time(clock, activity, 1.0)
    assert activity.why_stale(90.0) == "no progress for 91 s while task: x"


@pytest.mark.parametrize("report", ["progress", "wait", "throttle"])
def test_a_wait_that_was_declared_is_no_hang_until_it_is_over(clock, activity, report):
    if report == "progress":
        activity.progress("waiting", within=600.0)
    else:
        activity.progress("task: x")
        {
            "wait": lambda: activity.wait("waiting", 600.0),
            "throttle": lambda: activity.throttle(600.0, "waiting"),
        }[report]()

    pass_time(clock, activity, 600.0 + 90.0)
    assert activity.why_stale(90.0) is None
    pass_time(clock, activity, 1.0)
    assert "while waiting" in activity.why_stale(90.0)


def test_of_code_that_never_reported_progress_a_wait_for_the_store_asks_for_none(clock, activity):
    activity.wait("waiting for the store", 5.0)

    pass_time(clock, activity, 50_000.0)
    assert activity.why_stale(90.0) is None


def test_a_paused_agent_is_not_hung(clock, activity):
    activity.progress("task: x")
    activity.pause("the budget is spent")

    pass_time(clock, activity, 50_000.0)
    assert activity.why_stale(90.0) is None
    assert activity.snapshot()["paused"] == "the budget is spent"

    activity.resume()
    assert activity.snapshot()["paused"] is None
    assert activity.why_stale(90.0) is None
    assert activity.doing == "idle"


def test_a_time_in_which_the_loop_stood_still_counts_against_no_progress(clock, activity):
    activity.progress("task: x")
    pass_time(clock, activity, 60.0)
    clock.now += 500.0  # suspended
    activity.beat()
    pass_time(clock, activity, 28.0)
    assert activity.why_stale(90.0) is None
    pass_time(clock, activity, 2.0)
    assert activity.why_stale(90.0).startswith("no progress for ")


def test_each_sign_of_life_promises_the_next_for_as_long_as_both_clocks_have_time(clock):
    promises = []
    activity = Activity(clock, threshold=90.0, vouch=promises.append)
    activity.beat()
    activity.progress("task: x")
    pass_time(clock, activity, 89.0)
    assert promises[:3] == [90.0, 90.0, 89.0]
    assert promises[-1] == 1.0
    pass_time(clock, activity, 3.0)
    assert promises[-1] == 1.0, "its loop turns, but it does not get on"
    activity.progress("task: y", within=600.0)
    pass_time(clock, activity, 1.0)
    assert promises[-2:] == [90.0, 90.0]
    activity.pause("the budget is spent")
    pass_time(clock, activity, 1000.0)
    assert promises[-1] == 90.0


def test_where_there_is_time_the_signs_of_life_are_fewer(clock):
    intervals = {
        threshold: Activity(clock, threshold=threshold).beat_interval
        for threshold in (2.0, 90.0, 450.0, math.inf)
    }
    assert intervals == {2.0: 1.0, 90.0: 10.0, 450.0: 50.0, math.inf: 1.0}


def test_a_wait_stays_at_the_same_task_and_a_throttle_ends_with_the_next_word(clock, activity):
    activity.progress("turn 3", task_id="t1", step=3)
    activity.throttle(30.0, "waiting: 429")
    clock.now += 10.0

    shown = activity.snapshot()
    assert (shown["task_id"], shown["step"], shown["throttled_for"]) == ("t1", 3, 20.0)

    activity.wait("waiting for Claude", 600.0)
    shown = activity.snapshot()
    assert (shown["task_id"], shown["step"], shown["throttled_for"]) == ("t1", 3, None)
    assert shown["doing"] == "waiting for Claude"


def test_the_doings_of_another_process_are_those_of_this_ones_clock(clock, activity):
    elsewhere = Activity(lambda: 50.0)
    elsewhere.progress("turn 3", task_id="t1", step=3, within=20.0)
    elsewhere.throttle(30.0, "429")
    clock.now = 1050.0

    activity.take_over(elsewhere.state(), clock.now - 50.0)

    clock.now += 10.0
    shown = activity.snapshot()
    assert (shown["heartbeat_age"], shown["throttled_age"], shown["progress_age"]) == (10.0,) * 3
    assert shown["throttled_for"] == 20.0
    assert (shown["doing"], shown["task_id"], shown["step"]) == ("waiting: 429", "t1", 3)


def test_whoever_an_operator_holds_is_held_until_he_says_otherwise(activity):
    activity.pause("the budget is spent", until="2026-11-24T00:00:00Z")
    activity.held = True

    shown = activity.snapshot()
    assert (shown["paused"], shown["paused_until"]) == ("paused by an operator", None)


def test_the_snapshot_tells_ages_and_not_moments(clock, activity):
    activity.progress("idle")
    pass_time(clock, activity, 5.0)
    clock.now += 2.0

    shown = activity.snapshot()
    assert (shown["heartbeat_age"], shown["progress_age"]) == (2.0, 7.0)


def test_one_that_takes_a_pause_no_longer_waits_for_the_model(clock, activity):
    activity.throttle(30.0, "Claude answers 529")
    clock.now += 120.0
    activity.pause("its daily budget is used up", until="2026-03-02T00:00:00+00:00")

    clock.now += 3_600.0
    health = activity.health()
    assert health.paused == "its daily budget is used up"
    assert health.throttled_age is None
    assert health.throttled_until is None
