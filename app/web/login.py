"""Logging in where reading is not open: a token once, and a cookie from then on."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BaseModel, ConfigDict, Field
from quart import Response, request
from werkzeug.exceptions import NotFound

from app.web import guard
from app.web.inputs import parse_body
from app.web.problems import Problem
from app.web.routes import post

if TYPE_CHECKING:
    from actp_supervise.clock import WallClock
    from app.settings import Settings
    from app.web.application import Owner
    from app.web.attempts import Attempts

COOKIE: Final = "worker_session"

LASTS: Final = 7 * 86_400
"""Seconds that a login lasts."""

OPEN: Final = frozenset({"/livez", "/readyz", guard.LOGIN})
FILES: Final = "/static/"
"""What can be read without a token: whether the daemon lives, and what the login page loads."""


class LoginNeeded(Problem):
    """Reading needs a token here; a browser is shown a page that asks for it."""

    def __init__(self) -> None:
        super().__init__(
            401,
            "Reading needs the header 'Authorization: Bearer <WORKER_READ_TOKEN>'.",
            headers={"WWW-Authenticate": 'Bearer realm="worker"'},
        )


class LoginRequest(BaseModel):
    """The body of `POST /login`."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    token: Annotated[str, Field(min_length=1, max_length=1000)]
    """The token to read with, or the one that changes things."""


def is_open_to_read(path: str) -> bool:
    """Whether an address can be read without a token, wherever one is needed to read."""
    return path in OPEN or path.startswith(FILES)


def check_read(settings: Settings, clock: WallClock) -> None:
    """Refuse to answer a request that may not read.

    Raises:
        LoginNeeded: If it has neither a token nor the cookie of a login.
    """
    if settings.read_token is None or is_open_to_read(request.path):
        return
    given = guard.bearer(request.headers.get("Authorization", ""))
    if given is not None and is_token(given, settings):
        return
    if not _is_session(request.cookies.get(COOKIE, ""), settings, clock):
        raise LoginNeeded


def is_token(given: str, settings: Settings) -> bool:
    """Whether a text is one of the tokens by which one may read."""
    # Each is compared, so that the time tells nothing.
    found = [
        hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())
        for token in (settings.read_token, settings.api_token)
        if token is not None
    ]
    return any(found)


class Login:
    """What answers at `/login`.

    Args:
        owner: Whose tokens they are.
        attempts: Slows those who try many.
        clock: Tells the time of day.
    """

    def __init__(self, owner: Owner, attempts: Attempts, clock: WallClock) -> None:
        self._owner = owner
        self._attempts = attempts
        self._clock = clock

    @post(
        "/login",
        "Log a browser in, to read",
        details="Sets a cookie by which it may read for seven days. Changes need the token itself.",
        answers={204: ""},
        problems=(400, 401, 404, 422, 429),
        body=LoginRequest,
        needs_token=False,
    )
    async def _login(self) -> Response:
        settings = self._owner.settings
        if settings.read_token is None:
            raise NotFound
        body = await request.get_data(cache=True, as_text=False, parse_form_data=False)
        wanted = parse_body(LoginRequest, body)
        client = request.remote_addr or "an unknown address"
        await self._attempts.turn(client)
        if not is_token(wanted.token, settings):
            self._attempts.was_wrong(client)
            raise Problem(
                401, "That is not the token.", headers={"WWW-Authenticate": 'Bearer realm="worker"'}
            )
        until = int(self._clock.now().timestamp()) + LASTS
        response = Response("", 204)
        response.set_cookie(
            COOKIE,
            f"{until}.{_signature(until, settings)}",
            max_age=LASTS,
            httponly=True,
            samesite="Strict",
        )
        return response


def _is_session(cookie: str, settings: Settings, clock: WallClock) -> bool:
    until, _, signature = cookie.partition(".")
    if not (until.isascii() and until.isdecimal() and len(until) <= 12):
        return False
    known = _signature(int(until), settings)
    is_ours = hmac.compare_digest(signature.encode("utf-8", "replace"), known.encode())
    return is_ours and clock.now().timestamp() < int(until)


def _signature(until: int, settings: Settings) -> str:
    """Return what only who knows the tokens can make; a new token ends all logins."""
    key = f"{settings.read_token}\n{settings.api_token}".encode()
    return hmac.new(key, f"session until {until}".encode(), hashlib.sha256).hexdigest()
