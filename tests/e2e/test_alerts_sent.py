"""A real daemon tells a real server that it lives, that it is not well, and that it is again."""

from __future__ import annotations

import json
from functools import partial

import pytest
import trio
from daemons import PATIENCE

from app.demo.http1 import Response, serve_connection

PLAIN = """
import asyncio, logging

class Plain:
    async def run_as_daemon(self, poll_interval):
        while True:
            logging.getLogger("plain").error("no such account")
            await asyncio.sleep(0.5)
"""


@pytest.fixture
async def phone():
    """A server that takes what is sent; gives its address, and what came."""
    send, received = trio.open_memory_channel(1000)

    async def take(request):
        send.send_nowait(request)
        return Response(200, [b'{"ok": true}'])

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, partial(serve_connection, handle=take), 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}", received
        nursery.cancel_scope.cancel()


async def test_a_daemon_says_that_it_lives_and_the_trial_reaches_the_phone(idle_place, phone):
    address, received = phone
    token, environ = "123456:a-token-of-a-bot", {"WORKER_HEARTBEAT_URL": f"{address}/ping/uuid"}
    environ |= {"TELEGRAM_BOT_TOKEN": token, "TELEGRAM_CHAT_ID": "1", "TELEGRAM_API_URL": address}
    async with idle_place.daemon(**environ) as daemon:
        with trio.fail_after(PATIENCE):
            beat = await received.receive()
        assert (beat.method, beat.target) == ("GET", "/ping/uuid")
        tree = json.dumps(await daemon.get("/tree"))
        assert '"alerts"' in tree
        assert '"heartbeat address"' in tree
        ended = await idle_place.run("--alert-test", **environ)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith("Telegram: delivered\n")
    assert token not in ended.out + daemon.log.read_text()
    with trio.fail_after(PATIENCE):
        request = await received.receive()
    assert request.target == f"/bot{token}/sendMessage"
    assert "this is a test of the alerts" in json.loads(request.body)["text"]


async def test_a_plain_class_that_only_logs_errors_is_no_healthy_agent(idle_place):
    idle_place.use_class(PLAIN, "Plain")
    async with idle_place.daemon() as daemon:

        def of_errors(health):
            return [each for each in health["problems"] if each["key"] == "errors_logged"]

        health = await daemon.until("/health", of_errors)
        (found,) = of_errors(health)
        assert health["status"] == "degraded"
        assert '"alerts"' not in json.dumps(await daemon.get("/tree"))  # as there is nobody to tell
        assert found["agent_id"] == "social"
        assert found["text"].endswith("the last: no such account")
        body = {"agent_type": "social", "goal": "g"}
        posted = await daemon.http.post(f"{daemon.page}/agents/task", json=body)
        assert posted.json()["warning"].startswith("Nobody does it as things are: its class takes")
