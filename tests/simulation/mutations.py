"""Faults put into the daemon on purpose, each of which the simulation has to find.

A mutation is a change of the daemon's code for the time of a block, and the world in which it
shows soonest.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import trio

from actp_supervise import Backoff
from actp_supervise.service import LeaderLease, Outbox
from app import daemon, supervisor
from app.agents import toolbox
from app.agents.activity import Activity
from app.agents.approvals import Gate
from app.agents.assistant import Assistant
from app.agents.claims import Claims
from app.agents.handle import AgentStore
from app.agents.outcomes import Outcome
from app.agents.toolbox import Toolbox
from app.agents.transcript import Transcript
from app.desk import Desk
from app.registry import AgentRegistry
from app.routine import DailyRoutineScheduler
from app.shutdown import GracefulShutdown
from app.status import HealthState
from app.store.approvals import sqlite as approvals
from app.store.journal.sqlite import SqliteJournal
from app.store.ledger import sqlite as ledger
from app.store.ledger.sqlite import SqliteLedger
from app.store.protocol import Before, Effect, EffectState, Lease, Scope
from app.store.queue import sqlite as queue
from app.store.queue.sqlite import SqliteQueue
from app.store.registry import sqlite as registry
from simulation.plan import AGENTS, DAY, Plan, Step, What, draw
from simulation.rules import HEALED, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from app.store.protocol import TaskRow


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A fault put in, which rules it breaks, and in what world it is looked for."""

    put_in: Callable[[], Any]
    """Makes the block."""
    breaks: frozenset[Rule]
    profile: str = "hostile"
    daemons: int = 2
    days: float = 0.3
    steps: Callable[[random.Random], list[Step]] | None = None
    """What happens, by chance of a seed's; without it, what is drawn for the profile."""
    budgets: Mapping[str, float] = field(default_factory=dict)
    """Of its plans."""

    def plan(self, seed: int) -> Plan:
        """Return the plan of a seed."""
        plan = draw(seed, days=self.days, daemons=self.daemons, profile=self.profile)
        if self.steps is not None:
            steps = tuple(sorted(self.steps(random.Random(f"steps {seed}"))))
            plan = replace(plan, steps=steps, budget=None, total_budget=None, task_budget=None)
        return replace(plan, **self.budgets)


def work_and(
    what: What,
    *,
    after: tuple[float, float] = (0.0, 120.0),
    amount: float = 600.0,
    before: What | None = None,
    picks: tuple[float, float] = (0.0, 0.999),
    with_decisions: bool = False,
) -> Callable[[random.Random], list[Step]]:
    """Return how to draw tasks with effects outside, each of which something interrupts.

    Args:
        what: What interrupts them.
        after: Seconds after each was posted, from and to.
        amount: Of what interrupts.
        before: What goes wrong just before each is posted.
        picks: From and to which of the goals are chosen.
        with_decisions: Whether a person decides some two minutes after each.
    """

    def steps(rng: random.Random) -> list[Step]:
        drawn = []
        for number in range(12):
            at = 600.0 + 1800.0 * number
            agent, daemon = rng.choice(AGENTS), rng.randrange(2)
            if before is not None:
                drawn += [
                    Step(at=at - 1.0, what=before, daemon=each, agent=agent, amount=1.0)
                    for each in (0, 1)
                ]
            if with_decisions:
                drawn += [
                    Step(at=at + rng.uniform(100.0, 130.0), what=What.DECIDE, daemon=each, pick=0.5)
                    for each in (0, 1)
                ]
            goal = rng.uniform(*picks)
            drawn += [
                Step(at=at, what=What.POST, daemon=daemon, agent=agent, pick=goal),
                Step(
                    at=at + rng.uniform(*after),
                    what=what,
                    daemon=rng.randrange(2),
                    agent=agent,
                    amount=amount,
                    pick=0.0 if what is What.STORE_TORN else rng.random(),
                ),
            ]
        return drawn

    return steps


def all_at_once(rng: random.Random) -> list[Step]:
    """Return steps by which all agents get several tasks at once."""
    return [
        Step(
            at=600.0 + 3600.0 * hour + rng.uniform(0.0, 0.5),
            what=What.POST,
            daemon=number % 2,
            agent=AGENTS[number % 4],
            amount=2.0,
            pick=rng.random(),
        )
        for hour in range(2)
        for number in range(4)
    ]


