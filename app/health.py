"""Is all well? One word for the daemon, and why it is not a better one. Pure.

`overall` judges the agents and the daemon, `of_work` what comes of the work, from facts that
`app.work_watch` gathers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from actp_supervise.service import shorten
from app.agents.activity import ALONE, WAITING_FOR_STORE
from app.reasons import Reason, ReasonKind, reason
from app.status import AgentState, HealthState, JobStatus
from app.web.words import duration, error_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from app.status import AgentHealth, AgentStatus
    from app.store.protocol import WorkerRow

LONG_WITHOUT_MODEL: Final = 60.0
"""Seconds without a call of the model that succeeds from which an agent needs a look."""

TOO_LONG_WITHOUT_MODEL: Final = 300.0
"""Seconds of that after which an agent counts as one that cannot work."""

LAST_FAILED: Final = 3
"""How many tasks one after another fail before that is told."""

MOST_OF: Final = 6
"""Of how many tasks of the last hour it means something that most failed."""

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)

ROUTINE_LATE: Final = timedelta(minutes=5)
"""How late a routine may begin without a reason."""

BUDGET_NEAR: Final = 0.8
"""The part of a budget from which its end is near."""

APPROVAL_WAITS: Final = 60.0
"""Seconds that a call waits for an approval before that is a reason."""

PLAIN_AFTER: Final = 10.0
"""Seconds after which an agent that has reported no step is taken for a plain class, which takes
no tasks."""

ERRORS_WITHIN: Final = timedelta(minutes=10)
MOST_ERRORS: Final = 3
"""Errors that a plain class may log within that time, less one, without a reason."""

_SHOWN: Final = 200
"""Characters of an error in a reason."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A task that ended, well or not; cancelled ones are not counted."""

    at: datetime
    failed: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class Spend:
    """What was spent today of a budget."""

    agent_id: str | None
    """Whose it is; None for that of all agents together."""
    spent: float
    limit: float


@dataclass(frozen=True, slots=True)
class WaitingApproval:
    """A call of a tool that a person is to allow."""

    agent_id: str
    tool: str
    waits: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Flagged:
    """A report in which something needs a look."""

    agent_id: str
    at: datetime
    flag: str
    """What needs it."""


