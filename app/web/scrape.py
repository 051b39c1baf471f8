"""`GET /metrics`: the daemon's figures for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio
from quart import Response

from actp_supervise.clock import SystemWallClock, WallClock
from app import metrics
from app.store.protocol import StoreError
from app.web.routes import get
from app.web.views import STORE_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

    from app.daemon import Daemon

FRESH_FOR: Final = 5.0
"""Seconds for which what the store said of the queue is good enough."""


class Scrape:
    """What answers at `/metrics`.

    Args:
        daemon: The running daemon's parts.
        wall_clock: Tells the time of day.
    """

    def __init__(self, daemon: Daemon, *, wall_clock: WallClock | None = None) -> None:
        self._daemon = daemon
        self._wall_clock = SystemWallClock() if wall_clock is None else wall_clock
        self._queue: Iterable[Metric] = ()
        self._queue_until = trio.current_time()
        daemon.metrics.present = self._present

    @get("/metrics", "Figures for Prometheus", "text/plain")
    async def _metrics(self) -> Response:
        if trio.current_time() >= self._queue_until:
            self._queue = ()
            with trio.move_on_after(STORE_TIMEOUT):
                self._queue = await self._look_at_queue()
            self._queue_until = trio.current_time() + FRESH_FOR
        return Response(self._daemon.metrics.text(), content_type=metrics.CONTENT_TYPE)

    async def _look_at_queue(self) -> Iterable[Metric]:
        store = self._daemon.store
        try:
            return metrics.of_queue(await store.count_tasks(), await store.oldest_queued())
        except StoreError:
            return ()

    def _present(self) -> Iterable[Metric]:
        daemon = self._daemon
        now = self._wall_clock.now().timestamp()
        yield from metrics.of_agents(daemon.supervisor.get_status(), now)
        yield from self._queue
        yield from metrics.of_daemon(
            health=daemon.health().status,
            store_up=daemon.records.away_because is None,
            records_waiting=daemon.records.waiting,
            unreadable=len(daemon.unreadable.ids),
            approvals_waiting=daemon.approvals.count,
            readers=daemon.events.readers,
            uptime=daemon.uptime,
        )
