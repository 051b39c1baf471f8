"""What agents make, decided about in a browser, against a daemon that really runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from daemons import Place
from looking import ON_DEMAND, running
from playwright.sync_api import expect

from app.store.protocol import DomainTable
from app.store.sqlite import open_sqlite_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from looking import Look, Running
    from playwright.sync_api import Locator


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, claude: str) -> Iterator[Running]:
    place = Place(tmp_path_factory.mktemp("items"), claude)
    place.use_class(ON_DEMAND, "OnDemand")
    with running(place, "--agents", "social") as daemon:
        trio.run(make_items, place.database)
        yield daemon


async def make_items(database: Path) -> None:
    async with open_sqlite_store(database) as store:
        for number in (1, 2):
            draft = {"name": f"Tea {number}", "platform": "x", "hook": "I", "body": "Drank."}
            await store.insert(
                DomainTable.VIRAL_TEMPLATES, f"d{number}", {**draft, "status": "draft"}
            )
        deal = {"name": "Ada", "company": "Engines Ltd", "stage": "prospect", "value_usd": 900.0}
        await store.insert(DomainTable.DEAL_LOG, "x1", deal)


def press(place: Locator, name: str) -> None:
    place.get_by_role("button", name=name, exact=True).click()


def test_a_draft_is_changed_approved_and_noted_as_done(daemon: Running, look: Look):
    page = look.at(f"{daemon.address}/ui/drafts")
    expect(page.locator("#connection")).to_have_text("live")
    draft = page.locator("[data-key=d1]")
    draft.get_by_label("Comment").fill("Well put.")
    page.wait_for_timeout(1500)  # in which the page goes on, and what is typed stays
    expect(draft.get_by_label("Comment")).to_have_value("Well put.")
    draft.get_by_text("Change it", exact=True).click()
    press(draft, "Save the change")
    expect(page.locator("#said")).to_contain_text("nothing was changed")
    draft.get_by_label("hook").fill("You")
    press(draft, "Approve")
    expect(page.locator("#said")).to_contain_text("Approved.")
    expect(draft).to_contain_text("approved by the page")
    expect(draft).to_contain_text("Well put.")
    press(draft, "Done")
    expect(draft).to_contain_text("done by the page")
    item = daemon.http.get("/drafts/d1").json()
    assert (item["status"], item["hook"], item["body"]) == ("done", "You", "Drank.")
    assert [review["verdict"] for review in item["reviews"]] == ["done", "approved"]


def test_what_another_has_decided_meanwhile_is_told_and_nothing_is_done(
    daemon: Running, look: Look
):
    page = look.at(f"{daemon.address}/ui/drafts/d2")
    expect(page.locator("#connection")).to_have_text("live")
    page.evaluate("document.querySelector('main').dataset.keep = ''")  # it does not go on
    daemon.http.post("/drafts/d2", json={"approve": False, "by": "Grace"}).raise_for_status()
    look.expected = ("409",)
    press(page.locator("[data-key=d2]"), "Approve")
    expect(page.locator("#said")).to_contain_text("changed meanwhile")
    assert daemon.http.get("/drafts/d2").json()["status"] == "rejected"


def test_numbers_of_a_deal_are_changed_and_one_is_rejected(daemon: Running, look: Look):
    page = look.at(f"{daemon.address}/ui/deals")
    expect(page.locator("#connection")).to_have_text("live")
    deal = page.locator("[data-key=x1]")
    deal.get_by_text("Change it", exact=True).click()
    deal.get_by_label("value usd").fill("1200.5")
    deal.get_by_label("contact").fill("ada@example.org")
    press(deal, "Save the change")
    expect(deal).to_contain_text("$1,200.50")
    expect(deal).to_contain_text("edited by the page")
    press(deal, "Reject")
    expect(deal).to_contain_text("rejected by the page")
    item = daemon.http.get("/deals/x1").json()
    assert (item["value_usd"], item["contact"], item["stage"]) == (
        1200.5,
        "ada@example.org",
        "lost",
    )


def test_the_kinds_and_statuses_are_a_press_away(daemon: Running, look: Look):
    page = look.at(daemon.address)
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Work").click()
    expect(page.get_by_role("heading", name="Drafts")).to_be_visible()
    page.get_by_role("link", name="actions", exact=True).click()
    expect(page.get_by_text("There is none here")).to_be_visible()
    page.get_by_role("link", name="drafts", exact=True).click()
    page.get_by_role("link", name="done", exact=True).click()
    expect(page.locator("[data-key=d1]")).to_be_visible()
    expect(page.locator("[data-key=d2]")).to_have_count(0)
