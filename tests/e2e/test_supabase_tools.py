"""What Supabase's users have beside our command: the real CLI, and a Supabase that is not ours."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio
from daemons import PATIENCE, ROOT

from app.store.functions import migrations, schema_version
from app.store.supabase import open_supabase_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

ROLES = "create role anon nologin; create role authenticated nologin;"
LIKE = "List the engagement actions and queue a like for the post 'Hiring is broken'"


def tool(name):
    """Return the path of a program of npm's; the test is skipped where it is not there."""
    found = shutil.which(name) or shutil.which(name, path=ROOT / ".tools/node_modules/.bin")
    if found is None:
        pytest.skip(f"no {name}: make .tools/supabase.done")
    return found


@asynccontextmanager
async def over_tcp(db_url: str) -> AsyncIterator[str]:
    """Serve PostgreSQL, which has a socket in a folder alone, on a port; gives its address."""
    where = psycopg.conninfo.conninfo_to_dict(db_url)

    async def pump(source, target):
        try:
            async for chunk in source:
                await target.send_all(chunk)
            await target.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def serve(client):
        path = f"{where['host']}/.s.PGSQL.5432"
        async with (
            client,
            await trio.open_unix_socket(path) as server,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(pump, client, server)
            nursery.start_soon(pump, server, client)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), serve, 0)
        port = listener.socket.getsockname()[1]
        yield f"postgresql://postgres:postgres@127.0.0.1:{port}/{where['dbname']}?sslmode=disable"
        nursery.cancel_scope.cancel()


async def run(folder, *command, **options):
    with trio.fail_after(PATIENCE):
        ended = await trio.run_process(
            command,
            cwd=folder,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
            **options,
        )
    return ended.returncode, ended.stdout.decode()


async def push(folder, address):
    return await run(folder, tool("supabase"), "db", "push", "--db-url", address, "--yes")


def copy(folder: Path, files) -> None:
    (folder / "supabase/migrations").mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copy(path, folder / "supabase/migrations")


def version_of(db_url):
    with psycopg.connect(db_url) as db:
        return db.execute("select actp_schema_version()").fetchone()[0]


async def test_the_cli_pushes_an_update_to_a_project_that_it_has_pushed_to_before(
    new_database, tmp_path
):
    released = migrations()[:3]
    async with over_tcp(new_database) as address:
        copy(tmp_path, released)
        assert (await push(tmp_path, address))[0] == 0
        copy(tmp_path, migrations())
        code, said = await push(tmp_path, address)
    assert code == 0, said
    assert migrations()[-1].name in said
    assert version_of(new_database) == schema_version()


async def test_exported_into_another_repository_the_files_are_pushed_with_its_own(
    new_database, idle_place, tmp_path
):
    theirs = tmp_path / "theirs"
    (theirs / "supabase/migrations").mkdir(parents=True)
    own = theirs / "supabase/migrations/20260101000000_posts.sql"
    own.write_text("create table public.posts (id bigint primary key);")
    async with over_tcp(new_database) as address:
        assert (await push(theirs, address))[0] == 0
        copy(tmp_path / "ours", migrations())
        code, said = await push(tmp_path / "ours", address)
        assert code != 0  # which is why there is an export
        exported = await idle_place.run(
            "--migrate", "--export", str(theirs / "supabase/migrations")
        )
        assert exported.code == 0
        code, said = await push(theirs, address)
        assert code == 0, said
        again = theirs / "supabase/migrations/29990101000000_more.sql"
        again.write_text("alter table public.posts add column body text;")
        assert (await push(theirs, address))[0] == 0
    assert version_of(new_database) == schema_version()


@asynccontextmanager
async def another_supabase(folder: Path):
    """Run Supabase Lite on PGlite with our migrations; gives its address and its secret key."""
    lite = tool("lite")
    code, said = await run(folder, lite, "init", "--pglite")
    assert code == 0, said
    copy(folder, migrations())
    # It has no roles by itself.
    (folder / "supabase/migrations/00000000000001_roles.sql").write_text(ROLES)
    code, said = await run(folder, lite, "migration", "up")
    assert code == 0, said
    key = re.search(r"SUPABASE_SECRET_KEY=\"?([^\s\"]+)", (folder / ".env").read_text())[1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "supabase/config.toml"
    config.write_text(config.read_text().replace("port = 54321", f"port = {port}"))
    (folder / ".env").rename(folder / ".env.lite")  # or our daemon would read it
    async with trio.open_nursery() as nursery:
        serve = partial(
            trio.run_process,
            [lite, "start"],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "SUPABASE_SECRET_KEY": key, "HOME": str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        nursery.start_soon(serve)
        with trio.fail_after(PATIENCE):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    await trio.sleep(0.1)
        yield f"http://127.0.0.1:{port}", key
        nursery.cancel_scope.cancel()


async def test_the_daemon_works_on_a_supabase_that_is_not_ours(place, tmp_path_factory):
    async with another_supabase(tmp_path_factory.mktemp("lite")) as (address, key):
        environ = {"SUPABASE_URL": address, "SUPABASE_SERVICE_ROLE_KEY": key}
        checked = await place.run("--dry-run", **environ)
        assert (checked.code, checked.err) == (0, "")
        async with place.daemon("--agents", "social", **environ) as daemon:
            task_id = await daemon.post("social", LIKE)
            async with open_supabase_store(address, key) as store:
                with trio.fail_after(PATIENCE):
                    # Another program is waited for.
                    while (await store.task(task_id)).status != "succeeded":  # noqa: ASYNC110
                        await trio.sleep(0.1)
                assert len(await store.tool_calls(task_id=task_id)) == 2
