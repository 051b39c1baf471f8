"""The daemon's HTTP API as the commands use it."""

from __future__ import annotations

import ssl
from contextlib import aclosing, asynccontextmanager, contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, TypeVar

import httpx
from httpx_sse import EventSource

from app.facts import JSON, from_json
from app.running import find
from app.settings import Settings, SettingsError
from app.terminal.errors import DaemonAwayError, DaemonError, RefusedError
from app.web.problem_details import ProblemDetails

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from httpx_sse import ServerSentEvent

T = TypeVar("T")

ANSWER_WITHIN: Final = 15.0
"""Seconds until an answer that does not come is given up."""

SILENT_AFTER: Final = 40.0
"""Seconds without a word after which a stream is dead: the daemon sends a ping every 15."""


class Api:
    """A daemon to be asked; made by `open_api`.

    All methods raise `DaemonAwayError` if none answers, `RefusedError` if it refuses, and
    `DaemonError` if what answers is something else.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        address: str,
        token: str | None,
        read_token: str | None = None,
    ) -> None:
        self.address = address
        self._http = http
        self._authorization = _bearer(token)
        self._to_read = _bearer(read_token or token)

    async def get(self, kind: type[T], path: str, **query: str | int) -> T:
        """Return what is answered at an address, as a value of that kind."""
        with self._in_words():
            answer = await self._http.get(path, params=query, headers=self._to_read)
            return self._read(kind, answer)

    async def post(self, kind: type[T], path: str, body: JSON = None) -> T:
        """Ask the daemon for a change; return its answer, as a value of that kind."""
        with self._in_words():
            answer = await self._http.post(
                path, json={} if body is None else body, headers=self._authorization
            )
            return self._read(kind, answer)

    @asynccontextmanager
    async def events(
        self, *, last_id: str | None = None, **query: str | int
    ) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
        """Follow the events for the time of the block.

        Args:
            last_id: The last that is known, after which to begin.
            query: What is wanted, as `GET /events` has it.
        """
        headers = {"Accept": "text/event-stream", **self._to_read}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        timeout = httpx.Timeout(ANSWER_WITHIN, read=SILENT_AFTER)
        with self._in_words():
            async with self._http.stream(
                "GET", "/events", params=query, headers=headers, timeout=timeout
            ) as response:
                if not _is(response, "text/event-stream"):
                    await response.aread()
                    self._read(object, response)
                    raise self._stranger()
                async with aclosing(EventSource(response).aiter_sse()) as events:
                    yield events

    def _read(self, kind: type[T], response: httpx.Response) -> T:
        if _is(response, "application/problem+json"):
            self._refuse(response)
        # A daemon that is critical says so with a 503, and this is an answer too.
        answered = response.is_success or response.status_code == httpx.codes.SERVICE_UNAVAILABLE
        if not answered or not _is(response, "application/json"):
            raise self._stranger()
        try:
            return from_json(kind, response.json())
        except ValueError:
            raise self._stranger() from None

    def _refuse(self, response: httpx.Response) -> None:
        try:
            problem = from_json(ProblemDetails, response.json())
        except ValueError:
            raise self._stranger() from None
        detail, errors = problem.detail, problem.errors or ()
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise DaemonAwayError(f"the daemon at {self.address} cannot just now: {detail}")
        raise RefusedError(detail, status=response.status_code, errors=errors)

    def _stranger(self) -> DaemonError:
        return DaemonError(
            f"what answers at {self.address} is no worker daemon; see WORKER_HEALTH_PORT"
        )

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise DaemonAwayError(
                f"a daemon at {self.address} is not there (WORKER_HEALTH_HOST, "
                "WORKER_HEALTH_PORT); start one with: python -m app.main"
            ) from error
        except httpx.TimeoutException as error:
            raise DaemonAwayError(
                f"the daemon at {self.address} does not answer in time"
            ) from error
        except httpx.RemoteProtocolError as error:
            raise DaemonAwayError(f"the daemon at {self.address} hung up") from error
        except httpx.TransportError as error:
            raise DaemonAwayError(f"the connection to {self.address} broke: {error}") from error


@asynccontextmanager
async def open_api(settings: Settings) -> AsyncIterator[Api]:
    """Get ready to ask the daemon that runs on this machine, or that listens where is set.

    Raises:
        SettingsError: If several run here, or none, and the settings do not say which or where.
    """
    address = address_of(settings)
    http = httpx.AsyncClient(
        base_url=address,
        timeout=ANSWER_WITHIN,
        trust_env=False,  # no proxy stands between a machine and itself
        # Not used, but the one made by default reads all certificates first.
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    async with http:
        yield Api(http, address, settings.api_token, settings.read_token)


class AddressUnknownError(SettingsError):
    """No daemon runs here, and the settings do not say where else one may listen."""


def address_of(settings: Settings) -> str:
    """Return the address at which the daemon can be asked that these settings are about.

    Raises:
        AddressUnknownError: If none runs here, and the port is chosen by a daemon itself.
        SettingsError: If several run here, and which one is meant is not said.
    """
    running = find(settings)
    if running is not None:
        return _address(running.host, running.port)
    if settings.health_port == 0:
        raise AddressUnknownError(
            "WORKER_HEALTH_PORT=0: a daemon takes a port that is free, and none of yours runs on "
            "this machine"
        )
    return _address(settings.health_host, settings.health_port)


def _address(host: str, port: int) -> str:
    try:
        ip = ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if ip.is_unspecified:  # it listens everywhere, so here too
        host = "127.0.0.1" if ip.version == 4 else "::1"
    return f"http://{f'[{host}]' if ip.version == 6 else host}:{port}"


def _bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _is(response: httpx.Response, media_type: str) -> bool:
    content_type: str = response.headers.get("Content-Type", "")
    return content_type.partition(";")[0].strip() == media_type