@dataclass(frozen=True, slots=True)
class LoggedErrors:
    """The errors that an agent has logged of late."""

    moments: tuple[datetime, ...]
    """When each was, the oldest first."""
    last: str
    """What the last one says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFacts:
    """What is known of the work; see `app.work_watch`."""

    ended: Mapping[str, Sequence[Ended]] = field(default_factory=dict)
    """agent_id -> its tasks that ended, the oldest first."""
    waiting: Mapping[str, float] = field(default_factory=dict)
    """agent_id -> seconds that its oldest task has waited which could be taken."""
    elsewhere: frozenset[str] = frozenset()
    """The agents that another daemon runs."""
    jobs: Sequence[JobStatus] = ()
    spend: Sequence[Spend] = ()
    approvals: Sequence[WaitingApproval] = ()
    flagged: Sequence[Flagged] = ()
    errors: Mapping[str, LoggedErrors] = field(default_factory=dict)
    """agent_id -> the errors that it has logged."""


# The daemon and its agents.


def overall(
    statuses: Mapping[str, AgentStatus],
    *,
    store_error: str | None = None,
    stopping: bool = False,
    blocked: str | None = None,
    others: Sequence[Reason] = (),
) -> tuple[HealthState, list[Reason]]:
    """Return the daemon's state and the reasons why it is not healthy.

    An agent that somebody disabled is nobody's trouble, and one that an operator paused is no
    reason to call him. A store that is away is never critical,
    for agents wait for it and lose nothing.

    Args:
        statuses: What `AgentSupervisor.get_status` says.
        store_error: Why the store cannot be reached; None where it can.
        stopping: Whether the daemon was asked to stop.
        blocked: What blocked the loop that all share; None if it turns.
        others: What else is not as it should be.
    """
    enabled = {agent_id: status for agent_id, status in statuses.items() if status.enabled}
    # While the daemon stops, its agents do as they should.
    ending = _ENDING if stopping else ()
    faults = (
        (agent_id, _fault(status))
        for agent_id, status in enabled.items()
        if status.status not in ending
    )
    reasons = [
        reason(kind, f"{agent_id} {fault}", agent_id=agent_id)
        for agent_id, (kind, fault) in faults
        if fault is not None
    ]
    for status in enabled.values():
        reasons += _faults_of_parts(status)
    # It may answer the daemon, and lack just what an agent needs.
    of_agents = (status.health.store_error for status in enabled.values())
    store_error = store_error or next(filter(None, of_agents), None)
    if store_error is not None:
        reasons.append(reason(ReasonKind.STORE_AWAY, f"the store is away: {store_error}"))
    if blocked is not None:
        reasons.insert(0, reason(ReasonKind.LOOP_BLOCKED, blocked))
    reasons += others
    if stopping:
        is_stopping = reason(ReasonKind.DAEMON_STOPPING, "the daemon is stopping")
        return HealthState.DEGRADED, [is_stopping, *reasons]
    wanted = [status for status in enabled.values() if not status.health.held]
    nobody_works = wanted and not any(map(_can_work, wanted))
    if nobody_works or blocked is not None:
        return HealthState.CRITICAL, reasons
    return (HealthState.DEGRADED if reasons else HealthState.HEALTHY), reasons


_ENDING: Final = frozenset({AgentState.DRAINING, AgentState.STOPPING, AgentState.STOPPED})


def _can_work(status: AgentStatus) -> bool:
    """Whether it works, or will without anybody's help: a budget is back tomorrow."""
    health = status.health
    is_paused = health.paused is not None and health.paused_until is None
    waits = health.throttled_age or 0.0
    return status.status.works and not is_paused and waits < TOO_LONG_WITHOUT_MODEL


def _fault(status: AgentStatus) -> tuple[ReasonKind, str | None]:
    """Return what is wrong with an agent, if something is."""
    pause, trouble = _pause(status.health), _trouble(status)
    kind = ReasonKind.AGENT_PAUSED if trouble is None else ReasonKind.AGENT_TROUBLE
    return kind, " and ".join(filter(None, (pause, trouble))) or None


def _faults_of_parts(status: AgentStatus) -> Iterator[Reason]:
    """Return which servers of its tools are away, and which workers wait while others work."""
    agent_id = status.agent_id
    for problem in status.problems:
        text = f"{agent_id}: {shorten(problem, _SHOWN)}"
        yield reason(ReasonKind.SERVER_AWAY, text, agent_id=agent_id, what=problem)
    if status.status is AgentState.RUNNING and len(status.workers) > 1:
        for worker in status.workers:
            if worker.restart_in is not None:
                error = shorten(error_line(status.last_error or ""), 200)
                text = (
                    f"{agent_id}: worker {worker.number} of {len(status.workers)} crashed and "
                    f"waits for its restart: {error}"
                )
                yield reason(ReasonKind.AGENT_TROUBLE, text, agent_id=agent_id)


def _pause(health: AgentHealth) -> str | None:
    if health.paused is None:
        return None
    return f"is {health.paused}" if health.held else f"is paused: {health.paused}"


def _trouble(status: AgentStatus) -> str | None:
    health = status.health
    if health.doing == WAITING_FOR_STORE:
        return "is waiting for the store"
    if status.status.works:
        waits = health.throttled_age or 0.0
        if waits < LONG_WITHOUT_MODEL:
            return None
        return f"has waited long for Claude: {health.throttled_why}"
    if status.restart_in is not None:
        # Not when: that changes by the second, and stands beside this wherever it is shown.
        error = shorten(error_line(status.last_error or ""), _SHOWN)
        return f"crashed and waits for its restart: {error}"
    return f"is {status.status.words}"


# The work.


