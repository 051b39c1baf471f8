"""What an agent in a process of its own and the daemon say to each other, over a socket.

Messages are pickled, as by `multiprocessing`, but what comes from the agent's process is read by
`Plain`, which makes nothing but values and the store's rows: so no code of it runs in the daemon.
"""

from __future__ import annotations

import inspect
import io
import math
import pickle
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import trio
from typing_extensions import override

from actp_supervise.clock import LOCALTIME, local_timezone
from app.agents.prices import PriceTable
from app.store.protocol import Store, StoreError, StoreUnavailable, TableMissing

if TYPE_CHECKING:
    import socket

LONGEST: Final = 64 * 1024 * 1024
"""Bytes that a message may have."""

VERBS: Final = frozenset(
    name for name, _ in inspect.getmembers(Store, inspect.iscoroutinefunction) if name != "aclose"
)
"""What an agent may ask of the store."""

_HEADER: Final = struct.Struct("!BQI")
_CHUNK: Final = 65_536
_OF_VALUES: Final = frozenset({"app.store.domain", "app.store.protocol", "datetime"})


class WireError(Exception):
    """What came is no message, or is too long."""


class Kind(IntEnum):
    """What a message is."""

    WORK = 1
    """The first from the daemon: a `Work`."""
    CALL = 2
    """The agent wants something done: a name, arguments, and arguments by name."""
    CANCEL = 3
    """The agent no longer wants it; without content."""
    ANSWER = 4
    """What the call returned."""
    REFUSAL = 5
    """What the call raised, as by `describe`."""
    STATE = 6
    """What the agent does: `Activity.state`."""
    ENDED = 7
    """How the agent ended: None, or `(error in one line, traceback)`. The last message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be run, with all that it needs of the daemon."""

    class_path: str
    method: str | None
    """A routine; None for the agent itself."""
    poll_interval: float
    agent_id: str
    model: str
    worker_id: str
    instance: str
    run_id: str
    where: str
    """Where the store is, in words."""
    prices: PriceTable
    daily_budget_usd: float | None
    timezone: ZoneInfo
    task_lease: float
    api_key: str | None = field(repr=False)
    base_url: str | None
    secrets: tuple[str, ...] = field(repr=False)
    """What it must keep out of all that it writes."""
    log_fields: dict[str, str]
    modules: list[str]
    """Where Python looks for modules."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message."""

    kind: Kind
    number: int
    """Which call it is about."""
    content: bytes


class Wire:
    """One end of the socket.

    Args:
        sock: A connected stream socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._waiting, self._to_send = trio.open_memory_channel[bytes](math.inf)
        self._received = bytearray()

    def put(self, kind: Kind, number: int = 0, content: object = None) -> None:
        """Have a message sent, after those before it.

        Raises:
            WireError: If it cannot be pickled, or is too long.
        """
        try:
            data = _pickled(content)
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
            raise WireError(f"cannot be handed over: {error}") from error
        if len(data) > LONGEST:
            raise WireError(f"{len(data)} bytes are too many: {LONGEST} may be handed over")
        self._waiting.send_nowait(_HEADER.pack(kind, number, len(data)) + data)

    def close(self) -> None:
        """Have `send` return once all is sent."""
        self._waiting.close()

    async def send(self) -> None:
        """Send what is put, until `close`, or until the other end is gone."""
        try:
            async for data in self._to_send:
                await self._stream.send_all(data)
        except trio.BrokenResourceError:  # told by `receive`
            return

    async def receive(self) -> Message | None:
        """Return the next message; None when the other end is gone.

        Raises:
            WireError: If it is none.
        """
        header = await self._take(_HEADER.size)
        if header is None:
            return None
        kind, number, length = _HEADER.unpack(header)
        if length > LONGEST or kind not in set(Kind):
            raise WireError("no message")
        content = await self._take(length)
        return None if content is None else Message(Kind(kind), number, content)

    async def _take(self, size: int) -> bytes | None:
        await trio.lowlevel.checkpoint()  # also where much is there: others are to run as well
        while len(self._received) < size:
            try:
                data = await self._stream.receive_some(_CHUNK)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._received += data
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken


class _Pickler(pickle.Pickler):
    """Writes zones so that they can be read, by `Plain` too."""

    @override
    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, datetime) and obj.tzinfo not in (None, UTC):
            return obj.astimezone(UTC).__reduce_ex__(pickle.DEFAULT_PROTOCOL)  # the same moment
        if isinstance(obj, ZoneInfo) and obj.key == LOCALTIME:  # has no name over there either
            return local_timezone, ({},)
        return NotImplemented


def _pickled(content: object) -> bytes:
    data = io.BytesIO()
    _Pickler(data).dump(content)
    return data.getvalue()


class Plain(pickle.Unpickler):
    """Reads values and the rows of the store; any other class is a `pickle.UnpicklingError`."""

    @override
    def find_class(self, module_name: str, global_name: str) -> Any:
        found = None
        if module_name in _OF_VALUES and "." not in global_name:
            found = super().find_class(module_name, global_name)
        if not isinstance(found, type) or found.__module__ != module_name:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no value of the store")
        return found


def read_plain(content: bytes) -> Any:  # noqa: ANN401
    """Read what comes from an agent's process.

    Raises:
        WireError: If it is anything but values and the store's rows.
    """
    try:
        return Plain(io.BytesIO(content)).load()
    except Exception as error:
        raise WireError(f"{error}") from error


_KNOWN: Final = (StoreUnavailable, TableMissing, StoreError, ValueError, TypeError)
"""The errors of calls that agents tell apart, the more special first."""


def describe(error: Exception) -> tuple[str, str]:
    """Put an error of a call into words that `error_of` understands."""
    for kind in _KNOWN:
        if isinstance(error, kind):
            return kind.__name__, str(error)
    return StoreError.__name__, f"{type(error).__name__}: {error}"


def error_of(name: str, text: str) -> Exception:
    """Return the error that was described so."""
    return {kind.__name__: kind for kind in _KNOWN}[name](text)
