"""By keyboard: few stops on the way to the end of a page, shortcuts, and nothing out of reach."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from daemons import Place
from looking import ON_DEMAND, running
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from looking import Look, Running
    from playwright.sync_api import Page

MOST_STOPS = 40

FOCUSED = """() => {
    const each = document.activeElement;
    return [[...document.querySelectorAll("*")].indexOf(each), Boolean(each.closest("main"))];
}"""

EVENTS = 60


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, claude: str) -> Iterator[Running]:
    """A daemon with all four agents, tasks in each state, and more events than are listed."""
    place = Place(tmp_path_factory.mktemp("keys"), claude)
    place.use_class(ON_DEMAND, "OnDemand")
    with running(place) as daemon:
        daemon.until_agent("content", "running")
        failed = daemon.post("content", "Read what nobody may see [simulate: refusal]")
        for number in range(8):
            last = daemon.post("acquisition", f"List the deals, {number}")
        for task_id in (failed, last):
            daemon.until(f"/tasks/{task_id}", lambda task: task["finished_at"] is not None)
        for agent_id in ("content", "acquisition", "revenue"):
            daemon.post(agent_id, "Recall what we know [simulate: slow 60]")
            daemon.post(agent_id, "Recall something else")
        for _ in range(EVENTS // 2):
            daemon.http.post("/agents/social/pause").raise_for_status()
            daemon.http.post("/agents/social/resume").raise_for_status()
        daemon.crash(10)
        daemon.until_agent("social", "backing_off")
        yield daemon


@pytest.fixture
def page(look: Look, daemon: Running) -> Page:
    page = look.at(daemon.address)
    expect(page.locator("#connection")).to_have_text("live")
    return page


def stops(page: Page) -> list[tuple[int, bool]]:
    """Press Tab to the end of the page; gives each stop, and whether it is in the main part."""
    found: list[tuple[int, bool]] = []
    page.evaluate("document.activeElement.blur()")
    for _ in range(200):
        page.keyboard.press("Tab")
        stop = tuple(page.evaluate(FOCUSED))
        if stop in found[:-1]:
            break
        if stop not in found:  # or it is within a field, as from the day to the month
            found.append(stop)
    return found


@pytest.mark.parametrize(
    "path", ["/", "/ui/tasks", "/ui/charts", "/ui/agents/content", "/ui/drafts"]
)
def test_the_end_of_the_page_is_few_stops_away(page: Page, daemon: Running, path: str):
    page.goto(daemon.address + path)
    expect(page.locator("#connection")).to_have_text("live")
    found = stops(page)
    inside = [number for number, (_, is_inside) in enumerate(found, start=1) if is_inside]
    assert inside
    assert inside[-1] <= MOST_STOPS, inside[-1]


def test_between_the_form_and_the_tree_the_events_are_one_stop(page: Page):
    expect(page.locator("#event-list a")).not_to_have_count(0)
    page.locator("#post button[type=submit]").focus()
    passed = 0
    while not page.evaluate("document.activeElement.closest('.tree') !== null"):
        page.keyboard.press("Tab")
        passed += 1
    assert passed <= 5


def test_the_arrows_lead_through_a_group_and_tab_leaves_it(page: Page):
    row = page.locator("tr[data-key=content]").first
    row.get_by_role("link", name=re.compile("^task ")).focus()
    page.keyboard.press("Tab")
    expect(row.get_by_role("button", name="Restart content")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(row.get_by_role("button", name="Stop content")).to_be_focused()
    page.keyboard.press("End")
    expect(row.get_by_role("button", name="Pause content")).to_be_focused()
    page.wait_for_timeout(1500)  # in which the page goes on, and the focus stays
    expect(row.get_by_role("button", name="Pause content")).to_be_focused()
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.closest('tr[data-key=content] .actions')")


def test_in_a_list_of_tasks_the_arrows_go_from_row_to_row(page: Page, daemon: Running):
    page.goto(f"{daemon.address}/ui/tasks")
    expect(page.locator("#connection")).to_have_text("live")
    rows = page.locator("main tbody tr")
    rows.nth(0).locator("a").first.focus()
    page.keyboard.press("ArrowDown")
    expect(rows.nth(1).locator("a").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(rows.nth(1).locator("a").first).to_be_focused()
    page.keyboard.press("Home")
    expect(rows.nth(0).locator("a").first).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('tbody')") is None


def test_a_question_mark_lists_the_shortcuts(page: Page):
    dialog = page.locator("#keys")
    page.keyboard.press("?")
    expect(dialog).to_be_visible()
    expect(dialog).to_contain_text("search the tasks")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="? keyboard shortcuts").click()
    expect(dialog).to_be_visible()


def test_a_slash_searches_from_any_page(page: Page, daemon: Running):
    page.keyboard.press("/")
    expect(page).to_have_url(re.compile("/ui/tasks"))
    field = page.get_by_label("Search")
    expect(field).to_be_focused()
    page.keyboard.type("a/b?")  # no shortcut, for it is being typed
    expect(field).to_have_value("a/b?")
    expect(page.locator("#keys")).to_be_hidden()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"q=a%2Fb%3F"))
    page.locator("h1").click()
    page.keyboard.press("g")
    page.keyboard.press("o")
    expect(page).to_have_url(f"{daemon.address}/")


def test_a_task_is_posted_by_keyboard_alone(page: Page):
    page.keyboard.press("n")
    expect(page.get_by_label("Goal")).to_be_focused()
    page.keyboard.type("Recall what the keyboard says")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#said")).to_contain_text("Posted: task")


@pytest.mark.parametrize("path", ["/", "/ui/tasks", "/ui/agents/social", "/ui/agents/content"])
def test_at_1280_pixels_no_table_is_cut_off(page: Page, daemon: Running, path: str):
    page.goto(daemon.address + path)
    expect(page.locator("#connection")).to_have_text("live")
    cut = page.evaluate(
        """() => [...document.querySelectorAll(".table")]
            .filter((table) => table.scrollWidth > table.clientWidth)
            .map((table) => [table.getAttribute("aria-labelledby"), table.scrollWidth])"""
    )
    assert cut == []
