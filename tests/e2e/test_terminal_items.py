"""`--show` and the decisions about what agents make, from a terminal beside a running daemon."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import pytest

from app.store.protocol import DomainTable, Query
from app.store.sqlite import open_sqlite_store

DRAFTS = DomainTable.VIRAL_TEMPLATES


@asynccontextmanager
async def beside(place):
    """A daemon with two drafts and a deal; gives its store, and what runs a command beside it."""
    async with place.daemon() as daemon, open_sqlite_store(place.database) as store:
        for number in (1, 2):
            values = {"name": f"Tea {number}", "hook": "I", "body": "Drank\nit.", "tags": ["tea"]}
            await store.insert(DRAFTS, f"d{number}", {**values, "status": "draft"})
        await store.insert(DomainTable.DEAL_LOG, "x1", {"name": "Ada", "value_usd": 900.0})

        async def run(*arguments):
            port = daemon.page.rpartition(":")[2]
            return await place.run(*arguments, WORKER_HEALTH_PORT=port)

        yield store, run


async def test_items_are_shown_and_decided_from_a_terminal(idle_place):
    async with beside(idle_place) as (store, run):
        shown = await run("--show", "drafts")
        assert (shown.code, shown.err) == (0, "")
        assert shown.out.index("drafts/d1") < shown.out.index("drafts/d2")
        for part in ("Tea 1", "body: Drank\n    it.", "tags: tea", "draft, 20"):
            assert part in shown.out

        changes = json.dumps({"hook": "You"})
        approved = await run(
            *("--approve", "drafts/d1", "--changes", changes), "--comment", "Good."
        )
        assert (approved.code, approved.out) == (0, "The draft d1 is approved.\n")
        (row,) = await store.select(DRAFTS, Query(equal={"id": "d1"}))
        assert (row["status"], row["hook"]) == ("approved", "You")
        (review,) = await store.reviews()
        assert (review.verdict, review.comment) == ("approved", "Good.")
        assert review.reviewed_by.endswith(" (terminal)")

        edited = await run("--edit", "drafts/d2", "--changes", '{"name": "Coffee"}', "--json")
        assert json.loads(edited.out)["name"] == "Coffee"
        rejected = await run("--reject", "drafts/d2", "--comment", "No.")
        assert rejected.out == "The draft d2 is rejected.\n"
        done = await run("--done", "drafts/d1")
        assert done.out == "The draft d1 is done.\n"
        denied = await run("--deny", "deals/x1")
        assert denied.out == "The deal x1 is rejected.\n"

        left = await run("--show", "drafts", "--status", "rejected", "--json")
        assert [item["id"] for item in json.loads(left.out)] == ["d2"]
        told = await run("--show", "drafts", "--status", "rejected")
        assert "rejected by" in told.out
        assert "UTC: No." in told.out
        none = await run("--show", "reports", "--agent", "revenue")
        assert none.out == "There are no reports like that.\n"
        late = await run("--reject", "drafts/d1")
        assert late.code == 1
        assert "cannot be rejected: it is done by" in late.err
        nowhere = await run("--approve", "drafts/d9")
        assert nowhere.code == 1
        assert "There is no such draft" in nowhere.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--status", "draft"], "--status goes with --retry or --cancel or --show"),
        (["--show", "drafts", "--status", "dull"], "must be one of queued, running"),
        (["--edit", "drafts/d1"], "--edit needs --changes"),
        (["--reject", "drafts/d1", "--changes", "{}"], "--changes goes with --edit or --approve"),
        (["--reject", "cats/d1"], "kinds are drafts, actions, deals, goals, reports"),
        (["--reject", "d1"], "write a kind and an id"),
        (["--show", "drafts", "--agents", "social"], "--show runs nothing"),
        (["--edit", "drafts/d1", "--changes", "[1]"], "must be a JSON object"),
    ],
)
async def test_wrong_use_of_it_is_one_line_and_exit_code_2(idle_place, arguments, says):
    ended = await idle_place.run(*arguments)
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert says in line
