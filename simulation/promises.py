"""What the rules hold: the promises, as the documentation makes them."""

from __future__ import annotations

from enum import StrEnum


class Rule(StrEnum):
    """A promise, as the documentation makes it."""

    NO_TASK_LOST = "an acknowledged task is not lost"
    FINISHED_ONCE = "a task is not finished twice"
    ONLY_WITH_TOKEN = "a claim is ended by the token that has it alone"  # noqa: S105
    CLAIMED_ONCE = "a task has one worker at a time"
    LEASE_KEPT = "a task is not taken from a worker that is at work"
    ATTEMPTS = "a task is tried no more often than it may be"
    CLAIMED_BY_THE_LIVING = "a dead daemon claims nothing"
    ONE_HOLDER = "of a single agent there is one holder at most"
    PAUSED = "a paused agent takes nothing"
    FIRED_ONCE = "each due moment of a routine is run once over all daemons"
    NOT_FORGOTTEN = "each due moment of a routine is run, or recorded as missed"
    BUDGET = "what is spent never exceeds a budget by more than a call"
    BOOKED = "what was spent is what is booked"
    HANGS = "an agent that hangs is found and restarted"
    BACKOFF = "an agent that crashed often is restarted after the delay of R9"
    CRASHES = "each crash of an agent is counted once"
    RECORDED = "what could not be written while the store was away is written later"
    DRAIN = "a drain ends in its time"
    HEALTHY = "health is healthy only when it is so"
    HEALS = "health does not stay otherwise when all is well again"
    PAID_ONCE = "no reply is paid twice, but for the one that was on its way"
    KEYED_ONCE = "the effect of a keyed tool happens once"
    ONCE_OR_TOLD = "a tool is not called twice, and the model is told where its end is unknown"
    APPROVED = "a tool that needs an approval does not act before it, and once for each"
    WAITS_FREE = "a task that waits for a person holds no worker and no lease"
    ANSWERED = "a task goes on with what a person has decided"
    BOUNDED = "memory, tasks and rows are bounded"
    EXIT = "a daemon ends with exit status 0, or as the signal says"


class Broken(Exception):
    """A rule did not hold."""

    def __init__(self, rule: Rule, why: str) -> None:
        super().__init__(f"{rule}: {why}")
        self.rule = rule
        self.why = why
