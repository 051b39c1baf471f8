"""Asyncio code as a child: `asyncio_child`, and `run_in_trio` for the way back.

Each start gives the code an asyncio loop of its own. What it leaves behind ends with that run, and
what it does wrong is that child's error; neither the supervisor nor another loop notices.
"""

from .calls import run_in_trio
from .run import CANCEL_TIMEOUT, CancellationIgnored, asyncio_child
from .view import AsyncioStopSignal, AsyncioView

__all__ = [
    "CANCEL_TIMEOUT",
    "AsyncioStopSignal",
    "AsyncioView",
    "CancellationIgnored",
    "asyncio_child",
    "run_in_trio",
]