def back_to_a_queue(rng: random.Random) -> list[Step]:
    """Return steps by which a daemon that was cut off finds tasks of an agent that has moved."""
    drawn = []
    for number in range(6):
        at, agent = 600.0 + 3000.0 * number, rng.choice(("social", "acquisition"))
        away = rng.randrange(2)
        drawn += [Step(at=at, what=What.STORE_AWAY, daemon=away, amount=900.0)]
        drawn += [
            Step(at=at + 860.0 + post, what=What.POST, daemon=1 - away, agent=agent, pick=0.5)
            for post in range(5)
        ]
    return drawn


def statement_in(module: ModuleType, name: str, key: Any, text: str) -> Callable[[], Any]:
    """Put something in place of one of several statements."""
    return lambda: mock.patch.dict(getattr(module, name), {key: text})


BEFORE = (-1.0, -1.0)
OUTSIDE = (3 / 7, 0.999)
"""The goals of people that have an effect outside, by the step's `pick`."""
PARCELS = (3 / 7, 5 / 7)
CONTRACTS = (5 / 7, 0.999)


def statement(module: ModuleType, name: str, before: str, after: str) -> Callable[[], Any]:
    """Change a part of a statement of SQL."""

    @contextmanager
    def put_in() -> Iterator[None]:
        text = getattr(module, name)
        assert before in text, f"{name} has no {before!r}"
        with mock.patch.object(module, name, text.replace(before, after)):
            yield

    return put_in


def replaced(owner: Any, name: str, new: Any) -> Callable[[], Any]:
    """Put something in another's place."""
    return lambda: mock.patch.object(owner, name, new)


def both(*mutations: Callable[[], Any]) -> Callable[[], Any]:
    """Put several in."""

    @contextmanager
    def put_in() -> Iterator[None]:
        with ExitStack() as stack:
            for each in mutations:
                stack.enter_context(each())
            yield

    return put_in


async def _held(*_args: Any, **_options: Any) -> Lease:
    return Lease.HELD


async def _new(*_args: Any, **_options: Any) -> EffectState:
    return EffectState(state=Effect.NEW)


async def _nothing_recorded(_self: Any) -> list[Any]:
    return []


async def _none(*_args: Any, **_options: Any) -> None:
    return None


async def _true(*_args: Any, **_options: Any) -> bool:
    return True


async def _fails(*_args: Any, **_options: Any) -> None:
    raise RuntimeError("put in")


_record_cost = SqliteLedger.record_cost
_call = Toolbox._call
_resume = Transcript.resume
_drain_wait = GracefulShutdown.drain_wait
_add_task = SqliteQueue.add_task
_scheduler = DailyRoutineScheduler.__init__
_supervisor = supervisor.AgentSupervisor.__init__


async def _record_twice(self: Any, entry: Any, **options: Any) -> None:
    import dataclasses

    await _record_cost(self, entry, **options)
    await _record_cost(self, dataclasses.replace(entry, id=f"{entry.id}-2"), **options)


async def _record_nothing(self: Any, entry: Any, *, reservation: str | None = None) -> None:
    if reservation is not None:
        await self.release_budget(reservation)


async def _record_known_alone(self: Any, entry: Any, *, reservation: str | None = None) -> None:
    if entry.estimated and reservation is not None:
        await self.release_budget(reservation)
    else:
        await _record_cost(self, entry, reservation=reservation)


async def _same_call_again(
    _self: Any, _tool: Any, _use: Any, call: Any, _told: Any, arguments: Any
) -> Any:
    return replace(call, key=uuid.uuid4().hex), arguments


def _resume_without_the_last(self: Any, turns: Any) -> None:
    _resume(self, turns[:-1] if len(turns) > 1 else turns)


def _another_key(self: Any, *args: Any) -> Any:
    return replace(_call(self, *args), key=uuid.uuid4().hex)


async def _as_it_was_asked(_self: Any, _tool: Any, _use: Any, arguments: Any, _told: Any) -> Any:
    return arguments


async def _drain_for_ever(self: Any, timeout: float = 30.0) -> bool:
    return await _drain_wait(self, timeout + 1e6)


