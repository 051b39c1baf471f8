"""Which store is used: the one place that chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.settings import SettingsError
from app.store.sqlite import open_sqlite_store

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from app.settings import Settings
    from app.store.protocol import Store


def open_store(settings: Settings) -> AbstractAsyncContextManager[Store]:
    """Open the store that is configured, to be used in an ``async with``.

    Raises:
        SettingsError: If that one is not there yet.
        StoreError: From entering, if it cannot be opened: one line that says why.
    """
    if settings.supabase_url is not None:
        raise SettingsError(
            "SUPABASE_URL is set, but the Supabase store is not there yet: unset it and "
            "SUPABASE_SERVICE_ROLE_KEY, and SQLite is used"
        )
    return open_sqlite_store(settings.db_path)
