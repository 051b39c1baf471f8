"""How the pages look to whom: on a phone, by a screen reader, in the dark, without JavaScript."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import pytest
import trio
from daemons import Place
from looking import ON_DEMAND, running
from playwright.sync_api import expect
from test_items import make_items

if TYPE_CHECKING:
    from collections.abc import Iterator

    from looking import Look, Running
    from playwright.sync_api import Page

AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()

# Of the rules that are kept it is enough to know that they are; that is twice as quick.
FIND_BARRIERS = "() => axe.run({ resultTypes: ['violations'], selectors: false })"

POKES_OUT = """
    [...document.querySelectorAll(".health")].filter((each) => each.scrollWidth > each.clientWidth)
        .map((each) => each.innerText)
"""

REACHABLE = """() => [
        ...document.querySelectorAll("a[href], button, select, textarea, summary, input")
    ]
    .filter((each) => each.checkVisibility() && !each.matches(".skip"))
    .map((each) => [...document.querySelectorAll("*")].indexOf(each))
"""

IN_GROUP = "document.activeElement.closest('[data-group]') !== null"

FOCUSED = "[...document.querySelectorAll('*')].indexOf(document.activeElement)"

UNFOLD = "for (const details of document.querySelectorAll('details')) details.open = true"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, claude: str) -> Iterator[Running]:
    """A daemon that has something of everything to show."""
    place = Place(tmp_path_factory.mktemp("looks"), claude)
    place.use_class(ON_DEMAND, "OnDemand")
    place.environ["CONTENT_AGENT_DAILY_BUDGET_USD"] = "5"
    with running(place, "--agents", "social,content") as daemon:
        daemon.until_agent("content", "running")
        trio.run(make_items, place.database)
        done = daemon.post("content", "Find viral templates and save the best hook 'Launch it'")
        failed = daemon.post(
            "content", f"Recall {'a-word-without-an-end' * 20} [simulate: refusal]"
        )
        daemon.until_task(done, "succeeded")
        daemon.until_task(failed, "failed")
        daemon.crash(10)  # after the first wait, of 64 s, it goes on crashing
        daemon.until_agent("social", "backing_off")
        yield daemon


@pytest.fixture
def paths(daemon: Running) -> list[str]:
    tasks = [task["id"] for task in daemon.http.get("/tasks").json()]
    own = [f"/ui/tasks/{task_id}" for task_id in tasks]
    agents = ["/ui/agents/social", "/ui/agents/content", "/ui/agents/revenue"]
    return [
        "/",
        "/api",
        "/ui/charts",
        "/ui/tasks",
        "/ui/tasks?status=queued",
        "/ui/agents/nobody",
        "/ui/drafts",
        "/ui/deals",
        *agents,
        *own,
    ]


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), pytest.param("dark", 320, marks=pytest.mark.long)]
)
@pytest.mark.timeout(900)  # it looks at a dozen pages, for seconds each on a quick machine
def test_no_page_has_a_serious_barrier(
    look: Look, daemon: Running, paths: list[str], scheme: str, width: int
):
    look.expected = ("404",)
    page = look.at(daemon.address, width=width, color_scheme=scheme)
    barriers = []
    for path in paths:
        page.goto(daemon.address + path)
        page.evaluate(UNFOLD)
        page.evaluate(AXE)
        found = page.evaluate(FIND_BARRIERS)
        barriers += [
            f"{path}: {rule['help']}: {place['html']}"
            for rule in found["violations"]
            if rule["impact"] in {"serious", "critical"}
            for place in rule["nodes"]
        ]
        assert len(found["passes"]) > 20
    assert barriers == []


def test_no_page_scrolls_sideways(look: Look, daemon: Running, paths: list[str]):
    look.expected = ("404",)
    page = look.at(daemon.address)
    for path in paths:
        page.goto(daemon.address + path)
        page.evaluate(UNFOLD)
        for width in (320, 760, 1024, 1100):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") == width, path
            assert page.evaluate(POKES_OUT) == [], path


def test_without_javascript_the_page_can_be_read_and_reloads_itself(look: Look, daemon: Running):
    page = look.at(daemon.address, java_script_enabled=False)
    expect(page.locator("tr[data-key=social]")).to_contain_text("backing off")
    said = page.locator("#connection").evaluate("element => element.innerText")
    assert said == "read-only without JavaScript, reloads every 5 s"
    expect(page.locator("button:visible")).to_have_count(0)
    assert page.locator("noscript meta[http-equiv=refresh]").count() == 1


def test_everything_can_be_reached_by_keyboard_and_shows_the_focus(look: Look, daemon: Running):
    page = look.at(daemon.address)
    expect(page.locator("#connection")).to_have_text("live")
    for _ in range(3):  # the page is live, and may change meanwhile
        wanted, reached = set(page.evaluate(REACHABLE)), reached_by_keyboard(page)
        if wanted <= reached:
            break
    assert wanted - reached == set()
    page.get_by_role("link", name="Tasks", exact=True).focus()
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def reached_by_keyboard(page: Page) -> set[int]:
    reached: set[int] = set()
    while (stop := next_stop(page, "Tab")) not in reached:
        reached.add(stop)
        while page.evaluate(IN_GROUP) and (other := next_stop(page, "ArrowRight")) not in reached:
            reached.add(other)
    return reached


def next_stop(page: Page, key: str) -> int:
    page.keyboard.press(key)
    place: int = page.evaluate(FOCUSED)
    return place


def test_nothing_is_loaded_from_elsewhere(look: Look, daemon: Running, paths: list[str]):
    look.expected = ("404",)
    page = look.at(daemon.address)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for path in paths:
        page.goto(daemon.address + path)
    assert asked
    assert [url for url in asked if not url.startswith(daemon.address)] == []
