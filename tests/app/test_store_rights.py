"""Rights that somebody took from the service role are found at the start, not in the work."""

from __future__ import annotations

import psycopg
from services import open_project

from app.store.migrate import migrate
from app.store.schema import check_required_tables
from app.store.supabase import open_supabase_store


async def test_rights_that_were_revoked_are_named_with_the_command_that_gives_them_back(
    new_database, postgres, short_folder
):
    migrate(new_database)
    async with (
        open_project(postgres, new_database, short_folder) as project,
        open_supabase_store(project.url, project.service_key) as store,
    ):
        assert (await check_required_tables(store)).complete
        with psycopg.connect(new_database, autocommit=True) as db:
            db.execute("revoke insert, delete on actp_agent_runs from service_role")
            report = await check_required_tables(store)
            assert not report.complete
            assert "table actp_agent_runs denies the worker to insert, delete" in report.warning
            (obstacle,) = report.obstacles
            db.execute(obstacle.command)
        assert (await check_required_tables(store)).complete
