"""The conversation about a task in the store: recorded step by step, before the next is taken."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any, Final

from actp_supervise.service import clean_json
from app.store.protocol import Lease, StoreError, StoreUnavailable, ToolCall, Turn
from app.store.records import clean

from .history import History, last_conversation
from .lease import LeaseEnded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .contract import AgentContext

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 200
"""Steps that are read from the store at once."""


class Transcript:
    """What is said about one task; of work that is no task nothing is recorded.

    Secrets are taken out of each step before it becomes part of the conversation. So what is
    recorded is what is sent, and nothing that is sent has to be changed for the record.

    Args:
        context: The agent's.
        task_id: The task, if it is one.
        token: The claim under which it is done.
    """

    def __init__(self, context: AgentContext, task_id: str | None, token: str | None) -> None:
        self._context = context
        self._store = context.store
        self.task_id = task_id
        self._token = token
        self.history = History()
        self.is_resumed = False
        """Whether it goes on with what an earlier worker has recorded."""

    async def recorded(self) -> list[Turn]:
        """Return all steps that the store has of the task, those of earlier conversations too."""
        if self.task_id is None:
            return []
        turns: list[Turn] = []
        while True:
            after = turns[-1].id if turns else None
            more = await self._store.turns(self.task_id, after=after, limit=_AT_ONCE)
            turns += more
            if len(more) < _AT_ONCE:
                return turns

    def resume(self, turns: Sequence[Turn]) -> None:
        """Go on where the last of the recorded conversations has come to."""
        self.history = History()
        self.is_resumed = True
        for turn in last_conversation(turns):
            self.history.add(turn.role, turn.step, turn.content, turn.meta)

    def begin(self) -> None:
        """Forget what was said, for a new conversation about the same task."""
        self.history = History()
        self.is_resumed = False

    async def add(
        self,
        role: str,
        step: int,
        blocks: Sequence[dict[str, Any]],
        meta: dict[str, Any] | None = None,
    ) -> None:
        """Record a step, and go on by it.

        Args:
            role: user, assistant or tool.
            step: Which reply of the model it belongs to.
            blocks: What was said, as the API's content blocks.
            meta: What else is to be known of it.

        Raises:
            LeaseEnded: If the task is another's by now.
        """
        turn = self._turn(role, step, self._shown(blocks), meta)
        if self.task_id is not None:
            try:
                held = await self._store.record_turn(turn, token=self._token)
            except StoreUnavailable:
                raise
            except StoreError as error:
                self._not_kept(error)
            else:
                self._check(held=held)
        self.history.add(role, step, turn.content, turn.meta)

    async def answer(
        self, step: int, block: dict[str, Any], *, call: ToolCall, effect: str | None
    ) -> None:
        """Record what a tool answered, and go on by it.

        Args:
            step: Which reply of the model called it.
            block: The answer as a content block.
            call: The call for the log.
            effect: The effect that has ended with it, if the tool has one.

        Raises:
            LeaseEnded: If the task is another's by now.
        """
        turn = self._turn("tool", step, clean([block]), None)
        try:
            if self.task_id is None:
                await self._store.record_tool_call(call)
                if effect is not None:
                    await self._store.finish_effect(effect, turn.content)
            else:
                held = await self._store.record_answer(
                    turn, call=call, effect=effect, token=self._token
                )
                self._check(held=held)
        except StoreUnavailable:
            raise
        except StoreError as error:
            self._not_kept(error)
        self.history.add("tool", step, turn.content, None)

    def _turn(
        self, role: str, step: int, blocks: list[dict[str, Any]], meta: dict[str, Any] | None
    ) -> Turn:
        return Turn(
            id=uuid.uuid4().hex,
            task_id=self.task_id or "",
            agent_id=self._context.agent_id,
            run_id=self._context.run_id,
            step=step,
            role=role,
            content=blocks,
            meta=meta,
        )

    def _shown(self, blocks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return blocks without secrets, and without what no database can hold.

        Blocks that the API has signed may not be changed. The model has never seen a secret, so
        none should stand there; where one does, the whole block is left out, which the API allows.
        """
        shown = []
        for block in blocks:
            cleaned = clean(clean_json(block, self._context.redact))
            if cleaned == block or "signature" not in block:
                shown.append(cleaned)
            else:
                logger.warning("A signed block of the conversation is left out: it had a secret")
        return shown

    def _check(self, *, held: bool) -> None:
        if not held:
            raise LeaseEnded(Lease.LOST)

    def _not_kept(self, error: StoreError) -> None:
        extra = {"action": "turn_not_kept", "task_id": self.task_id}
        logger.error(
            "A step of the conversation about a task is not kept: after a restart the task would "
            "go on from the step before it",
            exc_info=error,
            extra=extra,
        )
