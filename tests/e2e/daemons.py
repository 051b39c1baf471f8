"""Daemons as real processes, with a real port, real signals and a database to look into."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import zoneinfo
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import httpx
import psycopg
import psycopg.rows
import trio
from forks import Fork, can_fork, fork
from services import Project
from typing_extensions import override
from zones import night_zone

from actp_supervise.clock import SystemWallClock

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Callable, Iterator
    from datetime import datetime

ROOT = Path(__file__).parents[2]
MAIN = (sys.executable, "-m", "app.main")

PATIENCE = float(os.environ.get("PATIENCE") or 90.0)
"""Seconds that anything may take on a machine that is busy; `make test-long` keeps it busy."""

HALF_A_DAY = 12 * 3600

IDLER = """
from actp_supervise import current_child

class Idler:
    async def run_as_daemon(self, poll_interval):
        await current_child().stopping.wait()
"""
"""An agent that starts quickly, because it needs no Claude."""

_numbers = count()


@dataclass(frozen=True)
class Ended:
    """What came of a command."""

    code: int
    out: str
    err: str


@dataclass
class Place:
    """A folder with a database, and the environment of the daemons that share it."""

    folder: Path
    claude: str
    environ: dict[str, str] = field(default_factory=dict)
    wrapper: tuple[str, ...] = ()
    """A program that runs the daemon, such as one that limits it, with its arguments."""
    module: str = "app.main"
    """What runs."""
    forks: bool = True
    """Whether a start may be a fork, which is quicker; not where the start itself is looked at."""

    @property
    def database(self) -> Path:
        return self.folder / "data" / "worker.db"

    @property
    def locks(self) -> list[Path]:
        """The lock files of daemons that run, or have died."""
        return list((self.folder / "data" / "worker.db-workers").glob("*"))

    def use_class(self, source: str, name: str) -> None:
        """Have the social agent be a class of one's own."""
        (self.folder / "own.py").write_text(source)
        self.environ["SOCIAL_MEDIA_AGENT_CLASS"] = f"own:{name}"

    def use_zone(self, hour: int, *, within: int) -> datetime:
        """Have the daemons live in a time zone where it will be so late in so many seconds.

        Returns:
            When that is.
        """
        moment = SystemWallClock().now().replace(microsecond=0) + timedelta(seconds=within)
        of_utc = moment.hour * 3600 + moment.minute * 60 + moment.second
        offset = (hour * 3600 - of_utc + HALF_A_DAY) % (2 * HALF_A_DAY) - HALF_A_DAY
        # One kind of time and no transition, in version 1 of the format (RFC 9636).
        counts = (0, 0, 0, 0, 1, 4)
        zone = struct.pack(">4sx15x6l", b"TZif", *counts) + struct.pack(">lBB", offset, 0, 0)
        path = self.folder / "zones" / "Test" / "Zone"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zone + b"TST\0")
        zones = os.pathsep.join((str(self.folder / "zones"), *zoneinfo.TZPATH))
        self.environ |= {"WORKER_TIMEZONE": "Test/Zone", "PYTHONTZPATH": zones}
        return moment

    def environment(self, **changes: str) -> dict[str, str]:
        agents = ("SOCIAL_MEDIA", "CONTENT", "ACQUISITION", "REVENUE")
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{self.folder}",
            "ANTHROPIC_API_KEY": "e2e-secret-key",
            "ANTHROPIC_BASE_URL": self.claude,
            "WORKER_DB_PATH": str(self.database),
            "WORKER_HEALTH_PORT": "0",
            "WORKER_TIMEZONE": night_zone(),
            "SUPERVISOR_WATCH_INTERVAL": "0.3",
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
            **{f"{agent}_AGENT_POLL_INTERVAL": "0.2" for agent in agents},
            **self.environ,
            **changes,
        }

    async def run(self, *arguments: str, **changes: str) -> Ended:
        """Run a command to its end."""
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            async with self.start(*arguments, stdout=stdout, stderr=stderr, **changes) as process:
                with trio.fail_after(PATIENCE):
                    code = await process.wait()
            stdout.seek(0)
            stderr.seek(0)
            return Ended(code, stdout.read().decode(), stderr.read().decode())

    @asynccontextmanager
    async def start(
        self, *arguments: str, stdout: IO[bytes], stderr: IO[bytes], **changes: str
    ) -> AsyncIterator[trio.Process | Fork]:
        """Run the program with these arguments; at the end it is killed if it still runs."""
        environ = self.environment(**changes)
        options = {"cwd": self.folder, "env": environ, "stdout": stdout, "stderr": stderr}
        if self.forks and not self.wrapper and can_fork(self.folder, environ):
            process = fork(self.module, *arguments, **options)
        else:
            command = [*self.wrapper, sys.executable, "-m", self.module, *arguments]
            process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL, **options)
        try:
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    def start_here(
        self, *arguments: str, stderr: IO[bytes], **changes: str
    ) -> subprocess.Popen[bytes] | Fork:
        """Run a daemon without Trio; the caller ends it."""
        environ = self.environment(**changes)
        with Path(os.devnull).open("wb") as stdout:
            options = {"cwd": self.folder, "env": environ, "stdout": stdout, "stderr": stderr}
            if self.forks and can_fork(self.folder, environ):
                return fork(self.module, *arguments, **options)
            return subprocess.Popen(
                [sys.executable, "-m", self.module, *arguments], stdin=subprocess.DEVNULL, **options
            )

    @asynccontextmanager
    async def daemon(self, *arguments: str, **changes: str) -> AsyncIterator[Daemon]:
        """Start a daemon and wait until it is up; at the end it is killed if it still runs."""
        async with self.starting_daemon(*arguments, **changes) as daemon:
            await daemon.until_up()
            yield daemon

    @asynccontextmanager
    async def starting_daemon(self, *arguments: str, **changes: str) -> AsyncIterator[Daemon]:
        """Start a daemon; at the end it is killed if it still runs."""
        log = self.folder / f"daemon-{next(_numbers)}.err"
        with log.open("wb") as stderr, log.with_suffix(".out").open("wb") as stdout:
            async with (
                self.start(*arguments, stdout=stdout, stderr=stderr, **changes) as process,
                httpx.AsyncClient(timeout=PATIENCE) as http,
            ):
                yield Daemon(process, log, http)

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Ask the database itself."""
        with closing(sqlite3.connect(self.database, timeout=PATIENCE)) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(query, values)]

    def task(self, task_id: str) -> dict[str, Any]:
        (row,) = self.rows("select * from actp_agent_tasks where id = ?", task_id)
        return row

    def statuses(self) -> dict[str, str]:
        rows = self.rows("select agent_id, status from actp_agent_registry")
        return {row["agent_id"]: row["status"] for row in rows}


@dataclass
class SupabasePlace(Place):
    """A place whose daemons share a Supabase project."""

    project: Project = field(kw_only=True)

    def elsewhere(self, name: str) -> SupabasePlace:
        """Return another machine with the same programs, which shares the project and no file."""
        folder = self.folder / name
        folder.mkdir()
        for program in self.folder.glob("*.py"):
            shutil.copy(program, folder)
        return SupabasePlace(folder, self.claude, dict(self.environ), project=self.project)

    @property
    @override
    def locks(self) -> list[Path]:
        return list((self.folder / "data").glob("*-workers/*"))

    def fired(self, routine: str, moment: datetime) -> None:
        """Have a routine on record as fired then, so that its next time may be made up for."""
        self.rows(
            "insert into actp_job_runs"
            " (job_name, scheduled_at, instance, claimed_at, finished_at, outcome)"
            " select ?, m, 'gone', m, m, 'succeeded' from (select ?::timestamptz) as of (m)",
            *(routine, moment),
        )

    @override
    def environment(self, **changes: str) -> dict[str, str]:
        supabase = {
            "SUPABASE_URL": self.project.url,
            "SUPABASE_SERVICE_ROLE_KEY": self.project.service_key,
        }
        return super().environment(**{**supabase, **self.environ, **changes})

    @override
    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        row_factory = psycopg.rows.dict_row
        with psycopg.connect(self.project.db_url, row_factory=row_factory) as db:
            found = db.execute(query.replace("?", "%s"), values)
            return found.fetchall() if found.description else []


@dataclass
class Daemon:
    """A running daemon."""

    process: trio.Process | Fork
    log: Path
    http: httpx.AsyncClient
    page: str = ""

    async def until_up(self) -> None:
        """Wait until it serves its page."""
        self.page = (await until(lambda: self.logged("starting")))["page"]
        self.http.base_url = httpx.URL(self.page)

    async def post(self, agent_type: str, goal: str, **more: Any) -> str:
        """Post a task; gives its id."""
        body = {"agent_type": agent_type, "goal": goal, **more}
        answer = await self.http.post("/agents/task", json=body)
        assert answer.status_code == 201, answer.text
        task_id: str = answer.json()["id"]
        return task_id

    async def get(self, path: str) -> Any:
        return (await self.http.get(path)).json()

    async def until(self, path: str, condition: Callable[[Any], bool]) -> Any:
        """Wait until what is answered is so; gives the answer."""
        pause = pauses()
        with trio.fail_after(PATIENCE):
            while True:
                answer = await self.get(path)
                if condition(answer):
                    return answer
                await trio.sleep(next(pause))

    async def until_agent(self, agent_id: str, status: str) -> Any:
        """Wait until an agent has a status; gives what is said of it."""
        return await self.until(f"/agents/{agent_id}", lambda agent: agent["status"] == status)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def wait(self) -> int:
        """Wait for its end; gives the exit code."""
        with trio.fail_after(PATIENCE):
            return await self.process.wait()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it has logged; what is no line of the log is a message alone."""
        complete = self.log.read_text().rpartition("\n")[0].splitlines()
        return [
            json.loads(line) if line.startswith("{") else {"message": line} for line in complete
        ]

    @property
    def stdout(self) -> str:
        return self.log.with_suffix(".out").read_text()

    def logged(self, action: str) -> dict[str, Any] | None:
        """Return the first line of that action; fails if the daemon has ended without."""
        ended = self.process.poll() is not None
        found = next((line for line in self.lines if line.get("action") == action), None)
        assert found is not None or not ended, f"it ended: {self.log.read_text()}"
        return found


async def until(condition: Callable[[], Any]) -> Any:
    """Wait until something of another process is so, which tells nobody; gives what it is."""
    pause = pauses()
    with trio.fail_after(PATIENCE):
        while True:
            found = condition()
            if found:
                return found
            await trio.sleep(next(pause))


def pauses() -> Iterator[float]:
    """Give the seconds between two looks: a little more each time, for looks are work, too."""
    pause = 0.01
    while True:
        yield pause
        pause = min(1.3 * pause, 0.1)


@contextmanager
def running_claude() -> Iterator[str]:
    """Run a simulated Claude for the time of the block; gives its address."""
    command = [sys.executable, "-m", "app.demo.claude", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()