def _patient_supervisor(self: Any, *args: Any, **options: Any) -> None:
    _supervisor(self, *args, **{**options, "drain_timeout": 1e6})


def _scheduler_in_utc(self: Any, *args: Any, **options: Any) -> None:
    from zoneinfo import ZoneInfo

    _scheduler(self, *args, **{**options, "timezone": ZoneInfo("UTC")})


async def _write_once(self: Any, record: Any) -> None:
    try:
        await record.write()
    except Exception as error:  # noqa: BLE001  (that is the fault)
        self.note(str(error))
    else:
        self.note(None)


def _note_only_trouble(self: Any, error: str | None) -> None:
    self.away_because = error or self.away_because


async def _keep_all_but_some(self: Any, task_id: str, *args: Any, **options: Any) -> Any:
    """Acknowledge a task that is not kept, as a store does whose disk lies."""
    task = await _add_task(self, task_id, *args, **options)
    if task_id[0] in "ab":
        await self.db.execute("delete from actp_agent_tasks where id = :id", {"id": task_id})
    return task


def _vouch_for_ever(self: Any, _now: float) -> None:
    self.vouch(1e9)


_CONVERSE_ABOUT = Assistant._converse_about

_DAYS = 0.3


async def _fail_in_the_end(self: Assistant, task: TaskRow, **options: Any) -> Outcome:
    if trio.current_time() > _DAYS * DAY + HEALED:
        return Outcome(failure="worn out")
    return await _CONVERSE_ABOUT(self, task, **options)


