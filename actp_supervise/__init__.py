"""A nursery whose children are looked after: supervision trees and a cron scheduler for Trio.

`open_supervisor` and `open_scheduler` are where to begin. In rooms of their own: `events` (what
happens in a tree), `clock` (wall time), `bridge.asyncio_child`, `process.process_child` and
`testing`.
"""

from .errors import (
    ChildNotFoundError,
    DoNotRestart,
    DuplicateChildError,
    RestartLimitExceeded,
    Stalled,
    SupervisionError,
    SupervisorClosedError,
)
from .nursery import Child, ChildState, Supervisor, current_child, open_supervisor
from .policies import AutoShutdown, Backoff, Restart, RestartLimit, ShutdownOrder, Strategy

__version__ = "0.1.0"
