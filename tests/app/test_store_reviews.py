"""The contract of the Store: what people have said of rows, and what they changed by it."""

from __future__ import annotations

import pytest
import trio
from store_calls import NOON

from app.store.protocol import DomainTable, NewReview, Query, StoreError, Verdict

DRAFTS = DomainTable.VIRAL_TEMPLATES
DEALS = DomainTable.DEAL_LOG


def said(review_id="v1", verdict=Verdict.APPROVED, *, table=DRAFTS, row="r1", comment=None):
    return NewReview(
        id=review_id,
        table_name=table,
        row_id=row,
        verdict=verdict,
        comment=comment,
        reviewed_by="Grace (API)",
    )


async def add_draft(store, row_id="r1", **changes):
    values = {"name": "Tea", "hook": "I drank.", "tags": ["a", 1], "score": 2.5, "status": "draft"}
    return await store.insert(DRAFTS, row_id, {**values, **changes})


async def approve(store, review_id="v1", **options):
    return await store.review_row(
        said(review_id, **options), shown={"status": "draft"}, changes={"status": "approved"}
    )


async def row_of(store, table=DRAFTS, row_id="r1"):
    (row,) = await store.select(table, Query(equal={"id": row_id}))
    return row


async def test_a_review_changes_the_row_and_is_kept_with_who_and_when(store):
    before = await add_draft(store)
    await trio.sleep(0.01)
    kept = await approve(store, comment="Well put.")
    row = await row_of(store)
    assert (row["status"], row["hook"]) == ("approved", "I drank.")
    assert row["updated_at"] > before["updated_at"]
    assert (kept.verdict, kept.comment, kept.reviewed_by) == (
        Verdict.APPROVED,
        "Well put.",
        "Grace (API)",
    )
    assert (kept.table_name, kept.row_id) == ("actp_viral_templates", "r1")
    assert (kept.before, kept.after) == ({"status": "draft"}, {"status": "approved"})
    assert kept.reviewed_at >= before["created_at"]
    assert await store.reviews() == [kept]


async def test_a_row_that_is_not_as_it_was_shown_is_left_alone(store):
    await add_draft(store)
    await store.update(DRAFTS, "r1", {"hook": "I spilled."})
    shown = {"status": "draft", "hook": "I drank."}
    refused = await store.review_row(said(), shown=shown, changes={"status": "approved"})
    assert refused is None
    assert (await row_of(store))["status"] == "draft"
    assert await store.reviews() == []


async def test_a_review_of_no_row_is_none(store):
    assert await approve(store, row="nothing") is None
    assert await store.reviews() == []


async def test_a_review_that_is_said_again_is_done_once(store):
    await add_draft(store)
    first = await approve(store)
    assert await approve(store) == first
    assert len(await store.reviews()) == 1


async def test_of_reviews_at_once_exactly_one_counts(store, open_store):
    await add_draft(store)
    stores = [store, await open_store(), await open_store()]
    kept = []

    async def decide(each, number):
        kept.append(await approve(each, f"v{number}"))

    async with trio.open_nursery() as nursery:
        for number in range(9):
            nursery.start_soon(decide, stores[number % 3], number)
    assert len([row for row in kept if row is not None]) == 1
    assert len(await store.reviews()) == 1


async def test_what_was_edited_is_kept_as_it_was_and_as_it_became(store):
    await add_draft(store, tags=["a", {"b": 1}])
    shown = {"status": "draft", "hook": "I drank.", "tags": ["a", {"b": 1}], "score": 2.5}
    changes = {"hook": "I sipped.", "tags": ["c"], "score": None}
    kept = await store.review_row(said(verdict=Verdict.EDITED), shown=shown, changes=changes)
    assert kept.before == {"hook": "I drank.", "tags": ["a", {"b": 1}], "score": 2.5}
    assert kept.after == changes
    row = await row_of(store)
    assert {name: row[name] for name in changes} == changes


async def test_moments_and_empty_columns_are_compared_as_they_were_shown(store):
    await store.insert(DEALS, "r1", {"name": "Ada", "next_action_at": NOON})
    deal = await row_of(store, DEALS)
    shown = {name: deal[name] for name in ("name", "stage", "value_usd", "next_action_at")}
    changes = {"stage": "rejected", "next_action_at": None}
    kept = await store.review_row(
        said(verdict=Verdict.REJECTED, table=DEALS), shown=shown, changes=changes
    )
    assert kept.after == changes
    row = await row_of(store, DEALS)
    assert (row["stage"], row["next_action_at"], row["name"]) == ("rejected", None, "Ada")
    late = await store.review_row(said("v2", table=DEALS), shown=shown, changes={"stage": "won"})
    assert late is None


async def test_a_review_may_change_nothing(store):
    await add_draft(store)
    kept = await store.review_row(said(), shown={"name": "Tea"}, changes={})
    assert (kept.before, kept.after) == ({}, {})


async def test_reviews_are_listed_by_table_rows_and_verdict_the_newest_first(store):
    for row_id in ("r1", "r2", "r3"):
        await add_draft(store, row_id)
    await store.insert(DEALS, "r1", {"name": "Ada"})
    await approve(store, "v1")
    await approve(store, "v2", row="r2")
    await approve(store, "v3", row="r3", verdict=Verdict.REJECTED)
    await store.review_row(said("v4", table=DEALS), shown={}, changes={"name": "Grace"})

    async def ids(**options):
        return [row.id for row in await store.reviews(**options)]

    assert await ids() == ["v4", "v3", "v2", "v1"]
    assert await ids(limit=2) == ["v4", "v3"]
    assert await ids(table_name=DEALS) == ["v4"]
    assert await ids(table_name=DRAFTS, row_ids=["r1", "r2"]) == ["v2", "v1"]
    assert await ids(row_ids=[]) == []
    assert await ids(verdict=Verdict.REJECTED) == ["v3"]


@pytest.mark.parametrize("columns", [{"nothing": 1}, {"score": "much"}, {"id": "r2"}])
async def test_a_review_of_columns_that_are_none_is_refused(store, columns):
    await add_draft(store)
    with pytest.raises(StoreError):
        await store.review_row(said(), shown={}, changes=columns)
    assert await store.reviews() == []
