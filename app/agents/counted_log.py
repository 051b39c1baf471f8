"""What is said in calls of a class of one's own: its tools in their log, its tasks' transcripts."""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from actp_supervise.service import clean_json
from app.store.protocol import StoreError, StoreUnavailable, ToolCall, Turn
from app.store.records import clean

from .lease import Claim, current_claim
from .toolbox import arguments_shown, shortened
from .tools import as_json
from .usage import tokens_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .books import Request
    from .contract import AgentContext
    from .replies import Reply

logger = logging.getLogger(__name__)

MOST_OPEN: Final = 500
"""Calls of tools whose answer is waited for; the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class _Use:
    """A call of a tool that a reply has asked for."""

    name: str
    arguments: object
    began: float


class CallLog:
    """Writes down what the calls of one client say.

    A tool's answer is known when the next request brings it, so its duration is the time between.

    Args:
        context: The agent's.
    """

    def __init__(self, context: AgentContext) -> None:
        self._context = context
        self._open: dict[str, _Use] = {}
        self._steps: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        """message -> the tokens of the conversation up to it"""

    def held(self, body: Request) -> int:
        """Return how many tokens the API holds of a thread that a request goes on with."""
        thread = body.get("thread")
        before = thread.get("previous_message_id") if isinstance(thread, dict) else None
        return self._tokens.get(str(before), 0)

    async def asked(self, body: Request) -> None:
        """Write down what a request says that is new: its last message."""
        messages = body.get("messages")
        last = messages[-1] if isinstance(messages, list) and messages else None
        if not isinstance(last, dict) or last.get("role") != "user":
            return
        content = last.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(blocks, list):
            return
        blocks = [block for block in blocks if isinstance(block, dict)]
        for block in blocks:
            use = self._open.pop(str(block.get("tool_use_id")), None)
            if use is not None:
                await self._keep(self._tool_call(use, block))
        claim = current_claim()
        if claim is not None and blocks:
            answers = any(block.get("type") == "tool_result" for block in blocks)
            await self._add(claim, "tool" if answers else "user", blocks, None)

    async def answered(self, reply: Reply) -> None:
        """Write down a reply, and remember which tools it calls."""
        now = asyncio.get_running_loop().time()
        for block in reply.content:
            if block["type"] == "tool_use":
                self._open[block["id"]] = _Use(block["name"], block["input"], now)
        self._tokens[str(reply.message_id)] = tokens_of(reply.usage)
        for kept in (self._open, self._tokens):
            for oldest in list(kept)[:-MOST_OPEN]:
                del kept[oldest]
        claim = current_claim()
        if claim is not None:
            self._steps = {claim.task_id: self._steps.get(claim.task_id, 0) + 1}
            meta = {
                "model": reply.model,
                "message_id": reply.message_id,
                "stop_reason": reply.stop_reason,
                "tokens": tokens_of(reply.usage),
            }
            await self._add(claim, "assistant", reply.content, meta)

    def _tool_call(self, use: _Use, block: dict[str, Any]) -> ToolCall:
        claim = current_claim()
        content = block.get("content")
        text = content if isinstance(content, str) else as_json(_texts(content))
        text = self._context.redact(text)
        failed = block.get("is_error") is True
        return ToolCall(
            id=uuid.uuid4().hex,
            agent_id=self._context.agent_id,
            run_id=self._context.run_id,
            task_id=None if claim is None else claim.task_id,
            tool=use.name,
            arguments=arguments_shown(clean_json(use.arguments, self._context.redact)),
            duration=asyncio.get_running_loop().time() - use.began,
            error=shortened(text) if failed else None,
            result=None if failed else shortened(text),
        )

    async def _keep(self, call: ToolCall) -> None:
        try:
            await self._context.store.record_tool_call(call)
        except StoreUnavailable:
            raise
        except StoreError:
            logger.exception("A call of a tool is not kept", extra={"action": "turn_not_kept"})

    async def _add(
        self,
        claim: Claim,
        role: str,
        blocks: Iterable[dict[str, Any]],
        meta: dict[str, Any] | None,
    ) -> None:
        turn = Turn(
            id=uuid.uuid4().hex,
            task_id=claim.task_id,
            agent_id=self._context.agent_id,
            run_id=self._context.run_id,
            step=self._steps.get(claim.task_id, 0),
            role=role,
            content=[clean(clean_json(block, self._context.redact)) for block in blocks],
            meta=meta,
        )
        try:
            await self._context.store.record_turn(turn, token=claim.token)
        except StoreUnavailable:
            raise
        except StoreError:
            extra = {"action": "turn_not_kept", "task_id": claim.task_id}
            logger.exception("A step of the conversation about a task is not kept", extra=extra)


def _texts(content: object) -> Any:  # noqa: ANN401  (JSON)
    """Return the texts of an answer's blocks; a picture is not kept here."""
    if not isinstance(content, list):
        return content
    return [block.get("text", block.get("type")) for block in content if isinstance(block, dict)]
