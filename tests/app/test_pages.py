"""What the pages show, as they are rendered; `tests/browser` sees what becomes of them."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import trio
from http_daemon import AGENT_IDS, TOKEN, make_daemon, served, status

import app
from actp_supervise.snapshot import ChildSnapshot, SupervisorSnapshot
from app.event_kinds import EventKind
from app.settings import DEMO_KEY
from app.status import AgentHealth, AgentState, WorkerStatus
from app.store.protocol import (
    Before,
    CostEntry,
    RunOutcome,
    Store,
    StoreUnavailable,
    TableMissing,
    TaskStatus,
    ToolCall,
    Turn,
)
from app.web.inputs import TaskFilter
from app.web.overview import agent_lines, node, summary
from app.web.page import (
    DASHBOARD,
    KEEP,
    Kept,
    Rendered,
    Templates,
    event_tone,
)
from app.web.spend import DaySpend, bars
from app.web.transcript import transcript

APP = Path(app.__file__).parent
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def daemon(store):
    return make_daemon(store)


@pytest.fixture
async def client(daemon):
    async with served(daemon) as client:
        yield client


class Away(Store):
    """A store that cannot be reached."""

    where = "a database that is away"

    async def perform(self, verb, arguments):
        raise StoreUnavailable("connection refused")


async def test_the_first_page_shows_health_agents_routines_and_queue(daemon, client, store):
    daemon.state = {
        "status": "degraded",
        "agents": 4,
        "uptime": 7384.0,
        "reasons": ["social is backing off"],
        "problems": [],
    }
    daemon.uptime = 7384.0
    daemon.supervisor.statuses["social"] = status(
        status="backing_off", restart_in=64.0, error_count=1, last_error="Trace:\n\nValueError: no"
    )
    await store.add_task("t1", "content", "Draft three hooks")
    await store.record_cost(
        CostEntry(
            id="c", agent_id="content", run_id=None, task_id=None, model="m", input_tokens=1,
            output_tokens=1, cost_usd=4.1,
        )
    )  # fmt: skip
    page = (await client.get("/")).text
    for shown in (
        "<title>Degraded: 3 running, 1 backing off · worker</title>",
        "icon-warn.svg",
        "spend today $4.10",
        "social is backing off",
        ">2 h 3 min</time>",
        'data-label="Oldest waits" class="number"><time data-form="since"',
        *AGENT_IDS,
        ">1:04</time>",
        "ValueError: no",
        "content-daily-pipeline",
        "Tue 24 Nov 01:00",
        "Times are those of America/New_York",
        'href="/ui/tasks?status=queued&amp;agent_type=content"',
        "Draft three hooks",
    ):
        assert shown in page
    assert "Trace:" not in page
    assert page.index("/ui/agents/social") < page.index("/ui/agents/content")


async def test_the_plot_of_an_agent_s_spend_has_a_scale_and_none_is_drawn_of_nothing(client, store):
    page = (await client.get("/ui/agents/content")).text
    assert "It has spent nothing in the last 14 days." in page
    assert "<svg class" not in page
    await store.record_cost(
        CostEntry(
            id="c", agent_id="content", run_id=None, task_id=None, model="m", input_tokens=1,
            output_tokens=1, cost_usd=4.1,
        )
    )  # fmt: skip
    await trio.sleep(2 * KEEP)
    page = (await client.get("/ui/agents/content")).text
    assert '<svg class="plot"' in page
    assert [f'text-anchor="end">{usd}</text>' in page for usd in ("$4.10", "$0.00")] == [True, True]


async def test_an_agent_s_page_shows_each_of_several_workers_and_tools_that_are_away(
    client, daemon
):
    workers = (
        WorkerStatus(
            number=1,
            status=AgentState.RUNNING,
            spent_usd=0.25,
            health=AgentHealth(doing="turn 2", task_id="task-of-one", tasks_done=4),
        ),
        WorkerStatus(
            number=2, status=AgentState.BACKING_OFF, restart_in=64.0, health=AgentHealth()
        ),
    )
    daemon.supervisor.statuses["content"] = replace(
        status("content"), workers=workers, problems=("time is away: no such program",)
    )
    page = (await client.get("/ui/agents/content")).text
    assert 'data-key="worker-1"' in page
    assert "/ui/tasks/task-of-one" in page
    assert "4 done, 0 failed" in page
    assert "$0.25" in page
    assert "backing off" in page
    assert "time is away: no such program" in page


async def test_an_agent_s_page_shows_runs_crashes_tools_spend_and_memories(client, store):
    await store.touch_worker("w", "i", {}, silent_after=60)
    await store.start_run("r1", "content", "i")
    await store.finish_run("r1", RunOutcome.CRASHED, error="Trace:\n  a line\nValueError: no")
    call = ToolCall(
        id="a", agent_id="content", run_id=None, task_id=None, tool="recall", arguments={},
        duration=0.25, error="too much",
    )  # fmt: skip
    await store.record_tool_call(call)
    await store.remember("content", "tone", "plain words")
    page = (await client.get("/ui/agents/content")).text
    for shown in (
        "ValueError: no",
        "  a line",
        "recall",
        "1 (100 %)",
        "250 ms",
        "plain words",
        "claude-haiku-5-5",
    ):
        assert shown in page


async def test_a_task_s_page_shows_its_conversation_and_what_came_of_it(client, store):
    await store.add_task("t1", "content", "Find it.\nAll of it.", context={"for": "the launch"})
    for turn_id, role, block in (
        ("1", "user", {"type": "text", "text": "the opening"}),
        ("2", "assistant", {"type": "tool_use", "id": "c1", "name": "recall", "input": {"n": 1}}),
        ("3", "tool", {"type": "tool_result", "tool_use_id": "c1", "content": '{"found": 7}'}),
    ):
        await store.record_turn(
            Turn(id=turn_id, task_id="t1", agent_id="content", run_id=None, step=1, role=role,
                 content=[block])
        )  # fmt: skip
    await store.claim_task("content", worker_id="w", instance="i", token="t", lease=60)
    await store.finish_task("t1", "t", TaskStatus.FAILED, error="Trace\nValueError: <no>")
    page = (await client.get("/ui/tasks/t1")).text
    for shown in ("the opening", "recall", "&#34;found&#34;: 7", "ValueError: &lt;no&gt;", "Retry"):
        assert shown in page
    assert "the launch" in page


@pytest.mark.parametrize("path", ["/", "/ui/agents/content"])
async def test_each_step_of_a_task_is_among_the_events_for_whoever_asks(daemon, client, path):
    daemon.events.publish(EventKind.CHILD_CRASHED, "content crashed", agent_id="content")
    daemon.events.publish(
        EventKind.TURN, "content: turn 1 (tool)", agent_id="content", task_id="t1"
    )
    page = (await client.get(path)).text
    assert "crashed" in page
    assert "turn 1 (tool)" not in page
    assert f'href="{path}?steps=yes"' in page
    page = (await client.get(f"{path}?steps=yes")).text
    assert "crashed" in page
    assert "turn 1 (tool)" in page
    assert f'href="{path}"' in page


async def test_a_choice_of_events_keeps_the_other(client):
    page = (await client.get("/?agent=content&steps=yes")).text
    assert 'href="/?agent=social&amp;steps=yes"' in page
    assert 'href="/?agent=content"' in page


async def test_tasks_are_listed_as_they_are_filtered(client, store):
    await store.add_task("t1", "content", "Draft three hooks")
    assert "Draft three hooks" in (await client.get("/ui/tasks?status=queued")).text
    assert "No task is like that" in (await client.get("/ui/tasks?status=failed")).text


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("/ui/agents/nobody", 404, "known are social"),
        ("/ui/tasks/nothing", 404, "There is no such task"),
        ("/ui/tasks?status=odd", 422, "status"),
    ],
)
async def test_what_is_not_there_is_a_page_that_says_so(client, path, code, said):
    page = await client.get(path)
    assert (page.status_code, page.headers["content-type"]) == (code, "text/html; charset=utf-8")
    assert said in page.text


@pytest.mark.parametrize("path", ["/nowhere", "/ui/", "/ui/agents", "/static"])
async def test_an_address_without_anything_is_a_page_to_a_browser_alone(client, path):
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    page = await client.get(path, headers=browser)
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "There is nothing at this address" in page.text
    for accepted in ("*/*", "application/json", "image/svg+xml,*/*;q=0.5", "odd"):
        problem = await client.get(path, headers={"Accept": accepted})
        assert problem.headers["content-type"] == "application/problem+json"
    problem = await client.get("/agents/nobody", headers=browser)
    assert problem.headers["content-type"] == "application/problem+json"
    problem = await client.get("/static/none.css", headers=browser)
    assert problem.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("part", "content_type"),
    [("tree", "text/html; charset=utf-8"), ("health", "application/problem+json")],
)
async def test_a_page_that_fails_is_a_page_where_one_can_be_made(
    daemon, client, caplog, part, content_type
):
    def broken():
        raise RuntimeError("secret-key in /etc/worker")

    setattr(daemon, part, broken)
    page = await client.get("/")
    assert (page.status_code, page.headers["content-type"]) == (500, content_type)
    assert "Something went wrong here; the log of the daemon says what." in page.text
    assert "secret-key" not in page.text
    assert "secret-key" in caplog.text


async def test_the_pages_show_what_the_daemon_knows_while_the_store_is_away(daemon, client):
    daemon.store = Away()
    for path in ("/", "/ui/agents/content"):
        page = await client.get(path)
        assert page.status_code == 200
        assert "The store does not answer" in page.text
        assert "running" in page.text
    page = await client.get("/ui/tasks")
    assert page.status_code == 503
    assert "The store cannot be reached" in page.text


async def test_a_missing_table_hides_only_what_is_in_it(daemon, client, store):
    class WithoutCosts(Before):
        async def costs(self, **_options):
            raise TableMissing("anthropic_cost_log")

    daemon.store = WithoutCosts(store)
    await store.add_task("t1", "content", "Draft three hooks")
    page = (await client.get("/")).text
    assert "spend today unknown" in page
    assert "Draft three hooks" in page
    page = (await client.get("/ui/agents/content")).text
    assert page.count("cannot be read from the store") == 1
    assert "Draft three hooks" in page


async def test_markup_in_anything_shown_is_text(daemon, client, store):
    evil = "<script>alert(1)</script>\"'"
    daemon.state = replace(daemon.state, reasons=(evil,))
    daemon.supervisor.statuses[evil] = status(
        doing=evil, last_error=evil, error_count=1, paused=evil
    )
    daemon.routines.job = replace(daemon.routines.job, name=evil, disabled=evil)
    await store.add_task("t1", "content", evil, context={evil: evil})
    await store.remember("content", evil, evil)
    await store.record_turn(
        Turn(id="1", task_id="t1", agent_id="content", run_id=None, step=0, role="user",
             content=[{"type": "text", "text": evil}, {"type": evil}])
    )  # fmt: skip
    for path, times in (("/", 6), ("/ui/agents/content", 2), ("/ui/tasks/t1", 4)):
        page = (await client.get(path)).text
        assert "<script>alert" not in page
        assert page.count("&lt;script&gt;alert(1)") >= times


async def test_the_pages_load_our_own_files_and_no_inline_script_or_style(client, store):
    await store.add_task("t1", "content", "Draft three hooks")
    for path in ("/", "/ui/agents/content", "/ui/tasks", "/ui/tasks/t1", "/ui/tasks/none"):
        page = (await client.get(path)).text
        assert "style=" not in page
        assert "<style" not in page
        assert page.count("<script") == page.count('<script src="/static/') > 0
    total = 0
    for name, kind in (
        ("style.css", "text/css; charset=utf-8"),
        ("page.js", "text/javascript; charset=utf-8"),
        ("icon-good.svg", "image/svg+xml; charset=utf-8"),
    ):
        file = await client.get(f"/static/{name}")
        assert (file.status_code, file.headers["content-type"]) == (200, kind)
        again = await client.get(f"/static/{name}", headers={"If-None-Match": file.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        total += len(file.content)
    assert total < 100_000


async def test_a_change_that_needs_the_token_is_refused_to_the_page_without(store):
    async with served(make_daemon(store, api_token=TOKEN)) as client:
        assert (await client.get("/")).status_code == 200
        assert (await client.post("/agents/content/pause")).status_code == 401


async def test_the_script_listens_for_all_kinds_of_events(store):
    async with served(make_daemon(store)) as client:
        page = (await client.get("/")).text
    (kinds,) = re.findall(r'data-kinds="([^"]*)"', page)
    assert set(kinds.split()) == {*EventKind, "gap", "bye"}


@pytest.mark.parametrize(
    ("kind", "facts", "tone"),
    [
        ("child_stalled", {}, "bad"),
        ("restart_limit_reached", {}, "bad"),
        ("task_finished", {"outcome": "failed"}, "bad"),
        ("tool_called", {"failed": True}, "bad"),
        ("routine_finished", {"outcome": "missed"}, "warn"),
        ("health_changed", {"status": "critical"}, "bad"),
        ("agent_status", {"status": "backing_off"}, "warn"),
        ("stop_overdue", {}, "warn"),
        ("task_finished", {"outcome": "succeeded"}, ""),
        ("tool_called", {"failed": False}, ""),
        ("agent_status", {"status": "running"}, ""),
    ],
)
def test_an_event_that_is_not_well_is_marked_by_what_came_of_it(kind, facts, tone):
    assert event_tone(kind, facts) == tone


def test_files_that_are_replaced_under_a_running_daemon_change_no_page(tmp_path):
    shutil.copytree(DASHBOARD, tmp_path, dirs_exist_ok=True)
    templates = Templates(redact=str, folder=tmp_path)
    (tmp_path / "macros.html").write_text("{% macro state() %}{% endmacro %}")
    (tmp_path / "tasks.html").write_text("{{ what_this_code_does_not_give() }}")
    page = templates.render(
        "tasks.html",
        now=NOW,
        timezone=UTC,
        health={"status": "healthy"},
        tasks=[],
        next=None,
        searched=False,
        not_over=(),
        to_be_retried=(),
        wanted=TaskFilter(),
        address=lambda **_changes: "/ui/tasks",
        agent_ids=[],
    )
    assert "No task is like that" in page.html


async def test_many_readers_at_once_cost_one_rendering(autojump_clock):
    rendered = []

    async def render():
        rendered.append(trio.current_time())
        await trio.sleep(0.1)
        return Rendered("page")

    kept = Kept()
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(kept.get, "/", render)
    await trio.sleep(KEEP - 0.01)
    await kept.get("/", render)
    assert len(rendered) == 1
    await trio.sleep(0.02)
    await kept.get("/", render)
    await kept.get("/other", render)
    assert len(rendered) == 3


async def test_a_reader_who_goes_away_while_the_page_is_rendered_harms_no_other(autojump_clock):
    async def render():
        await trio.sleep(1)
        return Rendered("page")

    kept, pages = Kept(), []

    async def read():
        pages.append(await kept.get("/", render))

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.5):
            nursery.start_soon(read)
            await kept.get("/", render)
    assert [page.html for page in pages] == ["page"]


def test_the_sentence_counts_states_and_says_when_the_first_restart_comes():
    statuses = [
        status("a"),
        status("b", status="backing_off", restart_in=42.0),
        status("c", status="backing_off", restart_in=60.0),
        status("d", enabled=False, status="disabled", why_disabled="off"),
        status("e", paused="paused by an operator"),
    ]
    lines = agent_lines(statuses, NOW, spent=None, budgets={})
    assert [(part.text, part.until) for part in summary(lines)] == [
        ("1 running", None),
        ("1 paused", None),
        ("2 backing off", NOW + timedelta(seconds=42)),
    ]
    assert [line.agent_id for line in lines] == ["b", "c", "e", "a", "d"]


def test_an_action_asks_first_only_where_a_task_is_in_flight():
    lines = agent_lines([status("a", task_id="t")], NOW, spent=None, budgets={})
    asks = {action.label: action.ask is not None for action in lines[0].actions}
    assert asks == {"Restart": True, "Stop": True, "Pause": False}
    lines = agent_lines([status("a")], NOW, spent=None, budgets={})
    assert [action.ask for action in lines[0].actions] == [None, None, None]


def test_an_agent_that_runs_and_does_not_say_what_it_does_is_not_said_to_start():
    statuses = [
        status("silent", doing="starting"),
        status("new", status="starting", doing="starting"),
        status("busy", doing="waiting for Claude"),
    ]
    lines = agent_lines(statuses, NOW, spent=None, budgets={})
    assert {line.agent_id: line.doing for line in lines} == {
        "silent": None,
        "new": "starting",
        "busy": "waiting for Claude",
    }


def test_a_branch_that_failed_is_troubled_up_to_the_root():
    def child(name, state, *children):
        restart_at = 12.0 if state == "backing_off" else None
        return ChildSnapshot(
            name=name, state=state, restart="permanent", restarts=0, crashes=0, last_error=None,
            started_at=None, uptime=0.0, restart_at=restart_at, overdue=False, pid=None, time=10.0,
            children=children,
        )  # fmt: skip

    def supervisor(name, *children):
        return SupervisorSnapshot(
            name=name, state="running", strategy="one_for_one", children=children
        )

    agents = supervisor("agents", child("a", "running"), child("b", "backing_off"))
    tree = node(
        supervisor("worker", child("agents", "running", agents), child("s", "running")), NOW
    )
    assert tree.troubled
    assert [(each.name, each.troubled) for each in tree.children] == [
        ("agents", True),
        ("s", False),
    ]
    a, b = tree.children[0].children
    assert not a.troubled
    assert b.restart_at == NOW + timedelta(seconds=2)


def test_a_transcript_puts_each_answer_to_its_call():
    def turn(number, role, *blocks):
        return Turn(
            id=str(number), task_id="t", agent_id="a", run_id=None, step=number, role=role,
            content=list(blocks),
        )  # fmt: skip

    def use(call_id, **arguments):
        return {"type": "tool_use", "id": call_id, "name": "find", "input": arguments}

    def result(call_id, content, **more):
        return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}

    logged = ToolCall(
        id="x",
        agent_id="a",
        run_id=None,
        task_id="t",
        tool="find",
        arguments={"n": 2},
        duration=1.5,
    )
    steps = transcript(
        [
            turn(0, "user", {"type": "text", "text": "go"}),
            turn(1, "assistant", {"type": "text", "text": "I look"}, use("1", n=1), use("2", n=2)),
            turn(1, "tool", result("2", [{"type": "text", "text": "two"}], is_error=True)),
            turn(2, "assistant", use("3", n=3)),
        ],
        [logged],
    )
    assert [step.texts for step in steps] == [["go"], ["I look"], []]
    one, two = steps[1].calls
    assert (one.answer, one.duration) == (None, None)
    assert (two.answer, two.failed, two.duration) == ("two", True, 1.5)
    assert steps[2].calls[0].answer is None


def test_the_highest_bar_fills_the_plot_and_nothing_spent_has_none():
    def day(usd):
        return DaySpend(
            day=date(2026, 11, 1), cost_usd=usd, calls=1, input_tokens=0, output_tokens=0
        )

    assert [(bar.y, bar.height) for bar in bars([day(1.0), day(4.0), day(0.0)], 20)] == [
        (75.0, 25.0),
        (0.0, 100.0),
        (100.0, 0.0),
    ]
    assert bars([day(0.0)], 20)[0].height == 0.0


async def test_an_agent_s_page_lists_its_tools_and_what_needs_approval(client):
    page = (await client.get("/ui/agents/content")).text
    for shown in (
        "mcp__crm__send",
        "Send a letter to a customer.",
        "may not be repeated",
        "always",
    ):
        assert shown in page
    detail = (await client.get("/agents/content")).json()
    assert [tool["name"] for tool in detail["tools"]] == ["mcp__crm__send", "recall"]
    assert "It does not run here" in (await client.get("/ui/agents/social")).text


async def test_a_conversation_shows_what_each_reply_took_and_what_the_model_was_told(client, store):
    await store.add_task("t1", "content", "Find it")
    meta = {
        "prompt_tokens": 12_345, "cached_tokens": 11_000, "output_tokens": 210, "usd": 0.0123,
        "seconds": 4.25,
    }  # fmt: skip
    for turn_id, role, step, known in (
        ("1", "user", 0, {"system": "You write <plainly>."}),
        ("2", "assistant", 1, meta),
        ("3", "assistant", 2, {"tokens": 7}),  # as an earlier release recorded it
    ):
        await store.record_turn(
            Turn(id=turn_id, task_id="t1", agent_id="content", run_id=None, step=step, role=role,
                 content=[{"type": "text", "text": "said"}], meta=known)
        )  # fmt: skip
    page = (await client.get("/ui/tasks/t1")).text
    assert "12,345 tokens in (11,000 from the cache), 210 out; $0.0123; 4.2 s" in page
    assert page.count("tokens in") == 1
    assert "You write &lt;plainly&gt;." in page


async def test_an_agent_s_page_has_its_log_lines_in_their_order_and_no_other_s(daemon, client):
    for number, (agent_id, level) in enumerate(
        [("content", logging.INFO), ("social", logging.INFO), ("content", logging.ERROR)]
    ):
        record = logging.LogRecord("own", level, "", 0, "line <%d>", (number,), None)
        record.agent_id = agent_id
        daemon.lines.handle(record)
    page = (await client.get("/ui/agents/content")).text
    assert page.index("line &lt;0&gt;") < page.index("line &lt;2&gt;")
    assert "line &lt;1&gt;" not in page
    assert "<strong>error</strong>" in page
    nothing = (await client.get("/ui/agents/revenue")).text
    assert "Its own code has logged nothing" in nothing


async def test_the_demonstration_says_so_on_each_page_and_shows_no_amount_as_dollars(store):
    await store.add_task("t1", "content", "Do it")
    await store.record_cost(
        CostEntry(
            id="c", agent_id="content", run_id=None, task_id="t1", model="m", input_tokens=1,
            output_tokens=1, cost_usd=4.1,
        )
    )  # fmt: skip
    daemon = make_daemon(store, environ={"ANTHROPIC_API_KEY": DEMO_KEY})
    daemon.events.publish(EventKind.CHILD_CRASHED, "content spent $0.0123", agent_id="content")
    async with served(daemon) as client:
        for path in ("/", "/ui/tasks", "/ui/tasks/t1", "/ui/charts", "/ui/agents/content", "/api"):
            page = (await client.get(path + "?steps=yes" * (path == "/"))).text
            assert "<title>DEMO · " in page
            assert '<strong class="demo">DEMO</strong>' in page
            assert "no money is spent" in page
            assert re.search(r"\$\d", page) is None
        assert "4.10 play money" in (await client.get("/")).text
    async with served(make_daemon(store)) as client:
        assert "DEMO" not in (await client.get("/")).text
