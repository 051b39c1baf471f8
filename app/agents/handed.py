"""The tools of an agent's hands, as its conversations call them.

Hands live on Trio's side (`app.hands`), beside the supervisor: each call crosses over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from actp_supervise.bridge import run_in_trio
from app.hands import HandError, Hands, HandTool

from .tools import Tool, ToolError, current_call

if TYPE_CHECKING:
    from app.store.protocol import JSON

_GRACE: Final = 5.0
"""Seconds that a call may take beyond its time-out: a hand has more to say of that than we."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedTool(Tool):
    """A tool that a hand gives."""

    hands: Hands
    tool: HandTool

    @property
    @override
    def definition(self) -> dict[str, Any]:
        return self.tool.definition

    @override
    async def call(self, arguments: dict[str, Any]) -> JSON:
        key = current_call().key
        try:
            return await run_in_trio(self.hands.call, self.name, arguments, key=key)
        except HandError as error:
            raise ToolError(str(error)) from None


def handed_tools(hands: Hands | None) -> list[Tool]:
    """Return the tools of an agent's hands, as they are now; none where it has no hands."""
    if hands is None:
        return []
    return [
        HandedTool(
            name=tool.name,
            effect=tool.effect,
            timeout=tool.timeout + _GRACE,
            approve=tool.approve,
            acts=tool.acts,
            hands=hands,
            tool=tool,
        )
        for tool in hands.tools_for_model()
    ]
