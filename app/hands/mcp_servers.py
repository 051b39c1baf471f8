"""The hand `mcp`: the tools of MCP servers, as ``mcp__server__tool``.

Each server is a child of a supervisor of its own: one that is away or crashes is tried again with
growing pauses for as long as the hand is open. A call meanwhile is a tool's error.
"""

from __future__ import annotations

import hashlib
import logging
import re
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import pydantic
import trio
from pydantic import Field

from actp_supervise import Backoff, open_supervisor
from actp_supervise.process import ProcessExited, ProcessNotStarted
from actp_supervise.service import make_redactor, shorten, why

from .contract import (
    Effect,
    Hand,
    HandError,
    HandTool,
    Json,
    Kind,
    Options,
    OutcomeUnknownError,
    SetUp,
    SetUpError,
    Use,
    options_of,
)
from .untrusted import as_data

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from mcp import Client
    from mcp.client._transport import TransportStreams
    from mcp_types import CallToolResult, Tool

logger = logging.getLogger(__name__)

LONGEST_NAME: Final = 64
"""Characters of a tool's name, of which the Messages API takes ``[a-zA-Z0-9_-]``."""

MOST_DESCRIBED: Final = 4_000
"""Characters of a tool's description that the model is given."""

MOST_TOOLS: Final = 200
"""Tools of one server."""

_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")
_SECRET: Final = re.compile("key|token|secret|pass|auth", re.IGNORECASE)
"""What is in the name of a variable whose value is a secret though it stands in the file."""


class Server(Options):
    """An MCP server: a program, or an address."""

    command: str | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    cwd: str | None = None
    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    timeout: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Seconds that a call may take."""
    approve: Literal["changes", "always", "never"] = "changes"
    """What needs approval: calls of tools that do not say they only read, all, or none."""

    @pydantic.model_validator(mode="after")
    def _one_of_both(self) -> Server:
        if (self.command is None) == (self.url is None):
            raise ValueError("give command (a program) or url, and one of them only")
        if self.command is None and (self.args or self.env or self.cwd):
            raise ValueError("args, env and cwd are for a command")
        if self.url is None and self.headers:
            raise ValueError("headers are for a url")
        return self


_BACKOFF: Final = Backoff(initial=1.0, factor=2.0, maximum=300.0, jitter=0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long is waited for servers, in seconds."""

    start: float = 60.0
    """From a server's start until its tools are known; ``npx`` may have to download it."""
    opening: float = 15.0
    """For servers that are still starting when the hand is opened."""
    between_looks: float = 60.0
    """Until it is looked again whether a server still answers, and with which tools."""
    look: float = 20.0
    """For the answer to that; then the connection is dropped, and made anew."""
    backoff: Backoff = _BACKOFF
    """After a crash, or while it is away."""


TIMES: Final = Times()

ServerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,19}$")]


class McpOptions(pydantic.RootModel[dict[ServerName, Server]]):
    """The servers by name."""


class ServerAway(Exception):
    """A server cannot be used now; the text says why."""


