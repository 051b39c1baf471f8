"""What one sees of a daemon whose start waits for the store."""

from __future__ import annotations

from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from app.settings import load_settings
from app.store.protocol import StoreError, StoreUnavailable
from app.web.listening import Address
from app.web.waiting_room import open_waiting_room

AWAY = StoreUnavailable("the project is paused, said secret-token")


def redact(text):
    return text.replace("secret-token", "***")


@pytest.fixture
async def address():
    with await Address.open("127.0.0.1", 0) as address:
        yield address


@pytest.fixture
def settings():
    return load_settings({"ENABLE_SOCIAL_MEDIA_AGENT": "false"}, env_file=None)


@pytest.fixture
def waiting(settings, address):
    @asynccontextmanager
    async def waiting(*reasons):
        """Wait for the store, for these reasons; gives a client of what is served."""
        async with open_waiting_room(settings, address, redact) as show:
            for reason in reasons or [AWAY]:
                show(reason)
            await wait_all_tasks_blocked()
            base_url = f"http://127.0.0.1:{address.port}"
            async with httpx.AsyncClient(base_url=base_url, timeout=60) as client:
                yield client

    return waiting


async def test_health_says_what_it_waits_for_and_that_it_lives(waiting):
    async with waiting() as client:
        health = (await client.get("/health")).json()
        assert health.pop("uptime") >= 0
        assert health == {
            "status": "degraded",
            "agents": 3,
            "reasons": ["the daemon is waiting for the store: the project is paused, said ***"],
            "problems": [],
        }
        alive = await client.get("/livez")
        assert (alive.status_code, alive.json()) == (200, {"status": "alive"})


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/readyz"), ("GET", "/agents"), ("GET", "/events"), ("POST", "/agents/task")],
)
async def test_what_it_cannot_answer_yet_is_a_problem_that_passes(waiting, method, path):
    async with waiting() as client:
        answer = await client.request(method, path)
        assert answer.status_code == 503
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["Retry-After"] == "5"
        assert answer.json()["detail"] == (
            "The daemon is not up yet: it is waiting for the store: the project is paused, said ***"
        )


@pytest.mark.parametrize("path", ["/", "/ui/tasks", "/ui/agents/social"])
async def test_every_page_says_it_with_the_style_and_script_of_the_others(waiting, path):
    async with waiting() as client:
        page = await client.get(path)
        assert page.status_code == 503
        assert "The daemon is starting" in page.text
        assert "waiting for the store: the project is paused, said ***" in page.text
        assert (await client.get("/static/page.js")).status_code == 200


async def test_who_may_ask_is_as_it_is_later(waiting):
    async with waiting() as client:
        answer = await client.get("/health", headers={"Host": "elsewhere.example"})
        assert answer.status_code == 421


async def test_the_last_reason_is_told(waiting):
    async with waiting(AWAY, StoreUnavailable("it is slow")) as client:
        (reason,) = (await client.get("/health")).json()["reasons"]
    assert reason == "the daemon is waiting for the store: it is slow"


async def test_the_address_is_the_next_ones_when_the_wait_is_over(waiting, address):
    async with waiting() as client:
        await client.get("/livez")
    (listener,) = address.listeners()
    async with listener, await trio.open_tcp_stream("127.0.0.1", address.port):
        await (await listener.accept()).aclose()


async def test_what_ends_the_wait_leaves_as_it_is(settings, address):
    with pytest.raises(StoreError, match="the file is damaged"):
        async with open_waiting_room(settings, address, redact) as show:
            show(AWAY)
            raise StoreError("the file is damaged")
