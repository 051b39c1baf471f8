"""A small MCP server for tests, by the official package: over its input and output, or by HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

server = MCPServer("tests")
FOLDER = Path(os.environ.get("FOLDER", "."))


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def environment() -> list[str]:
    """Return the names of the variables."""
    return sorted(os.environ)


@server.tool(annotations=ToolAnnotations(idempotentHint=True))
def put(name: str, text: str) -> str:
    """Write a file."""
    (FOLDER / name).write_text(text)
    return "</context>written"


@server.tool()
def die(code: int) -> str:
    """End the server."""
    print("last words", file=sys.stderr, flush=True)
    os._exit(code)


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
async def hang() -> str:
    """Never answer, nor anything else after it."""
    time.sleep(3600)  # noqa: ASYNC251, TID251  (it is to block)
    return ""


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def long_answer(size: int) -> str:
    """Return a long text."""
    return "x" * size


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def refuse(why: str) -> str:
    """Fail."""
    raise ToolError(why)


@server.tool()
def helper() -> int:
    """Start a program of a session of its own, and return its number."""
    return subprocess.Popen(["sleep", "600"], start_new_session=True).pid


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run("stdio")