class Link:
    """The way to one server: a child that keeps it open, and the calls that go over it.

    Args:
        name: The server's.
        server: What it is, without ``${VARIABLE}`` in it.
        redact: Takes what must not be shown out of a text.
        times: How long it is waited for.
    """

    def __init__(
        self, name: str, server: Server, redact: Callable[[str], str], times: Times = TIMES
    ) -> None:
        self.name = name
        self._times = times
        self._redact = redact
        self.tried = trio.Event()
        """Set when it was there for the first time, or is known to be away."""
        self._server = server
        self._client: Client | None = None
        self._tools: tuple[HandTool, ...] = ()
        self._why: str | None = "it is starting"
        self._suspect = trio.Event()

    @property
    def tools(self) -> tuple[HandTool, ...]:
        """Its tools, as it had them when it was last there."""
        return self._tools

    @property
    def problem(self) -> str | None:
        """Why it cannot be called now."""
        if self._why is None:
            return None
        return f"MCP server {self.name} is away: {self._why}. It is tried again with pauses"

    # The child.

    async def run(self) -> None:
        """Keep the connection until it breaks, which is an error, or the child is to stop."""
        try:
            await self._stay()
        except Exception as error:  # noqa: BLE001  (whatever the package raises)
            self._why = shorten(self._redact(why(_cause_of(error))), 500)
            raise ServerAway(self._why) from None  # a traceback of the package's says nothing more
        finally:
            self._client = None
            self._why = self._why or "it is stopping"
            self.tried.set()

    async def _stay(self) -> None:
        from mcp import Client  # which takes nearly two seconds to load

        with trio.CancelScope(deadline=trio.current_time() + self._times.start) as starting:
            # Outside the client: it lets go on, out of the block, what cancels the block within.
            async with self._transport() as streams, Client(nullcontext(streams)) as client:
                await self._learn(client)
                starting.deadline = float("inf")
                self._client, self._why = client, None
                self.tried.set()
                await self._look_after(client)
        if starting.cancelled_caught:
            raise TimeoutError(f"it was not ready within {self._times.start:g} s")

    async def _look_after(self, client: Client) -> None:
        """Ask it for its tools now and then: what is idle for long may be dead without a word."""
        while True:
            self._suspect = trio.Event()
            with trio.move_on_after(self._times.between_looks):
                await self._suspect.wait()
            with trio.move_on_after(self._times.look) as look:
                await self._learn(client)
            if look.cancelled_caught:
                raise TimeoutError(f"it did not answer within {self._times.look:g} s")

    async def _learn(self, client: Client) -> None:
        found: list[Tool] = []
        cursor = None
        while len(found) < MOST_TOOLS:
            page = await client.list_tools(cursor=cursor, cache_mode="refresh")
            found += page.tools
            cursor = page.next_cursor
            if cursor is None or not page.tools:
                break
        self._tools = self._as_ours(found[:MOST_TOOLS])

    def _transport(self) -> AbstractAsyncContextManager[TransportStreams]:
        server = self._server
        if server.command is None:
            return _open_http(server)
        from .mcp_program import open_program

        argv = [server.command, *server.args]
        return open_program(argv, env=server.env, cwd=server.cwd, on_stderr=self._log)

    def _log(self, line: str) -> None:
        extra = {"action": "mcp_output", "server": self.name}
        logger.info("MCP server %s: %s", self.name, shorten(self._redact(line)), extra=extra)

    # Its tools.

    def _as_ours(self, tools: Sequence[Tool]) -> tuple[HandTool, ...]:
        made: dict[str, HandTool] = {}
        for tool in tools:
            name = tool_name(self.name, tool.name, taken=made)
            made[name] = self._tool(name, tool)
        return tuple(made.values())

    def _tool(self, name: str, tool: Tool) -> HandTool:
        theirs = tool.name
        effect = _effect_of(tool)

        async def call(use: Use) -> Json:
            return await self._call(theirs, use, effect)

        approve = {"always": True, "never": False, "changes": effect != "read"}
        return HandTool(
            name=name,
            description=(tool.description or tool.title or theirs)[:MOST_DESCRIBED],
            schema=tool.input_schema,
            effect=effect,
            call=call,
            timeout=self._server.timeout,
            approve=approve[self._server.approve],
            acts=effect != "read" and self._server.approve != "never",
            source=f"MCP server {self.name}",
        )

    async def _call(self, tool: str, use: Use, effect: Effect) -> Json:
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED

        client = self._client
        if client is None:
            raise HandError(f"{self.problem}. Go on without it.")
        try:
            result = await client.call_tool(tool, dict(use.arguments))
        except trio.Cancelled:  # it took too long, perhaps for ever
            self._suspect.set()
            raise
        except MCPError as error:
            if error.code == CONNECTION_CLOSED and client is self._client:
                self._client, self._why = None, "it has closed the connection"
                self._suspect.set()
            told = f"The server says: {as_data(shorten(error.message, 1_000))}"
            if effect != "read" and not _is_refusal(error.code):
                raise OutcomeUnknownError(
                    f"{told} The call may have had its effect, or not."
                ) from None
            raise HandError(told) from None
        if result.is_error:
            raise HandError(f"The server answers with an error: {as_data(_content_of(result))}")
        return _content_of(result)


def _is_refusal(code: int) -> bool:
    """Return whether JSON-RPC's code says that the call was not begun."""
    return code in {-32700, -32600, -32601, -32602}


def _effect_of(tool: Tool) -> Effect:
    """Return the effect that a tool's hints promise; without any, it is done once."""
    hints = tool.annotations
    if hints is None:
        return "once"
    if hints.read_only_hint:
        return "read"
    return "keyed" if hints.idempotent_hint else "once"


