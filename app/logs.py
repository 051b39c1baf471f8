"""How the daemon and its agents' processes log."""

from __future__ import annotations

from functools import partial
from typing import Final

from actp_supervise.service import configure_logging

configure_logs: Final = partial(
    configure_logging,
    labels=("agent_id", "run"),
    # These report every request or retry as news, with nothing that our own lines do not say.
    quiet=("anthropic", "httpcore", "httpx", "httpx2", "hypercorn", "quart"),
)
