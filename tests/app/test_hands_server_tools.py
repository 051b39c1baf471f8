"""The hands that the Messages API has itself: their entries, and what is read of a reply."""

from __future__ import annotations

import pytest
from anthropic.types import (
    CodeExecutionTool20250825Param,
    CodeExecutionTool20260120Param,
    CodeExecutionTool20260521Param,
    WebFetchTool20250910Param,
    WebFetchTool20260209Param,
    WebFetchTool20260309Param,
    WebFetchTool20260318Param,
    WebSearchTool20250305Param,
    WebSearchTool20260209Param,
    WebSearchTool20260318Param,
)
from anthropic.types.beta import BetaMessage
from pydantic import TypeAdapter

from app.hands import Wanted, check_hands, open_hands
from app.hands.server_tools import MOST_CITED, failures_of, sources_of

PARAMS = {
    "web_search": [
        WebSearchTool20250305Param,
        WebSearchTool20260209Param,
        WebSearchTool20260318Param,
    ],
    "web_fetch": [
        WebFetchTool20250910Param,
        WebFetchTool20260209Param,
        WebFetchTool20260309Param,
        WebFetchTool20260318Param,
    ],
    "code_execution": [
        CodeExecutionTool20250825Param,
        CodeExecutionTool20260120Param,
        CodeExecutionTool20260521Param,
    ],
}
VERSIONS = [
    (name, param.__name__.removesuffix("Param")[-8:], param)
    for name, params in PARAMS.items()
    for param in params
]


async def entries(*wanted):
    async with open_hands(wanted, {}) as hands:
        assert hands.tools() == ()
        return [dict(tool.entry) for tool in hands.server_tools]


async def test_an_agent_that_asks_for_server_tools_gets_their_entries_by_name():
    found = await entries(
        Wanted(name="web_search"), Wanted(name="code_execution"), Wanted(name="web_fetch")
    )
    assert found == [
        {"type": "code_execution_20250825", "name": "code_execution"},
        {
            "type": "web_fetch_20250910",
            "name": "web_fetch",
            "max_uses": 10,
            "max_content_tokens": 20_000,
            "citations": {"enabled": True},
        },
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
    ]


async def test_limits_domains_and_the_place_are_in_the_entry():
    options = {
        "max_uses": 2,
        "allowed_domains": ["example.com", "docs.example.org/guide"],
        "place": {"country": "DE", "timezone": "Europe/Berlin"},
    }
    (entry,) = await entries(Wanted(name="web_search", options=options))
    assert entry["max_uses"] == 2
    assert entry["allowed_domains"] == ["example.com", "docs.example.org/guide"]
    assert entry["user_location"] == {
        "type": "approximate",
        "country": "DE",
        "timezone": "Europe/Berlin",
    }


@pytest.mark.parametrize(("name", "version", "param"), VERSIONS)
async def test_an_entry_of_each_version_is_what_the_sdk_s_types_allow(name, version, param):
    options = {"version": version}
    if name != "code_execution":
        options |= {"blocked_domains": ["example.com"], "max_uses": 3}
    (entry,) = await entries(Wanted(name=name, options=options))
    checked = TypeAdapter(param).validate_python(entry, extra="forbid")
    assert checked["type"] == f"{name}_{version}"


def test_allowed_and_blocked_domains_exclude_each_other():
    options = {"allowed_domains": ["a.com"], "blocked_domains": ["b.com"]}
    for name in ("web_search", "web_fetch"):
        (problem,) = check_hands([Wanted(name=name, options=options)], {})
        assert problem.endswith("give allowed_domains or blocked_domains, not both")


def reply(*content):
    """A reply as the SDK reads it, back in JSON: what is recorded of it."""
    message = BetaMessage.model_validate(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-5-5",
            "content": list(content),
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
    )
    return [block.model_dump(mode="json", exclude_none=True) for block in message.content]


def citing(*citations):
    return {"type": "text", "text": "It is so.", "citations": list(citations)}


def found(url, title, text="as it stands there"):
    return {
        "type": "web_search_result_location",
        "url": url,
        "title": title,
        "cited_text": text,
        "encrypted_index": "abc",
    }


def test_what_a_reply_cites_is_kept_once_for_each_source():
    content = reply(
        citing(found("https://a.example/", "A"), found("https://a.example/", "A", "again")),
        {"type": "text", "text": "No source."},
        citing(
            {
                "type": "char_location",
                "document_index": 0,
                "document_title": "A page that was fetched",
                "cited_text": "x" * 1_000,
                "start_char_index": 0,
                "end_char_index": 1_000,
            }
        ),
    )
    assert sources_of(content) == [
        {"url": "https://a.example/", "title": "A", "cited_text": "as it stands there"},
        {"title": "A page that was fetched", "cited_text": "x" * MOST_CITED},
    ]


def test_why_a_server_tool_failed_is_read_from_the_reply():
    content = reply(
        {
            "type": "web_search_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"},
        },
        {
            "type": "bash_code_execution_tool_result",
            "tool_use_id": "srvtoolu_2",
            "content": {
                "type": "bash_code_execution_tool_result_error",
                "error_code": "unavailable",
            },
        },
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_3", "content": []},
    )
    assert failures_of(content) == ["web_search: max_uses_exceeded", "code_execution: unavailable"]
