"""What we rely on of hypercorn and h11, of which they promise none: their insides.

Where one of these fails after an update, `actp_supervise/service/connection.py` is to be mended;
``pyproject.toml`` says up to which versions we know that they hold.
"""

from __future__ import annotations

import inspect

import h11
import pytest
import trio
import trio.testing
from hypercorn.config import Config
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_a_tcp_server_of_hypercorn_is_made_of_app_config_context_state_and_stream():
    assert parameters(TCPServer.__init__) == [
        "self", "app", "config", "context", "state", "stream",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["run", "protocol_send", "_read_data", "_idle_timeout"])
def test_a_tcp_server_of_hypercorn_reads_sends_and_idles_by_methods_of_these_names(name):
    assert inspect.iscoroutinefunction(getattr(TCPServer, name))


async def test_a_tcp_server_of_hypercorn_has_an_idle_task_and_a_lock_for_sending():
    ours, _ = trio.testing.memory_stream_pair()
    server = TCPServer(None, Config(), WorkerContext(None), {}, ours)
    assert isinstance(server.send_lock, trio.Lock)
    assert server.stream is ours
    assert parameters(server.idle_task.restart) == ["task_group", "action"]
    assert inspect.iscoroutinefunction(server.idle_task.stop)


def test_the_protocol_of_hypercorn_takes_what_a_connection_gives_it():
    assert parameters(H11Protocol.__init__) == [
        "self", "app", "config", "context", "task_group", "connection_state", "ssl", "client",
        "server", "send",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["_check_protocol", "_create_stream"])
def test_the_protocol_of_hypercorn_looks_at_a_request_by_methods_of_these_names(name):
    method = getattr(H11Protocol, name)
    assert inspect.iscoroutinefunction(method)
    assert len(parameters(method)) == 2


async def test_the_protocol_of_hypercorn_keeps_h11_s_connection_as_its_connection():
    config = Config()
    async with TaskGroup() as task_group:
        protocol = H11Protocol(
            None, config, WorkerContext(None), task_group, ConnectionState({}), False, None, None,
            None,
        )  # fmt: skip
        # Ours, which refuses more, takes its place.
        assert isinstance(protocol.connection, h11.Connection)
        assert isinstance(config.h11_max_incomplete_size, int)


async def test_a_context_of_hypercorn_tells_connections_to_finish_by_its_event_terminated():
    context = WorkerContext(None)
    await context.terminated.set()
    assert context.terminated.is_set()


def test_h11_gives_what_it_has_not_read_yet_as_trailing_data():
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"GET / HTTP/1.1\r\n")
    assert connection.trailing_data == (b"GET / HTTP/1.1\r\n", False)
    assert connection.their_state is h11.IDLE
