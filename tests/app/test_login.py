"""Reading with a token, logging in, and those who try many tokens."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import httpx
import pytest
import trio
from http_daemon import TOKEN, addresses, make_daemon, served

from app.web.attempts import FREE, MOST_WAITING, WINDOW, Attempts
from app.web.login import COOKIE, LASTS
from app.web.problems import Problem

READ = "only-for-reading-1234"
OPEN = {"/livez", "/readyz"}


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def daemon(store):
    return make_daemon(store, api_token=TOKEN, environ={"WORKER_READ_TOKEN": READ})


@pytest.fixture
async def client(daemon):
    async with served(daemon) as client:
        yield client


async def log_in(client, token=READ):
    return await client.post("/login", json={"token": token})


async def status_of(client, method, path, headers=None):
    async with client.stream(method, path, headers=headers) as answer:  # one of them has no end
        return answer.status_code


@pytest.mark.parametrize(("method", "path"), addresses(changing=False))
async def test_with_a_token_to_read_nothing_is_read_without_it(client, method, path):
    open_to_all = path in OPEN or path.startswith("/static/")
    for headers in (None, bearer("wrong"), {"Cookie": f"{COOKIE}=1.2"}, {"Authorization": READ}):
        refused = await status_of(client, method, path, headers) == 401
        assert refused is not open_to_all
    for token in (READ, TOKEN):
        assert await status_of(client, method, path, bearer(token)) != 401


@pytest.mark.parametrize("path", ["/%61gents", "//agents", "/static/../agents", "/livez/../agents"])
async def test_no_other_way_to_write_an_address_opens_it(client, path):
    async with await trio.open_tcp_stream(client.base_url.host, client.base_url.port) as stream:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        await stream.send_all(request.encode())
        answer = b"".join([data async for data in stream])
    assert re.match(rb"HTTP/1.1 40[14] ", answer)
    assert b"agent_id" not in answer


async def test_the_description_needs_a_token_as_all_that_is_read_and_says_so(client):
    for headers in ({}, bearer("wrong")):
        answer = await client.get("/openapi.json", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "paths" not in answer.text
    described = (await client.get("/openapi.json", headers=bearer(READ))).json()["paths"]
    for path, method in (("/agents", "get"), ("/openapi.json", "get"), ("/events", "get")):
        assert described[path][method]["security"] == [{"bearer": []}]
        assert "401" in described[path][method]["responses"]
    for path in ("/livez", "/readyz"):
        assert "security" not in described[path]["get"]
        assert "401" not in described[path]["get"]["responses"]


async def test_who_may_read_may_not_change(daemon, client):
    assert (await log_in(client)).status_code == 204
    for headers in (None, bearer(READ)):
        answer = await client.post("/agents/social/stop", headers=headers)
        assert answer.status_code == 401
    assert (await client.post("/agents/social/stop", headers=bearer(TOKEN))).status_code == 202
    assert daemon.supervisor.asked == [("stop", "social")]


async def test_a_browser_is_shown_a_page_to_log_in_and_reads_from_then_on(client):
    browser = {"Accept": "text/html,*/*;q=0.8"}
    for path in ("/", "/ui/tasks", "/ui/agents/social"):
        answer = await client.get(path, headers=browser)
        assert answer.status_code == 401
        assert answer.headers["content-type"].startswith("text/html")
        assert 'src="/static/login.js"' in answer.text
        assert "social" not in answer.text
    answer = await log_in(client)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert READ not in cookie
    assert (await client.get("/", headers=browser)).status_code == 200
    assert (await client.get("/agents")).status_code == 200


async def test_the_token_for_changes_logs_in_too_and_a_wrong_one_does_not(client):
    answer = await log_in(client, READ + "x")
    assert (answer.status_code, answer.json()["detail"]) == (401, "That is not the token.")
    assert "set-cookie" not in answer.headers
    assert (await log_in(client, TOKEN)).status_code == 204


async def test_another_site_cannot_log_a_browser_in(client):
    headers = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    answer = await client.post("/login", json={"token": READ}, headers=headers)
    assert answer.status_code == 403
    answer = await client.post("/login", content=f'{{"token": "{READ}"}}')
    assert answer.status_code == 415


async def test_a_cookie_is_forged_by_nobody_and_ends_with_its_time_and_with_the_token(
    store, daemon, client
):
    await log_in(client)
    until, _, signature = client.cookies[COOKIE].partition(".")
    now = datetime.now(UTC).timestamp()  # noqa: TID251
    assert abs(int(until) - now - LASTS) < 600
    forged = [
        f"{int(until) + 1}.{signature}",
        f"{until}.",
        f"{until}.{signature[:-1]}x",
        "x.y",
        ".",
    ]
    async with httpx.AsyncClient(base_url=client.base_url) as other:
        for cookie in forged:
            answer = await other.get("/agents", headers={"Cookie": f"{COOKIE}={cookie}"})
            assert answer.status_code == 401
    changed = make_daemon(store, api_token=TOKEN, environ={"WORKER_READ_TOKEN": READ + "2"})
    async with served(changed) as after:
        cookie = {"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
        assert (await after.get("/agents", headers=cookie)).status_code == 401


async def test_there_is_nothing_to_log_in_to_where_reading_is_open(store):
    async with served(make_daemon(store, api_token=TOKEN)) as client:
        assert (await log_in(client)).status_code == 404
        assert (await client.get("/agents")).status_code == 200


# -- those who try many


async def test_many_wrong_tokens_are_slowed_told_once_and_so_is_the_right_one(
    daemon, client, fast_clock
):
    began = trio.current_time()
    for number in range(FREE):
        assert (await log_in(client, f"guess-{number}")).status_code == 401
    told = [event.text for event in daemon.events.recent() if event.kind == "tokens_wrong"]
    assert told == [f"{FREE} wrong tokens came from 127.0.0.1, which is slowed now"]
    began = trio.current_time()
    assert (await client.post("/agents/social/stop", headers=bearer("x"))).status_code == 401
    assert (await client.post("/agents/social/stop", headers=bearer(TOKEN))).status_code == 202
    assert trio.current_time() - began >= 2.0
    assert len(told) == 1


async def test_of_many_tries_at_once_few_wait_and_the_others_learn_nothing(autojump_clock):
    told = []
    attempts = Attempts(told.append)
    for _ in range(FREE):
        await attempts.turn("a")
        attempts.was_wrong("a")
    outcomes = []

    async def try_one():
        try:
            await attempts.turn("a")
        except Problem as problem:
            outcomes.append((problem.status, trio.current_time() - began))
        else:
            outcomes.append((200, trio.current_time() - began))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(try_one)
    assert outcomes[: 100 - MOST_WAITING] == [(429, 0.0)] * (100 - MOST_WAITING)
    assert [round(when) for _, when in outcomes[100 - MOST_WAITING :]] == [1, 2, 3, 4, 5]
    began = trio.current_time()
    await attempts.turn("b")  # another address waits for nobody
    assert trio.current_time() == began
    await trio.sleep(WINDOW + 1)
    began = trio.current_time()
    await attempts.turn("a")
    assert trio.current_time() == began
    assert len(told) == 1


async def test_the_addresses_that_are_remembered_are_bounded():
    attempts = Attempts(lambda _text: None)
    for number in range(5000):
        attempts.was_wrong(f"address {number}")
    assert attempts.known <= 1000
