"""What callers send wrong, or must not send: each is refused by the right status, and harmless."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest
import trio
from http_daemon import TOKEN, addresses, make_daemon, served

from app.web import guard
from app.web.application import BODY_TIMEOUT
from app.web.attempts import FREE
from app.web.guard import is_own_host
from app.web.inputs import MAX_DEPTH, MAX_GOAL

if TYPE_CHECKING:
    import httpx

JSON = {"Content-Type": "application/json"}
CHANGES = addresses(changing=True)
READS = [path for _, path in addresses(changing=False)]


@pytest.fixture
def daemon(store):
    return make_daemon(store)


@pytest.fixture
async def client(daemon):
    async with served(daemon) as client:
        yield client


@pytest.fixture
async def guarded(store):
    """A client of a server that wants a token."""
    async with served(make_daemon(store, api_token=TOKEN)) as client:
        yield client


def assert_problem(answer: httpx.Response, status: int) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["detail"]
    assert problem["title"]
    return problem


def task(**changes: object) -> bytes:
    return json.dumps({"agent_type": "content", "goal": "Draft"} | changes).encode()


def nested(depth: int) -> bytes:
    """A task whose body is nested so deep; it is at depth 1, its context at 2."""
    levels = depth - 2
    return b'{"agent_type": "content", "goal": "x", "context": {"a": %s}}' % (
        b"[" * levels + b"]" * levels
    )


BODIES = {
    "nothing": (b"", 400, "not JSON"),
    "no JSON": (b"{", 400, "not JSON"),
    "two documents": (b"{} {}", 400, "not JSON"),
    "not UTF-8": (b'{"goal": "\xff"}', 400, "UTF-8"),
    "UTF-16": ('{"goal": "x"}'.encode("utf-16"), 400, "UTF-8"),
    "NaN": (b'{"context": {"a": NaN}}', 400, "NaN"),
    "Infinity": (b'{"priority": -Infinity}', 400, "Infinity"),
    "a float too large": (b'{"context": {"a": 1e999}}', 400, "too large"),
    "an integer too large": (b'{"context": {"a": %d}}' % 2**63, 400, "64 bits"),
    "an integer of thousands of digits": (b'{"a": %s}' % (b"9" * 9999), 400, "64 bits"),
    "a field twice": (b'{"goal": "a", "goal": "b"}', 400, "twice"),
    "brackets without end": (b"[" * 60_000, 400, "nested"),
    "nested too deeply": (nested(MAX_DEPTH + 1), 422, "levels"),
    "a list": (b"[]", 422, "JSON object"),
    "null": (b"null", 422, "JSON object"),
    "a text": (b'"task"', 422, "JSON object"),
    "an empty object": (b"{}", 422, "agent_type"),
    "no goal": (b'{"agent_type": "content"}', 422, "goal"),
    "an unknown field": (task(prioritty=1), 422, "prioritty: Unknown field"),
    "an unknown agent": (task(agent_type="contnet"), 422, "known are acquisition, content"),
    "an agent that is no id": (task(agent_type="con tent"), 422, "agent_type"),
    "an agent that is a number": (task(agent_type=1), 422, "agent_type"),
    "an empty agent": (task(agent_type=""), 422, "agent_type"),
    "a goal that is a number": (task(goal=1), 422, "goal"),
    "a goal that is null": (task(goal=None), 422, "goal"),
    "an empty goal": (task(goal=""), 422, "goal: Should not be blank"),
    "a blank goal": (task(goal=" \n\t\u2003"), 422, "goal: Should not be blank"),
    "a goal too long": (task(goal="x" * (MAX_GOAL + 1)), 422, "goal"),
    "a NUL in the goal": (task(goal="a\0b"), 422, "goal: NUL"),
    "a lone surrogate in the goal": (task(goal="\ud800"), 422, "goal: Lone surrogates"),
    "a NUL deep in the context": (task(context={"a": [{"b": "\0"}]}), 422, "context.a.0.b: NUL"),
    "a NUL in a name": (task(context={"\0": 1}), 422, "context: In the name"),
    "a context that is a list": (task(context=[1]), 422, "context"),
    "a context that is null": (task(context=None), 422, "context"),
    "a priority that is text": (task(priority="1"), 422, "priority"),
    "a priority that is no integer": (task(priority=1.5), 422, "priority"),
    "a priority far too high": (task(priority=1e300), 422, "priority"),
    "a priority that is true": (task(priority=True), 422, "priority"),
    "a priority too high": (task(priority=2**31), 422, "priority"),
    "a priority too low": (task(priority=-(2**31) - 1), 422, "priority"),
}


@pytest.mark.parametrize(("body", "status", "words"), BODIES.values(), ids=BODIES)
async def test_a_task_that_is_wrong_is_refused_and_nothing_is_queued(
    store, client, body, status, words
):
    problem = assert_problem(await client.post("/agents/task", content=body, headers=JSON), status)
    assert words in problem["detail"]
    if status == 422:
        assert problem["errors"]
    assert await store.tasks() == []


@pytest.mark.parametrize(
    "body",
    [
        task(priority=2**31 - 1),
        task(priority=-(2**31)),
        task(priority=1.0),
        task(goal="x" * MAX_GOAL),
        task(goal="\U0001f600 ü \u202e <b>'\""),
        task(context={"n": [-(2**63), 2**63 - 1, 1e308, None, True], "": {}}),
        nested(MAX_DEPTH),
    ],
)
async def test_a_task_at_the_limits_comes_back_as_it_was_sent(client, body):
    answer = await client.post("/agents/task", content=body, headers=JSON)
    assert answer.status_code == 201
    kept = (await client.get(answer.headers["location"])).json()
    assert {name: kept[name] for name in json.loads(body)} == json.loads(body)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=201",
        "limit=ten",
        "limit=1.5",
        "limit=" + "9" * 5000,
        "limit=",
        "limit=1&limit=2",
        "status=done",
        "status=",
        "status=QUEUED",
        "agent_type=",
        "agent_type=a%00b",
        "agent_type=%ff",
        "agent_type=" + "a" * 65,
        "agent_type='%20or%201=1",
        "sort=age",
    ],
)
async def test_a_query_that_is_wrong_is_refused(client, query):
    assert_problem(await client.get(f"/tasks?{query}"), 422)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nothing"),
        ("GET", "/agents//social"),
        ("GET", "//evil.example/health"),
        ("GET", "/health/"),
        ("GET", "/agents/nobody"),
        ("GET", "/agents/nobody/status"),
        ("GET", "/agents/nobody/restart"),
        ("POST", "/agents/nobody/restart"),
        ("POST", "/agents/nobody/stop"),
        ("POST", "/agents/nobody/start"),
        ("GET", "/agents/" + "a" * 5000),
        ("GET", "/agents/%00"),
        ("GET", "/agents/%ff%fe"),
        ("GET", "/agents/..%2f..%2fetc%2fpasswd"),
        ("GET", "/tasks/nobody"),
        ("GET", "/tasks/%00"),
        ("GET", "/tasks/" + "a" * 5000),
        ("GET", "/tasks/'%20or%201=1"),
        ("POST", "/tasks/nobody/cancel"),
        ("POST", "/tasks/%ed%a0%80/retry"),
        ("POST", "/scheduler/jobs/nothing/run"),
        ("POST", "/scheduler/jobs/nothing/pause"),
        ("POST", "/scheduler/jobs/nothing/resume"),
        ("GET", "/static/nothing"),
        ("GET", "/static/..%2findex.html"),
        ("GET", "/static/" + "a" * 5000),
    ],
)
async def test_what_is_not_there_is_404(client, method, path):
    # As raw bytes, for the client would tidy the path up.
    url = client.base_url.copy_with(raw_path=path.encode())
    assert_problem(await client.request(method, url), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/health", {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/agents/social", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", "/agents/task", {"POST", "OPTIONS"}),
        ("GET", "/agents/task", {"POST", "OPTIONS"}),
        ("GET", "/agents/social/stop", {"POST", "OPTIONS"}),
        ("GET", "/tasks/some-task/cancel", {"POST", "OPTIONS"}),
        ("GET", "/scheduler/jobs/x/run", {"POST", "OPTIONS"}),
        ("BREW", "/", {"GET", "HEAD", "OPTIONS"}),
    ],
)
async def test_a_method_that_an_address_does_not_take_is_405(client, method, path, allowed):
    answer = await client.request(method, path)
    assert_problem(answer, 405)
    assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "json"])
async def test_a_body_that_is_not_declared_as_json_is_415(store, client, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    for path in ("/agents/task", "/agents/social/restart"):
        answer = await client.post(path, content=task(), headers=headers)
        assert_problem(answer, 415)
    assert await store.tasks() == []


async def test_a_charset_beside_the_json_type_is_fine(client):
    headers = {"Content-Type": "application/json; charset=utf-8"}
    answer = await client.post("/agents/task", content=task(), headers=headers)
    assert answer.status_code == 201


@pytest.mark.parametrize("path", ["/agents/task", "/agents/social/stop"])
async def test_a_body_that_says_it_is_too_large_is_413(daemon, client, path):
    body = b" " * (guard.MAX_BODY + 1)
    assert_problem(await client.post(path, content=body, headers=JSON), 413)
    assert daemon.supervisor.asked == []


async def answer_to_chunks(
    client: httpx.AsyncClient,
    chunks: bytes,
    *,
    path: str = "/agents/task",
    kind: str = "application/json",
) -> bytes:
    """Begin a chunked body by hand, and go on reading while the server answers."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    stream = await trio.open_tcp_stream(client.base_url.host, client.base_url.port)
    async with stream:
        await stream.send_all(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        return b"".join([data async for data in stream])


async def test_a_chunked_body_that_is_not_declared_as_json_is_415(daemon, client):
    answer = await answer_to_chunks(
        client, b"1\r\n{\r\n", path="/agents/social/restart", kind="text/plain"
    )
    assert answer.startswith(b"HTTP/1.1 415")
    assert daemon.supervisor.asked == []


async def test_a_body_that_turns_out_too_large_is_413(store, client):
    size = guard.MAX_BODY + 1
    answer = await answer_to_chunks(client, b"%x\r\n" % size + b" " * size + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in answer
    assert await store.tasks() == []


async def test_a_body_that_does_not_arrive_is_408(store, client, fast_clock):
    with trio.fail_after(BODY_TIMEOUT * 1.5):
        answer = await answer_to_chunks(client, b"1\r\n{\r\n")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize("key", ["", "a b", "a" * 256, "ü"])
async def test_an_idempotency_key_that_is_wrong_is_400(store, client, key):
    headers = JSON | {"Idempotency-Key": key.encode("latin-1")}
    assert_problem(await client.post("/agents/task", content=task(), headers=headers), 400)
    assert await store.tasks() == []


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8090", "127.0.0.1.evil.example", "10.0.0.1", "a@b"]
)
async def test_a_foreign_host_is_421(daemon, client, host):
    for method, path in [*CHANGES, *(("GET", path) for path in READS)]:
        answer = await client.request(method, path, headers={"Host": host})
        assert_problem(answer, 421)
    assert daemon.supervisor.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "something-new"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": ""},
        {"Referer": "https://evil.example/page"},
        {"Referer": "about:blank"},
        {"Sec-Purpose": "prefetch"},
        {"Sec-Purpose": "prefetch;prerender"},
        {"Purpose": "prefetch"},
    ],
    ids=str,
)
async def test_a_change_that_another_site_or_a_prefetch_asks_for_is_403(daemon, client, headers):
    for method, path in CHANGES:
        assert_problem(await client.request(method, path, headers=headers), 403)
    assert daemon.supervisor.asked == []
    assert daemon.routines.asked == []


