"""How quickly tasks are claimed and finished, what history costs, and what an idle daemon asks.

    python benchmarks/store.py           about five minutes
    python benchmarks/store.py --quick   some seconds, for a look

PostgreSQL, PostgREST and procrastinate run here, on the same server in the same run. One task is
one claim and one finish. Through PostgREST each of them is a request of HTTP, and it passes the
tests' gateway, a process of its own in Python, which costs more than PostgREST does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import procrastinate
import psycopg
import trio

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from services import Gateway, Postgres, key_of, open_gateway  # noqa: E402

from app.store.protocol import Store, TaskStatus  # noqa: E402
from app.store.sqlite import open_sqlite_store  # noqa: E402
from app.store.supabase import open_supabase_store  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUICK = "--quick" in sys.argv
TASKS = 200 if QUICK else 2000
FINISHED = 20_000 if QUICK else 1_000_000
QUEUED = 1_000 if QUICK else 50_000
LOGGED = 10_000 if QUICK else 500_000
IDLE = 10.0 if QUICK else 60.0
CLAIMERS = (1, 20)

_tokens = count()


def show(what: str, claimers: int, tasks: int, seconds: float) -> None:
    """Print one line of the table."""
    print(f"{what:<44}{claimers:>4}{tasks / seconds:>10.0f} /s", flush=True)


def fill(db_url: str, tasks: int) -> None:
    """Put tasks into the queue, by the shortest way."""
    with psycopg.connect(db_url) as db:
        db.execute("truncate actp_agent_tasks")
        db.execute(
            "insert into actp_agent_tasks (id, agent_type, goal)"
            " select 't' || n, 'social', 'g' from generate_series(1, %s) n",
            [tasks],
        )
    with psycopg.connect(db_url, autocommit=True) as db:
        db.execute("vacuum analyze actp_agent_tasks")


async def store_rate(what: str, store: Store, claimers: int, tasks: int) -> None:
    """Claim and finish all tasks through a store."""
    done = 0

    async def claimer() -> None:
        nonlocal done
        while True:
            token = f"k{next(_tokens)}"
            task = await store.claim_task(
                "social", worker_id="w", instance="i", token=token, lease=60
            )
            if task is None:
                return
            assert await store.finish_task(task.id, token, TaskStatus.SUCCEEDED)
            done += 1

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(claimers):
            nursery.start_soon(claimer)
    assert done == tasks
    show(what, claimers, tasks, trio.current_time() - started)


async def sqlite_rates(folder: Path) -> None:
    """SqliteStore, one process; each commit is on the disk before it is answered."""
    for claimers in CLAIMERS:
        async with open_sqlite_store(folder / f"{claimers}.db") as store:
            for number in range(TASKS):
                await store.add_task(f"t{number}", "social", "g")
            await store_rate("SQLite, each commit synced", store, claimers, TASKS)


async def supabase_rates(url: str, db_url: str) -> None:
    """SupabaseStore, one process."""
    for claimers in CLAIMERS:
        fill(db_url, TASKS)
        async with open_supabase_store(url, key_of("service_role")) as store:
            await store_rate("Supabase: supabase-py, gateway, PostgREST", store, claimers, TASKS)


def psycopg_rate(what: str, db_url: str, claimers: int, tasks: int) -> None:
    """The same functions called by psycopg, a connection and a thread for each claimer."""

    def claimer(_: int) -> int:
        done = 0
        with psycopg.connect(db_url, autocommit=True) as db:
            while True:
                token = f"k{next(_tokens)}"
                claim = "select id from actp_claim_task('social', 'w', 'i', %s, 60)"
                row = db.execute(claim, [token]).fetchone()
                if row is None:
                    return done
                finish = "select actp_finish_task(%s, %s, 'succeeded', null, null)"
                db.execute(finish, [row[0], token])
                done += 1

    started = time.perf_counter()
    with ThreadPoolExecutor(claimers) as threads:
        assert sum(threads.map(claimer, range(claimers))) == tasks
    show(what, claimers, tasks, time.perf_counter() - started)


async def procrastinate_rates(db_url: str) -> None:
    """A worker of procrastinate on the same server, as it comes."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=db_url))

    @app.task(name="nothing")
    async def nothing() -> None:
        pass

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for claimers in CLAIMERS:
            await nothing.batch_defer_async(*({} for _ in range(TASKS)))
            started = time.perf_counter()
            await app.run_worker_async(
                concurrency=claimers, wait=False, install_signal_handlers=False
            )
            show("procrastinate", claimers, TASKS, time.perf_counter() - started)


