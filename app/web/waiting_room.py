"""What is served at the daemon's address while its start waits for the store: that, and why."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio
from quart import Response, request

from actp_supervise import Restart, current_child, open_supervisor
from actp_supervise.clock import SystemWallClock
from actp_supervise.service import serve
from app.status import Alive, Health, HealthState
from app.web.application import make_app
from app.web.page import Templates
from app.web.problems import RETRY_AFTER, Problem
from app.web.routes import get, post
from app.web.views import answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from app.settings import Settings
    from app.store.protocol import StoreUnavailable
    from app.web.listening import Address

STOP_TIMEOUT: Final = 5.0
"""Seconds that it has to stop; it gives answers under way somewhat less."""


@asynccontextmanager
async def open_waiting_room(
    settings: Settings, address: Address, redact: Callable[[str], str]
) -> AsyncIterator[Callable[[StoreUnavailable], None]]:
    """Serve in the block, from the first wait on, why the daemon is not up yet.

    Gives what has to be told each time why it waits.

    Args:
        settings: How the daemon is called.
        address: Where to serve.
        redact: Takes secrets out of a text.
    """
    async with open_supervisor(name="waiting_room", shutdown_timeout=STOP_TIMEOUT) as supervisor:
        room = WaitingRoom(settings, address, redact)

        def wait(error: StoreUnavailable) -> None:
            if not room.why:
                supervisor.start_soon(room.serve, name="http", restart=Restart.TEMPORARY)
            room.why = f"waiting for the store: {error}"

        yield wait
        await supervisor.shutdown()


class WaitingRoom:
    """The web server of a daemon that is not up yet.

    Args:
        settings: How the daemon is called.
        address: Where to serve.
        redact: Takes secrets out of a text.
    """

    def __init__(self, settings: Settings, address: Address, redact: Callable[[str], str]) -> None:
        self.settings = settings
        self.redact = redact
        self._address = address
        self.why = ""
        """What it waits for, and why; empty before the first wait."""
        self._templates = Templates(redact, demo=settings.demo)
        self._started = trio.current_time()

    async def serve(self) -> None:
        """Serve until asked to stop."""
        app = make_app(self, [self])
        address = self._address
        stopping = current_child().stopping
        await serve(app, address.listeners(), stopping, accepted=address.take_left())

    @get("/health")
    async def _health(self) -> Response:
        return answer(self._state())

    def _state(self) -> Health:
        # Never critical: agents that are not there yet lose nothing, and a restart would not help.
        return Health(
            status=HealthState.DEGRADED,
            agents=sum(agent.enabled for agent in self.settings.agents),
            uptime=trio.current_time() - self._started,
            reasons=(f"the daemon is {self.why}",),
        )

    @get("/livez")
    async def _live(self) -> Response:
        return answer(Alive())

    @get("/")
    @get("/ui/<path:_address>")
    async def _page(self, _address: str = "") -> Response:
        page = self._templates.render(
            "waiting.html",
            503,
            now=SystemWallClock().now(),
            timezone=self.settings.timezone,
            health=self._state(),
            why=self.why,
        )
        response = page.response()
        response.headers["Retry-After"] = str(RETRY_AFTER)
        return response

    @get("/static/<name>")
    async def _asset(self, name: str) -> Response:
        return await self._templates.asset(name, request)

    @get("/<path:_address>")
    @post("/<path:_address>")
    async def _not_yet(self, _address: str) -> Response:
        headers = {"Retry-After": str(RETRY_AFTER)}
        raise Problem(503, f"The daemon is not up yet: it is {self.why}", headers=headers)
