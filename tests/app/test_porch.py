"""What answers while the daemon's code is being loaded."""

from __future__ import annotations

from contextlib import suppress

import httpx
import pytest
import trio
import trio.testing

from app.settings import load_settings
from app.web.listening import Address
from app.web.porch import MOST_CONNECTIONS, open_porch

SETTINGS = load_settings({"ENABLE_SOCIAL_MEDIA_AGENT": "false"}, env_file=None)


@pytest.fixture
async def address():
    with await Address.open("127.0.0.1", 0) as address:
        async with open_porch(address, SETTINGS):
            yield address


@pytest.fixture
async def client(address):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{address.port}") as client:
        yield client


async def test_it_lives_and_starts(client):
    assert (await client.get("/livez")).json() == {"status": "alive"}
    health = (await client.get("/health?x=1")).json()
    assert health.pop("uptime") >= 0
    assert health == {
        "status": "starting",
        "agents": 3,
        "reasons": ["the daemon is starting: its code is being loaded"],
        "problems": [],
    }


@pytest.mark.parametrize(("method", "path"), [("POST", "/agents/task"), ("GET", "/agents")])
async def test_what_it_cannot_answer_waits_for_the_daemon_itself(address, method, path):
    request = f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    stream = await trio.open_tcp_stream("127.0.0.1", address.port)
    async with stream:
        await stream.send_all(request[:9])
        await trio.sleep(0.05)  # in real time, as it comes over a network
        await stream.send_all(request[9:])
        with trio.fail_after(10):
            while not address.left:  # noqa: ASYNC110
                await trio.sleep(0.01)
        (left,) = address.take_left()
        assert await left.receive_some() == request
        await left.send_all(b"done")
        assert await stream.receive_some() == b"done"
        await left.aclose()


async def test_a_connection_that_has_said_nothing_when_the_daemon_is_there_is_left_to_it():
    with await Address.open("127.0.0.1", 0) as address:
        async with open_porch(address, SETTINGS):
            stream = await trio.open_tcp_stream("127.0.0.1", address.port)
            await trio.testing.wait_all_tasks_blocked(0.05)
        (left,) = address.take_left()
        async with stream, left:
            await stream.send_all(b"here")
            assert await left.receive_some() == b"here"


async def test_more_than_may_wait_get_a_problem_that_passes(address, client):
    waiting = []
    for _ in range(MOST_CONNECTIONS):
        waiting.append(await trio.open_tcp_stream("127.0.0.1", address.port))
        await waiting[-1].send_all(b"GET /agents HTTP/1.1\r\n")
    with trio.fail_after(20):
        while len(address.left) < MOST_CONNECTIONS:  # noqa: ASYNC110
            await trio.sleep(0.01)

    answer = await client.get("/agents")

    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Retry-After"] == "1"
    assert answer.json()["detail"].startswith("The daemon is not up yet: ")
    for stream in waiting:
        await stream.aclose()


async def test_a_browser_sees_that_it_starts_and_looks_again(client):
    page = await client.get("/")

    assert page.status_code == 503
    assert page.headers["Refresh"] == "1"
    assert "The daemon is starting" in page.text


@pytest.mark.parametrize(
    "sent", [b"", b"nonsense\r\n\r\n", b"GET", b"x" * 9_000, b"GET / " + b"x" * 90_000]
)
async def test_what_makes_no_sense_harms_no_other_request(address, client, sent):
    stream = await trio.open_tcp_stream("127.0.0.1", address.port)
    async with stream:
        with suppress(trio.BrokenResourceError):  # it may be cut off before the end
            await stream.send_all(sent)
        assert (await client.get("/livez")).status_code == 200


async def test_connections_that_say_nothing_end_and_make_room(address, client, autojump_clock):
    silent = [
        await trio.open_tcp_stream("127.0.0.1", address.port) for _ in range(MOST_CONNECTIONS)
    ]

    assert (await client.get("/livez", timeout=60)).status_code == 200
    for stream in silent:
        await stream.aclose()