def latency_beside_the_finished(db_url: str) -> None:
    """The claim with many finished tasks in the table, which it must not look at."""
    print(f"\n{'by psycopg, median and 9th decile':<44}{'claim':>12}{'finish':>16}")
    for finished in (0, FINISHED):
        fill(db_url, TASKS)
        with psycopg.connect(db_url, autocommit=True) as db:
            db.execute(
                "insert into actp_agent_tasks (id, agent_type, goal, status, attempts)"
                " select 'old' || n, 'social', 'g', 'succeeded', 1 from generate_series(1, %s) n",
                [finished],
            )
            db.execute("vacuum analyze actp_agent_tasks")
            db.execute("checkpoint")
            claims, finishes = [], []
            for number in range(TASKS):
                started = time.perf_counter()
                claim = "select id from actp_claim_task('social', 'w', 'i', %s, 60)"
                (task_id,) = db.execute(claim, [f"l{number}"]).fetchone()
                claimed = time.perf_counter()
                finish = "select actp_finish_task(%s, %s, 'succeeded', null, null)"
                db.execute(finish, [task_id, f"l{number}"])
                claims.append(claimed - started)
                finishes.append(time.perf_counter() - claimed)
        print(f"beside {finished:>9,} finished tasks{'':<14}{spread(claims)}{spread(finishes)}")


HISTORY = """
    truncate actp_agent_tasks, anthropic_cost_log, actp_cost_days, actp_tool_call_log;
    insert into actp_agent_tasks (id, agent_type, goal, status, attempts, result, finished_at)
    select 'old' || n, (array['social','content','acquisition','revenue'])[n % 4 + 1], 'g',
        'succeeded', 1, jsonb_build_object('text', repeat('x', 400)), now()
    from generate_series(1, {finished}) n;
    insert into actp_agent_tasks (id, agent_type, goal, not_before)
    select 'new' || n, (array['social','content','acquisition','revenue'])[n % 4 + 1], 'g',
        case when n % 5 = 0 then now() + interval '1 day' end
    from generate_series(1, {queued}) n;
    insert into anthropic_cost_log (id, agent_id, model, input_tokens, cost_usd, created_at)
    select 'c' || n, (array['social','content','acquisition','revenue'])[n % 4 + 1], 'm', 1, 0.01,
        now() - n * interval '1 minute' * 20160 / {logged}
    from generate_series(1, {logged}) n;
    insert into actp_tool_call_log (id, agent_id, tool, called_at)
    select 't' || n, (array['social','content','acquisition','revenue'])[n % 4 + 1], 'look',
        now() - n * interval '1 minute' * 20160 / {logged}
    from generate_series(1, {logged}) n;
"""
"""Fourteen days of four busy agents."""


def fill_with_history(db_url: str) -> None:
    """Put finished and queued tasks, costs and calls of tools into the tables."""
    with psycopg.connect(db_url) as db:
        text = HISTORY.format(finished=FINISHED, queued=QUEUED, logged=LOGGED)
        for statement in filter(str.strip, text.split(";")):
            db.execute(statement)
    with psycopg.connect(db_url, autocommit=True) as db:
        db.execute("vacuum analyze")


async def what_pages_ask(url: str, db_url: str) -> None:
    """The verbs behind `/` and an agent's page, beside much history."""
    fill_with_history(db_url)
    print(
        f"\n{f'beside {FINISHED:,} finished, {QUEUED:,} queued, {LOGGED:,} costs':<58}"
        "median and 9th decile"
    )
    async with open_supabase_store(url, key_of("service_role")) as store:
        now = await store.ping()
        since = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=13)
        asked = {
            "count_tasks": store.count_tasks,
            "oldest_queued": store.oldest_queued,
            "costs of 14 days": partial(store.costs, since=since),
            "costs since some hours, of one": partial(
                store.costs, since=now - timedelta(hours=7), agent_id="social"
            ),
            "tasks, 50": store.tasks,
            "tasks of agent and status, none": partial(
                store.tasks, agent_type="social", status=TaskStatus.FAILED
            ),
            "tool_stats of a day": partial(store.tool_stats, "social"),
            "beat": partial(
                store.beat,
                "i",
                agents=["social", "content", "acquisition", "revenue"],
                tokens=[],
                leases=[],
                lease=60.0,
                request="r",
                presence=None,
            ),
            "claim_task": lambda: store.claim_task(
                "social", worker_id="w", instance="i", token=f"k{next(_tokens)}", lease=60
            ),
        }
        for what, ask in asked.items():
            seconds = []
            for _ in range(20):
                started = time.perf_counter()
                await ask()
                seconds.append(time.perf_counter() - started)
            print(f"{what:<64}{spread(seconds)}", flush=True)


