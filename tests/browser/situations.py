"""Ten situations that a look at the page has to tell apart in five seconds, each made for real."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import trio
from daemons import Place
from looking import ON_DEMAND, Running, running

from actp_supervise.clock import SystemWallClock
from app.demo.show import TASKS
from app.store.protocol import CostEntry, Question
from app.store.records import moment_text
from app.store.sqlite import open_sqlite_store

if TYPE_CHECKING:
    from pathlib import Path

REFUSED: Final = "[simulate: refusal]"


@dataclass(frozen=True)
class Situation:
    """What there is to be seen."""

    name: str
    says: tuple[str, ...]
    """What a glance at the page has to find in its uppermost part."""
    daemon: Callable[[Place], AbstractContextManager[Running]]
    """Runs a daemon that is in it."""


@contextmanager
def all_well(place: Place) -> Iterator[Running]:
    with running(place) as daemon:
        do_some_tasks(daemon)
        yield daemon


@contextmanager
def work_failing(place: Place) -> Iterator[Running]:
    with running(place) as daemon:
        do_some_tasks(daemon)
        for number in range(4):
            end_badly(daemon, "content", f"Read what nobody may see, try {number}")
        until_reasons(daemon, "content")
        yield daemon


@contextmanager
def nobody_serves_a_queue(place: Place) -> Iterator[Running]:
    beforehand(place, queue_for_revenue)
    with running(place, "--agents", "social,content") as daemon:
        until_reasons(daemon, "revenue")
        yield daemon


@contextmanager
def approval_waits(place: Place) -> Iterator[Running]:
    beforehand(place, ask)
    earlier = moment_text(SystemWallClock().now() - timedelta(hours=2))
    change(place.database, "update actp_approvals set created_at = ?", earlier)
    with running(place) as daemon:
        do_some_tasks(daemon)
        until_reasons(daemon, "approval")
        yield daemon


@contextmanager
def budget_near(place: Place) -> Iterator[Running]:
    place.environ["CONTENT_AGENT_DAILY_BUDGET_USD"] = "2"
    beforehand(place, spend_much)
    with running(place) as daemon:
        do_some_tasks(daemon, "acquisition", "revenue")  # what content has left is too little
        until_reasons(daemon, "content has spent")
        yield daemon


@contextmanager
def database_away(place: Place) -> Iterator[Running]:
    with running(place) as daemon:
        do_some_tasks(daemon)
        away = place.database.parent.with_name("away")
        shutil.move(place.database.parent, away)
        until_reasons(daemon, "store")
        yield daemon


@contextmanager
def agent_backing_off(place: Place) -> Iterator[Running]:
    with running(place) as daemon:
        do_some_tasks(daemon)
        daemon.crash(7)
        daemon.until_agent("social", "backing_off")
        until_reasons(daemon, "social")
        yield daemon


@contextmanager
def draining(place: Place) -> Iterator[Running]:
    with running(place, WORKER_DRAIN_TIMEOUT="120") as daemon:
        do_some_tasks(daemon)
        task_id = daemon.post("content", "Draft a long report [simulate: slow 100]")
        daemon.until_task(task_id, "running")
        daemon.process.send_signal(signal.SIGTERM)
        until_reasons(daemon, "stopping")
        yield daemon


@contextmanager
def demonstration(place: Place) -> Iterator[Running]:
    with running(place, "--demo", ANTHROPIC_API_KEY="", ANTHROPIC_BASE_URL="") as daemon:
        daemon.until("/tasks?status=succeeded", lambda tasks: len(tasks) > 2)
        yield daemon


@contextmanager
def empty_first_start(place: Place) -> Iterator[Running]:
    with running(place) as daemon:
        daemon.until("/health", lambda health: health["status"] == "healthy")
        yield daemon


SITUATIONS: Final = (
    Situation("all-well", ("Healthy", "4 running"), all_well),
    Situation("work-failing", ("Degraded", "content", "failed"), work_failing),
    Situation("nobody-serves", ("Degraded", "revenue"), nobody_serves_a_queue),
    Situation("approval-waits", ("Degraded", "1 call waits for your approval"), approval_waits),
    Situation("budget-near", ("Degraded", "content has spent $1.8"), budget_near),
    Situation("database-away", ("Degraded", "store"), database_away),
    Situation("backing-off", ("Degraded", "1 backing off (restarts in"), agent_backing_off),
    Situation("draining", ("1 draining", "stopping"), draining),
    Situation("demo", ("DEMO", "The model is simulated"), demonstration),
    Situation("first-start", ("Healthy", "4 running", "No task yet"), empty_first_start),
)


def make_place(folder: Path, claude: str) -> Place:
    """Make a folder for a daemon whose social agent crashes on demand."""
    place = Place(folder, claude)
    place.use_class(ON_DEMAND, "OnDemand")
    place.environ["WORKER_ID"] = "studio"
    return place


def do_some_tasks(daemon: Running, *agent_ids: str) -> None:
    wanted = agent_ids or ("content", "acquisition", "revenue")
    for agent_id in wanted:
        daemon.until_agent(agent_id, "running")
    posted = [daemon.post(agent_id, goal) for agent_id, goal in TASKS if agent_id in wanted]
    for task_id in posted:
        daemon.until(f"/tasks/{task_id}", lambda task: task["finished_at"] is not None)


def end_badly(daemon: Running, agent_id: str, goal: str) -> None:
    daemon.until_task(daemon.post(agent_id, f"{goal} {REFUSED}"), "failed")


def until_reasons(daemon: Running, text: str) -> None:
    daemon.until("/health", lambda health: any(text in each for each in health["reasons"]))


def beforehand(place: Place, write: Callable[[Path], Awaitable[None]]) -> None:
    """Write into the store before the daemon is there, which looks but once a minute."""
    place.database.parent.mkdir(parents=True)
    trio.run(write, place.database)


async def queue_for_revenue(database: Path) -> None:
    async with open_sqlite_store(database) as store:
        for number, (agent_id, goal) in enumerate(TASKS):
            if agent_id == "revenue":
                await store.add_task(f"task-{number}", agent_id, goal)


async def spend_much(database: Path) -> None:
    async with open_sqlite_store(database) as store:
        await store.record_cost(
            CostEntry(
                id="spent",
                agent_id="content",
                run_id=None,
                task_id=None,
                model="claude-sonnet-5-5",
                input_tokens=400_000,
                output_tokens=40_000,
                cost_usd=1.85,
            )
        )


async def ask(database: Path) -> None:
    """Have a task wait for a person."""
    async with open_sqlite_store(database) as store:
        await store.begin_task(
            "asks", "acquisition", "Write to Northwind Traders", worker_id="w", instance="i",
            token="t", lease=60.0,
        )  # fmt: skip
        question = Question(
            id="asked",
            task_id="asks",
            agent_id="acquisition",
            about="use 1",
            tool="send_mail",
            arguments={"to": "ada@northwind.example", "subject": "Our offer"},
            why="Ada asked for it on the phone.",
        )
        await store.ask_approval(question)
        await store.park_task("asks", "t")


def spend(database: Path, usd: float, *, days_ago: int = 0) -> None:
    """Make up that content has spent this, on one of the last days."""
    with closing(sqlite3.connect(database, timeout=10)) as db, db:
        db.row_factory = sqlite3.Row
        one = dict(db.execute("select * from anthropic_cost_log limit 1").fetchone())
        at = SystemWallClock().now() - timedelta(days=days_ago)
        own = {"id": uuid.uuid4().hex, "agent_id": "content", "created_at": moment_text(at)}
        row = one | own | {"cost_usd": usd}
        marks = ", ".join("?" * len(row))
        db.execute(
            f"insert into anthropic_cost_log ({', '.join(row)}) values ({marks})",
            tuple(row.values()),
        )


def change(database: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(database, timeout=10)) as db, db:
        db.execute(statement, values)