MUTATIONS = {
    "the fencing token is ignored when a task is finished": Mutation(
        put_in=statement(queue, "_FINISH", "and lease_token = :token and status = 'running'", ""),
        breaks=frozenset({Rule.ONLY_WITH_TOKEN, Rule.FINISHED_ONCE}),
        steps=work_and(What.STORE_TORN, after=(0.0, 5.0), amount=1500.0),
    ),
    "an effect is noted after it instead of before": Mutation(
        put_in=replaced(SqliteJournal, "begin_effect", _new),
        breaks=frozenset({Rule.ONCE_OR_TOLD, Rule.KEYED_ONCE}),
        steps=work_and(What.KILL_AT_WORK, after=BEFORE, picks=PARCELS),
    ),
    "a key is made anew for each call": Mutation(
        put_in=replaced(Toolbox, "_call", _another_key),
        breaks=frozenset({Rule.KEYED_ONCE, Rule.ONCE_OR_TOLD}),
        steps=work_and(What.KILL_AT_WORK, after=BEFORE, picks=PARCELS),
    ),
    "the model is not told that a call was cut short": Mutation(
        put_in=replaced(toolbox, "_CUT_SHORT", "{tool} is done."),
        breaks=frozenset({Rule.ONCE_OR_TOLD}),
        steps=work_and(What.KILL_AT_WORK, after=BEFORE, picks=PARCELS),
    ),
    "a conversation is not gone on with": Mutation(
        put_in=replaced(Transcript, "recorded", _nothing_recorded),
        breaks=frozenset({Rule.PAID_ONCE}),
        steps=work_and(What.KILL_AT_WORK, after=BEFORE),
    ),
    "a conversation is recorded without its last step": Mutation(
        put_in=replaced(Transcript, "resume", _resume_without_the_last),
        breaks=frozenset({Rule.PAID_ONCE}),
        steps=work_and(What.KILL_AT_WORK, after=BEFORE),
    ),
    "no approval is asked for": Mutation(
        put_in=replaced(Gate, "guards", lambda _self, _tool, **_options: False),
        breaks=frozenset({Rule.APPROVED}),
        steps=work_and(What.DECIDE, picks=CONTRACTS),
    ),
    "a call is made as it was asked for, whatever was approved": Mutation(
        put_in=replaced(Toolbox, "_approved", _as_it_was_asked),
        breaks=frozenset({Rule.APPROVED, Rule.ANSWERED}),
        steps=work_and(What.DECIDE, after=(100.0, 300.0), picks=CONTRACTS),
    ),
    "the model is not told what a person has said": Mutation(
        put_in=replaced(toolbox, "note_of", lambda *_args: ""),
        breaks=frozenset({Rule.ANSWERED}),
        steps=work_and(What.DECIDE, after=(100.0, 300.0), picks=CONTRACTS),
    ),
    "a task that waits for a person keeps its lease": Mutation(
        put_in=statement(approvals, "_PARK", "lease_token = null", "lease_token = lease_token"),
        breaks=frozenset({Rule.WAITS_FREE}),
        steps=work_and(What.DECIDE, picks=CONTRACTS),
    ),
    "what is decided makes no task go on": Mutation(
        put_in=statement(approvals, "_GO_ON", "status = 'waiting' and", "0 and"),
        breaks=frozenset({Rule.NO_TASK_LOST}),
        steps=work_and(What.DECIDE, after=(100.0, 300.0), picks=CONTRACTS),
    ),
    "what was approved can be used again and again": Mutation(
        put_in=replaced(Toolbox, "_again", _same_call_again),
        breaks=frozenset({Rule.APPROVED, Rule.ONCE_OR_TOLD}),
        steps=work_and(What.KILL_AT_WORK, after=(90.0, 99.0), picks=CONTRACTS, with_decisions=True),
    ),
    "what other calls have set aside is not counted": Mutation(
        put_in=replaced(ledger, "_HELD", dict.fromkeys(Scope, "select 0.0")),
        breaks=frozenset({Rule.BUDGET}),
        steps=all_at_once,
        budgets={"total_budget": 0.0125},
        daemons=1,
    ),
    "a task's budget is not looked at": Mutation(
        put_in=statement_in(ledger, "_SPENT", Scope.TASK, "select 0.0"),
        breaks=frozenset({Rule.BUDGET}),
        steps=all_at_once,
        budgets={"task_budget": 0.02},
    ),
    "what was lost on its way is not booked": Mutation(
        put_in=replaced(SqliteLedger, "record_cost", _record_known_alone),
        breaks=frozenset({Rule.BOOKED}),
        steps=work_and(What.CUT_OFF, after=(0.0, 1.0), amount=2.0),
    ),
    "a single agent takes tasks where it does not run": Mutation(
        put_in=statement(queue, "_BARRED", "name = :agent_type and", "0 and"),
        breaks=frozenset({Rule.ONE_HOLDER}),
        steps=back_to_a_queue,
    ),
    "a daemon that is back leaves its runs interrupted": Mutation(
        put_in=replaced(registry, "_GO_ON", []),
        breaks=frozenset({Rule.RECORDED}),
        steps=work_and(What.STORE_AWAY, amount=1800.0),
    ),
    "a lease is never renewed": Mutation(
        put_in=both(replaced(Desk, "tokens", lambda self: []), replaced(Desk, "renew_task", _held)),
        breaks=frozenset({Rule.LEASE_KEPT}),
        profile="calm",
        days=2.0,
    ),
    "a claim takes what another does": Mutation(
        put_in=statement(
            queue,
            "_CLAIM",
            "status = 'queued' and not_before is null",
            "status in ('queued', 'running') and not_before is null",
        ),
        breaks=frozenset({Rule.CLAIMED_ONCE, Rule.ONLY_WITH_TOKEN, Rule.ATTEMPTS}),
    ),
    "a budget is not looked at": Mutation(
        put_in=both(
            replaced(ledger, "_SPENT", dict.fromkeys(Scope, "select 0.0")),
            replaced(ledger, "_HELD", dict.fromkeys(Scope, "select 0.0")),
        ),
        breaks=frozenset({Rule.BUDGET}),
        steps=all_at_once,
        budgets={"budget": 0.02},
    ),
    "each daemon gets each due moment": Mutation(
        put_in=replaced(SqliteJournal, "claim_fire", _true),
        breaks=frozenset({Rule.FIRED_ONCE, Rule.NOT_FORGOTTEN}),
        profile="calm",
    ),
    "a daemon's end queues its finished tasks again": Mutation(
        put_in=statement(
            registry, "REQUEUE_TASKS_OF_WORKER", "where status = 'running' and", "where"
        ),
        breaks=frozenset({Rule.FINISHED_ONCE}),
    ),
    "the watchdog trusts everybody": Mutation(
        put_in=replaced(Activity, "_promise", _vouch_for_ever),
        breaks=frozenset({Rule.HANGS, Rule.NO_TASK_LOST, Rule.HEALS}),
    ),
    "what is begun late in the calm end fails": Mutation(
        put_in=replaced(Assistant, "_converse_about", _fail_in_the_end),
        breaks=frozenset({Rule.HEALS}),
        profile="calm",
        days=_DAYS,
    ),
    "attempts are not limited": Mutation(
        put_in=both(
            statement(queue, "_LEASE_RAN_OUT", ">= max_attempts", ">= max_attempts + 9"),
            statement(queue, "_RELEASE", ">= max_attempts", ">= max_attempts + 9"),
        ),
        breaks=frozenset({Rule.ATTEMPTS}),
    ),
    "a record is written once, or lost": Mutation(
        put_in=replaced(Outbox, "_write", _write_once),
        breaks=frozenset({Rule.RECORDED, Rule.CRASHES, Rule.BOUNDED, Rule.EXIT, Rule.HEALS}),
        steps=work_and(What.STORE_AWAY, after=(-0.5, -0.5), amount=900.0, before=What.CRASH),
    ),
    "costs are not booked": Mutation(
        put_in=replaced(SqliteLedger, "record_cost", _record_nothing),
        breaks=frozenset({Rule.BOOKED}),
        profile="calm",
    ),
    "costs are booked twice": Mutation(
        put_in=replaced(SqliteLedger, "record_cost", _record_twice),
        breaks=frozenset({Rule.BOOKED}),
        profile="calm",
    ),
    "a pause is ignored": Mutation(
        put_in=both(
            statement(queue, "_BARRED", "paused_at is not null", "0"),
            replaced(AgentStore, "claim_task", Before.claim_task),
            replaced(Claims, "claim_task", Before.claim_task),
        ),
        breaks=frozenset({Rule.PAUSED}),
        steps=work_and(What.PAUSE, after=(-400.0, -400.0), amount=1200.0),
    ),
    "a single agent does not wait for its lease": Mutation(
        put_in=replaced(LeaderLease, "acquire", _none),
        breaks=frozenset({Rule.ONE_HOLDER}),
        profile="calm",
    ),
    "an agent is always restarted at once": Mutation(
        put_in=replaced(supervisor, "AGENT_BACKOFF", Backoff()),
        breaks=frozenset({Rule.BACKOFF}),
        steps=work_and(What.CRASH, after=BEFORE, amount=10.0),
    ),
    "the tasks of the dead are left alone": Mutation(
        put_in=both(
            statement(queue, "_LEASE_RAN_OUT", "status = 'running' and", "0 and"),
            statement(registry, "REQUEUE_TASKS_OF_WORKER", "status = 'running' and", "0 and"),
        ),
        breaks=frozenset({Rule.NO_TASK_LOST}),
        steps=work_and(What.KILL_AT_WORK, after=BEFORE, picks=OUTSIDE),
    ),
    "a drain lasts as long as it likes": Mutation(
        put_in=both(
            replaced(GracefulShutdown, "drain_wait", _drain_for_ever),
            replaced(supervisor.AgentSupervisor, "__init__", _patient_supervisor),
        ),
        breaks=frozenset({Rule.DRAIN}),
        steps=work_and(What.STOP, after=(60.0, 120.0), before=What.HANG),
    ),
    "health is always good": Mutation(
        put_in=replaced(daemon, "overall", lambda *_args, **_facts: (HealthState.HEALTHY, [])),
        breaks=frozenset({Rule.HEALTHY}),
    ),
    "it is never noted that the store is back": Mutation(
        put_in=replaced(Outbox, "note", _note_only_trouble), breaks=frozenset({Rule.HEALS})
    ),
    "a task is acknowledged that is not kept": Mutation(
        put_in=replaced(SqliteQueue, "add_task", _keep_all_but_some),
        breaks=frozenset({Rule.NO_TASK_LOST}),
        profile="calm",
    ),
    "routines are run by another zone's clock": Mutation(
        put_in=replaced(DailyRoutineScheduler, "__init__", _scheduler_in_utc),
        breaks=frozenset({Rule.NOT_FORGOTTEN}),
        profile="calm",
    ),
    "a daemon fails at its end": Mutation(
        put_in=replaced(AgentRegistry, "deregister_all", _fails),
        breaks=frozenset({Rule.EXIT}),
        profile="calm",
    ),
}
