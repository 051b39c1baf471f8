"""The tools of an agent, listed for people: what each does, and whether it asks first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.status import ToolStatus

from .approvals import needs_approval
from .tools import tools_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from app.hands import Hands, HandTool

    from .tools import Tool


def listed_tools(
    cls: type[object], hands: Hands | None, patterns: Iterable[str]
) -> tuple[ToolStatus, ...]:
    """Return the tools of an agent, by name.

    Args:
        cls: Its class, whose methods are tools.
        hands: Its hands, as they are open; None where it has none.
        patterns: The operator's, of the tools that need approval.
    """
    patterns = tuple(patterns)
    found = [_listed(tool, "method", _described(tool), patterns) for tool in tools_of(cls)]
    if hands is not None:
        found += [_listed(tool, "hand", tool.description, patterns) for tool in hands.tools()]
        found += [
            ToolStatus(name=tool.name, source="server", effect=None, approval="never")
            for tool in hands.server_tools
        ]
    return tuple(sorted(found, key=lambda tool: tool.name))


def _listed(
    tool: Tool | HandTool, source: str, description: str, patterns: Sequence[str]
) -> ToolStatus:
    always = needs_approval(tool.name, patterns, by_itself=bool(tool.approve))
    outside = needs_approval(tool.name, patterns, by_itself=bool(tool.approve) or tool.acts)
    return ToolStatus(
        name=tool.name,
        source="mcp" if tool.name.startswith("mcp__") else source,
        effect=tool.effect,
        approval="always" if always else "after reading" if outside else "never",
        description=description.strip().partition("\n")[0],
    )


def _described(tool: Tool) -> str:
    return str(tool.definition["description"])
