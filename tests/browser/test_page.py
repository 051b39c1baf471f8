"""What is seen in a browser, and what its buttons do, against a daemon that really runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import trio
from daemons import Place
from looking import ON_DEMAND, running, until
from playwright.sync_api import expect

from app.store.protocol import Question
from app.store.sqlite import open_sqlite_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from looking import Look, Running
    from playwright.sync_api import Locator, Page, Route

TOKEN = "a-token-for-the-page-alone"

POLL_NEVER = """
    const setTimer = setTimeout;
    window.polls = 0;
    window.setTimeout = (act, delay) => delay === 5000 ? ++polls : setTimer(act, delay);
"""
"""Has a page look again only when the daemon tells it that something has happened."""

HIDE = """
    Object.defineProperty(document, "hidden", { get: () => true });
    document.dispatchEvent(new Event("visibilitychange"));
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, claude: str) -> Iterator[Running]:
    """A daemon with an agent that crashes on demand, and one that does tasks."""
    place = Place(tmp_path_factory.mktemp("page"), claude)
    place.use_class(ON_DEMAND, "OnDemand")
    with running(place, "--agents", "social,content") as daemon:
        daemon.until_agent("content", "running")
        yield daemon


@pytest.fixture
def page(look: Look, daemon: Running) -> Page:
    page = look.at(daemon.address)
    expect(page.locator("#connection")).to_have_text("live")
    return page


def row(page: Page, agent_id: str) -> Locator:
    return page.locator(f"tr[data-key='{agent_id}']").first


def press(place: Locator | Page, name: str) -> None:
    place.get_by_role("button", name=name, exact=True).click()


@pytest.fixture
def crashing(tmp_path_factory: pytest.TempPathFactory, claude: str) -> Iterator[Running]:
    """A daemon of its own for who lets an agent crash often, which is remembered for an hour."""
    place = Place(tmp_path_factory.mktemp("crashing"), claude)
    place.use_class(ON_DEMAND, "OnDemand")
    with running(place, "--agents", "social,content") as daemon:
        yield daemon


def test_a_crash_is_seen_with_its_countdown_and_ends_with_a_restart(crashing: Running, look: Look):
    daemon = crashing
    page = look.at(daemon.address)
    social = row(page, "social")
    expect(social).to_contain_text("running")
    daemon.crash(6)
    expect(social).to_contain_text("backing off")
    expect(social).to_contain_text(re.compile(r"restarts in [01]:\d\d"))
    # On a machine that is very busy the loop was blocked as the daemon began, and it says so.
    told = "(Degraded|Critical): 1 running, 1 backing off"
    expect(page.locator("h1")).to_have_text(re.compile("^(Degraded|Critical)$"))
    expect(page).to_have_title(re.compile(f"^{told} · worker$"))
    expect(page.locator("#announced")).to_have_text(re.compile(f"^{told}$"))
    expect(page.locator("link[rel=icon]")).to_have_attribute(
        "href", re.compile("^/static/icon-(warn|bad).svg$")
    )
    assert page.locator("tbody tr").first.get_attribute("data-key") == "social"
    branch = page.locator(".tree li[data-key=agents] > details")
    expect(branch).to_have_attribute("open", "")
    left = social.locator("time[data-form=left]")
    before = left.inner_text()
    expect(left).not_to_have_text(before)

    press(page, "Restart social")
    expect(page.locator("#said")).to_contain_text("social is being restarted.")
    expect(social).to_contain_text("running")
    expect(page.locator("h1")).to_have_text(re.compile("^(Healthy|Critical)$"))

    agent = look.at(f"{daemon.address}/ui/agents/social")
    crash = agent.locator(".crashes li").first
    expect(crash).to_contain_text("ValueError: no such stage")
    expect(crash.locator("pre")).to_be_hidden()
    crash.locator("summary").click()
    expect(crash.locator("pre")).to_contain_text("Traceback")
    assert agent.locator(".crashes li").count() == 6


