"""What the library has for any place that may be away, set up for a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actp_supervise.service import LeaderLease, Outbox
from app.store.errors import StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.store.protocol import Store


def store_outbox(on_change: Callable[[str | None], object] = lambda _: None) -> Outbox:
    """Return an outbox of records for a store.

    Args:
        on_change: Told why the store is away, once; and None when it is back.
    """
    return Outbox(away=StoreUnavailable, refused=StoreError, on_change=on_change)


def store_lease(store: Store, name: str, instance: str, duration: float) -> LeaderLease:
    """Return a lease that is kept in a store; for the arguments see `LeaderLease`."""
    return LeaderLease(store, name, instance, duration, away=StoreUnavailable, refused=StoreError)