def of_work(
    facts: WorkFacts, statuses: Mapping[str, AgentStatus], now: datetime, *, longest_wait: float
) -> list[Reason]:
    """Return what is wrong with the work.

    Args:
        facts: What is known of it.
        statuses: What `AgentSupervisor.get_status` says.
        now: The present moment.
        longest_wait: Seconds that a task may wait.
    """
    return [
        *_failing(facts.ended, now),
        *_queues(facts, statuses, longest_wait),
        *(found for job in facts.jobs if (found := _of_routine(job, now)) is not None),
        *_budgets(facts.spend, statuses),
        *_flags(facts.flagged, now),
        *_approvals(facts.approvals),
        *_errors(facts.errors, statuses, now),
    ]


def _failing(ended: Mapping[str, Sequence[Ended]], now: datetime) -> Iterator[Reason]:
    for agent_id, every in ended.items():
        of_day = _since(now - DAY, every)
        row = _last_failures(of_day)
        of_hour = _since(now - HOUR, of_day)
        failed = [each for each in of_hour if each.failed]
        if len(row) >= LAST_FAILED:
            told, text = row, f"the last {len(row)} tasks all failed"
        elif len(of_hour) >= MOST_OF and 2 * len(failed) > len(of_hour):
            told, text = failed, f"{len(failed)} of {len(of_hour)} tasks of the last hour failed"
        else:
            continue
        error = shorten(told[-1].error, _SHOWN)
        yield reason(
            ReasonKind.TASKS_FAILING,
            f"{agent_id}: {text}" + (f", the last: {error}" if error else ""),
            agent_id=agent_id,
            number=len(told),
            since=told[0].at,
        )


def _since(moment: datetime, ended: Sequence[Ended]) -> list[Ended]:
    """Return the tasks that ended since then, of some in their order: hundreds may be older."""
    newest = list(takewhile(lambda each: each.at >= moment, reversed(ended)))
    return newest[::-1]


def _last_failures(ended: Sequence[Ended]) -> list[Ended]:
    """Return the tasks that failed one after another at the end."""
    succeeded = [number for number, each in enumerate(ended) if not each.failed]
    return list(ended[succeeded[-1] + 1 :] if succeeded else ended)


def _queues(
    facts: WorkFacts, statuses: Mapping[str, AgentStatus], longest_wait: float
) -> Iterator[Reason]:
    for agent_id, waits in facts.waiting.items():
        status = statuses.get(agent_id)
        why = None if agent_id in facts.elsewhere else why_unserved(agent_id, status)
        if why is not None:
            yield reason(
                ReasonKind.QUEUE_UNSERVED,
                f"nobody does the tasks that are queued for {agent_id}: {why}",
                agent_id=agent_id,
            )
        # Of one that is paused or in trouble something else says so.
        elif waits > longest_wait and (status is None or _fault(status)[1] is None):
            yield reason(
                ReasonKind.QUEUE_WAITS,
                f"the oldest task queued for {agent_id} has waited {duration(waits)}",
                agent_id=agent_id,
                number=round(waits),
            )


def why_unserved(agent_id: str, status: AgentStatus | None) -> str | None:
    """Return why this daemon does no task of an agent; None where it does, or will.

    Args:
        agent_id: The agent.
        status: How it is; None where this daemon has no such agent.
    """
    if status is None:
        return f"no daemon that runs has an agent {agent_id}"
    if not status.enabled:
        return f"it is disabled: {status.why_disabled}"
    if status.status in {AgentState.STOPPED, AgentState.CRASHED}:
        return f"it is {status.status.words}"
    return "its class takes no tasks" if is_plain(status) else None


def served_by(agent_id: str, workers: Iterable[WorkerRow]) -> bool:
    """Whether one of the daemons says that it runs an agent, or will."""
    return any(worker.agents.get(agent_id) in _SERVES for worker in workers)


_SERVES: Final = frozenset(state.value for state in AgentState if state.works)


def is_plain(status: AgentStatus) -> bool:
    """Whether an agent's class is one that only runs: it has reported no step, and takes no tasks.

    One that asks for tasks reports that at once.
    """
    health = status.health
    if status.status is not AgentState.RUNNING or health.progress_age is not None:
        return False
    return health.doing == ALONE or status.uptime >= PLAIN_AFTER


