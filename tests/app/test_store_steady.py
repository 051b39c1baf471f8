"""What goes missing under a daemon that runs is away; what was missing before it is missing."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from store_calls import add

from app.store.protocol import DomainTable, Query, StoreError, StoreUnavailable, TableMissing
from app.store.schema import check_required_tables
from app.store.sqlite import open_sqlite_store
from app.store.steady import steady


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.db"


@pytest.fixture
async def kept(path):
    async with open_sqlite_store(path) as store:
        yield store


def change(path, *statements):
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


async def test_a_table_that_goes_is_away_until_it_is_back(kept, path):
    store = steady(kept, await check_required_tables(kept))
    change(path, "alter table actp_agent_tasks rename to elsewhere")
    with pytest.raises(StoreUnavailable, match="actp_agent_tasks"):
        await add(store)
    change(path, "alter table elsewhere rename to actp_agent_tasks")
    assert (await add(store)).goal == "do it"
    assert store.where == kept.where


async def test_what_was_missing_at_the_start_is_missing_and_all_else_away(kept, path):
    change(
        path,
        "drop table actp_deal_log",
        "alter table actp_agent_memory drop column value",
    )
    store = steady(kept, await check_required_tables(kept))
    change(path, "drop table actp_revenue_goals")
    with pytest.raises(TableMissing, match="actp_deal_log"):
        await store.select(DomainTable.DEAL_LOG, Query())
    with pytest.raises(TableMissing, match="value"):
        await store.remember("social", "key", "value")
    with pytest.raises(StoreUnavailable, match="actp_revenue_goals"):
        await store.select(DomainTable.REVENUE_GOALS, Query())


async def test_what_is_refused_for_another_reason_is_refused(kept):
    store = steady(kept, await check_required_tables(kept))
    with pytest.raises(StoreError, match="has no column") as refused:
        await store.select(DomainTable.DEAL_LOG, Query(order_by="colour"))
    assert not isinstance(refused.value, StoreUnavailable)
