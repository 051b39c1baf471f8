"""Attacks on the server as bytes on real sockets: each is refused, or does no harm."""

from __future__ import annotations

import hmac
import json
import re
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
import trio
from http_daemon import TOKEN, addresses, make_daemon, served, status
from prometheus_client.parser import text_string_to_metric_families

from actp_supervise.service.connection import IDLE_TIMEOUT
from app.event_kinds import EventKind
from app.store.protocol import CostEntry, RunOutcome, ToolCall, Turn
from app.web.application import BODY_TIMEOUT
from app.web.guard import SECURITY_HEADERS

if TYPE_CHECKING:
    import httpx

EVIL = "\"'><img src=x onerror=alert(1)><script>alert(1)<!--"

JSON = b"Content-Type: application/json\r\n"
STOP = b"POST /agents/content/stop HTTP/1.1\r\nHost: localhost\r\n" + JSON
HIDDEN = b"POST /agents/social/stop HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.fixture
def daemon(store):
    return make_daemon(store)


@pytest.fixture
async def client(daemon):
    async with served(daemon) as client:
        yield client


async def connect(client: httpx.AsyncClient) -> trio.SocketStream:
    return await trio.open_tcp_stream(client.base_url.host, client.base_url.port)


async def ask(client: httpx.AsyncClient, request: bytes) -> bytes:
    """Send bytes on a connection of their own; return all that comes until it is closed."""
    async with await connect(client) as stream:
        received = b""
        try:
            await stream.send_all(request)
            async for data in stream:
                received += data
        except trio.BrokenResourceError:  # cut off by the server: an end as well
            pass
        return received


TWO_MEANINGS = {
    "a length and chunks": (STOP + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + HIDDEN),
    "chunks and a length": (STOP + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN),
    "two lengths": STOP + b"Content-Length: 0\r\nContent-Length: 60\r\n\r\n" + HIDDEN,
    "a list of lengths": STOP + b"Content-Length: 0, 60\r\n\r\n" + HIDDEN,
    "a length with a sign": STOP + b"Content-Length: +2\r\n\r\n{}" + HIDDEN,
    "a negative length": STOP + b"Content-Length: -2\r\n\r\n{}" + HIDDEN,
    "chunks twice": STOP + CHUNKED * 2 + b"\r\n0\r\n\r\n" + HIDDEN,
    "another encoding": STOP + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a control character": STOP + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a space before the colon": STOP + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a folded line": STOP + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a folded line in a value": STOP + b"X: a\r\n\tTransfer-Encoding: chunked\r\n\r\n" + HIDDEN,
    "a line without CR": STOP + b"X: a\nContent-Length: 2\r\n\r\n{}" + HIDDEN,
    "no line with CR": STOP.replace(b"\r", b"") + b"\n" + HIDDEN,
    "a line without LF": STOP + b"X: a\rContent-Length: 2\r\n\r\n{}" + HIDDEN,
    "a NUL": STOP + b"X: a\0\r\n\r\n" + HIDDEN,
    "a space before the first field": STOP.replace(b"\r\nHost", b"\r\n Host") + b"\r\n" + HIDDEN,
    "chunks in HTTP/1.0": STOP.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n0\r\n\r\n" + HIDDEN,
    "a size of a chunk as in C": STOP + CHUNKED + b"\r\n0x2\r\n{}\r\n0\r\n\r\n" + HIDDEN,
    "a negative size of a chunk": STOP + CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n" + HIDDEN,
    "a size of a chunk without CR": STOP + CHUNKED + b"\r\n2\n{}\r\n0\r\n\r\n" + HIDDEN,
    "a chunk that goes on": STOP + CHUNKED + b"\r\n2\r\n{}XX0\r\n\r\n" + HIDDEN,
    "a folded trailer": STOP + CHUNKED + b"\r\n0\r\nX: a\r\n Y: b\r\n\r\n" + HIDDEN,
    "a trailer": STOP + CHUNKED + b"\r\n0\r\nContent-Length: 2\r\n\r\n" + HIDDEN,
    "a last line without CR": STOP + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\n" + HIDDEN,
    "a target with a host": (
        STOP.replace(b"/agents", b"http://evil.example/agents", 1) + b"\r\n" + HIDDEN
    ),
    "two hosts": STOP + b"Host: localhost\r\n\r\n" + HIDDEN,
    "no host": STOP.replace(b"Host: localhost\r\n", b"") + b"\r\n" + HIDDEN,
    "no version": b"POST /agents/content/stop\r\n\r\n" + HIDDEN,
}


