"""Keys, addresses and settings of a project, and the one line of advice about each."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
import trio
from services import Gateway, http_answer, open_gateway, open_project
from store_calls import add

from app.settings import load_settings
from app.store.errors import StoreUnavailable, WrongSettings
from app.store.migrate import migrate
from app.store.supabase import open_supabase_store

IN_FUTURE = http_answer(401, '{"code":"PGRST303","message":"JWT issued at future"}')
NOT_EXPOSED = http_answer(
    406, '{"code":"PGRST106","message":"The schema must be one of the following: api"}'
)


@pytest.fixture
def gateway(project):
    return Gateway(Path(project.socket))


def times(number, answer):
    """Give an answer that often."""
    left = number

    async def fault(forward):
        nonlocal left
        left -= 1
        return [answer] if left >= 0 else None

    return fault


async def test_a_good_key_that_is_refused_for_a_moment_at_the_start_is_asked_again(
    project, gateway
):
    gateway.fault = times(3, IN_FUTURE)
    async with (
        open_gateway(gateway) as address,
        open_supabase_store(address, project.service_key, patience=0.1) as store,
    ):
        assert (await add(store)).goal == "do it"


async def test_a_key_that_stays_refused_is_wrong_after_some_seconds(project, gateway):
    gateway.fault = times(1000, IN_FUTURE)
    async with open_gateway(gateway) as address:
        with pytest.raises(WrongSettings, match="SUPABASE_SERVICE_ROLE_KEY is not") as wrong:
            async with open_supabase_store(
                address, project.service_key, patience=0.1, believe_after=0.5
            ):
                pytest.fail("opened")
    assert "\n" not in str(wrong.value)
    assert len(gateway.requests) >= 2


async def test_a_key_of_another_role_is_wrong_at_once(project, gateway):
    async with open_gateway(gateway) as address:
        with trio.fail_after(60), pytest.raises(WrongSettings):
            async with open_supabase_store(address, project.anon_key, believe_after=1000.0):
                pytest.fail("opened")


async def test_a_request_that_is_refused_for_a_moment_is_repeated(project, gateway):
    async with (
        open_gateway(gateway) as address,
        open_supabase_store(address, project.service_key, patience=30.0) as store,
    ):
        gateway.fault = times(2, IN_FUTURE)
        assert (await add(store)).goal == "do it"


async def test_a_key_that_is_refused_while_the_store_is_open_is_an_absence(project, gateway):
    async with (
        open_gateway(gateway) as address,
        open_supabase_store(address, project.service_key, patience=2.0) as store,
    ):
        gateway.fault = times(1000, IN_FUTURE)
        with pytest.raises(StoreUnavailable, match="issued at future"):
            await store.ping()
        gateway.fault = None
        await store.ping()


async def test_a_schema_that_is_not_exposed_is_told_with_where_to_expose_it(project, gateway):
    gateway.fault = times(1000, NOT_EXPOSED)
    async with open_gateway(gateway) as address:
        with pytest.raises(WrongSettings, match="Settings, Data API, Exposed schemas"):
            async with open_supabase_store(address, project.service_key):
                pytest.fail("opened")


@pytest.mark.parametrize("path", ["", "/", "/rest/v1", "/rest/v1/"])
def test_an_address_with_the_path_of_the_rest_api_is_put_right(path):
    environ = {
        "SUPABASE_URL": f"https://abcdefgh.supabase.co{path}",
        "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x",
    }
    settings = load_settings(environ, env_file=None)
    assert settings.supabase_url == "https://abcdefgh.supabase.co"


async def test_where_postgrest_has_not_read_the_new_schema_the_advice_is_to_reload_it(
    new_database, postgres, short_folder
):
    """The database is at its newest, and PostgREST shows that of the release before."""
    migrate(new_database)
    async with open_project(postgres, new_database, short_folder) as project:
        gateway = Gateway(Path(project.socket))
        forgotten = http_answer(
            404, '{"code":"PGRST202","message":"Could not find the function actp_schema_version"}'
        )

        async def fault(forward):
            return [forgotten] if "actp_schema_version" in gateway.requests[-1] else None

        gateway.fault = fault
        async with open_gateway(gateway) as address:
            with pytest.raises(WrongSettings, match="reload its schema cache"):
                async with open_supabase_store(address, project.service_key):
                    pytest.fail("opened")
    with psycopg.connect(new_database) as db:
        assert db.execute("select actp_schema_version()").fetchone()[0]
