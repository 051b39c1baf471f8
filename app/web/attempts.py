"""Wrong tokens: those who try many are slowed, and it is told."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from app.web.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

FREE: Final = 10
"""Wrong tokens from one address within `WINDOW` before it is slowed."""

WINDOW: Final = 600.0
"""Seconds for which a wrong token counts."""

PAUSE: Final = 1.0
"""Seconds between two tries of an address that is slowed."""

MOST_WAITING: Final = 5
"""Tries that wait for their turn; more are refused, whatever their token is."""

MOST_KNOWN: Final = 1000
"""Addresses that are remembered; the one that has been there longest goes first."""


class Attempts:
    """The tries to give a token, by the address that they come from.

    Args:
        tell: Called once with a sentence, when an address begins to be slowed.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._wrong: dict[str, deque[float]] = {}
        self._turns: dict[str, trio.CapacityLimiter] = {}
        self._waiting: dict[str, int] = {}

    @property
    def known(self) -> int:
        """How many addresses are remembered."""
        return len(self._wrong)

    async def turn(self, client: str) -> None:
        """Wait until a token from an address may be looked at: at once for one that is not slowed.

        The right token waits as well, or the time of an answer would tell which is right.

        Raises:
            Problem: 429 if too many of this address wait already.
        """
        if len(self._recent(client)) < FREE:
            return
        if self._waiting.get(client, 0) >= MOST_WAITING:
            raise Problem(
                429,
                "There were too many wrong tokens. Try again in a few seconds.",
                headers={"Retry-After": str(MOST_WAITING)},
            )
        self._waiting[client] = self._waiting.get(client, 0) + 1
        try:
            async with self._turns.setdefault(client, trio.CapacityLimiter(1)):
                await trio.sleep(PAUSE)
        finally:
            self._waiting[client] -= 1
            if not self._waiting[client]:
                del self._waiting[client]
                self._turns.pop(client, None)

    def was_wrong(self, client: str) -> None:
        """Take note of a wrong token."""
        wrong = self._recent(client)
        self._wrong.pop(client, None)
        while len(self._wrong) >= MOST_KNOWN:
            del self._wrong[next(iter(self._wrong))]
        self._wrong[client] = wrong
        wrong.append(trio.current_time())
        if len(wrong) == FREE:
            text = f"{FREE} wrong tokens came from {client}, which is slowed now"
            logger.warning("%s", text, extra={"action": "tokens_wrong"})
            self._tell(text)

    def _recent(self, client: str) -> deque[float]:
        """Return when the wrong tokens of an address came that still count."""
        wrong = self._wrong.get(client, deque())
        while wrong and trio.current_time() - wrong[0] > WINDOW:
            wrong.popleft()
        return wrong
