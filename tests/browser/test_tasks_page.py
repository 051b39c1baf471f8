"""The page of tasks: each is found again, and what was found is retried, cancelled, posted anew."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import trio
from daemons import Place
from looking import ON_DEMAND, running
from playwright.sync_api import expect

from app.store.protocol import TaskStatus
from app.store.sqlite import open_sqlite_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from looking import Look, Running
    from playwright.sync_api import Page

MANY = 230


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, claude: str) -> Iterator[Running]:
    """A daemon with many tasks of an agent that it does not run."""
    place = Place(tmp_path_factory.mktemp("tasks"), claude)
    place.use_class(ON_DEMAND, "OnDemand")
    with running(place, "--agents", "social,content") as daemon:
        daemon.until_agent("content", "running")
        trio.run(fill, place.database)
        yield daemon


async def fill(database: Path) -> None:
    async with open_sqlite_store(database) as store:
        for number in range(MANY):
            await store.add_task(f"many-{number:03}", "revenue", f"Look at account {number:03}")
        for number in range(3):
            name = f"failed-{number}"
            await store.begin_task(
                name, "revenue", f"Charge {number}", worker_id="w", instance="i", token=name,
                lease=60.0,
            )  # fmt: skip
            error = f"Traceback\n\nRuntimeError: the account {number} is suspended"
            await store.finish_task(name, name, TaskStatus.FAILED, error=error)


@pytest.fixture
def page(look: Look, daemon: Running) -> Page:
    page = look.at(f"{daemon.address}/ui/tasks")
    expect(page.locator("#connection")).to_have_text("live")
    return page


def rows(page: Page) -> list[str]:
    found: list[str] = page.locator("main tbody tr").evaluate_all(
        "rows => rows.map(row => row.dataset.key)"
    )
    return found


def search(page: Page, text: str) -> None:
    page.get_by_label("Search").fill(text)
    page.get_by_role("button", name="Search", exact=True).click()


def test_the_first_task_of_many_is_reached_page_by_page(page: Page):
    for _ in range(4):
        last = rows(page)[-1]
        page.get_by_role("link", name="Older").click()
        expect(page.locator(f"tr[data-key='{last}']")).to_have_count(0)
    expect(page.locator("tr[data-key='many-000']")).to_be_visible()
    expect(page.get_by_role("link", name="Older")).to_have_count(0)
    page.go_back()
    expect(page.get_by_role("link", name="Older")).to_be_visible()
    page.get_by_role("link", name="Newest").click()
    expect(page.locator("tr[data-key='failed-2']")).to_be_visible()


def test_a_task_is_searched_and_the_address_shows_it_to_others(page: Page, look: Look):
    search(page, "ACCOUNT 007")
    expect(page.locator("main tbody tr")).to_have_count(1)
    assert rows(page) == ["many-007"]
    page.get_by_role("link", name="revenue", exact=True).click()
    expect(page).to_have_url(re.compile(r"agent_type=revenue&q=ACCOUNT\+007"))
    assert rows(page) == ["many-007"]
    other = look.at(page.url)
    assert rows(other) == ["many-007"]
    expect(other.get_by_label("Search")).to_have_value("ACCOUNT 007")
    other.get_by_label("From", exact=True).fill("2020-01-01")
    other.get_by_label("To", exact=True).fill("2020-01-02")
    other.get_by_label("To", exact=True).press("Enter")
    expect(other.get_by_text("No task is like that.")).to_be_visible()
    expect(other).to_have_url(re.compile("since=2020-01-01&until=2020-01-02"))
    other.get_by_role("link", name="Search for nothing").click()
    expect(other.get_by_label("Search")).to_have_value("")
    expect(other.locator("main tbody tr")).to_have_count(50)


def test_a_failed_task_says_why_in_the_list(page: Page):
    failed = page.locator("tr[data-key='failed-1']")
    expect(failed).to_contain_text("RuntimeError: the account 1 is suspended")
    expect(failed).not_to_contain_text("Traceback")


def test_what_was_found_is_retried_and_cancelled_once_the_number_is_agreed_to(
    page: Page, daemon: Running
):
    dialog, said = page.locator("#ask"), page.locator("#said")
    search(page, "is suspended")
    expect(page.locator("main tbody tr")).to_have_count(3)
    page.get_by_role("button", name="Retry all").click()
    expect(dialog).to_contain_text("Retry 3 tasks?")
    expect(dialog).to_contain_text("with “is suspended” in them")
    dialog.get_by_role("button", name="Leave it").click()
    assert len(daemon.http.get("/tasks?status=failed").json()) == 3
    page.get_by_role("button", name="Retry all").click()
    dialog.get_by_role("button", name="Retry 3 tasks").click()
    expect(said).to_contain_text("3 tasks: queued again.")
    assert daemon.http.get("/tasks?status=failed").json() == []
    search(page, "Charge")
    page.get_by_role("button", name="Cancel all").click()
    expect(dialog).to_contain_text("Cancel 3 tasks?")
    dialog.get_by_role("button", name="Cancel 3 tasks").click()
    expect(said).to_contain_text("3 tasks: cancelled")
    assert len(daemon.http.get("/tasks?status=cancelled").json()) == 3
    assert len(daemon.http.get("/tasks?status=queued&limit=200").json()) == 200
    expect(page.locator("[data-bulk=cancel]")).not_to_have_attribute("aria-busy", "true")
    page.get_by_role("button", name="Cancel all").click()
    expect(said).to_contain_text("No task that waits or runs is like that.")


def test_a_task_is_run_again_with_changes(daemon: Running, look: Look):
    body = {
        "agent_type": "content",
        "goal": "Recall what we know",
        "context": {"campaign": "autumn"},
        "priority": 3,
        "max_attempts": 2,
    }
    task_id = daemon.http.post("/agents/task", json=body).json()["id"]
    daemon.until_task(task_id, "succeeded")
    page = look.at(f"{daemon.address}/ui/tasks/{task_id}")
    page.get_by_text("Run it again with changes").click()
    goal = page.locator("#again").get_by_label("Goal")
    expect(goal).to_have_value("Recall what we know")
    goal.fill("Recall what we knew")
    goal.press("Control+Enter")
    expect(page.locator("#said")).to_contain_text("Posted: task")
    page.locator("#said a").click()
    expect(page.locator("h1")).to_have_text("Recall what we knew")
    (again,) = daemon.http.get("/tasks", params={"q": "what we knew"}).json()
    assert {name: again[name] for name in body} == body | {"goal": "Recall what we knew"}
