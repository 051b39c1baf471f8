"""The contract of the Store: the agents' own tables."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
import trio
from store_calls import (
    NOON,
)

from app.store.protocol import DomainTable, Query, StoreError

DOMAIN_ROWS = {
    DomainTable.ENGAGEMENT_ACTIONS: {
        "platform": "mastodon",
        "action": "reply",
        "target": "@a",
        "content": "Hé",
        "status": "queued",
        "settled_at": NOON,
    },
    DomainTable.VIRAL_TEMPLATES: {
        "name": "list",
        "hook": "five things",
        "tags": ["a", {"b": 1}],
        "score": 0.75,
        "uses": 3,
    },
    DomainTable.DEAL_LOG: {
        "name": "Deal",
        "stage": "won",
        "value_usd": 1250.5,
        "next_action_at": NOON,
    },
    DomainTable.REVENUE_GOALS: {
        "period": "2026-11",
        "metric": "revenue",
        "target": 10_000,
        "actual": 2.5,
    },
    DomainTable.WEEKLY_SNAPSHOTS: {
        "week": "2026-W47",
        "metrics": {"a": 1, "b": None},
        "summary": "fine",
    },
    DomainTable.REPORTS: {
        "kind": "daily_check",
        "period": "2026-11-23",
        "text": "All is well.",
        "metrics": {"stripe_usd": 12.5},
        "sent_by": "telegram",
        "sent_at": NOON,
        "agent_id": "revenue",
        "from_outside": "a page of the web",
    },
}


@pytest.mark.parametrize("table", list(DomainTable))
async def test_a_domain_row_comes_back_as_it_was_written(store, table):
    values = DOMAIN_ROWS[table]
    before = await store.ping()
    row = await store.insert(table, "r1", values)
    assert row == (await store.select(table, Query()))[0]
    assert {name: row[name] for name in values} == values
    assert row["id"] == "r1"
    assert before <= row["created_at"] == row["updated_at"]


@pytest.mark.parametrize("table", list(DomainTable))
async def test_a_domain_row_without_values_has_none(store, table):
    row = await store.insert(table, "r1", {})
    made_by_the_store = {"id", "created_at", "updated_at"}
    assert {name for name, value in row.items() if value is not None} == made_by_the_store


async def test_inserting_a_known_id_returns_that_row_unchanged(store):
    first = await store.insert(DomainTable.DEAL_LOG, "r1", {"name": "a"})
    assert await store.insert(DomainTable.DEAL_LOG, "r1", {"name": "b"}) == first


async def test_updating_changes_the_named_columns_and_updated_at(store):
    first = await store.insert(DomainTable.DEAL_LOG, "r1", {"name": "a", "stage": "prospect"})
    await trio.sleep(0.01)
    changed = await store.update(DomainTable.DEAL_LOG, "r1", {"stage": "won", "notes": None})
    assert (changed["name"], changed["stage"], changed["notes"]) == ("a", "won", None)
    assert changed["created_at"] == first["created_at"]
    assert changed["updated_at"] > first["updated_at"]
    assert await store.select(DomainTable.DEAL_LOG, Query()) == [changed]


async def test_updating_a_row_that_is_not_there_is_none(store):
    assert await store.update(DomainTable.DEAL_LOG, "nothing", {"stage": "won"}) is None


async def test_a_value_can_be_set_to_none(store):
    await store.insert(DomainTable.VIRAL_TEMPLATES, "r1", {"tags": ["a"], "score": 1})
    row = await store.update(DomainTable.VIRAL_TEMPLATES, "r1", {"tags": None, "score": None})
    assert (row["tags"], row["score"]) == (None, None)


async def deals(store):
    for row_id, name, stage, value in (
        ("r1", "Äpfel GmbH", "prospect", 30.0),
        ("r2", "Birnen AG", "won", None),
        ("r3", "100% Obst", "prospect", 10.0),
        ("r4", None, None, 20.0),
    ):
        await store.insert(
            DomainTable.DEAL_LOG, row_id, {"name": name, "stage": stage, "value_usd": value}
        )


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        (Query(), ["r4", "r3", "r2", "r1"]),
        (Query(descending=False), ["r1", "r2", "r3", "r4"]),
        (Query(limit=2), ["r4", "r3"]),
        (Query(limit=0), []),
        (Query(equal={"stage": "prospect"}), ["r3", "r1"]),
        (Query(equal={"stage": None}), ["r4"]),
        (Query(equal={"id": "r2"}), ["r2"]),
        (Query(equal={"value_usd": 10}), ["r3"]),
        (Query(equal={"stage": "prospect", "value_usd": 30.0}), ["r1"]),
        (Query(one_of={"stage": ["won", "prospect"]}), ["r3", "r2", "r1"]),
        (Query(one_of={"stage": ["won", None]}), ["r4", "r2"]),
        (Query(one_of={"stage": ["won"]}, equal={"name": "Birnen AG"}), ["r2"]),
        (Query(one_of={"stage": [], "name": ["Birnen AG"]}), []),
        (Query(one_of={"name": ['a,b"\\', "100% Obst"]}), ["r3"]),
        (Query(contains={"name": "äPFEL"}), ["r1"]),
        (Query(contains={"name": "%"}), ["r3"]),
        (Query(contains={"name": "_"}), []),
        (Query(contains={"name": "obst"}, equal={"stage": "won"}), []),
        (Query(order_by="value_usd"), ["r1", "r4", "r3", "r2"]),
        (Query(order_by="value_usd", descending=False), ["r3", "r4", "r1", "r2"]),
    ],
    ids=str,
)
async def test_rows_are_selected_by_equality_and_text_in_an_order(store, query, ids):
    await deals(store)
    assert [row["id"] for row in await store.select(DomainTable.DEAL_LOG, query)] == ids


async def test_a_search_for_what_no_database_holds_finds_what_took_its_place(store):
    await store.insert(DomainTable.DEAL_LOG, "r\0", {"name": "a\0b", "notes": "\ud800"})
    query = Query(equal={"id": "r\0", "notes": "\ud800"}, contains={"name": "A\0B"})
    (row,) = await store.select(DomainTable.DEAL_LOG, query)
    assert (row["id"], row["name"]) == ("r\ufffd", "a\ufffdb")
    assert await store.update(DomainTable.DEAL_LOG, "r\0", {"stage": "won"}) is not None


@pytest.mark.parametrize("tags", ["text", "1", [], {}, 5, [None], "null"])
async def test_a_json_column_takes_any_json(store, tags):
    row = await store.insert(DomainTable.VIRAL_TEMPLATES, "r1", {"tags": tags})
    assert row["tags"] == tags


@pytest.mark.parametrize(
    "text", ["*", "\\", ".", "(", "***=", "a,b", '"', "null", "is.null", "&x=y"]
)
async def test_texts_of_a_query_are_plain_texts(store, text):
    await store.insert(DomainTable.DEAL_LOG, "r1", {"name": "plain"})
    await store.insert(DomainTable.DEAL_LOG, "r2", {"name": f"x{text}y", "stage": text})
    for query in (Query(equal={"stage": text}), Query(contains={"name": text})):
        rows = await store.select(DomainTable.DEAL_LOG, query)
        assert [row["id"] for row in rows] == ["r2"]


async def test_rows_behind_another_are_those_made_before_it_page_by_page(store):
    for number in range(7):
        await store.insert(DomainTable.DEAL_LOG, f"r{number}", {"stage": "won"})
    await store.insert(DomainTable.DEAL_LOG, "lost", {"stage": "lost"})
    pages, before = [], None
    while True:
        query = Query(equal={"stage": "won"}, before=before, limit=3)
        rows = await store.select(DomainTable.DEAL_LOG, query)
        if not rows:
            break
        pages.append([row["id"] for row in rows])
        before = rows[-1]["id"]
    assert pages == [["r6", "r5", "r4"], ["r3", "r2", "r1"], ["r0"]]
    query = Query(one_of={"stage": ["won", None]}, before="lost", limit=2)
    assert [row["id"] for row in await store.select(DomainTable.DEAL_LOG, query)] == ["r6", "r5"]
    assert await store.select(DomainTable.DEAL_LOG, Query(before="nobody's")) == []
    with pytest.raises(StoreError, match="made before it"):
        await store.select(DomainTable.DEAL_LOG, Query(before="r1", order_by="value_usd"))


async def test_rows_are_selected_by_a_moment(store):
    await store.insert(DomainTable.DEAL_LOG, "r1", {"next_action_at": NOON})
    await store.insert(DomainTable.DEAL_LOG, "r2", {"next_action_at": NOON + timedelta(hours=1)})
    rows = await store.select(DomainTable.DEAL_LOG, Query(equal={"next_action_at": NOON}))
    assert [row["id"] for row in rows] == ["r1"]


@pytest.mark.parametrize(
    "query",
    [
        Query(equal={"nope": 1}),
        Query(equal={"stage = 'won' or 1=1 --": 1}),
        Query(contains={"nope": "a"}),
        Query(contains={"value_usd": "a"}),
        Query(order_by="nope"),
        Query(order_by="id; drop table actp_deal_log"),
        Query(equal={"value_usd": "much"}),
    ],
    ids=str,
)
async def test_a_query_that_makes_no_sense_is_refused(store, query):
    with pytest.raises(StoreError, match="actp_deal_log"):
        await store.select(DomainTable.DEAL_LOG, query)


async def test_json_columns_cannot_be_compared(store):
    with pytest.raises(StoreError, match="tags"):
        await store.select(DomainTable.VIRAL_TEMPLATES, Query(equal={"tags": ["a"]}))


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (DomainTable.DEAL_LOG, {"nope": 1}),
        (DomainTable.DEAL_LOG, {"name": 5}),
        (DomainTable.DEAL_LOG, {"value_usd": "5"}),
        (DomainTable.DEAL_LOG, {"value_usd": True}),
        (DomainTable.DEAL_LOG, {"value_usd": float("nan")}),
        (DomainTable.DEAL_LOG, {"next_action_at": "tomorrow"}),
        (DomainTable.DEAL_LOG, {"next_action_at": datetime(2026, 1, 1)}),  # noqa: DTZ001
        (DomainTable.DEAL_LOG, {"created_at": NOON}),
        (DomainTable.DEAL_LOG, {"id": "other"}),
        (DomainTable.VIRAL_TEMPLATES, {"uses": 1.5}),
        (DomainTable.VIRAL_TEMPLATES, {"uses": 2**70}),
        (DomainTable.VIRAL_TEMPLATES, {"tags": {1, 2}}),
    ],
    ids=str,
)
async def test_a_value_that_does_not_fit_its_column_is_refused(store, table, values):
    await store.insert(table, "r1", {})
    for attempt in (store.insert(table, "r2", values), store.update(table, "r1", values)):
        with pytest.raises(StoreError):
            await attempt
    assert len(await store.select(table, Query())) == 1