def test_a_tab_in_the_background_goes_on_to_tell_how_the_daemon_is(crashing: Running, look: Look):
    daemon = crashing
    page = look.at(daemon.address)
    page.clock.install()
    page.reload()
    # On a machine that is very busy the loop was blocked as the daemon began, and it says so.
    expect(page).to_have_title(re.compile("^(Healthy|Critical): 2 running · worker$"))
    page.evaluate(HIDE)
    daemon.crash(6)
    daemon.until_agent("social", "backing_off")

    def title_later() -> str:
        page.clock.fast_forward(31_000)
        return page.title()

    told = re.compile("^(Degraded|Critical): 1 running, 1 backing off · worker$")
    until(title_later, told.match)
    expect(page.locator("link[rel=icon]")).to_have_attribute(
        "href", re.compile("^/static/icon-(warn|bad).svg$")
    )


def test_a_task_is_posted_and_its_conversation_seen_as_it_happens(page: Page):
    page.get_by_role("combobox", name="Agent").select_option("content")
    page.get_by_label("Goal").fill("Find viral templates about launches [simulate: slow 3]")
    page.locator("#post summary").click()
    page.get_by_label("Facts for it").fill("{no JSON")
    press(page, "Post")
    expect(page.locator("#said.bad")).to_contain_text("Not done: the context is not JSON")
    page.get_by_label("Facts for it").fill('{"campaign": "autumn"}')
    press(page, "Post")
    expect(page.get_by_label("Goal")).to_have_value("")
    page.locator("#said a").click()
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator(".talk .pending")).to_be_visible()
    expect(page.locator(".health pre")).to_contain_text('"campaign": "autumn"')
    call = page.locator(".talk details.call").first
    expect(call).to_contain_text("done")
    expect(page.locator(".sentence")).to_contain_text("succeeded")
    expect(page.locator(".talk .pending")).to_have_count(0)
    expect(page.locator("#result + .prose")).to_contain_text("Done, by")
    call.locator("summary").click()
    expect(call.locator("pre").first).to_contain_text("{")
    expect(page).to_have_title(re.compile("^Succeeded: Find viral templates"))