_BAD_OUTCOMES: Final = {
    "failed": (ReasonKind.ROUTINE_FAILED, "failed"),
    "timed_out": (ReasonKind.ROUTINE_FAILED, "timed out"),
    "interrupted": (ReasonKind.ROUTINE_FAILED, "was interrupted"),
    "missed": (ReasonKind.ROUTINE_MISSED, "was missed"),
}


def _of_routine(job: JobStatus, now: datetime) -> Reason | None:
    if job.disabled is not None or job.paused or job.running:
        return None
    due = job.next_run_time
    if due is not None and now - due > ROUTINE_LATE:
        late = (now - due).total_seconds()
        return reason(
            ReasonKind.ROUTINE_LATE,
            f"the routine {job.name} was due {duration(late)} ago and has not begun",
            agent_id=job.agent_id,
            number=round(late),
            since=due,
            what=job.name,
        )
    run = job.last_run
    if run is None or run.outcome not in _BAD_OUTCOMES:
        return None
    kind, words = _BAD_OUTCOMES[run.outcome]
    error = shorten(error_line(run.error or ""), _SHOWN)
    return reason(
        kind,
        f"the routine {job.name} {words}" + (f": {error}" if error else ""),
        agent_id=job.agent_id,
        since=run.finished_at or run.scheduled_at,
        what=job.name,
    )


def _budgets(spend: Iterable[Spend], statuses: Mapping[str, AgentStatus]) -> Iterator[Reason]:
    for budget in spend:
        agent_id = budget.agent_id
        status = None if agent_id is None else statuses.get(agent_id)
        is_paused = status is not None and status.health.paused is not None
        if budget.limit > 0 and budget.spent >= BUDGET_NEAR * budget.limit and not is_paused:
            who = "all agents together have" if agent_id is None else f"{agent_id} has"
            whose = "their" if agent_id is None else "its"
            yield reason(
                ReasonKind.BUDGET_NEAR,
                f"{who} spent ${budget.spent:.2f} of {whose} ${budget.limit:.2f} for today",
                agent_id=agent_id,
                number=round(budget.spent / budget.limit, 3),
            )


def _flags(flagged: Iterable[Flagged], now: datetime) -> Iterator[Reason]:
    for each in flagged:
        if now - each.at <= DAY:
            text = f"{each.agent_id}: {shorten(each.flag, _SHOWN)}"
            yield reason(ReasonKind.COSTS_UNUSUAL, text, agent_id=each.agent_id, since=each.at)


def _approvals(waiting: Iterable[WaitingApproval]) -> Iterator[Reason]:
    by_agent: dict[str, list[WaitingApproval]] = {}
    for each in waiting:
        if each.waits >= APPROVAL_WAITS:
            by_agent.setdefault(each.agent_id, []).append(each)
    for agent_id, calls in by_agent.items():
        tools = ", ".join(f"{tool}" for tool in Counter(call.tool for call in calls))
        many = len(calls) > 1
        longest = duration(max(call.waits for call in calls))
        yield reason(
            ReasonKind.APPROVALS_WAIT,
            f"{len(calls)} call{'s' * many} of {agent_id} ({tools}) wait{'s' * (not many)} for an "
            f"approval, since {longest}",
            agent_id=agent_id,
            number=len(calls),
        )


def _errors(
    errors: Mapping[str, LoggedErrors], statuses: Mapping[str, AgentStatus], now: datetime
) -> Iterator[Reason]:
    for agent_id, logged in errors.items():
        of_late = [moment for moment in logged.moments if now - moment <= ERRORS_WITHIN]
        status = statuses.get(agent_id)
        if status is not None and is_plain(status) and len(of_late) >= MOST_ERRORS:
            yield reason(
                ReasonKind.ERRORS_LOGGED,
                f"{agent_id} has logged {len(of_late)} errors within ten minutes, the last: "
                + shorten(logged.last, _SHOWN),
                agent_id=agent_id,
                number=len(of_late),
                since=of_late[0],
            )
