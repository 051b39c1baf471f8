"""The simulated Claude, asked by the real SDK over real HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import anthropic
import httpx
import pytest
import trio
from agents_at_work import office
from anthropic import AsyncAnthropic

from app.agents.acquisition import AcquisitionDomainAgent
from app.agents.content import ContentCreationDomainAgent
from app.agents.revenue import RevenueAnalyticsDomainAgent
from app.agents.social import SocialMediaDomainAgent
from app.demo.claude import Failure, Garbage, HangUp, Reply, SimulatedClaude, serve_claude
from app.demo.show import open_demo
from app.settings import load_settings
from app.store.protocol import DomainTable, TaskStatus

ASK = {
    "model": "claude-sonnet-5-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Say something."}],
}
TOOL = {"name": "list_things", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture
async def claude(nursery):
    simulated = SimulatedClaude()
    simulated.url = await nursery.start(serve_claude, simulated)
    return simulated


@pytest.fixture
async def client(claude):
    async with AsyncAnthropic(
        api_key="sk-ant-test", base_url=claude.url, max_retries=0, timeout=10
    ) as made:
        yield made


@pytest.fixture
async def http(claude):
    headers = {"x-api-key": "sk-ant-test", "anthropic-version": "2026-10-21"}
    async with httpx.AsyncClient(base_url=claude.url, headers=headers) as made:
        yield made


async def test_a_planned_reply_is_a_message_with_a_usage_and_a_request_id(claude, client):
    claude.plan(Reply(text="Hello.", usage={"output_tokens": 7}))

    message = await client.messages.create(**ASK)

    assert message.content[0].text == "Hello."
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 7
    assert message.usage.input_tokens > 0
    assert message._request_id.startswith("req_")


async def test_a_streamed_reply_is_put_together_by_the_sdk(claude, client):
    claude.plan(Reply(text="One two three four five.", tools=(("list_things", {"n": 1}),)))

    async with client.messages.stream(**ASK, tools=[TOOL]) as stream:
        texts = [text async for text in stream.text_stream]
        message = await stream.get_final_message()

    assert texts == ["One two three four", " five."]
    assert message.content[1].input == {"n": 1}
    assert message.stop_reason == "tool_use"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (402, anthropic.PaymentRequiredError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (529, anthropic.OverloadedError),
    ],
)
async def test_an_error_is_the_sdks_error_with_its_details(claude, client, status, error):
    claude.plan(
        Failure(
            status=status,
            message="because",
            error_code="enforced_spend_limit_reached",
            headers={"retry-after": "3"},
        )
    )

    with pytest.raises(error) as caught:
        await client.messages.create(**ASK)

    assert caught.value.api_message == "because"
    assert caught.value.error_code == "enforced_spend_limit_reached"
    assert caught.value.request_id.startswith("req_")
    assert caught.value.response.headers["retry-after"] == "3"
    assert caught.value.type.endswith("_error")


@pytest.mark.parametrize("in_the_middle", [False, True])
async def test_a_dropped_connection_is_a_connection_error(claude, client, in_the_middle):
    claude.plan(HangUp(in_the_middle=in_the_middle), Reply(text="Hello again."))

    with pytest.raises(anthropic.APIConnectionError):
        await client.messages.create(**ASK)

    assert (await client.messages.create(**ASK)).content[0].text == "Hello again."


async def test_garbage_comes_as_it_is(claude, http):
    claude.plan(Garbage(body=b"<html>", content_type="text/html"))

    response = await http.post("/v1/messages", json=ASK)

    assert (response.status_code, response.text) == (200, "<html>")
    assert response.headers["content-type"] == "text/html"


# The rules of the API.


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"temperature": 0.5}, 400, "temperature"),
        ({"top_k": 5}, 400, "top_k"),
        ({"thread": {"type": "create"}}, 400, "thread"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": -1}, 400, "max_tokens"),
        ({"messages": []}, 400, "messages"),
        ({"model": "gpt-6"}, 404, "gpt-6"),
        ({"tools": [TOOL, TOOL]}, 400, "unique"),
        ({"tools": [{**TOOL, "name": "a b"}]}, 400, "pattern"),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, 400, "forced tool use"),
        ({"messages": [{"role": "assistant", "content": "Hi."}]}, 400, "role"),
        ({"messages": [{"role": "user", "content": ""}]}, 400, "non-empty"),
        (
            {
                "messages": [
                    {"role": "user", "content": "Go."},
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "tool_use", "id": "toolu_1", "name": "a", "input": {}}
                        ],
                    },
                    {"role": "user", "content": "And?"},
                ]
            },
            400,
            "without `tool_result` blocks",
        ),
    ],
    ids=str,
)
async def test_what_the_api_refuses_is_refused(http, changes, status, said):
    response = await http.post("/v1/messages", json={**ASK, **changes})

    assert response.status_code == status
    assert said in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "sk-ant-wrong-1"}, 401),
        ({"anthropic-version": "1999-01-01"}, 400),
        ({"anthropic-version": "2023-06-01"}, 200),
    ],
    ids=str,
)
async def test_the_key_and_the_version_are_checked(http, headers, status):
    assert (await http.post("/v1/messages", json=ASK, headers=headers)).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/models", b"", 200),
        ("POST", "/v1/messages?beta=true", json.dumps(ASK).encode(), 200),
        ("GET", "/v1/messages", b"", 404),
        ("POST", "/v2", b"", 404),
        ("POST", "/v1/messages", b"{", 400),
        ("POST", "/v1/messages", b"[]", 400),
    ],
    ids=str,
)
async def test_what_is_answered_at_which_address(http, method, path, body, status):
    assert (await http.request(method, path, content=body)).status_code == status


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 20_000,
    ],
    ids=["nothing", "newlines", "nonsense", "endless headers"],
)
async def test_what_is_no_request_ends_its_connection_and_nothing_else(claude, client, sent):
    port = int(claude.url.rpartition(":")[2])
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(sent)
        await stream.send_eof()
        with trio.fail_after(60):
            while True:
                try:
                    if not await stream.receive_some():
                        break
                except trio.BrokenResourceError:
                    break

    assert (await client.messages.create(**ASK)).stop_reason == "end_turn"


async def test_the_second_prompt_that_begins_alike_is_read_from_the_cache(client):
    system = [{"type": "text", "text": "Be brief. " * 50, "cache_control": {"type": "ephemeral"}}]

    first = (await client.messages.create(**ASK, system=system)).usage
    second = (await client.messages.create(**ASK, system=system)).usage

    assert first.cache_creation_input_tokens == second.cache_read_input_tokens > 0
    assert first.cache_read_input_tokens == second.cache_creation_input_tokens == 0


# What can be asked for in a goal.


def asking(text):
    return {**ASK, "messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize(
    ("marker", "statuses"),
    [
        ("[simulate: 429]", [429, 200]),
        ("[simulate: 529 x2]", [529, 529, 200]),
        ("[simulate: 500 after 3 x2]", [500, 500, 200]),
        ("[simulate: spend limit]", [429, 429, 429]),
    ],
)
async def test_errors_can_be_asked_for_in_the_goal(http, marker, statuses):
    answers = [await http.post("/v1/messages", json=asking(f"Go. {marker}")) for _ in statuses]

    assert [answer.status_code for answer in answers] == statuses
    if "after" in marker:
        assert answers[0].headers["retry-after"] == "3"
    if "spend" in marker:
        details = answers[0].json()["error"]["details"]
        assert details == {"error_code": "enforced_spend_limit_reached"}


async def test_drops_stop_reasons_and_slowness_can_be_asked_for_in_the_goal(http):
    with pytest.raises(httpx.RemoteProtocolError):
        await http.post("/v1/messages", json=asking("Go. [simulate: drop]"))
    answer = await http.post("/v1/messages", json=asking("Go. [simulate: refusal]"))
    assert answer.json()["stop_reason"] == "refusal"

    started = trio.current_time()
    await http.post("/v1/messages", json=asking("Go. [simulate: slow 0.3]"))
    assert trio.current_time() - started >= 0.3


# What it does of its own accord.

GOALS = [
    (SocialMediaDomainAgent, "List the queued engagement actions and queue a like for @ada on x."),
    (SocialMediaDomainAgent, "Settle the queued engagement actions as done."),
    (SocialMediaDomainAgent, "Remember that our tone is friendly."),
    (ContentCreationDomainAgent, "Find the best viral templates and draft content for linkedin."),
    (ContentCreationDomainAgent, "Score the viral templates: 80 for this one."),
    (ContentCreationDomainAgent, 'Save a viral template called "Before and after".'),
    (AcquisitionDomainAgent, "List deals at stage prospect and move the deal to contacted."),
    (AcquisitionDomainAgent, "Add Ada Lovelace of Engines Ltd as a prospect."),
    (AcquisitionDomainAgent, "List the deals and note the next action for each deal."),
    (RevenueAnalyticsDomainAgent, "Compare goals and record the actual of 4200 for the goal."),
    (RevenueAnalyticsDomainAgent, "Audit costs and save a weekly snapshot."),
    (RevenueAnalyticsDomainAgent, "Set a revenue goal of 10,000 for the month."),
    (RevenueAnalyticsDomainAgent, "What about the weather?"),
]


@pytest.mark.parametrize(("cls", "goal"), GOALS, ids=lambda value: str(value)[:40])
async def test_it_calls_fitting_tools_with_arguments_that_they_take(store, cls, goal):
    now = await store.ping()
    await store.insert(
        DomainTable.ENGAGEMENT_ACTIONS,
        "a1",
        {"platform": "x", "action": "like", "target": "@bob", "status": "queued"},
    )
    await store.insert(
        DomainTable.VIRAL_TEMPLATES,
        "t1",
        {"name": "List", "platform": "linkedin", "hook": "h", "body": "b", "status": "template"},
    )
    await store.insert(DomainTable.DEAL_LOG, "d1", {"name": "Bob", "stage": "prospect"})
    await store.insert(
        DomainTable.REVENUE_GOALS,
        "g1",
        {"period": f"{now:%Y-%m}", "metric": "revenue", "target": 9.0},
    )
    async with office(store) as place:
        task = await place.do(goal, cls)

    assert task.status is TaskStatus.SUCCEEDED
    assert task.result["text"].startswith("Done")
    calls = await store.tool_calls()
    assert [call.error for call in calls] == [None] * len(calls)
    assert len(calls) == 0 if "weather" in goal else 1 <= len(calls) <= 2


async def test_it_is_a_process_of_its_own_that_says_where_it_is():
    async with trio.open_nursery() as nursery:
        command = [sys.executable, "-m", "app.demo.claude", "--port", "0"]
        process = await nursery.start(
            partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
        )
        with trio.fail_after(60):
            address = (await process.stdout.receive_some()).decode().strip()
            async with httpx.AsyncClient(base_url=address) as http:
                answer = await http.get("/v1/models", headers={"x-api-key": "k"})
        process.terminate()

    assert address.startswith("http://127.0.0.1:")
    assert answer.json()["error"]["message"] == "anthropic-version: header is required"


async def test_the_introduction_speaks_of_crashes_only_where_there_will_be_some():
    async with open_demo({}) as demo:
        settings = load_settings(demo.environ, env_file=None)
        assert "'revenue'\ncrashes" in demo.introduction(settings, "http://here")
        settings = settings.with_agents(["content"])
        assert "crashes" not in demo.introduction(settings, "http://here")
