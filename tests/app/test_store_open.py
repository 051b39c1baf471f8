"""Which store is opened, and how long a start waits for one that is away."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
from services import Gateway, http_answer, open_gateway

from app.settings import load_settings
from app.store.errors import WrongSettings
from app.store.open import open_patiently, open_store
from app.store.protocol import StoreUnavailable

ROOT = Path(__file__).parents[2]


def settings_for(tmp_path, **environ):
    return load_settings({"WORKER_DB_PATH": str(tmp_path / "w.db"), **environ}, env_file=None)


def supabase(tmp_path, url, key):
    return settings_for(tmp_path, SUPABASE_URL=url, SUPABASE_SERVICE_ROLE_KEY=key)


async def test_without_supabase_the_file_is_used(tmp_path):
    async with open_store(settings_for(tmp_path)) as store:
        assert store.where.endswith("w.db")


async def test_with_supabase_the_project_is_used(tmp_path, project):
    async with open_store(supabase(tmp_path, project.url, project.service_key)) as store:
        assert store.where == f"Supabase project {project.url}"
        assert await store.check_tables() == {}


async def test_a_wrong_key_is_an_error_of_the_settings(tmp_path, project):
    with pytest.raises(WrongSettings, match="SUPABASE_SERVICE_ROLE_KEY"):
        async with open_store(supabase(tmp_path, project.url, project.anon_key)):
            pytest.fail("opened")


async def test_a_start_waits_for_a_project_that_is_away_and_says_so(tmp_path, project):
    async def away(forward):
        return [http_answer(503, '{"message":"name resolution failed"}')]

    gateway = Gateway(Path(project.socket))
    gateway.fault = away
    told = []

    def waiting(error, seconds):
        told.append((str(error), seconds))
        gateway.fault = None

    async with open_gateway(gateway) as address:
        settings = supabase(tmp_path, address, project.service_key)
        with trio.fail_after(60):
            async with open_patiently(partial(open_store, settings), waiting=waiting) as store:
                assert await store.check_tables() == {}
    ((message, seconds),) = told
    assert "name resolution failed" in message
    assert 0 < seconds < 5


async def test_a_wait_for_a_project_that_is_away_can_be_cancelled(tmp_path):
    settings = supabase(tmp_path, "http://127.0.0.1:1", "key")
    with trio.move_on_after(0.1) as scope:
        async with open_patiently(partial(open_store, settings), waiting=lambda *_: None):
            pytest.fail("opened")
    assert scope.cancelled_caught


async def test_without_patience_a_project_that_is_away_is_an_error(tmp_path):
    with pytest.raises(StoreUnavailable):
        async with open_store(supabase(tmp_path, "http://127.0.0.1:1", "key")):
            pytest.fail("opened")


def test_supabase_is_not_imported_where_it_is_not_used():
    script = (
        "import sys, app.store.open, app.store.schema, app.store.migrate;"
        "print([m for m in ('supabase', 'httpx', 'psycopg', 'postgrest') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n"
