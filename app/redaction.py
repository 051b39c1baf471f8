"""What takes the daemon's secrets out of a text, those included that a SIGHUP has brought."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actp_supervise.service import make_redactor

if TYPE_CHECKING:
    from collections.abc import Iterable


class Redaction:
    """Takes secrets out of a text; to be called with it, from any thread.

    Args:
        secrets: Those that are known from the start.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = set(secrets)
        self._redact = make_redactor(self._secrets)

    def __call__(self, text: str) -> str:
        """Return a text without the secrets."""
        return self._redact(text)

    def learn(self, secrets: Iterable[str]) -> None:
        """Take these out too from now on; those from before may still stand somewhere."""
        self._secrets |= set(secrets)
        self._redact = make_redactor(self._secrets)