@pytest.mark.parametrize("request_", TWO_MEANINGS.values(), ids=TWO_MEANINGS)
async def test_what_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_done(
    daemon, client, request_
):
    with trio.fail_after(60):
        answer = await ask(client, request_)
    assert re.match(rb"HTTP/1\.1 (400|501) ", answer)
    assert answer.count(b"HTTP/1.1") == 1
    assert daemon.supervisor.asked == []
    assert (await client.get("/livez")).status_code == 200


async def test_a_client_that_is_still_sending_gets_the_413(daemon, client):
    size = 8_000_000  # more than the system's buffers take, so it is in the middle when refused
    async with await connect(client) as stream:
        with trio.fail_after(60):
            await stream.send_all(STOP + b"Content-Length: %d\r\n\r\n" % size)
            for _ in range(size // 80_000):
                await stream.send_all(b" " * 80_000)
            answer = b"".join([data async for data in stream])
    assert answer.startswith(b"HTTP/1.1 413")
    assert daemon.supervisor.asked == []


async def test_who_sends_without_end_is_not_read_for_ever(client, fast_clock):
    async with await connect(client) as stream:
        await stream.send_all(STOP + b"Content-Length: 99999999999\r\n\r\n")
        with trio.fail_after(600), pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(b" " * 1000)
                await trio.sleep(0.1)


BROWSER = {
    "a link in a mail": {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"},
    "a link within a page": {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin"},
    "an image": {"Sec-Fetch-Dest": "image", "Sec-Fetch-Site": "same-origin"},
    "a browser without fetch metadata": {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"},
}


@pytest.mark.parametrize("headers", BROWSER.values(), ids=BROWSER)
async def test_a_link_that_a_browser_follows_restarts_nothing(daemon, client, headers):
    answer = await client.get("/agents/social/restart", headers=headers)
    assert answer.status_code == 403
    assert daemon.supervisor.asked == []


async def test_curl_restarts_an_agent_by_a_get(daemon, client):
    headers = {"Accept": "*/*", "User-Agent": "curl/8.5.0"}
    assert (await client.get("/agents/social/restart", headers=headers)).status_code == 202
    assert daemon.supervisor.asked == [("restart", "social")]


GUESS = "zqwx"  # one of many in an address, which tells whether the token is among them


WITH_A_GUESS = (
    "/agents/{}", "/agents/{}/status", "/ui/agents/{}", "/tasks/{}", "/tasks/{}/turns",
    "/ui/tasks/{}", "/{}", "/ui/{}", "/static/{}", "/?agent={}", "/?{}=1",
    "/ui/tasks?agent_type={}", "/ui/tasks?status={}", "/ui/tasks?{}=1", "/tasks?agent_type={}",
    "/tasks?{}=1", "/tasks?limit={}&limit={}", "/tasks?q={}", "/ui/tasks?q={}",
    "/ui/tasks?q={}&since=2026-11-28", "/tasks?since={}", "/tasks?cursor={}",
    "/ui/tasks?cursor={}", "/events?{}=1", "/health?{}",
)  # fmt: skip


@pytest.mark.parametrize("accept", ["*/*", "text/html"])
async def test_no_answer_tells_whether_the_address_has_the_token_in_it(store, accept):
    right, wrong = (make_daemon(store, api_token=token) for token in (GUESS, "qzwy"))
    async with served(right) as one, served(wrong) as other:
        for path in WITH_A_GUESS:
            statuses = set()
            for client in (one, other):
                answer = await client.get(path.replace("{}", GUESS), headers={"Accept": accept})
                statuses.add(answer.status_code)
                assert GUESS not in f"{answer.text} {answer.headers}", path
                assert "[redacted]" not in f"{answer.text} {answer.headers}", path
            assert len(statuses) == 1, path


async def test_a_token_that_is_called_as_a_field_takes_no_field_out(store):
    daemon = make_daemon(store, api_token="status")
    await store.add_task("t1", "content", "the status is shown", context={"my status": "status"})
    async with served(daemon) as client:
        assert (await client.get("/health")).json()["status"] == "healthy"
        task = (await client.get("/tasks/t1")).json()
    assert task["status"] == "queued"
    assert task["goal"] == "the [redacted] is shown"
    assert task["context"] == {"my [redacted]": "[redacted]"}


async def test_a_request_in_the_body_of_another_is_a_body(daemon, client):
    length = b"Content-Length: %d\r\n" % len(HIDDEN)
    for head in (STOP, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"):
        answer = await ask(client, head + length * 2 + b"Connection: close\r\n\r\n" + HIDDEN)
        assert answer.count(b"HTTP/1.1") == 1
        assert answer.startswith(b"HTTP/1.1 400" if head is STOP else b"HTTP/1.1 200")
    assert daemon.supervisor.asked == []


@pytest.mark.parametrize(
    "head",
    [
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000,
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 20_000,
        b"GET /livez?" + b"a" * 100_000,
        b"G" * 100_000,
    ],
    ids=["a long field", "many fields", "a long target", "no end of a method"],
)
async def test_a_head_too_large_is_cut_off_before_its_end(client, head):
    with trio.fail_after(0.9 * IDLE_TIMEOUT):
        answer = await ask(client, head)
    assert answer == b"" or re.match(rb"HTTP/1\.1 (400|431) ", answer)
    assert (await client.get("/livez")).status_code == 200


async def drip(stream: trio.SocketStream, data: bytes) -> None:
    """Send a byte a second for as long as it is taken."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async with stream:
            for byte in data:
                await stream.send_all(bytes([byte]))
                await trio.sleep(1)


async def test_a_head_that_drips_in_is_cut_off(client, fast_clock):
    async with trio.open_nursery() as nursery, await connect(client) as stream:
        nursery.start_soon(
            drip, stream, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 99
        )
        with trio.fail_after(IDLE_TIMEOUT * 10), suppress(trio.BrokenResourceError):
            assert await stream.receive_some() == b""  # or a reset, for the byte that came too late
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("path", ["/agents/task", "/agents/social/stop"])
async def test_a_body_that_drips_in_is_408_and_nothing_is_done(daemon, client, fast_clock, path):
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n".encode() + JSON
    async with trio.open_nursery() as nursery, await connect(client) as stream:
        await stream.send_all(head + b"\r\n")
        nursery.start_soon(drip, stream, b" " * 90)
        with trio.fail_after(BODY_TIMEOUT * 20):
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 408")
        nursery.cancel_scope.cancel()
    assert daemon.supervisor.asked == []


async def test_a_command_whose_body_is_cut_off_is_not_done(daemon, client):
    async with await connect(client) as stream:
        await stream.send_all(STOP + b"Content-Length: 9\r\n\r\n{")
        await stream.send_eof()
        assert b"HTTP/1.1 2" not in await stream.receive_some()
    assert daemon.supervisor.asked == []


async def test_many_dripping_heads_do_not_keep_others_from_being_answered(client):
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            stream = await connect(client)
            nursery.start_soon(drip, stream, b"GET / HTTP/1.1\r\n" * 99)
        with trio.fail_after(60):
            assert (await client.get("/livez")).status_code == 200
        nursery.cancel_scope.cancel()


FORMS = {
    "urlencoded": b"application/x-www-form-urlencoded",
    "multipart": b"multipart/form-data; boundary=x",
    "text": b"text/plain",
    "json in disguise": b"text/plain; application/json",
    "two types": b"text/plain\r\nContent-Type: application/json",
    "none": b"",
}


@pytest.mark.parametrize("kind", FORMS.values(), ids=FORMS)
async def test_what_a_form_of_another_site_can_send_is_refused(daemon, store, client, kind):
    body = b'{"agent_type": "content", "goal": "x", "context": {"": "="}}'
    for path in (b"/agents/task", b"/agents/social/stop"):
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" % path
        head += b"Content-Length: %d\r\n" % len(body)
        if kind:
            head += b"Content-Type: " + kind + b"\r\n"
        # A browser names the site. Where it does not, the type alone has to do.
        for origin, code in ((b"Origin: http://evil.example\r\n", b"403"), (b"", b"415")):
            answer = await ask(client, head + origin + b"\r\n" + body)
            assert answer.startswith(b"HTTP/1.1 " + code)
    assert daemon.supervisor.asked == []
    assert await store.tasks() == []


async def test_no_other_site_is_given_leave(client):
    for method, path in addresses(changing=True) + addresses(changing=False):
        answer = await client.options(
            path,
            headers={
                "Origin": "http://evil.example",
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": "authorization, content-type",
                "Access-Control-Request-Private-Network": "true",
            },
        )
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "0.0.0.0", "[::]"]
)
async def test_a_name_bound_anew_to_this_address_is_refused(daemon, client, host):
    port = client.base_url.port
    for method, path in addresses(changing=True) + addresses(changing=False):
        request = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        assert (await ask(client, request.encode())).startswith(b"HTTP/1.1 421"), path
    assert daemon.supervisor.asked == []


async def test_only_the_host_counts_and_not_what_a_proxy_would_say(client):
    for name in ("X-Forwarded-Host", "X-Host", "Forwarded", "X-Original-URL", "X-HTTP-Method"):
        for value in ("localhost", "host=localhost", "/agents/social/stop"):
            headers = {"Host": "evil.example", name: value}
            assert (await client.get("/agents", headers=headers)).status_code == 421


async def test_a_method_cannot_be_overridden(daemon, client):
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        answer = await client.get("/agents/social/stop?_method=POST", headers={name: "POST"})
        assert answer.status_code == 405
    assert daemon.supervisor.asked == []


async def test_tokens_are_compared_in_constant_time_whatever_is_wrong_with_them(store, monkeypatch):
    compared = []
    compare = hmac.compare_digest

    def spy(given, known):
        compared.append((given, known))
        return compare(given, known)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    wrong = ["Bearer x", "Bearer " + TOKEN[:-1], "Basic " + TOKEN, "Bearer", ""]
    async with served(make_daemon(store, api_token=TOKEN)) as client:
        for header in wrong:
            answer = await client.post("/agents/social/stop", headers={"Authorization": header})
            assert answer.status_code == 401
            assert answer.json()["detail"].startswith("This needs the header")
    assert [known for _, known in compared] == [TOKEN.encode()] * len(wrong)


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
async def test_the_name_of_the_scheme_is_not_case_sensitive(store, scheme):
    async with served(make_daemon(store, api_token=TOKEN)) as client:
        headers = {"Authorization": f"{scheme} {TOKEN}"}
        assert (await client.post("/agents/social/stop", headers=headers)).status_code == 202


async def everything_evil(daemon, store, text: str) -> None:
    """Put a text wherever agents, tools and callers can."""
    daemon.state = replace(daemon.state, reasons=(text,))
    told = {"doing": text, "last_error": text, "error_count": 1, "paused": text}
    daemon.supervisor.statuses["content"] = status(**told, task_id="t1", why_disabled=text)
    daemon.supervisor.statuses[text] = status(**told, enabled=False, why_disabled=text)
    daemon.routines.job = replace(daemon.routines.job, name=text, method=text, disabled=text)
    daemon.events.publish(EventKind.AGENT_STATUS, text, agent_id="content", task_id="t1", said=text)
    await store.touch_worker(text, "instance", {text: text}, silent_after=1000.0)
    await store.start_run("run-1", "content", "instance")
    await store.finish_run("run-1", RunOutcome.CRASHED, error=text)
    await store.add_task("t1", "content", text, context={text: [text]})
    await store.claim_task("content", worker_id=text, instance="instance", token="t", lease=60)
    await store.remember("content", text, text)
    call = {"id": "c", "agent_id": "content", "run_id": "run-1", "task_id": "t1", "duration": 0.1}
    await store.record_tool_call(
        ToolCall(**call, tool=text, arguments={text: text}, error=text, result=text)
    )
    await daemon.store.record_tool_call(
        ToolCall(**call | {"id": "d"}, tool=text, arguments={}, result=text)
    )
    await daemon.store.record_cost(
        CostEntry(id="e", agent_id="content", run_id=None, task_id=None, model=text,
                  input_tokens=1, output_tokens=1, cost_usd=0.1)
    )  # fmt: skip
    turns = {
        "assistant": [
            {"type": "text", "text": text},
            {"type": "tool_use", "id": "u", "name": text, "input": {text: text}},
            {"type": text, text: text},
        ],
        "tool": [{"type": "tool_result", "tool_use_id": "u", "content": text, "is_error": True}],
    }
    for step, (role, content) in enumerate(turns.items()):
        await store.record_turn(
            Turn(id=str(step), task_id="t1", agent_id="content", run_id=None, step=step,
                 role=role, content=content)
        )  # fmt: skip


class Markup(HTMLParser):
    """Collects what of a page could run, or be fetched."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[tuple[str, str, str | None]] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        assert tag not in {"style", "iframe", "object", "embed", "base", "img"}
        assert tag != "script" or dict(attrs).get("src", "").startswith("/static/")
        for name, value in attrs:
            assert not name.startswith("on")
            assert name != "style"
            if name in {"href", "src", "action", "formaction"}:
                assert re.match(r"#|/($|[^/])", value)

    def handle_data(self, data):
        self.text += data


async def test_markup_in_whatever_is_shown_is_text(daemon, client, store):
    await everything_evil(daemon, store, EVIL)
    for path in (
        "/", "/?agent=content", "/ui/agents/content", "/ui/tasks", "/ui/tasks/t1", "/api",
        "/ui/agents/" + EVIL, "/ui/tasks/" + EVIL,
        "/?agent=" + EVIL, "/ui/tasks?status=" + EVIL, "/ui/tasks?agent_type=" + EVIL,
    ):  # fmt: skip
        answer = await client.get(path)
        assert answer.headers["content-type"].startswith("text/html")
        text = Markup(answer.text).text
        shows_none = path == "/api" or "agent_type=" in path
        assert EVIL in text or shows_none or answer.status_code != 200, path


async def test_markup_in_json_is_never_taken_for_a_page(daemon, client, store):
    await everything_evil(daemon, store, EVIL)
    for path in (
        "/health", "/agents", "/agents/content", "/tasks", "/tasks/t1", "/tasks/t1/turns",
        "/scheduler/jobs", "/workers", "/agents/" + EVIL,
    ):  # fmt: skip
        answer = await client.get(path)
        assert answer.headers["content-type"] in {"application/json", "application/problem+json"}
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert EVIL in json.dumps(answer.json()).replace('\\"', '"')


LINES = 'a\nevent: bye\ndata: {}\r\r\n\nid: 7\n"}\\'


async def test_no_text_ends_an_event_or_begins_another(daemon, client, store):
    await everything_evil(daemon, store, LINES)
    events = daemon.events.recent()
    lines = []
    async with client.stream("GET", f"/events?recent={len(events)}") as answer:
        with trio.move_on_after(60) as patience:
            async for line in answer.aiter_lines():
                lines += [line] if line else []
                if len(lines) > 3 * len(events):
                    patience.cancel()
    fields = [line.partition(":")[0] for line in lines]
    assert fields == ["retry", *["id", "event", "data"] * len(events)]


async def test_no_text_adds_a_figure(daemon, client, store):
    for text in (EVIL, LINES, 'x"} 1\nactp_up 0\n#'):
        daemon.supervisor.statuses[text] = status()
        call = {"id": text, "run_id": None, "task_id": None, "arguments": {}, "duration": 0.1}
        await daemon.store.record_tool_call(ToolCall(agent_id=text, tool=text, **call))
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = list(text_string_to_metric_families(answer.text))
    assert {family.name for family in families if not family.name.startswith("actp_")} <= {
        family.name for family in families if family.name.startswith(("process_", "python_"))
    }
    assert "actp_up" not in {family.name for family in families}


async def test_every_answer_of_every_address_forbids_what_is_not_ours(daemon, client, store):
    def broken():
        raise RuntimeError

    for broken_health in (False, True):
        if broken_health:
            daemon.health = broken  # so that a 500 is among them
        for method, path in [
            *addresses(changing=True),
            *addresses(changing=False),
            ("GET", "/nothing"),
            ("DELETE", "/agents"),
            ("OPTIONS", "/agents"),
            ("HEAD", "/"),
            ("GET", "/ui/nothing"),
        ]:
            async with client.stream(method, path) as answer:
                for name, value in SECURITY_HEADERS.items():
                    assert answer.headers[name] == value, (method, path)
                assert "cache-control" in answer.headers
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "*" not in policy
    assert "default-src 'none'" in policy


SECRETS = {
    "ANTHROPIC_API_KEY": "sk-ant-api03-aardvark",
    "SUPABASE_URL": "https://project.supabase.co",
    "SUPABASE_SERVICE_ROLE_KEY": 'zebra"&\\<>',
    "SUPABASE_DB_URL": "postgresql://postgres:giraffe'&\"\\@db.project.supabase.co/postgres",
    "WORKER_API_TOKEN": 'rhinoceros&<"token">',
}
GIVEAWAYS = ("aardvark", "zebra", "giraffe", "rhinoceros", "buffalo")


async def test_no_secret_is_in_any_answer_however_it_is_written(store):
    daemon = make_daemon(store, environ=SECRETS)
    secrets = [*daemon.settings.secrets, "sk-ant-api03-buffalo"]
    await everything_evil(daemon, store, " ".join(secrets))
    ids = {"some-task": "t1", "social": "content"}
    async with served(daemon) as client:
        for method, path in [
            *addresses(changing=False),
            *addresses(changing=True),
            ("GET", "/agents/sk-ant-api03-buffalo"),
            ("GET", "/tasks?sk-ant-api03-buffalo=1"),
        ]:
            for name, other in ids.items():
                path = path.replace(name, other)
            received = ""
            async with client.stream(
                method, path, params={"recent": 9} if path == "/events" else None
            ) as answer:
                with trio.move_on_after(0.5):
                    async for text in answer.aiter_text():
                        received += text
            shown = [word for word in GIVEAWAYS if word in f"{received} {answer.headers}"]
            assert not shown, f"{method} {path}: {received}"
