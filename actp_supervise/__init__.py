"""A nursery whose children are looked after: supervision trees and a cron scheduler for Trio.

`open_supervisor` and `open_scheduler` are where to begin. In modules of their own: `events` (what
happens in a tree), `clock` (wall time), `bridge.asyncio_child`, `process.process_child` and
`testing`.
"""

from .cron import AnyOf, At, Cron, Every, Job, Overlap, Scheduler, open_scheduler
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

__all__ = [
    "AnyOf",
    "At",
    "AutoShutdown",
    "Backoff",
    "Child",
    "ChildNotFoundError",
    "ChildState",
    "Cron",
    "DoNotRestart",
    "DuplicateChildError",
    "Every",
    "Job",
    "Overlap",
    "Restart",
    "RestartLimit",
    "RestartLimitExceeded",
    "Scheduler",
    "ShutdownOrder",
    "Stalled",
    "Strategy",
    "SupervisionError",
    "Supervisor",
    "SupervisorClosedError",
    "current_child",
    "open_scheduler",
    "open_supervisor",
]

__version__ = "0.1.0"
