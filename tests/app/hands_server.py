"""A server for tests of hands: real HTTP on a port of this machine, answered by a function."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from actp_supervise import open_supervisor
from actp_supervise.service import serve_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def as_reply(value: Any, status: int = 200) -> Reply:
    return Reply(
        status=status,
        headers={"content-type": "application/json"},
        body=json.dumps(value).encode(),
    )


async def _app(answer: Any, scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
    reply = await answer(
        Request(
            method=scope["method"],
            path=scope["path"],
            query=dict(parse_qsl(scope["query_string"].decode())),
            headers={name.decode(): value.decode() for name, value in scope["headers"]},
            body=body,
        )
    )
    headers = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
    headers.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


@asynccontextmanager
async def serving(answer: Any) -> AsyncIterator[str]:
    """Serve for the time of the block; gives the address."""
    async with open_supervisor(name="server", shutdown_timeout=1.0) as tree:
        yield await tree.start(serve_app, partial(_app, answer), "127.0.0.1", 0)
        await tree.shutdown()
