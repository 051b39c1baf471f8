"""How the daemon and its agents' processes log."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Final

from actp_supervise.service import configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.settings import Settings

configure_logs: Final = partial(
    configure_logging,
    labels=("agent_id", "run"),
    # These report every request or retry as news, with nothing that our own lines do not say.
    quiet=("anthropic", "httpcore", "httpx", "httpx2", "hypercorn", "quart"),
)


def configure_daemon_logs(settings: Settings, redact: Callable[[str], str]) -> None:
    """Log as the daemon does, to stderr and to the file that is configured.

    Raises:
        OSError: If the file cannot be written.
    """
    configure_logs(
        sys.stderr,
        redact=redact,
        as_json=not sys.stderr.isatty(),
        file=settings.log_file,
        background=True,
    )
