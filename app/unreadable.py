"""Tasks that could not be read: made by hand with a value that makes no sense, and then failed.

They hold up nobody, and so nobody would notice; the health of the daemon names them for a day, or
until they are tried again or deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from app.looks import USUAL
from app.reasons import Reason, ReasonKind, reason
from app.store.protocol import StoreError

if TYPE_CHECKING:
    from app.store.protocol import Store

NAMED_FOR: Final = 86_400.0
_NAMED: Final = 5


class UnreadableTasks:
    """What is known of them.

    Args:
        store: Where the tasks are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.ids: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """The reason for less than good health, if there is one."""
        if not self.ids:
            return ()
        many = len(self.ids) > 1
        named = ", ".join(self.ids[:_NAMED]) + (", ..." if len(self.ids) > _NAMED else "")
        text = (
            f"{len(self.ids)} task{'s' * many} could not be read and {'have' if many else 'has'} "
            f"failed: {named}; the error of each says which value makes no sense"
        )
        return (reason(ReasonKind.ROWS_UNREADABLE, text, number=len(self.ids)),)

    async def watch(self, every: float = USUAL.unreadable) -> None:
        """Look now and then, until cancelled.

        Args:
            every: Seconds between two looks.
        """
        while True:
            await self.look()
            await trio.sleep(every)

    async def look(self) -> None:
        """Look once; while the store is away what was known stays."""
        try:
            self.ids = tuple(await self._store.unreadable_tasks(within=NAMED_FOR))
        except StoreError:
            return