def tool_name(server: str, tool: str, *, taken: Mapping[str, object] | None = None) -> str:
    """Return by which name the model calls a server's tool.

    What is too long, or is another's name once what the API does not take is replaced, ends with
    a digest of the whole.

    >>> tool_name("time", "get_current_time"), tool_name("files", "read file")
    ('mcp__time__get_current_time', 'mcp__files__read_file')
    >>> tool_name("files", "x" * 80)
    'mcp__files__xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx_73287f'
    """
    whole = f"mcp__{server}__{tool}"
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", whole)
    if len(name) <= LONGEST_NAME and name not in (taken or ()):
        return name
    digest = hashlib.sha256(whole.encode()).hexdigest()[:6]
    return f"{name[: LONGEST_NAME - 7]}_{digest}"


def _content_of(result: CallToolResult) -> Json:
    """Return what a tool answered: what it structured, or its texts; pictures are only named."""
    if result.structured_content is not None:
        return result.structured_content
    parts: list[Any] = []
    for part in result.content:
        if part.type == "text":
            parts.append(part.text)
        elif part.type == "resource":
            text = getattr(part.resource, "text", None)
            parts.append({"uri": str(part.resource.uri), "text": text or "(not a text)"})
        elif part.type == "resource_link":
            parts.append({"uri": str(part.uri), "name": part.name})
        else:
            parts.append(f"({part.type}, which is not shown)")
    return parts[0] if len(parts) == 1 else parts


def _cause_of(error: Exception) -> Exception:
    """Return the one error that says why: the end of a program before what follows from it."""
    if not isinstance(error, ExceptionGroup):
        return error
    causes = [_cause_of(inner) for inner in error.exceptions]
    ends = [cause for cause in causes if isinstance(cause, ProcessExited | ProcessNotStarted)]
    return (ends or causes)[0]


@asynccontextmanager
async def _open_http(server: Server) -> AsyncIterator[TransportStreams]:
    """Open the way to a server at an address."""
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    timeout = httpx2.Timeout(30.0, read=server.timeout)
    assert server.url is not None  # noqa: S101  (for mypy)
    async with (
        httpx2.AsyncClient(headers=server.headers, timeout=timeout) as client,
        streamable_http_client(server.url, http_client=client) as streams,
    ):
        yield streams


@asynccontextmanager
async def open_mcp(setup: SetUp) -> AsyncIterator[Hand]:
    """Open the hand: start all servers, and wait a while until they are there."""
    servers, secrets = servers_of(setup)
    async with open_servers(servers, secrets) as hand:
        yield hand


@asynccontextmanager
async def open_servers(
    servers: Mapping[str, Server], secrets: tuple[str, ...] = (), times: Times = TIMES
) -> AsyncIterator[Hand]:
    """Keep the ways to servers open for the time of the block.

    Args:
        servers: What they are, by name.
        secrets: Texts that must not be shown.
        times: How long they are waited for.
    """
    redact = make_redactor(secrets)
    links = [Link(name, server, redact, times) for name, server in servers.items()]
    async with open_supervisor(name="mcp", limit=None, backoff=times.backoff) as tree:
        for link in links:
            tree.start_soon(link.run, name=link.name)
        with trio.move_on_after(times.opening):
            for link in links:
                await link.tried.wait()
        yield Hand(
            name="mcp",
            tools=lambda: tuple(tool for link in links for tool in link.tools),
            problem=lambda: "; ".join(filter(None, (link.problem for link in links))) or None,
            secrets=secrets,
        )
        await tree.shutdown()


def servers_of(setup: SetUp) -> tuple[dict[str, Server], tuple[str, ...]]:
    """Return the servers with each ``${VARIABLE}`` replaced, and what must not be shown of them.

    Raises:
        SetUpError: If one is wrong, or a variable is not set.
    """
    servers = options_of(McpOptions, setup.options, "mcp").root
    secrets: list[str] = []

    def filled(text: str) -> str:
        def value_of(found: re.Match[str]) -> str:
            value = setup.variables.get(found[1])
            if value is None:
                raise SetUpError(f"mcp: {found[1]} is not set, and {found[0]} stands for it")
            secrets.append(value)
            return value

        return _VARIABLE.sub(value_of, text)

    made = {}
    for name, server in servers.items():
        secrets += [*server.headers.values()]
        secrets += [value for key, value in server.env.items() if _SECRET.search(key)]
        made[name] = server.model_copy(
            update={
                "args": tuple(filled(argument) for argument in server.args),
                "env": {key: filled(value) for key, value in server.env.items()},
                "headers": {key: filled(value) for key, value in server.headers.items()},
                "url": None if server.url is None else filled(server.url),
            }
        )
    return made, tuple(secrets)


MCP: Final = Kind(
    name="mcp",
    summary="The tools of MCP servers",
    options=McpOptions,
    open=open_mcp,
    check=servers_of,
    package="mcp",
)