def test_what_would_lose_something_asks_first(page: Page, daemon: Running):
    task_id = daemon.post("content", "Recall what we know [simulate: slow 4]")
    daemon.until_task(task_id, "running")
    content = row(page, "content")
    expect(content).to_contain_text(f"task {task_id[:8]}")
    press(content, "Stop content")
    dialog = page.locator("#ask")
    expect(dialog).to_be_visible()
    expect(dialog).to_contain_text("Stop content?")
    press(dialog, "Leave it")
    expect(dialog).to_be_hidden()
    expect(content.get_by_role("button", name="Stop content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()

    page.goto(f"{daemon.address}/ui/tasks/{task_id}")
    press(page, f"Cancel task {task_id}")
    expect(dialog).to_be_visible()
    press(dialog, "Cancel")
    expect(page.locator(".sentence")).to_contain_text("cancelled")
    press(page, f"Retry task {task_id}")
    expect(page.locator("#said")).to_contain_text("is queued again")
    expect(page.locator(".sentence")).to_contain_text(re.compile("queued|running"))
    press(page, f"Cancel task {task_id}")
    press(dialog, "Cancel")
    daemon.until_task(task_id, "cancelled")
    assert daemon.http.get("/agents/content").json()["restarts"] == 0


def test_a_late_answer_does_what_was_asked_and_not_what_the_button_has_become(
    page: Page, look: Look, daemon: Running
):
    look.expected = ("409",)
    task_id = daemon.post("content", "Recall what we know [simulate: slow 30]")
    daemon.until_task(task_id, "running")
    page.goto(f"{daemon.address}/ui/tasks/{task_id}")
    press(page, f"Cancel task {task_id}")
    daemon.http.post(f"/tasks/{task_id}/cancel").raise_for_status()
    expect(page.locator(".sentence")).to_contain_text("cancelled")
    press(page.locator("#ask"), "Cancel")
    expect(page.locator("#said")).to_contain_text(f"task {task_id} is cancelled")
    expect(page.get_by_role("button", name=f"Retry task {task_id}")).to_be_visible()
    assert daemon.http.get(f"/tasks/{task_id}").json()["status"] == "cancelled"


def test_no_row_moves_from_under_the_pointer(page: Page, daemon: Running):
    page.clock.install()
    page.reload()
    first = page.locator("tbody tr").first
    row(page, "content").get_by_role("button", name="Stop content").hover()
    daemon.http.post("/agents/content/stop").raise_for_status()
    expect(row(page, "content").locator(".state")).to_have_text("stopped")
    expect(first).to_have_attribute("data-key", "social")
    page.mouse.move(0, 0)
    page.clock.fast_forward(5_001)  # to the next look, if the browser does not tell of the leaving
    expect(first).to_have_attribute("data-key", "content")
    daemon.http.post("/agents/content/start").raise_for_status()
    expect(row(page, "content").locator(".state")).to_have_text("running")


def test_after_a_lost_answer_another_task_can_be_posted(page: Page, look: Look):
    look.expected = ("ERR_FAILED",)

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    goal, said = page.get_by_label("Goal"), page.locator("#said")
    page.get_by_role("combobox", name="Agent").select_option("content")
    page.route("**/agents/task", lose)
    goal.fill("Recall this")
    press(page, "Post")
    expect(said).to_contain_text("look whether it happened")
    page.unroute("**/agents/task")
    goal.fill("Recall that")
    press(page, "Post")
    expect(said).to_contain_text("Posted: task")


def test_an_agent_is_paused_resumed_stopped_and_started(page: Page, daemon: Running):
    social = row(page, "social")
    said = page.locator("#said")
    press(social, "Pause social")
    expect(said).to_contain_text("social is paused.")
    expect(social.get_by_role("button", name="Resume social")).to_be_focused()
    said.get_by_role("button", name="Close").press("Enter")
    expect(said).to_be_empty()
    expect(social.get_by_role("button", name="Resume social")).to_be_focused()
    expect(social).to_contain_text("paused by an operator")
    press(social, "Resume social")
    expect(said).to_contain_text("social goes on.")
    expect(social.locator(".state")).to_have_text("running")
    press(social, "Stop social")
    expect(social.locator(".state")).to_have_text("stopped")
    expect(social.get_by_role("button", name="Start social")).to_be_focused()
    assert page.locator("tbody tr").first.get_attribute("data-key") == "social"
    press(social, "Start social")
    expect(social.locator(".state")).to_have_text("running")


def test_a_routine_is_run_paused_and_resumed(page: Page):
    job = page.locator("tr[data-key='content.run_daily_pipeline']")
    expect(job).to_contain_text("At 06:00 every day")
    expect(job).to_contain_text("never")
    press(job, "Pause content.run_daily_pipeline")
    expect(job).to_contain_text("its times pass unnoticed")
    press(job, "Resume content.run_daily_pipeline")
    expect(job).to_contain_text(re.compile(r"in \d"))
    press(job, "Run now content.run_daily_pipeline")
    expect(page.locator("#said")).to_contain_text("has begun")
    expect(job).to_contain_text("succeeded")


def test_the_time_of_a_routine_is_changed_and_put_back(page: Page):
    routine = row(page, "content.run_daily_pipeline")
    press(routine, "Change time content.run_daily_pipeline")
    field = page.get_by_label("When", exact=True)
    expect(field).to_have_value("0 6 * * *")
    field.fill("30 7 * * *")
    press(page, "Change")
    expect(routine).to_contain_text("At 07:30")
    expect(routine).to_contain_text("changed, from 0 6 * * *")
    press(routine, "Change time content.run_daily_pipeline")
    expect(field).to_have_value("30 7 * * *")
    field.fill("")
    press(page, "Change")
    expect(routine).to_contain_text("At 06:00")


def test_a_refusal_is_said_in_the_daemon_s_words(page: Page, look: Look, daemon: Running):
    task_id = daemon.post("content", "Recall what we know")
    daemon.until_task(task_id, "succeeded")
    look.expected = ("409",)
    page.evaluate(
        """address => {
            const button = document.querySelector("[data-post]");
            delete button.dataset.ask;
            button.dataset.post = address;
            button.click();
        }""",
        f"/tasks/{task_id}/cancel",
    )
    expect(page.locator("#said.bad")).to_contain_text("Not done: The task is over: it succeeded.")


def test_a_wrong_address_is_a_page_that_stays_one(look: Look, daemon: Running):
    look.expected = ("404",)
    page = look.at(f"{daemon.address}/nowhere")
    with page.expect_response("**/nowhere"):  # the page fetches itself again
        pass
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator(".sentence")).to_have_text("There is nothing at this address.")
    expect(page).to_have_title("Not shown · worker")


def test_what_happens_is_seen_without_a_look_every_few_seconds(page: Page, daemon: Running):
    page.add_init_script(POLL_NEVER)
    page.reload()
    expect(page.locator("#connection")).to_have_text("live")
    for word in ("one", "two", "three"):
        daemon.post("social", f"Think of {word}")
        expect(page.locator(".latest li").first).to_contain_text(f"Think of {word}")
    assert page.evaluate("polls") > 3


def test_events_appear_can_be_filtered_and_held(page: Page, daemon: Running):
    events = page.locator("#event-list li")
    task_id = daemon.post("content", "Recall this and that")
    daemon.until_task(task_id, "succeeded")
    expect(events.filter(has=page.locator(f"a[href='/ui/tasks/{task_id}']")).first).to_be_visible()
    page.get_by_label("Events of").get_by_text("social").click()
    expect(page).to_have_url(f"{daemon.address}/?agent=social")
    expect(events.filter(has_text="content")).to_have_count(0)
    page.get_by_label("Events of").get_by_text("all").click()
    expect(events.filter(has_text="content").first).to_be_visible()
    expect(events.filter(has_text="turn")).to_have_count(0)
    page.get_by_text("every step").click()
    expect(page).to_have_url(f"{daemon.address}/?steps=yes")
    expect(events.filter(has_text="turn 1 (assistant)").first).to_be_visible()
    press(page, "Pause the events")
    held = page.locator("#event-list").inner_text()
    daemon.post("content", "Recall what nobody knows")
    expect(page.locator(".latest li").first).to_contain_text("Recall what nobody knows")
    assert page.locator("#event-list").inner_text() == held
    press(page, "Go on with the events")
    expect(events.first).not_to_have_text(held.partition("\n")[0])


def test_what_one_is_doing_survives_a_refresh(page: Page, daemon: Running):
    page.get_by_label("Goal").fill("Half a th")
    tree = page.locator(".tree > li > details")
    tree.locator("summary").first.click()
    expect(tree).not_to_have_attribute("open", "")
    button = page.get_by_role("button", name="Pause social")
    button.focus()
    page.evaluate("scrollTo(0, 300)")
    daemon.post("content", "Recall something else")
    before = page.locator(".latest li").first
    expect(before).to_contain_text("Recall something else")
    assert page.get_by_label("Goal").input_value() == "Half a th"
    expect(tree).not_to_have_attribute("open", "")
    expect(button).to_be_focused()
    assert page.evaluate("scrollY") == 300


def test_what_an_agent_asks_for_is_changed_approved_and_denied(daemon: Running, look: Look):
    trio.run(ask_for, daemon.place.database, "a1", "a2")
    page = look.at(f"{daemon.address}/ui/approvals")
    expect(page.locator("#connection")).to_have_text("live")
    first, second = page.locator("[data-key=a1]"), page.locator("[data-key=a2]")
    expect(first).to_contain_text("Ada asked.")
    first.get_by_label("Comment").fill("Be brief.")
    page.wait_for_timeout(1500)  # in which the page goes on, and what is typed stays
    expect(first.get_by_label("Comment")).to_have_value("Be brief.")
    first.get_by_text("Change what it is called with").click()
    first.get_by_label("As a JSON object").fill('{"to": "bob@example.org"')
    press(first, "Approve")
    expect(page.locator("#said")).to_contain_text("what it is called with is not JSON")
    first.get_by_label("As a JSON object").fill('{"to": "bob@example.org"}')
    press(first, "Approve")
    expect(page.locator("#said")).to_contain_text("Approved: the task goes on.")
    expect(first).to_contain_text("by the page")
    expect(first).to_contain_text("bob@example.org")
    press(second, "Deny")
    expect(second).to_contain_text("denied")
    decided = daemon.http.get("/approvals/a1").json()
    assert (decided["status"], decided["comment"]) == ("approved", "Be brief.")
    assert decided["arguments"] == {"to": "bob@example.org"}
    assert decided["asked"] == {"to": "ada@example.org"}
    assert daemon.http.get("/approvals/a2").json()["status"] == "denied"


async def ask_for(database: Path, *approvals: str) -> None:
    """Have a task of an agent that does not run here wait for each of these."""
    async with open_sqlite_store(database) as store:
        for approval_id in approvals:
            task_id, token = f"task-of-{approval_id}", f"token-{approval_id}"
            await store.begin_task(
                task_id, "revenue", "Write.", worker_id="w", instance="i", token=token, lease=60.0
            )
            question = Question(
                id=approval_id,
                task_id=task_id,
                agent_id="revenue",
                about="use 1",
                tool="send_mail",
                arguments={"to": "ada@example.org"},
                why="Ada asked.",
            )
            await store.ask_approval(question)
            await store.park_task(task_id, token)


def test_a_page_that_is_open_over_an_upgrade_loads_its_files_anew(page: Page, daemon: Running):
    html = page.locator("html")
    page.evaluate("document.documentElement.dataset.version = 'another'")
    page.get_by_label("Goal").fill("Half a th")
    daemon.post("social", "Think of four")
    expect(page.locator(".latest li").first).to_contain_text("Think of four")
    expect(html).to_have_attribute("data-version", "another")
    page.get_by_label("Goal").fill("")
    daemon.post("social", "Think of five")
    expect(html).not_to_have_attribute("data-version", "another")
    expect(page.locator("#connection")).to_have_text("live")


def test_without_the_token_one_is_asked_for_it(
    tmp_path_factory: pytest.TempPathFactory, claude: str, look: Look
):
    place = Place(tmp_path_factory.mktemp("token"), claude)
    place.use_class(ON_DEMAND, "OnDemand")
    look.expected = ("401",)
    with running(place, "--agents", "social", WORKER_API_TOKEN=TOKEN) as daemon:
        page = look.at(daemon.address)
        social = row(page, "social")
        expect(social.locator(".state")).to_have_text("running")
        press(social, "Pause social")
        dialog = page.locator("#token")
        expect(dialog.get_by_label("Token")).to_be_focused()
        press(dialog, "Cancel")
        expect(page.locator("#said.bad")).to_contain_text("Not done: it needs the token.")
        press(social, "Pause social")
        expect(dialog.get_by_label("Token")).to_be_focused()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text("That token is not the right one.")
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        expect(social).to_contain_text("paused by an operator")
        press(social, "Resume social")
        expect(social.locator(".state")).to_have_text("running")
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        look.close()


def test_a_lost_connection_is_seen_and_so_is_its_return(
    tmp_path_factory: pytest.TempPathFactory, claude: str, look: Look
):
    place = Place(tmp_path_factory.mktemp("lost"), claude)
    place.use_class(ON_DEMAND, "OnDemand")
    # While it starts again it answers, with 503.
    look.expected = (
        "ERR_CONNECTION_REFUSED",
        "ERR_INCOMPLETE_CHUNKED",
        "ERR_EMPTY",
        "ERR_CONN",
        "503",
    )
    with running(place, "--agents", "social") as daemon:
        page = look.at(daemon.address)
        page.clock.install()
        page.reload()
        connection = page.locator("#connection")
        expect(connection).to_have_text("live")
        port = daemon.address.rpartition(":")[2]
    expect(connection).to_have_text(
        re.compile(r"^reconnecting: data as of \d\d:\d\d:\d\d [\w+-]+$")
    )
    expect(page).to_have_title(re.compile("^Disconnected · "))
    expect(page.locator("link[rel=icon]")).to_have_attribute("href", "/static/icon-off.svg")
    press(page, "Pause social")
    expect(page.locator("#said.bad")).to_contain_text("Not done: the daemon does not answer")
    page.clock.fast_forward(10_001)
    expect(page.locator("body")).to_have_class("old")
    ages = page.locator("main time[data-form]")
    before = ages.all_inner_texts()
    page.clock.run_for(30_000)  # of a process that is not there
    assert ages.all_inner_texts() == before
    with running(place, "--agents", "social", WORKER_HEALTH_PORT=port):
        page.clock.fast_forward(15_001)  # to when it listens again
        expect(connection).to_have_text("live")
        expect(page).to_have_title("Healthy: 1 running · worker")
        expect(page.locator("body")).not_to_have_class("old")
        look.close()
