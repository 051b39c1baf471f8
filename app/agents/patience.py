"""How long a call of the model that fails is repeated. Pure, but for the chance it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from actp_supervise import Backoff

from .outcomes import HandBack, Paused, Refused, TooLong
from .verdicts import Consequence

if TYPE_CHECKING:
    import random

    from .verdicts import Verdict

LONGEST_REST: Final = 3600.0
"""Seconds after which the model is asked again, whatever it said of when."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a call that fails is repeated."""

    backoff: Backoff = field(
        default_factory=lambda: Backoff(initial=1.0, factor=2.0, maximum=60.0, jitter=0.25)
    )
    """The waits where the API does not say how long."""
    total: float = 900.0
    """Seconds of waiting after which the work is handed back."""
    lost: int = 3
    """Calls in a row whose answer may be lost and billed; then the work is handed back."""
    lost_usd: float = 5.0
    """What these may have cost together."""


class Tries:
    """The tries of one call, until it succeeds or it is no use to try on.

    Args:
        patience: How long.
        rng: Spreads the waits.
    """

    def __init__(self, patience: Patience, rng: random.Random) -> None:
        self._patience = patience
        self._rng = rng
        self._attempts = 0
        self._lost = 0
        self._lost_usd = 0.0
        self._waited = 0.0

    def next_after(self, verdict: Verdict, booked: float) -> float:
        """Return after how many seconds to try again.

        Args:
            verdict: How the last try failed.
            booked: What it may have cost, in USD.

        Raises:
            HandBack: If it is no use to ask on now.
            Paused: If it is no use until a person has done something, or for a known time.
            Refused: If the API takes the request for wrong.
            TooLong: If it does because of its length.
        """
        patience = self._patience
        self._attempts += 1
        self._lost += verdict.may_cost
        self._lost_usd += booked
        if verdict.may_cost and (
            self._lost >= patience.lost or self._lost_usd >= patience.lost_usd
        ):
            raise HandBack(
                f"{verdict.reason}; of {self._lost} calls that may have cost "
                f"${self._lost_usd:.2f} no answer came, so it is not asked on at once",
                delay=patience.backoff.maximum,
                count_attempt=True,
            )
        if verdict.consequence is Consequence.FAIL:
            raise TooLong(verdict.reason) if verdict.too_long else Refused(verdict.reason)
        if verdict.consequence is Consequence.PAUSE:
            raise Paused(verdict.reason, until=verdict.until)
        delay = verdict.retry_after
        if delay is None:
            delay = patience.backoff.delay(self._attempts, self._rng)
        if self._waited + delay > patience.total:
            delay = min(delay, LONGEST_REST)
            raise HandBack(verdict.reason, delay=delay, count_attempt=verdict.counts)
        self._waited += delay
        return delay
