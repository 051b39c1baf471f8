"""Faults put into the daemon on purpose, each of which the simulation has to find.

A mutation is a change of the daemon's code for the time of a block, and the world in which it
shows soonest.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

from actp_supervise import Backoff
from actp_supervise.service import LeaderLease, Outbox
from app import daemon, supervisor
from app.agents.activity import Activity
from app.agents.budget import Budget
from app.agents.handle import AgentStore
from app.desk import Desk
from app.registry import AgentRegistry
from app.routine import DailyRoutineScheduler
from app.shutdown import GracefulShutdown
from app.status import HealthState
from app.store.journal.sqlite import SqliteJournal
from app.store.ledger.sqlite import SqliteLedger
from app.store.protocol import Before, Lease
from app.store.queue import sqlite as queue
from app.store.queue.sqlite import SqliteQueue
from app.store.registry import sqlite as registry
from simulation.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A fault put in, which rules it breaks, and in what world it is looked for."""

    put_in: Callable[[], Any]
    """Makes the block."""
    breaks: frozenset[Rule]
    profile: str = "hostile"
    daemons: int = 2
    days: float = 1.0


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


async def _none(*_args: Any, **_options: Any) -> None:
    return None


async def _true(*_args: Any, **_options: Any) -> bool:
    return True


async def _fails(*_args: Any, **_options: Any) -> None:
    raise RuntimeError("put in")


_record_cost = SqliteLedger.record_cost
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


MUTATIONS = {
    "the fencing token is ignored when a task is finished": Mutation(
        put_in=statement(queue, "_FINISH", "and lease_token = :token and status = 'running'", ""),
        breaks=frozenset({Rule.ONLY_WITH_TOKEN, Rule.FINISHED_ONCE}),
        profile="torn",
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
        put_in=replaced(Budget, "reserve", _none), breaks=frozenset({Rule.BUDGET})
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
    "attempts are not limited": Mutation(
        put_in=both(
            statement(queue, "_LEASE_RAN_OUT", ">= max_attempts", ">= max_attempts + 9"),
            statement(queue, "_RELEASE", ">= max_attempts", ">= max_attempts + 9"),
        ),
        breaks=frozenset({Rule.ATTEMPTS}),
    ),
    "a record is written once, or lost": Mutation(
        put_in=replaced(Outbox, "_write", _write_once),
        breaks=frozenset({Rule.RECORDED, Rule.BOUNDED, Rule.EXIT, Rule.HEALS}),
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
        ),
        breaks=frozenset({Rule.PAUSED}),
    ),
    "a single agent does not wait for its lease": Mutation(
        put_in=replaced(LeaderLease, "acquire", _none),
        breaks=frozenset({Rule.ONE_HOLDER}),
    ),
    "an agent is always restarted at once": Mutation(
        put_in=replaced(supervisor, "AGENT_BACKOFF", Backoff()),
        breaks=frozenset({Rule.BACKOFF}),
    ),
    "the tasks of the dead are left alone": Mutation(
        put_in=both(
            statement(queue, "_LEASE_RAN_OUT", "status = 'running' and", "0 and"),
            statement(registry, "REQUEUE_TASKS_OF_WORKER", "status = 'running' and", "0 and"),
        ),
        breaks=frozenset({Rule.NO_TASK_LOST}),
    ),
    "a drain lasts as long as it likes": Mutation(
        put_in=both(
            replaced(GracefulShutdown, "drain_wait", _drain_for_ever),
            replaced(supervisor.AgentSupervisor, "__init__", _patient_supervisor),
        ),
        breaks=frozenset({Rule.DRAIN}),
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
