"""An MCP server that is a program: started by `process_child`, spoken to over its input and output.

The official package has a client of its own for that. Ours is here because a program that
`process_child` starts never outlives the daemon however that dies, is ended with all that it has
started (``npx`` starts a few), has its standard error in the log with the child's path, and shows
its last lines in the error. The messages are the package's own.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
import trio
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from actp_supervise import current_child
from actp_supervise.process import process_child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.client._transport import TransportStreams

MOST_MESSAGE: Final = 16_000_000
"""Bytes of one message; a server that sends more is ended."""

INHERITED: Final = frozenset(
    {"HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ"}
    | {"USER"}
)
"""The variables of ours that a server gets. The daemon's keys are not for other people's code."""

ENDING: Final = 1.0
"""Seconds between the end of a program's output and its own, at most."""

_CHUNK: Final = 65_536


class ServerEnded(Exception):
    """A server's program ended though it was not asked to, or cannot be understood."""


@asynccontextmanager
async def open_program(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | None,
    on_stderr: Callable[[str], object],
) -> AsyncIterator[TransportStreams]:
    """Run a server for the time of the block; to be entered inside a supervised child.

    If the program ends, the block is cancelled and left with the reason. If the child is asked to
    stop, the program is, and the block is left when it has ended.

    Args:
        argv: The program and its arguments.
        env: Variables that it gets besides those in `INHERITED`.
        cwd: Its directory.
        on_stderr: Called with each line that it writes besides its messages.

    Raises:
        ServerEnded: If it ended by itself, or sent what is no message.
        ProcessExited: If it ended with an error.
        ProcessNotStarted: If it cannot be started.
    """
    (reading, our_output), (our_input, writing) = os.pipe(), os.pipe()
    their_input, their_output = os.fdopen(reading, "rb", 0), os.fdopen(writing, "wb", 0)
    send_in, receive_in = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    send_out, receive_out = anyio.create_memory_object_stream[SessionMessage](0)
    with their_input, their_output:
        async with (
            trio.lowlevel.FdStream(our_output) as output,
            trio.lowlevel.FdStream(our_input) as from_it,
            send_in,
            receive_in,
            send_out,
            receive_out,
            trio.open_nursery() as nursery,
        ):
            run = process_child(
                argv,
                stdin=reading,
                stdout=writing,
                env={**{name: None for name in os.environ if name not in INHERITED}, **env},
                cwd=cwd,
                on_stderr=on_stderr,
            )

            async def program(
                task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
            ) -> None:
                await run(task_status=task_status)
                if not current_child().stopping.is_set():
                    raise ServerEnded("it ended by itself")
                nursery.cancel_scope.cancel(reason="the server was asked to stop, and has ended")

            await nursery.start(program)
            their_output.close()  # else what the program closes would seem open
            nursery.start_soon(_read, from_it, send_in)
            nursery.start_soon(_write, receive_out, output)
            yield receive_in, send_out
            nursery.cancel_scope.cancel(reason="the server is not needed any more")


async def _read(
    stream: trio.abc.ReceiveStream, send: MemoryObjectSendStream[SessionMessage | Exception]
) -> None:
    """Hand on the messages, a line each."""
    buffer = bytearray()
    while chunk := await stream.receive_some(_CHUNK):
        searched = len(buffer)
        buffer += chunk
        while (end := buffer.find(b"\n", searched)) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            searched = 0
            if line.strip():
                await send.send(_message(line))
        if len(buffer) > MOST_MESSAGE:
            raise ServerEnded(f"it sent a message of more than {MOST_MESSAGE} bytes")
    await trio.sleep(ENDING)  # if it is ending, its status says more
    raise ServerEnded("it closed its output")


def _message(line: bytes) -> SessionMessage | Exception:
    """Read a line; one that is no message is a value, of which the session lets its owner know."""
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error


async def _write(
    receive: MemoryObjectReceiveStream[SessionMessage], stream: trio.abc.SendStream
) -> None:
    async for message in receive:
        text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
        try:
            await stream.send_all(text.encode() + b"\n")
        except trio.BrokenResourceError:
            return  # it has closed its input; when it has ended, that is the reason
