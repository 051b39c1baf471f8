"""What is not kept for ever: the conversations about tasks, or an unattended database fills up."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from app.crashes import HOUR
from app.store.protocol import StoreError, StoreUnavailable

if TYPE_CHECKING:
    from app.store.protocol import Store

logger = logging.getLogger(__name__)

AT_ONCE: Final = 5_000
"""How many steps are deleted an hour at most: more than agents can say, and done in a moment."""


async def forget_old_turns(store: Store, older_than: float) -> None:
    """Delete conversations that are so many seconds old, and again every hour, for ever."""
    while True:
        try:
            await store.forget_turns(older_than=older_than, limit=AT_ONCE)
        except StoreUnavailable:
            pass  # others say so, and there is no hurry
        except StoreError as error:
            extra = {"action": "turns_not_forgotten"}
            logger.warning("Old conversations could not be deleted: %s", error, extra=extra)
        await trio.sleep(HOUR)
