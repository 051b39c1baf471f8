"""The table of `--list-agents --watch`: what it keeps in a narrow terminal, and its statuses."""

from __future__ import annotations

import io

import httpx
import pytest
from http_daemon import status as status_of
from rich.console import Console

from app.facts import to_json
from app.status import AgentState, AgentStatus, Health, HealthState
from app.terminal.api import Api
from app.terminal.errors import DaemonAwayError
from app.terminal.watch import Row, View, row_of
from app.tones import Tone
from app.web.problem_details import ProblemDetails

LONG = "task: Compare the goals and set a revenue goal of 12000 for this month, and more"


def shown(width, *rows):
    """Return the lines of the table."""
    view = View(tone=Tone.GOOD, headline="healthy", rows=list(rows), notes=[])
    text = io.StringIO()
    Console(file=text, width=width, highlight=False).print(view.shown())
    _, _, *table = text.getvalue().splitlines()
    return table


def busy(status="running", doing=LONG):
    return Row(
        agent_id="acquisition",
        status=AgentState(status),
        doing=doing,
        heartbeat="0 s",
        uptime="12 min 4 s",
        restarts="3",
        crashes="4",
        restart_in="in 0:12",
    )


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (40, ["AGENT", "STATUS", "DOING"]),
        (60, ["AGENT", "STATUS", "DOING", "HEARTBEAT", "NEXT"]),
        (80, ["AGENT", "STATUS", "DOING", "HEARTBEAT", "CRASHES", "NEXT"]),
        (90, ["AGENT", "STATUS", "DOING", "HEARTBEAT", "RESTARTS", "CRASHES", "NEXT"]),
        (
            120,
            ["AGENT", "STATUS", "DOING", "HEARTBEAT", "UPTIME", "RESTARTS", "CRASHES", "NEXT"],
        ),
    ],
)
def test_a_narrow_terminal_does_without_the_least_columns(width, columns):
    header, *_ = shown(width, busy(status="backing_off"))
    assert header.split() == columns


async def test_a_daemon_that_is_loading_its_code_is_shown_as_starting():
    health = Health(status=HealthState.STARTING, agents=4, uptime=0.5, reasons=("it loads",))

    def answer(request):
        if request.url.path == "/health":
            return httpx.Response(200, json=to_json(health))
        problem = ProblemDetails(title="Service Unavailable", status=503, detail="not up yet")
        content_type = {"Content-Type": "application/problem+json"}
        return httpx.Response(503, json=to_json(problem), headers=content_type)

    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
        api = Api(http, "http://here", None)
        assert (await api.get(Health, "/health")).status is HealthState.STARTING
        with pytest.raises(DaemonAwayError, match="cannot just now: not up yet"):
            await api.get(list[AgentStatus], "/agents")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_long_doing_takes_width_from_no_other_column(width):
    header, line = shown(width, busy(status="backing_off"))
    assert line.startswith("acquisition  backing off  task: C")
    assert "…" in line
    assert max(len(header), len(line)) <= width
    cells = {"HEARTBEAT": "0 s", "UPTIME": "12 min 4 s", "CRASHES": "4", "NEXT": "in 0:12"}
    assert all(cell in line for title, cell in cells.items() if title in header)


def agent(state="running", **health):
    return status_of("content", status=state, **health)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (agent(), "running"),
        (agent(throttled_age=None), "running"),
        (agent(throttled_age=0.0), "waiting"),
        (agent(throttled_age=8.0, paused="the day's budget is spent"), "paused"),
        (agent("draining", throttled_age=8.0), "draining"),
    ],
)
def test_an_agent_that_the_model_makes_wait_is_shown_as_waiting(given, status):
    assert row_of(given).status == status
