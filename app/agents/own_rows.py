"""The store as an agent writes to it: each row says whose it is, and who may have written it.

What a conversation writes that has read the text of other people may be what they want, word for
word. Rows and memories outlive the conversation, and another one reads them as its own: so they are
marked where they are written, and a conversation that reads them has read outside text.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from app.hands import from_outside, outside_of
from app.store.protocol import Before, DomainTable, Row, Store

from .tools import has_read_outside

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE: Final = "text of other people, which the conversation that wrote this had read"
"""What stands in `from_outside` of a row or a memory."""

_NO_TEXT: Final = (bool, int, float, type(None))


class OwnRows(Before):
    """A store in which an agent's rows and memories say where they come from.

    Args:
        store: The store behind it.
        agent_id: The agent that writes.
    """

    def __init__(self, store: Store, agent_id: str) -> None:
        super().__init__(store)
        self._agent_id = agent_id

    @override
    async def insert(self, table: DomainTable, row_id: str, values: Mapping[str, Any]) -> Row:
        own = {"agent_id": self._agent_id, **_mark(values), **values}
        return await self.store.insert(table, row_id, own)

    @override
    async def update(
        self, table: DomainTable, row_id: str, values: Mapping[str, Any]
    ) -> Row | None:
        return await self.store.update(table, row_id, {**_mark(values), **values})

    @override
    async def remember(self, agent_id: str, key: str, value: str) -> None:
        if has_read_outside() and outside_of(value) is None:
            value = json.dumps(from_outside(SOURCE, value), ensure_ascii=False)
        await self.store.remember(agent_id, key, value)


def _mark(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the mark of values that may hold what other people wrote."""
    texts = [value for value in values.values() if not isinstance(value, _NO_TEXT)]
    return {"from_outside": SOURCE} if texts and has_read_outside() else {}
