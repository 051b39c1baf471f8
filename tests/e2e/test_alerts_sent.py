"""A real daemon tells a real server that it lives, that it is not well, and that it is again."""

from __future__ import annotations

import json
import signal
from functools import partial

import pytest
import trio
from daemons import PATIENCE, until

from app.demo.http1 import Response, serve_connection
from app.store.protocol import Question
from app.store.sqlite import open_sqlite_store

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


async def from_phone(received, target):
    """Wait for a request to an address; others, as for presses of buttons, are passed over."""
    with trio.fail_after(PATIENCE):
        while True:
            request = await received.receive()
            if request.target == target:
                return request


async def test_a_daemon_says_that_it_lives_and_the_trial_reaches_the_phone(idle_place, phone):
    address, received = phone
    token, environ = "123456:a-token-of-a-bot", {"WORKER_HEARTBEAT_URL": f"{address}/ping/uuid"}
    environ |= {"TELEGRAM_BOT_TOKEN": token, "TELEGRAM_CHAT_ID": "1", "TELEGRAM_API_URL": address}
    async with idle_place.daemon(**environ) as daemon:
        beat = await from_phone(received, "/ping/uuid")
        assert beat.method == "GET"
        tree = json.dumps(await daemon.get("/tree"))
        assert '"alerts"' in tree
        assert '"heartbeat address"' in tree
        ended = await idle_place.run("--alert-test", **environ)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith("Telegram: delivered\n")
    assert token not in ended.out + daemon.log.read_text()
    request = await from_phone(received, f"/bot{token}/sendMessage")
    assert "this is a test of the alerts" in json.loads(request.body)["text"]


async def test_a_sighup_changes_who_is_told_and_the_new_address_is_no_more_shown(idle_place, phone):
    address, received = phone
    secret = "a-heartbeat-key-of-22-letters"
    env_file = idle_place.folder / ".env"
    async with idle_place.daemon() as daemon:
        assert "heartbeat address" not in json.dumps(await daemon.get("/tree"))
        env_file.write_text(f"WORKER_HEARTBEAT_URL={address}/ping/{secret}\n")
        daemon.signal(signal.SIGHUP)
        with trio.fail_after(PATIENCE):
            assert (await received.receive()).target == f"/ping/{secret}"
        assert "heartbeat address" in json.dumps(await daemon.get("/tree"))
        line = await until(lambda: daemon.logged("settings_reloaded"))
        assert line["applied"] == ["WORKER_HEARTBEAT_URL"]
        await daemon.post("content", f"Say {secret}.")
        assert secret not in json.dumps(await daemon.get("/tasks"))

        env_file.write_text("WORKER_ALERT_URLS=nosuchservice://A/B/C\n")
        daemon.signal(signal.SIGHUP)
        wrong = await until(lambda: daemon.logged("settings_wrong"))
        assert wrong["message"].startswith("People are told as before: WORKER_ALERT_URLS")
        env_file.write_text("")
        daemon.signal(signal.SIGHUP)
        await daemon.until("/tree", lambda tree: "heartbeat address" not in json.dumps(tree))


async def test_an_approval_is_asked_for_and_given_on_the_phone(idle_place):
    """By a real daemon, and a local server that speaks the Bot API."""
    pressed = trio.Event()
    asked: list[dict] = []

    async def bot(request):
        body = json.loads(request.body or b"{}")
        method = request.target.rpartition("/")[2]
        result: object = True
        if method == "sendMessage":
            asked.append(body)
            result = {"message_id": 7, "chat": {"id": 1}}
        if method == "getUpdates":
            result = []
            buttons = [each for each in asked if "reply_markup" in each]
            if buttons and not pressed.is_set():
                pressed.set()
                (row,) = buttons[0]["reply_markup"]["inline_keyboard"]
                press = {
                    "id": "cb1",
                    "from": {"id": 99, "username": "ada"},
                    "message": {"message_id": 7, "chat": {"id": 1}},
                    "data": row[0]["callback_data"],
                }
                result = [{"update_id": 1, "callback_query": press}]
        return Response(200, [json.dumps({"ok": True, "result": result}).encode()])

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, partial(serve_connection, handle=bot), 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        address = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        environ = {
            "TELEGRAM_BOT_TOKEN": "123456:a-token-of-a-bot",
            "TELEGRAM_CHAT_ID": "1",
            "TELEGRAM_API_URL": address,
        }
        async with (
            idle_place.daemon(**environ) as daemon,
            open_sqlite_store(idle_place.database) as store,
        ):
            await store.begin_task(
                "t10", "social", "Write to Ada.", worker_id="w", instance="i",
                token="k", lease=60.0,
            )  # fmt: skip
            question = Question(
                id="a1", task_id="t10", agent_id="social", about="use 1", tool="send_mail",
                arguments={"to": "ada@example.org"}, why="She asked.",
            )  # fmt: skip
            await store.ask_approval(question)
            await store.park_task("t10", "k")
            row = await daemon.until("/approvals/a1", lambda row: row["status"] != "waiting")
        nursery.cancel_scope.cancel()
    assert row["status"] == "approved"
    assert "ada" in row["decided_by"]
    assert "ada@example.org" in asked[0]["text"]


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
