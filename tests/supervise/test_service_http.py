"""What one connection does must stay on it: the server goes on, and stops when it is asked to."""

from __future__ import annotations

import errno
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from hypercorn.protocol.h11 import H11Protocol
from quart import Response
from quart_trio import QuartTrio
from trio.testing import wait_all_tasks_blocked

from actp_supervise.service import AddressUnavailableError, open_listeners, serve
from actp_supervise.service.connection import IDLE_TIMEOUT, SEND_TIMEOUT
from actp_supervise.service.http import STOP_GRACE, most_connections

LARGE = 2**24
"""Bytes that no pair of socket buffers holds."""


@dataclass
class Running:
    """A server under test."""

    port: int
    stop: trio.Event
    finished: trio.Event

    async def connect(self, *, receive_buffer: int | None = None) -> trio.SocketStream:
        sock = trio.socket.socket()
        if receive_buffer:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
        await sock.connect(("127.0.0.1", self.port))
        return trio.SocketStream(sock)

    async def ask(self, request: bytes) -> bytes:
        """Send bytes on a connection of their own, return all that comes back."""
        async with await self.connect() as stream:
            await stream.send_all(request)
            return await read_all(stream)

    async def answers(self) -> bool:
        return (await self.ask(get("/"))).startswith(b"HTTP/1.1 200")


def get(path: str, *headers: str, close: bool = True) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *headers]
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode()


async def until_no_more_tasks_than(number: int) -> None:
    with trio.fail_after(IDLE_TIMEOUT / 2):
        # Nothing tells of the end of a connection on the other side.
        while trio.lowlevel.current_statistics().tasks_living > number:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def read_all(stream: trio.SocketStream) -> bytes:
    received = b""
    try:
        async for data in stream:
            received += data
    except trio.BrokenResourceError:  # reset by the server: also an end
        pass
    return received


@pytest.fixture
def app():
    app = QuartTrio("under_test", static_folder=None)
    app.slow = trio.Event()

    @app.get("/")
    async def root():
        return "ok"

    @app.get("/large")
    async def large():
        return Response(b"x" * LARGE)

    @app.get("/slow")
    async def slow():
        app.slow.set()
        await trio.sleep(1)
        return "late"

    @app.post("/unread")
    async def unread():
        return "ok"

    return app


@asynccontextmanager
async def running(app, *, most=None):
    (listener,) = await open_listeners("127.0.0.1", 0)
    server = Running(listener.socket.getsockname()[1], trio.Event(), trio.Event())

    async def run():
        await serve(app, [listener], server.stop, most=most)
        server.finished.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield server
        nursery.cancel_scope.cancel()


UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)


async def test_data_after_a_websocket_upgrade_does_not_end_the_server(app):
    async with running(app) as server:
        for path in ("/", "/nothing"):
            async with await server.connect() as stream:
                await stream.send_all(
                    get(path, *UPGRADE, close=False) + b"\x81\x05hello\r\n\r\n" * 50
                )
                await read_all(stream)
            assert await server.answers()


async def test_an_offer_to_upgrade_is_ignored(app):
    async with running(app) as server:
        for headers in (
            UPGRADE,
            ("Upgrade: h2c", "Connection: Upgrade", "HTTP2-Settings: AAMAAABk"),
        ):
            async with await server.connect() as stream:
                await stream.send_all(get("/", *headers, close=False))
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")


async def test_http2_by_prior_knowledge_is_refused(app):
    async with running(app) as server:
        assert (await server.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "target", ["http://localhost/", "?x", "*", "localhost:80", "http:///", "#"]
)
async def test_a_target_that_is_no_path_is_refused(app, target):
    async with running(app) as server:
        answer = await server.ask(f"OPTIONS {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 400")
        assert await server.answers()


async def test_requests_with_two_meanings_are_refused(app):
    smuggled = (
        b"POST /unread HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"POST /unread HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    )
    async with running(app) as server:
        for request in smuggled:
            answer = await server.ask(request)
            assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501")), request
            assert answer.count(b"HTTP/1.1") == 1, request


async def test_noise_and_broken_connections_leave_the_server_whole(app):
    rng = random.Random(1)
    async with running(app) as server:
        for i in range(60):
            stream = await server.connect()
            noise = rng.randbytes(rng.randrange(1, 400))
            head = rng.choice((b"", get("/", close=False), b"POST /unread HTTP/1.1\r\nHost: a\r\n"))
            await stream.send_all(head + noise)
            if i % 2:  # close with a reset rather than an end
                linger = b"\x01\0\0\0\0\0\0\0"
                stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, linger)
            await stream.aclose()
        assert await server.answers()


async def test_a_fault_in_handling_one_connection_is_logged_and_the_server_goes_on(
    app, monkeypatch, caplog
):
    async def faulty(*_args):
        raise RuntimeError("a fault of hypercorn's")

    async with running(app) as server:
        with monkeypatch.context() as patch:
            patch.setattr(H11Protocol, "_create_stream", faulty)
            assert await server.ask(get("/")) == b""
        assert await server.answers()
    assert "a fault of hypercorn's" in caplog.text


