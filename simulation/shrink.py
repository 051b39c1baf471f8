"""A plan that breaks a rule, made short: steps are left out for as long as the rule is broken."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from .plan import DAY, Plan, Step
from .world import Result, simulate

if TYPE_CHECKING:
    from collections.abc import Callable


def shrink(result: Result, tell: Callable[[str], object] = lambda _text: None) -> Result:
    """Return the run of the shortest plan that was found to break the same rule.

    Args:
        result: A run that broke a rule.
        tell: Told of each step of the search, in a line.
    """
    assert result.broken is not None  # noqa: S101
    rule = result.broken.rule

    def fails(plan: Plan) -> Result | None:
        tried = simulate(plan)
        same = tried.broken is not None and tried.broken.rule is rule
        return tried if same else None

    if (cut := fails(_cut(result))) is not None:
        result = cut
    size = len(result.plan.steps)
    while size >= 1:
        begin = 0
        while begin < len(result.plan.steps):
            steps = result.plan.steps
            shorter = replace(result.plan, steps=steps[:begin] + steps[begin + size :])
            if (tried := fails(shorter)) is not None:
                result = tried
                tell(f"{len(result.plan.steps)} steps are left")
            else:
                begin += size
        size = 0 if size == 1 else math.ceil(size / 2)
    return result


def _cut(result: Result) -> Plan:
    """Return the plan without what comes after the end."""
    steps = tuple(step for step in result.plan.steps if step.at <= result.ended_at)
    days = min(result.plan.days, result.ended_at / DAY)
    return replace(result.plan, steps=steps, days=round(days, 4))


def script(plan: Plan) -> str:
    """Return a plan as Python, for a regression test."""
    lines = [f"    {_step(step)}," for step in plan.steps]
    options = [f"seed={plan.seed}", f"days={plan.days}"]
    default = Plan(seed=0, days=0)
    options += [
        f"{name}={_python(getattr(plan, name))}"
        for name in ("daemons", "zone", "start", "budget", "total_budget", "task_budget", "pace")
        if getattr(plan, name) != getattr(default, name)
    ]
    return "\n".join([f"Plan({', '.join(options)}, steps=(", *lines, "))"])


def _python(value: object) -> str:
    text = repr(value)
    return text.removeprefix("datetime.").replace("datetime.timezone.utc", "UTC")


def _step(step: Step) -> str:
    default = Step(at=0.0, what=step.what)
    options = [f"at={step.at}", f"what=What.{step.what.name}"]
    options += [
        f"{name}={getattr(step, name)!r}"
        for name in ("daemon", "agent", "amount", "pick")
        if getattr(step, name) != getattr(default, name)
    ]
    return f"Step({', '.join(options)})"
