"""The whole daemon, simulated: some seeds that keep every rule, and what the simulation found once.

`make simulate` plays others, `make explore` new ones.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio_asyncio  # noqa: F401  (before anything takes asyncio's own way to find the loop)
from mutations import MUTATIONS

from simulation.plan import PROFILES, Plan, Step, What, draw
from simulation.rules import Rule
from simulation.shrink import script, shrink
from simulation.world import simulate


def played(plan):
    """Play a plan that has to keep every rule."""
    result = simulate(plan)
    assert result.broken is None, f"{result.broken}\n" + "\n".join(result.last["world"])
    return result


@pytest.mark.parametrize(
    ("profile", "seed", "daemons"), [("calm", 1, 1), ("usual", 2, 1), ("hostile", 3, 2)]
)
def test_a_seed_keeps_every_rule(profile, seed, daemons):
    result = played(draw(seed, days=0.1, daemons=daemons, profile=profile))
    assert result.happened["post"] >= 1


def test_a_span_of_more_than_ten_days_is_looked_at_more_rarely():
    paces = {days: draw(1, days=days, profile="calm").pace for days in (1.0, 10.0, 11.0)}
    assert paces == {1.0: 60.0, 10.0: 60.0, 11.0: 1800.0}
    assert draw(1, days=11.0, profile="calm", pace=2.0).pace == 2.0


def test_what_is_drawn_to_choose_by_is_below_one():
    steps = draw(225, days=5.0, daemons=2, profile="hostile").steps  # where it was 1 as rounded
    assert 0.999 < max(step.pick for step in steps) < 1.0


def test_the_same_seed_gives_the_same_run_to_the_byte():
    plan = draw(4, days=0.05, daemons=2, profile="hostile", pace=300.0)
    assert simulate(plan).hash == simulate(plan).hash


def test_when_garbage_is_collected_follows_from_the_plan():
    collects = set()
    gc.enable()
    simulate(Plan(seed=1, days=0.01, pace=600.0), watch=lambda _line: collects.add(gc.isenabled()))
    assert collects == {False}
    assert gc.isenabled()


def test_another_seed_gives_another_run():
    plan = draw(4, days=0.02, profile="calm", pace=300.0)
    assert simulate(plan).hash != simulate(replace(plan, seed=5)).hash


def test_each_rule_stands_in_the_explanation_beside_its_promise():
    page = Path("docs/explanation/simulation.md").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0].removeprefix("| ") for line in page.splitlines()}
    assert [rule for rule in Rule if rule not in rows] == []


def test_a_plan_is_drawn_from_its_seed_alone():
    for profile in PROFILES:
        assert draw(1, days=3.0, profile=profile) == draw(1, days=3.0, profile=profile)
    assert {step.is_fault for step in draw(1, days=9.0, profile="calm").steps} == {False}


@pytest.mark.long
def test_a_failure_is_made_short_and_is_written_as_a_script():
    plan = draw(1, days=0.2, profile="hostile")
    with MUTATIONS["a daemon's end queues its finished tasks again"].put_in():
        result = simulate(plan)
        assert result.broken is not None
        shortest = shrink(result)
        assert shortest.broken.rule is Rule.FINISHED_ONCE
        assert len(shortest.plan.steps) <= 3
        names = {"Plan": Plan, "Step": Step, "What": What, "datetime": datetime, "UTC": UTC}
        again = eval(script(shortest.plan), names)
        assert simulate(again).broken.rule is Rule.FINISHED_ONCE


def test_people_are_told_that_the_store_is_away_and_that_it_is_back():
    away = Step(at=3050.0, what=What.STORE_AWAY, amount=1800.0)  # between two looks
    lines = []
    simulate(Plan(seed=1, days=0.1, steps=(away,)), watch=lines.append)
    told = [line for line in lines if "tells people" in line]
    assert [line.partition("people: ")[2] for line in told] == ["w1: 5 new", "w1: 5 over"]


FOUND = {
    "one that pauses for its budget does not wait for Claude as well": Plan(
        seed=14,
        days=0.4,
        zone="America/New_York",
        start=datetime(2026, 3, 7, 19, 37, 35, 781205, tzinfo=UTC),
        budget=0.02,
        pace=300.0,
        steps=(
            Step(at=15408.787, what=What.NONSENSE, agent="revenue", amount=1.472),
            Step(at=34357.257, what=What.POST, agent="revenue", pick=0.338747),
        ),
    ),
    "an agent that hangs in its first look for a task is found": Plan(
        seed=22,
        days=0.2,
        steps=(
            Step(at=600.0, what=What.HANG, agent="content", amount=2.0),
            Step(at=5000.0, what=What.POST, agent="content"),
        ),
    ),
    "a call is cut off where a person cancels the task, with no fault at all": Plan(
        seed=2,
        days=0.1,
        steps=(
            Step(at=600.0, what=What.POST, agent="revenue"),
            Step(at=600.4, what=What.CANCEL, agent="revenue"),
        ),
    ),
}


@pytest.mark.parametrize("plan", [pytest.param(FOUND[what], id=what) for what in FOUND])
def test_what_went_wrong_once(plan):
    played(plan)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("profile", "daemons"), [("usual", 1), ("hostile", 2)])
def test_a_hundred_seeds_keep_every_rule(profile, daemons):
    for seed in range(1000, 1050):
        played(draw(seed, days=1.0, daemons=daemons, profile=profile, pace=300.0))