@pytest.mark.parametrize(
    "requests",
    [
        get("/", close=False),
        get("/", close=False) * 3,
        get("/") * 3,
        get("/large", close=False) * 2,
        get("/", *UPGRADE) + get("/"),
        b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123",
        b"POST /unread HTTP/1.0\r\nContent-Length: 3\r\n\r\n123" + get("/"),
    ],
)
async def test_nothing_is_left_of_a_connection_that_was_closed(app, requests):
    async with running(app) as server:
        await wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        async with await server.connect() as stream:
            await stream.send_all(requests)
            await stream.receive_some()
        await until_no_more_tasks_than(before)


async def test_nothing_is_left_of_an_idle_connection_that_was_closed(app):
    async with running(app) as server:
        await wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        async with await server.connect() as stream:
            await stream.send_all(get("/", close=False))
            await wait_all_tasks_blocked(0.1)
        await until_no_more_tasks_than(before)


async def test_nothing_is_left_of_a_connection_closed_by_the_server_with_requests_to_come(app):
    async with running(app) as server:
        await wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        # After a thousand requests on one connection hypercorn closes it.
        answers = await server.ask(get("/", close=False) * 1010)
        assert 1000 <= answers.count(b"HTTP/1.1 200") < 1010
        await until_no_more_tasks_than(before)


async def test_nothing_is_left_of_clients_that_go_while_they_are_answered(app):
    async def ask_and_go(server, delay):
        async with await server.connect() as stream:
            await stream.send_all(get("/", close=False))
            await trio.sleep(delay)

    async with running(app) as server:
        await wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as nursery:
            for i in range(50):
                nursery.start_soon(ask_and_go, server, i / 500)
        await until_no_more_tasks_than(before)


async def test_a_body_that_nobody_reads_does_not_hold_the_connection(app):
    async with running(app) as server:
        async with await server.connect() as stream:
            await stream.send_all(
                b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n"
            )
            with trio.fail_after(0.9 * IDLE_TIMEOUT):
                answer = await read_all(stream)
        assert answer.startswith(b"HTTP/1.1 200")


async def test_a_stalled_reader_is_given_up(app, fast_clock):
    async with running(app) as server:
        async with await server.connect(receive_buffer=4096) as stream:
            await stream.send_all(get("/large"))
            await trio.sleep(SEND_TIMEOUT * 2)
            assert len(await read_all(stream)) < LARGE
        assert await server.answers()


async def test_a_stalled_reader_does_not_hold_the_stop(app, fast_clock):
    async with running(app) as server, await server.connect(receive_buffer=4096) as stream:
        await stream.send_all(get("/large"))
        await trio.sleep(1)
        server.stop.set()
        with trio.fail_after(0.9 * SEND_TIMEOUT):
            await server.finished.wait()


async def test_a_slow_head_is_cut_off(app, fast_clock):
    async with running(app) as server, await server.connect() as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: ")
        with trio.fail_after(IDLE_TIMEOUT * 100):
            assert await read_all(stream) == b""


async def test_more_connections_than_it_may_have_are_turned_away_and_told_of_once(app, caplog):
    """Else they would use up the files that agents need."""
    async with running(app, most=4) as server:
        held = [await server.connect() for _ in range(4)]
        for stream in held:
            await stream.send_all(get("/", close=False))
            assert await stream.receive_some()
        for _ in range(3):
            assert (await server.ask(get("/")))[:12] == b"HTTP/1.1 503"
        await held.pop().aclose()
        with trio.fail_after(60):
            while not await server.answers():  # noqa: ASYNC110
                await trio.sleep(0.01)
        for stream in held:
            await trio.aclose_forcefully(stream)
    assert [record.action for record in caplog.records] == ["connections_refused"]


def test_half_of_the_files_that_may_be_open_are_left_to_others():
    assert most_connections(256) == 128


async def test_asked_to_stop_it_finishes_answers_under_way_and_drops_idle_connections(app):
    async with running(app) as server:
        async with await server.connect() as idle, await server.connect() as busy:
            await idle.send_all(get("/", close=False))
            assert (await idle.receive_some()).startswith(b"HTTP/1.1 200")
            # A request behind the one under way is not begun any more.
            await busy.send_all(get("/slow", close=False) + get("/", close=False))
            await app.slow.wait()
            server.stop.set()
            with trio.fail_after(0.9 * STOP_GRACE):
                await read_all(idle)
            assert (await read_all(busy)).endswith(b"late")
            with trio.fail_after(0.9 * STOP_GRACE):
                await server.finished.wait()
        with pytest.raises(OSError, match="failed"):
            await trio.open_tcp_stream("127.0.0.1", server.port)


async def test_cancelled_it_closes_its_sockets(app):
    async with running(app) as server:
        stream = await server.connect()
        await stream.send_all(get("/slow", close=False))
        await app.slow.wait()
    async with stream:
        with trio.fail_after(0.9 * IDLE_TIMEOUT):
            assert await read_all(stream) == b""


async def test_a_port_in_use_is_one_line_that_names_it():
    (listener,) = await open_listeners("127.0.0.1", 0)
    port = listener.socket.getsockname()[1]
    async with listener:
        with pytest.raises(AddressUnavailableError) as caught:
            await open_listeners("127.0.0.1", port)
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port}: another program has that port, "
        "or this one runs or stops still"
    )
    assert caught.value.__cause__.errno == errno.EADDRINUSE


@pytest.mark.parametrize("host", ["192.0.2.1", "not a host"])
async def test_a_host_that_is_not_ours_is_one_line_that_names_it(host):
    with pytest.raises(AddressUnavailableError, match=f"^cannot listen on {host}:8090: .+$"):
        await open_listeners(host, 8090)
