"""HealthServer: the daemon's state over HTTP, what an operator may change, and the page."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import trio
from werkzeug.exceptions import InternalServerError, NotFound

from actp_supervise import current_child
from actp_supervise.service import StopRequest, format_address, is_loopback, serve
from app.event_kinds import EventKind
from app.web.api import Api
from app.web.application import make_app
from app.web.attempts import Attempts
from app.web.commands import Commands, open_commands
from app.web.item_pages import ItemPages
from app.web.items import Items
from app.web.listening import Address
from app.web.live import Live
from app.web.login import Login, LoginNeeded
from app.web.openapi import Description
from app.web.pages import Pages
from app.web.scrape import Scrape

if TYPE_CHECKING:
    from quart_trio import QuartTrio

    from app.daemon import Daemon


class HealthServer:
    """The web server of one daemon, run as a child of the supervision tree.

    Reading is open to whoever reaches the port, unless there is a token for it too; changing needs
    the token where one is set. What takes long (a restart, a stop) is begun and answered with 202.

    Args:
        daemon: The running daemon's parts.
        address: Where it serves, if that is had already; else it takes the port that it is told.
        live: What answers at `/events`; made of the daemon's events where not given.
    """

    def __init__(
        self, daemon: Daemon, *, address: Address | None = None, live: Live | None = None
    ) -> None:
        self._daemon = daemon
        self._address = address
        self._live = Live(daemon.events) if live is None else live

    async def start(
        self, port: int = 8090, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until asked to stop; `started` gets the address, as `http://127.0.0.1:8090`.

        Raises:
            AddressUnavailableError: If the port is taken or the host is not this machine's.
            ValueError: If others could reach it and there is no token.
        """
        settings = self._daemon.settings
        host = settings.health_host
        if not is_loopback(host) and settings.api_token is None:
            raise ValueError(f"WORKER_HEALTH_HOST={host} needs WORKER_API_TOKEN to be set")
        async with AsyncExitStack() as stack:
            address = self._address or stack.enter_context(await Address.open(host, port))
            commands = await stack.enter_async_context(open_commands())
            app = self.make_app(commands)
            task_status.started(f"http://{format_address(host, address.port)}")
            await serve(app, address.listeners(), _stop_request(), accepted=address.take_left())

    def make_app(self, commands: Commands) -> QuartTrio:
        """Return the application with all its routes.

        Args:
            commands: Takes what lasts longer than a request.
        """
        pages = Pages(self._daemon)
        attempts = Attempts(self._tell_of_tries)
        parts = (
            Login(self._daemon, attempts, self._daemon.wall_clock),
            Api(self._daemon, commands),
            Items(self._daemon),
            pages,
            ItemPages(self._daemon),
            self._live,
            Scrape(self._daemon),
            Description(self._daemon),
        )
        app = make_app(self._daemon, parts, attempts=attempts)
        app.register_error_handler(LoginNeeded, pages.login)
        app.register_error_handler(NotFound, pages.nowhere)
        app.register_error_handler(InternalServerError, pages.broken)
        return app

    def _tell_of_tries(self, text: str) -> None:
        self._daemon.events.publish(EventKind.TOKENS_WRONG, text)


def _stop_request() -> StopRequest:
    try:
        return current_child().stopping
    except RuntimeError:  # outside a tree it is stopped by cancelling
        return trio.Event()
