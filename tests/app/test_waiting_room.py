"""What one sees of a daemon whose start waits for the store."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager

import httpx
import pytest
from trio.testing import wait_all_tasks_blocked

from actp_supervise.service import open_listeners
from app.settings import load_settings
from app.store.protocol import StoreError, StoreUnavailable
from app.web.waiting_room import open_waiting_room

AWAY = StoreUnavailable("the project is paused, said secret-token")


def redact(text):
    return text.replace("secret-token", "***")


@pytest.fixture
async def settings():
    """Those of a daemon on a port that is free."""
    (listener,) = await open_listeners("127.0.0.1", 0)
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    loaded = load_settings({"ENABLE_SOCIAL_MEDIA_AGENT": "false"}, env_file=None)
    return dataclasses.replace(loaded, health_port=port)


@asynccontextmanager
async def waiting(settings):
    """Wait for the store; gives a client of what is served."""
    async with open_waiting_room(settings, redact) as show:
        show(AWAY)
        await wait_all_tasks_blocked()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.health_port}") as client:
            yield client


async def test_health_says_what_it_waits_for_and_that_it_lives(settings):
    async with waiting(settings) as client:
        health = (await client.get("/health")).json()
        assert health.pop("uptime") >= 0
        assert health == {
            "status": "degraded",
            "agents": 3,
            "reasons": ["the daemon is waiting for the store: the project is paused, said ***"],
        }
        alive = await client.get("/livez")
        assert (alive.status_code, alive.json()) == (200, {"status": "alive"})


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/readyz"), ("GET", "/agents"), ("GET", "/events"), ("POST", "/agents/task")],
)
async def test_what_it_cannot_answer_yet_is_a_problem_that_passes(settings, method, path):
    async with waiting(settings) as client:
        answer = await client.request(method, path)
        assert answer.status_code == 503
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["Retry-After"] == "5"
        assert answer.json()["detail"] == (
            "The daemon is not up yet: it is waiting for the store: the project is paused, said ***"
        )


@pytest.mark.parametrize("path", ["/", "/ui/tasks", "/ui/agents/social"])
async def test_every_page_says_it_with_the_style_and_script_of_the_others(settings, path):
    async with waiting(settings) as client:
        page = await client.get(path)
        assert page.status_code == 503
        assert "The daemon is starting" in page.text
        assert "waiting for the store: the project is paused, said ***" in page.text
        assert (await client.get("/static/page.js")).status_code == 200


async def test_who_may_ask_is_as_it_is_later(settings):
    async with waiting(settings) as client:
        answer = await client.get("/health", headers={"Host": "elsewhere.example"})
        assert answer.status_code == 421


async def test_the_last_reason_is_told(settings):
    async with open_waiting_room(settings, redact) as show:
        show(AWAY)
        show(StoreUnavailable("it is slow"))
        await wait_all_tasks_blocked()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.health_port}") as client:
            (reason,) = (await client.get("/health")).json()["reasons"]
    assert reason == "the daemon is waiting for the store: it is slow"


async def test_the_address_is_free_again_when_the_wait_is_over(settings):
    async with waiting(settings) as client:
        await client.get("/livez")
    (listener,) = await open_listeners("127.0.0.1", settings.health_port)
    await listener.aclose()


async def test_a_start_that_need_not_wait_serves_nothing(settings):
    async with open_waiting_room(settings, redact):
        await wait_all_tasks_blocked()
        (listener,) = await open_listeners("127.0.0.1", settings.health_port)
        await listener.aclose()


async def test_a_port_that_is_taken_does_not_keep_it_from_waiting(settings, caplog):
    (listener,) = await open_listeners("127.0.0.1", settings.health_port)
    async with open_waiting_room(settings, redact) as show:
        show(AWAY)
        await wait_all_tasks_blocked()
        show(AWAY)
        await wait_all_tasks_blocked()
    await listener.aclose()
    (record,) = caplog.records
    assert "Nothing is served while it waits: cannot listen on 127.0.0.1:" in record.message


async def test_what_ends_the_wait_leaves_as_it_is(settings):
    with pytest.raises(StoreError, match="the file is damaged"):
        async with open_waiting_room(settings, redact) as show:
            show(AWAY)
            raise StoreError("the file is damaged")
