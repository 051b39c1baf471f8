"""What was said in the conversation about a task, kept for whoever wants to read along."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any, Final

from actp_supervise.service import clean_json, shorten
from app.store.protocol import StoreError, Turn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .contract import AgentContext

logger = logging.getLogger(__name__)

MOST_TEXT: Final = 20_000
"""Characters of one turn that are kept."""


class Transcript:
    """The conversation about one task; of work that is no task nothing is kept.

    Args:
        context: The agent's.
        task_id: The task, if it is one.
    """

    def __init__(self, context: AgentContext, task_id: str | None) -> None:
        self._context = context
        self._task_id = task_id

    async def add(self, role: str, step: int, blocks: Iterable[Any]) -> None:
        """Keep one turn; one that the store refuses is logged, and the work goes on.

        Args:
            role: user, assistant or tool.
            step: Which reply of the model it belongs to.
            blocks: What was said, as the API's content blocks.
        """
        if self._task_id is None:
            return
        turn = Turn(
            id=uuid.uuid4().hex,
            task_id=self._task_id,
            agent_id=self._context.agent_id,
            run_id=self._context.run_id,
            step=step,
            role=role,
            content=shortened(clean_json(list(blocks), self._context.redact), MOST_TEXT),
        )
        try:
            await self._context.store.record_turn(turn)
        except StoreError:
            extra = {"action": "turn_not_kept", "task_id": self._task_id}
            logger.exception("A turn of the conversation about a task is not kept", extra=extra)


def shortened(value: Any, most: int, *, short: int = 200) -> Any:  # noqa: ANN401  (JSON)
    """Cut the texts in a JSON value so that they have `most` characters together.

    What is `short` stays whole and does not count: it may be a name that others go by.

    >>> shortened({"type": "text", "text": "a long story"}, 5, short=4)
    {'type': 'text', 'text': 'a l [7 characters left out] ry'}
    """
    left = most

    def cut(value: Any) -> Any:  # noqa: ANN401  (JSON)
        nonlocal left
        if isinstance(value, dict):
            return {name: cut(item) for name, item in value.items()}
        if isinstance(value, list):
            return [cut(item) for item in value]
        if not isinstance(value, str) or len(value) <= short:
            return value
        keep = max(left, 0)
        left -= len(value)
        return shorten(value, keep, ends=True).strip() if len(value) > keep else value

    return cut(value)
