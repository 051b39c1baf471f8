"""Whether all is well, in one word."""

from __future__ import annotations

import dataclasses
import traceback
from datetime import UTC, datetime

import pytest
from http_daemon import status

from app import health
from app.reasons import ReasonKind, reason
from app.status import AgentHealth


def overall(statuses, *, notes=(), **facts):
    others = [reason(ReasonKind.TABLES_MISSING, text) for text in notes]
    state, reasons = health.overall(statuses, others=others, **facts)
    return state, [each.text for each in reasons]


def agent(state="running", **changes):
    return status(status=state, **changes)


BACKING_OFF = agent(
    "backing_off", restart_in=63.7, last_error="Traceback (...):\n  ...\nValueError: no such post\n"
)
DISABLED = agent("disabled", enabled=False)


def test_all_agents_running_is_healthy():
    assert overall({"social": agent(), "content": agent()}) == ("healthy", [])


def test_an_agent_that_somebody_disabled_is_nobodys_trouble():
    assert overall({"social": agent(), "content": DISABLED}) == ("healthy", [])
    assert overall({"social": DISABLED}) == ("healthy", [])


@pytest.mark.parametrize("status", ["starting", "restarting"])
def test_an_agent_on_its_way_is_fine(status):
    assert overall({"social": agent(status)}) == ("healthy", [])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (agent("crashed"), "social is crashed"),
        (agent("stopped"), "social is stopped"),
        (BACKING_OFF, "social crashed and waits for its restart: ValueError: no such post"),
        (agent(paused="budget spent"), "social is paused: budget spent"),
        (agent(paused="paused by an operator"), "social is paused by an operator"),
        (agent(doing="waiting for the store"), "social is waiting for the store"),
    ],
)
def test_one_agent_in_trouble_is_degraded_and_says_why(fault, reason):
    assert overall({"social": fault, "content": agent()}) == ("degraded", [reason])


def test_of_a_group_of_errors_the_reason_names_those_in_it():
    inner = ExceptionGroup("inner", [KeyError("post")])
    try:
        try:
            raise OSError("the cause")
        except OSError as cause:
            raise ExceptionGroup("outer", [ValueError("no such post\nnor that"), inner]) from cause
    except ExceptionGroup as group:
        error = "".join(traceback.format_exception(group))
    agents = {"social": agent("backing_off", restart_in=1.0, last_error=error), "content": agent()}
    (reason,) = overall(agents)[1]
    assert reason.endswith("its restart: ValueError: no such post; KeyError: 'post'")


def test_no_agent_able_to_work_is_critical():
    statuses = {"social": agent("crashed"), "content": BACKING_OFF}
    assert overall({**statuses, "revenue": DISABLED}) == (
        "critical",
        [
            "social is crashed",
            "content crashed and waits for its restart: ValueError: no such post",
        ],
    )


@pytest.mark.parametrize(
    ("paused", "until", "health"),
    [
        ("paused by an operator", None, "degraded"),
        ("its daily budget is spent", datetime(2026, 11, 24, tzinfo=UTC), "degraded"),
        ("Claude answers 401", None, "critical"),
    ],
)
def test_agents_that_only_somebody_else_can_make_go_on_are_critical(paused, until, health):
    assert overall({"social": agent(paused=paused, paused_until=until)})[0] == health


def test_an_agent_that_cannot_reach_the_model_for_long_is_in_trouble():
    def waits(seconds):
        return agent(throttled_age=seconds, throttled_why="Claude could not be reached")

    reason = "social has waited long for Claude: Claude could not be reached"
    assert overall({"social": waits(50.0), "content": agent()}) == ("healthy", [])
    assert overall({"social": waits(70.0)}) == ("degraded", [reason])
    assert overall({"social": waits(400.0), "content": agent()}) == ("degraded", [reason])
    assert overall({"social": waits(400.0)}) == ("critical", [reason])


def test_a_pause_does_not_hide_a_crash():
    paused = dataclasses.replace(BACKING_OFF, health=AgentHealth(paused="paused by an operator"))
    assert overall({"social": paused, "content": agent()})[1] == [
        "social is paused by an operator and crashed and waits for its restart: "
        "ValueError: no such post"
    ]


def test_a_store_that_is_away_is_degraded():
    assert overall({"social": agent()}, store_error="locked") == (
        "degraded",
        ["the store is away: locked"],
    )


def test_a_store_that_is_away_to_an_agent_alone_says_why_once():
    waits = agent(doing="waiting for the store", store_error="lacks a function")
    assert overall({"social": waits, "content": waits, "revenue": agent(store_error=None)}) == (
        "degraded",
        [
            "social is waiting for the store",
            "content is waiting for the store",
            "the store is away: lacks a function",
        ],
    )
    assert overall({"social": waits}, store_error="locked")[1][-1] == "the store is away: locked"


def test_a_loop_that_was_blocked_is_critical_whatever_the_agents_say():
    assert overall({"social": agent()}, blocked="blocked for 3 s", notes=["no table x"]) == (
        "critical",
        ["blocked for 3 s", "no table x"],
    )


def test_while_a_daemon_stops_an_agent_that_stops_too_is_no_reason_and_one_that_crashed_is():
    statuses = {"social": agent("draining"), "content": agent("backing_off")}
    _, reasons = overall(statuses, stopping=True)
    assert [reason.partition(" is ")[0] for reason in reasons] == ["the daemon", "content"]


def test_a_daemon_that_is_stopping_is_degraded_and_not_critical():
    assert overall({"social": agent("stopped")}, stopping=True) == (
        "degraded",
        ["the daemon is stopping"],
    )


def test_what_else_is_wrong_is_told():
    assert overall({"social": agent()}, notes=["table x is missing"]) == (
        "degraded",
        ["table x is missing"],
    )
