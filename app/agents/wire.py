"""What an agent in a process of its own and the daemon say to each other, over a socket.

Each message is a type of its own below, encoded by msgspec as MessagePack: what comes from the
agent's process can be nothing but these, with nothing but values in them, and of bounded length.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, TypeAlias, TypeVar

import msgspec
import trio

from app.agents.activity import ActivityState, Moment
from app.agents.setup import AgentSetup
from app.agents.spec import WantedHand
from app.status import ToolStatus
from app.store.protocol import StoreError, StoreUnavailable, TableMissing

if TYPE_CHECKING:
    import socket

    from app.store.verbs import Arguments, Verb

LONGEST: Final = 4 * 1024 * 1024
"""Bytes that a message may have: read, they may become some fifty times as many."""

MOST_TOOLS: Final = 1000
"""How many tools an agent may say that it has."""

_LENGTH: Final = struct.Struct("!I")
_CHUNK: Final = 65_536


class WireError(Exception):
    """What came is no message, or is too long."""


class _Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """One message."""


# From the daemon.


class Work(_Message, frozen=True, kw_only=True):
    """What is to be run; the first message."""

    setup: AgentSetup
    method: str | None
    """A routine; None for the agent itself."""
    goal: str | None = None
    """Of a routine that is no method, what is to be reached."""
    where: str
    """Where the store is, in words."""
    log_fields: dict[str, str]
    modules: list[str]
    """Where Python looks for modules."""
    hands: tuple[WantedHand, ...] = ()
    """The tools that the file gives it, to be opened in its process."""
    variables: dict[str, str] = {}
    """What those may use of the environment."""


class Answer(_Message, frozen=True):
    """What a call returned."""

    number: int
    content: msgspec.Raw


class Refusal(_Message, frozen=True):
    """What a call raised: `describe` and `error_of`."""

    number: int
    kind: str
    text: str


class Stop(_Message, frozen=True):
    """The agent is to stop."""


FromDaemon: TypeAlias = Work | Answer | Refusal | Stop

# From the agent.


class Call(_Message, frozen=True):
    """The agent wants a verb of the store done."""

    number: int
    verb: str
    arguments: msgspec.Raw


class Wait(_Message, frozen=True):
    """The agent waits `seconds` for work, or until a task is posted."""

    number: int
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class GiveUp(_Message, frozen=True):
    """The agent no longer wants what it asked for."""

    number: int


class Report(_Message, frozen=True):
    """What the agent does."""

    state: ActivityState
    now: Moment
    """What the clock of its process shows."""


class Crash(msgspec.Struct, frozen=True):
    """How an agent crashed."""

    in_one_line: str
    traceback: str


class HandsAre(_Message, frozen=True):
    """Which tools the agent has, and which of them do not work; said anew when that changes."""

    tools: Annotated[tuple[ToolStatus, ...], msgspec.Meta(max_length=MOST_TOOLS)]
    problems: Annotated[tuple[str, ...], msgspec.Meta(max_length=MOST_TOOLS)]


class Ended(_Message, frozen=True):
    """How the agent ended; the last message."""

    crash: Crash | None


FromAgent: TypeAlias = Call | Wait | GiveUp | Report | HandsAre | Ended

MessageT = TypeVar("MessageT")


class Wire(Generic[MessageT]):
    """One end of the socket.

    Args:
        sock: A connected stream socket.
        comes: The messages that come from the other end, as a union of their types.
    """

    def __init__(self, sock: socket.socket, comes: Any) -> None:  # noqa: ANN401  (a union)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._waiting, self._to_send = trio.open_memory_channel[tuple[bytes, trio.Event]](math.inf)
        self._received = bytearray()
        self.last_size = 0
        """Bytes of the message that came last."""
        self._decoder: msgspec.msgpack.Decoder[MessageT] = msgspec.msgpack.Decoder(comes)

    def put(self, message: FromDaemon | FromAgent) -> trio.Event:
        """Have a message sent, after those before it.

        Returns:
            What is set when it is sent.

        Raises:
            WireError: If it is too long.
        """
        data = encode(message)
        if len(data) > LONGEST:
            raise WireError(f"{len(data)} bytes are too many: {LONGEST} may be handed over")
        is_sent = trio.Event()
        self._waiting.send_nowait((_LENGTH.pack(len(data)) + data, is_sent))
        return is_sent

    def close(self) -> None:
        """Have `send` return once all is sent."""
        self._waiting.close()

    async def send(self) -> None:
        """Send what is put, until `close`, or until the other end is gone."""
        try:
            async for data, is_sent in self._to_send:
                await self._stream.send_all(data)
                is_sent.set()
        except trio.BrokenResourceError:  # told by `receive`
            return

    async def receive(self) -> MessageT | None:
        """Return the next message; None when the other end is gone.

        Raises:
            WireError: If it is none.
        """
        header = await self._take(_LENGTH.size)
        if header is None:
            return None
        (length,) = _LENGTH.unpack(header)
        if length > LONGEST:
            raise WireError(f"no message: {length} bytes are too many")
        self.last_size = length
        content = await self._take(length)
        if content is None:
            return None
        try:
            return self._decoder.decode(content)
        except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
            raise WireError(f"no message: {error}") from error

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


# Calls of the store.


def encode(value: object) -> bytes:
    """Encode a message, or what goes into one.

    Raises:
        WireError: If it is anything but values and rows of the store.
    """
    try:
        return msgspec.msgpack.encode(value)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise WireError(f"cannot be handed over: {error}") from error


def call_of(number: int, verb: Verb[Any], arguments: Arguments) -> Call:
    """Make the message that has a verb done. Raises as `encode`."""
    return Call(number, verb.name, msgspec.Raw(encode(arguments)))


def arguments_of(call: Call, verb: Verb[Any]) -> Arguments:
    """Read the arguments of a call, by the types of the verb's parameters.

    Raises:
        WireError: If they are not of these types.
    """
    try:
        raw: dict[str, msgspec.Raw] = msgspec.msgpack.decode(
            call.arguments, type=dict[str, msgspec.Raw]
        )
        return {
            name: msgspec.msgpack.decode(value, type=verb.hints[name])
            for name, value in raw.items()
        }
    except (msgspec.MsgspecError, KeyError, ValueError, RecursionError, OverflowError) as error:
        raise WireError(f"{verb.name}: {error}") from error


def answer_of(content: msgspec.Raw, verb: Verb[Any]) -> Any:  # noqa: ANN401  (the verb's)
    """Read what the daemon has answered to a call of a verb."""
    return msgspec.msgpack.decode(content, type=verb.hints["return"])


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
