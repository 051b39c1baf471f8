"""`--dry-run` tries the key with a call that costs nothing, and is honest where it could not."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from app.demo.claude import SimulatedClaude, serve_claude
from app.key_trial import TIMEOUT, try_key
from app.settings import SettingsError, load_settings

KEY = "sk-ant-api03-" + "k" * 60


def settings_of(address: str, key: str = KEY):
    environ = {"ANTHROPIC_API_KEY": key, "ANTHROPIC_BASE_URL": address}
    return load_settings(environ, env_file=None)


@asynccontextmanager
async def answering(answer: bytes | None):
    """A server that answers all with the same bytes, or never; gives its address."""

    async def serve(stream):
        await stream.receive_some()
        if answer is None:
            await trio.sleep_forever()
        await stream.send_all(answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_a_key_that_the_api_takes_is_said_to_be_taken_and_nothing_is_paid():
    claude = SimulatedClaude()
    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve_claude, claude)
        assert await try_key(settings_of(address)) == "127.0.0.1 takes it"
        nursery.cancel_scope.cancel()
    assert not claude.requests


async def test_a_key_that_the_api_refuses_is_wrong_configuration_and_is_not_shown():
    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve_claude, SimulatedClaude())
        with pytest.raises(SettingsError) as caught:
            await try_key(settings_of(address, "sk-ant-wrong-key"))
        nursery.cancel_scope.cancel()
    assert str(caught.value) == "ANTHROPIC_API_KEY: 127.0.0.1 refuses it: invalid x-api-key"


async def test_without_a_network_it_is_said_that_the_key_was_not_tried():
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    said = await try_key(settings_of(f"http://127.0.0.1:{port}"))
    assert said.startswith("not tried, 127.0.0.1 cannot be reached: ")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answered 404: Not Found"),
        (b"HTTP/1.1 529 \r\nContent-Length: 2\r\n\r\n[]", "answered 529: no reason given"),
        (
            b'HTTP/1.1 500 No\r\nConnection: close\r\n\r\n{"error": {"message": "a \\u001b[2J b"}}',
            "answered 500: a \\x1b[2J b",
        ),
        (b"SSH-2.0-OpenSSH\r\n", "cannot be reached: "),
    ],
)
async def test_an_answer_that_tells_nothing_of_the_key_is_said_to_be_that(answer, says):
    async with answering(answer) as address:
        said = await try_key(settings_of(address))
    assert said.startswith(f"not tried, 127.0.0.1 {says}")


async def test_an_api_that_never_answers_is_given_up(fast_clock):
    async with answering(None) as address:
        said = await try_key(settings_of(address))
    assert said.startswith("not tried, 127.0.0.1 cannot be reached: ")
    assert trio.current_time() <= TIMEOUT + 5


@pytest.mark.parametrize(
    ("key", "base", "warned"),
    [
        (KEY, "", False),
        ("sk-ant-...", "", True),
        ("sk-proj-" + "k" * 60, "", True),
        (KEY + '"', "", True),
        ("a-gateways-own", "https://gateway.example.org", False),
    ],
)
def test_a_key_that_looks_like_none_of_anthropics_is_warned_of_and_not_shown(key, base, warned):
    environ = {"ANTHROPIC_API_KEY": key, "ANTHROPIC_BASE_URL": base}
    warnings = " ".join(load_settings(environ, env_file=None).warnings)
    assert ("ANTHROPIC_API_KEY does not look like" in warnings) is warned
    assert key not in warnings
