"""What makes a supervised program a good service: logs, signals, systemd, HTTP, retries, leases.

`open_service` puts the usual parts together; each part can be used alone. Only `serve` and
`serve_app` need more than Trio: the extra ``[http]``.
"""

from .http import (
    AddressUnavailableError,
    StopRequest,
    format_address,
    is_loopback,
    livez,
    open_listeners,
    serve,
    serve_app,
)
from .lease import LeaderLease
from .log_file import open_private
from .logs import (
    bind_log_context,
    configure_logging,
    fields_of,
    log_context,
    log_what_nobody_catches,
    make_redactor,
)
from .loop_watch import Block, LoopWatch
from .outbox import Outbox
from .retry import retry
from .running import open_service
from .signals import Interrupted, Interrupts, StopSignals, tell_trio
from .systemd import ServiceManager
from .text import clean_json, shorten, visible, why

__all__ = [
    "AddressUnavailableError",
    "Block",
    "Interrupted",
    "Interrupts",
    "LeaderLease",
    "LoopWatch",
    "Outbox",
    "ServiceManager",
    "StopRequest",
    "StopSignals",
    "bind_log_context",
    "clean_json",
    "configure_logging",
    "fields_of",
    "format_address",
    "is_loopback",
    "livez",
    "log_context",
    "log_what_nobody_catches",
    "make_redactor",
    "open_listeners",
    "open_private",
    "open_service",
    "retry",
    "serve",
    "serve_app",
    "shorten",
    "tell_trio",
    "visible",
    "why",
]