@pytest.mark.parametrize("site", ["same-origin", "none"])
async def test_a_change_that_the_own_page_asks_for_is_taken(client, site):
    own = {"Origin": str(client.base_url), "Sec-Fetch-Site": site}
    for method in ("GET", "POST"):
        answer = await client.request(method, "/agents/social/restart", headers=own)
        assert answer.status_code == 202


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer ü".encode("latin-1")},
        {"Cookie": f"token={TOKEN}"},
    ],
    ids=str,
)
async def test_a_change_without_the_token_is_401(guarded, headers):
    needing = [each for each in CHANGES if each != ("POST", "/login")]
    needing = [("POST", "/nothing"), ("POST", "/health"), *needing]
    # Each address is asked without a token; with wrong ones, as many as are answered at once.
    for method, path in needing[: FREE if "Authorization" in headers else None]:
        answer = await guarded.request(method, path, headers=headers, params={"token": TOKEN})
        assert_problem(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert TOKEN not in answer.text


async def test_a_change_with_the_token_is_taken(guarded):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert (await guarded.get("/agents/social/restart", headers=headers)).status_code == 202
    assert (await guarded.post("/agents/social/restart", headers=headers)).status_code == 202
    answer = await guarded.post("/agents/task", content=task(), headers=headers | JSON)
    assert answer.status_code == 201


async def test_reading_needs_no_token(guarded):
    for path in READS:
        # Of /events the head will do, for the rest of it never ends.
        answer = await (guarded.head if path == "/events" else guarded.get)(path)
        is_there = not any(part in path for part in ("some-", "static"))
        assert answer.status_code == (200 if is_there else 404), path


@pytest.mark.parametrize(
    ("host", "bound_to", "own"),
    [
        ("localhost", "127.0.0.1", True),
        ("LocalHost:8090", "127.0.0.1", True),
        ("127.0.0.1:1", "127.0.0.1", True),
        ("127.8.8.8", "127.0.0.1", True),
        ("[::1]:8090", "127.0.0.1", True),
        ("worker.internal", "worker.internal", True),
        ("10.1.2.3:8090", "0.0.0.0", True),
        (socket.gethostname(), "0.0.0.0", True),
        (socket.gethostname(), "127.0.0.1", False),
        ("[fd00::1]", "::", True),
        ("", "127.0.0.1", False),
        ("evil.example", "127.0.0.1", False),
        ("evil.example", "0.0.0.0", False),
        ("10.1.2.3", "127.0.0.1", False),
        ("0.0.0.0", "127.0.0.1", False),
        ("localhost.evil.example", "127.0.0.1", False),
        ("localhost:port", "127.0.0.1", False),
        ("localhost:8090@evil.example", "127.0.0.1", False),
        ("localhost, evil.example", "127.0.0.1", False),
        ("::1", "127.0.0.1", False),
        ("[::1", "127.0.0.1", False),
        ("127.1", "127.0.0.1", False),
        ("2130706433", "127.0.0.1", False),
    ],
)
def test_only_names_of_this_server_are_its_own(host, bound_to, own):
    assert is_own_host(host, bound_to) is own


async def test_where_tasks_are_posted_no_other_method_is_offered(client):
    answer = await client.options("/agents/task")
    assert answer.status_code == 200
    assert answer.headers["allow"] == "OPTIONS, POST"
