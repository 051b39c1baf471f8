"""What is known of an agent is declared once, and is everywhere: JSON, OpenAPI, page, metrics."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime

import pytest
import trio
from http_daemon import make_daemon, served, status

from actp_supervise import open_supervisor
from app.facts import LEFT_OUT, fields_of, from_json, json_name, to_json
from app.figures import Gauge, StateGauge
from app.status import AgentHealth, AgentState, AgentStatus, Health, HealthState, tone_of
from app.tones import Tone
from app.web.openapi import document
from app.web.problem_details import FieldError, ProblemDetails
from app.web.shapes import ChildNode, Ready, SupervisorNode

MOMENT = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)

WHOLE = status(
    restart_in=3.5,
    last_error="Traceback: no feed",
    why_disabled="off",
    runs_on="worker-2",
    store_error="locked",
    task_id="t1",
    progress_age=2.0,
    paused="its daily budget is spent",
    paused_until=MOMENT,
    throttled_until=MOMENT,
    throttled_for=1.0,
    throttled_age=4.0,
    throttled_why="429",
    paused_by="kim",
    paused_at=MOMENT,
)
WHOLE = dataclasses.replace(WHOLE, health=dataclasses.replace(WHOLE.health, last_run_at=MOMENT))


@pytest.mark.parametrize(
    "value",
    [
        WHOLE,
        status(),
        Health(status=HealthState.DEGRADED, agents=4, uptime=1.5, reasons=("a is away",)),
        ProblemDetails(
            title="Not Found", status=404, detail="x", errors=(FieldError(field="a", detail="b"),)
        ),
        ProblemDetails(title="Not Found", status=404, detail="x"),
    ],
)
def test_a_value_is_read_back_from_its_json(value):
    assert from_json(type(value), to_json(value)) == value
    assert from_json(list[type(value)], to_json([value, value])) == [value, value]


def test_what_a_newer_daemon_says_is_left_out_and_nonsense_is_refused():
    known = to_json(WHOLE)
    newer = {**known, "mood": "good", "health": {**known["health"], "pulse": 60}}
    assert from_json(AgentStatus, newer) == WHOLE
    for wrong in ({**known, "status": "dancing"}, {**known, "uptime": "long"}, [known], None, {}):
        with pytest.raises(ValueError, match=r"."):
            from_json(AgentStatus, wrong)


def test_json_is_what_it_says():
    assert to_json(WHOLE)["class"] == WHOLE.class_
    assert to_json(WHOLE)["last_run_at"] == "2026-11-23T07:00:00.000Z"
    assert to_json(float("inf")) is None
    assert to_json(Ready()) == {"status": "ready"}
    assert to_json(Ready(checks={"store": "ok"}))["checks"] == {"store": "ok"}


def facts():
    return [(kind, field) for kind in (AgentStatus, AgentHealth) for field in fields_of(kind)]


async def test_every_fact_of_an_agent_is_in_the_json_the_description_and_the_page(store):
    daemon = make_daemon(store)
    daemon.supervisor.statuses["social"] = WHOLE
    async with served(daemon) as client:
        agent = (await client.get("/agents/social")).json()
        page = (await client.get("/ui/agents/social")).text
    shown = set(re.findall(r"<dt>(.*?)</dt>", page.partition("All that is known")[2]))
    schemas = document(["social"], secured=False)["components"]["schemas"]
    for kind, field in facts():
        name = json_name(field.name)
        assert name in (agent if kind is AgentStatus else agent["health"])
        for schema in (kind.__name__, "AgentDetail") if kind is AgentStatus else (kind.__name__,):
            assert name in schemas[schema]["properties"]
            assert name in schemas[schema]["required"]
        if name not in {"health", "last_error"}:
            assert name.replace("_", " ").capitalize() in shown


def test_the_docstring_below_a_field_is_its_description_also_where_it_is_inherited():
    schemas = document([], secured=False)["components"]["schemas"]
    for name in ("AgentStatus", "AgentDetail"):
        assert schemas[name]["properties"]["restart_in"]["description"].startswith("Seconds until")
    tool_stats = schemas["AgentDetail"]["properties"]["tool_stats"]
    assert tool_stats["description"] == "Of the last 24 hours."
    assert "description" not in schemas["AgentStatus"]["properties"]["enabled"]
    assert schemas["Ready"]["required"] == ["status"]
    assert "anyOf" not in schemas["Ready"]["properties"]["checks"]


async def test_every_figure_that_a_fact_declares_is_exposed(store):
    declared = {
        figure.name
        for _, field in facts()
        for figure in field.metadata
        if isinstance(figure, Gauge | StateGauge)
    }
    assert len(declared) > 5
    async with served(make_daemon(store)) as client:
        text = (await client.get("/metrics")).text
    exposed = set(re.findall(r"^# TYPE (\w+?)(?:_total)? ", text, re.MULTILINE))
    assert declared - exposed == set()


async def test_the_tree_is_answered_as_it_is_described():
    schemas = document([], secured=False)["components"]["schemas"]

    async with open_supervisor(name="worker") as tree:
        tree.start_soon(trio.sleep_forever, name="below")
        answered = tree.tree().to_dict()
        await tree.shutdown()
    for node, kind in ((answered, SupervisorNode), (answered["children"][0], ChildNode)):
        schema = schemas[kind.__name__]
        assert set(node) == set(schema["properties"]) == set(schema["required"])


def test_only_what_agents_report_is_a_status_and_the_worst_comes_first():
    schema = document([], secured=False)["components"]["schemas"]["AgentState"]
    assert set(schema["enum"]) == {state for state in AgentState if not state.derived}
    ranks = [state.rank for state in AgentState]
    assert ranks == sorted(ranks)
    assert AgentState.CRASHED.rank < AgentState.PAUSED.rank < AgentState.RUNNING.rank


@pytest.mark.parametrize(
    ("given", "state"),
    [
        ({}, AgentState.RUNNING),
        ({"throttled_age": 0.0}, AgentState.WAITING),
        ({"throttled_age": 1.0, "paused": "spent"}, AgentState.PAUSED),
        ({"status": "draining", "paused": "spent"}, AgentState.DRAINING),
    ],
)
def test_a_pause_and_a_wait_are_states_of_an_agent_that_runs(given, state):
    assert status(**given).state is state


def test_a_word_has_one_tone_wherever_it_is_shown():
    assert tone_of(AgentState.BACKING_OFF) is tone_of("backing_off") is Tone.WARN
    assert tone_of(HealthState.CRITICAL) is tone_of("timed_out") is Tone.BAD
    assert tone_of("queued") is Tone.OFF


def test_what_is_left_out_is_marked_at_its_field():
    left_out = {field.name for field in fields_of(ProblemDetails) if field.left_out}
    assert left_out == {"errors"}
    assert LEFT_OUT in fields_of(Ready)[1].metadata