async def latency_of_a_task_posted_elsewhere(socket: str, db_url: str, folder: Path) -> None:
    """How long a task made by hand waits for an idle daemon."""
    fill(db_url, 0)
    async with (
        open_gateway(Gateway(Path(socket))) as url,
        a_daemon(url, folder, agent="own:Working") as process,
    ):
        await trio.sleep(8)
        waited = []
        with psycopg.connect(db_url, autocommit=True) as db:
            for number in range(5 if QUICK else 20):
                await trio.sleep(1 + number % 5 * 0.7)
                db.execute(
                    "insert into actp_agent_tasks (id, agent_type, goal)"
                    " values (%s, 'revenue', 'g')",
                    [f"hand{number}"],
                )
                with trio.move_on_after(30):
                    # Another program is waited for.
                    while not (row := begun(db, f"hand{number}"))[0]:  # noqa: ASYNC110
                        await trio.sleep(0.1)
                waited.append(row[0] or math.inf)
        assert process.returncode is None
    print(f"\nA task made by hand begins on an idle daemon after {max(waited):.1f} s at most,")
    print(f"  {statistics.median(waited):.1f} s in the median of {len(waited)}")


def begun(db: psycopg.Connection, task_id: str) -> tuple[float | None]:
    """Return how many seconds a task waited; None while it does."""
    waited = "select extract(epoch from started_at - created_at)::float8"
    row = db.execute(f"{waited} from actp_agent_tasks where id = %s", [task_id]).fetchone()
    assert row is not None
    return row


def spread(seconds: list[float]) -> str:
    """Write a median and a ninth decile in milliseconds."""
    median, high = statistics.median(seconds), statistics.quantiles(seconds, n=10)[8]
    return f"{median * 1e3:>8.2f}{high * 1e3:>6.2f}ms"


async def idle_daemon(socket: str, db_url: str, folder: Path) -> None:
    """What a daemon with all four agents asks while there is nothing to do."""
    fill(db_url, 0)
    gateway = Gateway(Path(socket))
    async with open_gateway(gateway) as url:
        asked = await requests_of_a_daemon(gateway, url, folder)
    if asked is None:
        return
    print(f"\nAn idle daemon asks, in a minute ({IDLE:.0f} s measured):")
    for what, times in asked.most_common():
        print(f"  {what:<42}{times * 60 / IDLE:>14.0f}")
    print(f"  {'in all':<42}{asked.total() * 60 / IDLE:>14.0f}")


WORKING = """
from app.agents.outcomes import Outcome
from app.agents.work import Worker


class Working:
    def __init__(self, context):
        self.context = context

    async def run_as_daemon(self, poll_interval):
        await Worker(self.context, self.do).run(poll_interval)

    async def do(self, task):
        return Outcome(failure=None, result={})
"""


@asynccontextmanager
async def a_daemon(url: str, folder: Path, agent: str | None = None) -> AsyncIterator[trio.Process]:
    """Run a daemon with all four agents for the time of the block."""
    (folder / "own.py").write_text(WORKING)
    prefixes = ("SOCIAL_MEDIA", "CONTENT", "ACQUISITION", "REVENUE")
    environ = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "SUPABASE_URL": url,
        "SUPABASE_SERVICE_ROLE_KEY": key_of("service_role"),
        "WORKER_DB_PATH": str(folder / "unused.db"),
        "WORKER_HEALTH_PORT": "0",
        "ANTHROPIC_API_KEY": "unused",
        **({f"{prefix}_AGENT_CLASS": agent for prefix in prefixes} if agent else {}),
    }
    told = folder / "daemon.log"
    with told.open("wb") as log:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "app.main"], env=environ, cwd=ROOT, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            with trio.move_on_after(30, shield=True):
                await process.wait()


async def requests_of_a_daemon(gateway: Gateway, url: str, folder: Path) -> Counter[str] | None:
    """Count what a daemon asks for, by function or table; None if it does not run."""
    async with a_daemon(url, folder) as process:
        await trio.sleep(8)  # it starts
        gateway.requests.clear()
        await trio.sleep(IDLE)
        if process.returncode is not None:
            print(f"\nNo daemon to measure: {(folder / 'daemon.log').read_text().strip()}")
            return None
        return Counter(request.split("?")[0].rsplit("/", 1)[1] for request in gateway.requests)


def main() -> None:
    """Run all of it."""
    logging.getLogger("procrastinate").setLevel(logging.ERROR)
    services = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "services.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    # Both pipes close at the end, and so the services stop.
    with services, tempfile.TemporaryDirectory() as folder:
        project = json.loads(services.stdout.readline())
        print(f"{'tasks claimed and finished':<44}{'by':>4}{'rate':>13}")
        trio.run(sqlite_rates, Path(folder))
        url, db_url, socket = project["url"], project["db_url"], project["socket"]
        trio.run(supabase_rates, url, db_url)
        for claimers in CLAIMERS:
            fill(db_url, TASKS)
            psycopg_rate("the same statements by psycopg", db_url, claimers, TASKS)
        asyncio.run(procrastinate_rates(Postgres(Path(socket).parent).create("procrastinate")))
        latency_beside_the_finished(db_url)
        trio.run(what_pages_ask, url, db_url)
        trio.run(idle_daemon, socket, db_url, Path(folder))
        trio.run(latency_of_a_task_posted_elsewhere, socket, db_url, Path(folder))


if __name__ == "__main__":
    main()
