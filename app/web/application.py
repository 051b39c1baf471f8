"""What all that is served has in common: the checks before a view, the headers after it, errors."""

from __future__ import annotations

import json
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

from quart import Response, request
from quart_trio import QuartTrio

from actp_supervise.clock import SystemWallClock, WallClock
from app.web import guard
from app.web.attempts import Attempts
from app.web.login import check_read
from app.web.problem_details import ProblemDetails
from app.web.problems import Problem, answer_errors
from app.web.routes import routes_of
from app.web.schemas import field_names

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from quart import Request
    from werkzeug.routing import Map

    from app.facts import JSON
    from app.settings import Settings

BODY_TIMEOUT: Final = 10.0
"""Seconds within which a request body has to arrive."""


class Owner(Protocol):
    """Whose state is served."""

    @property
    def settings(self) -> Settings:
        """Those in force."""

    @property
    def redact(self) -> Callable[[str], str]:
        """Takes secrets out of a text."""


def make_app(
    owner: Owner,
    parts: Iterable[object],
    *,
    attempts: Attempts | None = None,
    clock: WallClock | None = None,
) -> QuartTrio:
    """Return an application with all routes that its parts declare.

    Args:
        owner: Whose state is served.
        parts: What answers.
        attempts: Slows those who try many tokens.
        clock: Tells the time of day; the machine's where not given.
    """
    tries = Attempts(lambda _text: None) if attempts is None else attempts
    wall_clock = SystemWallClock() if clock is None else clock
    views = [
        (route, getattr(part, name)) for part in parts for route, name in routes_of(type(part))
    ]
    answers = (kind for route, _ in views for kind in route.answers.values())
    ours = field_names((ProblemDetails, *(kind for kind in answers if not isinstance(kind, str))))
    refused = {route.rule for route, _ in views if route.refuses}
    app = QuartTrio(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = guard.MAX_BODY
    app.config["BODY_TIMEOUT"] = BODY_TIMEOUT
    app.url_map = _addresses(tuple((route.method, route.rule) for route, _ in views))
    app.view_functions = {str(route): view for route, view in views}
    answer_errors(app)

    async def check() -> None:
        settings = owner.settings
        client, gives_token = _who(request)
        if gives_token and settings.api_token is not None:
            await tries.turn(client)
        try:
            guard.check_request(request, bound_to=settings.health_host, token=settings.api_token)
            check_read(settings, wall_clock)
        except Problem as problem:
            if gives_token and problem.status == HTTPStatus.UNAUTHORIZED:
                tries.was_wrong(client)
            raise
        if request.method not in guard.SAFE_METHODS:
            # All of it, before anything is changed: what is cut off or broken changes nothing.
            await request.get_data(cache=True, as_text=False, parse_form_data=False)

    async def finish(response: Response) -> Response:
        # Agents and their tools write what is shown, so whatever is shown is looked through.
        text = await response.get_data(as_text=True) if _is_shown(response) else ""
        clean = _redact_json(text, owner.redact, ours) if response.is_json else owner.redact(text)
        if clean != text:
            response.set_data(clean)
        if request.path in refused and "Allow" in response.headers:
            # The router counts the route that only refuses, and that of an agent of this name.
            response.headers["Allow"] = "OPTIONS, POST"
        return guard.secure(response)

    app.before_request(check)
    app.after_request(finish)
    return app


@cache
def _addresses(routes: tuple[tuple[str, str], ...]) -> Map:
    """Return the router for methods of addresses, which is made once: it compiles each of them."""
    app = QuartTrio(__name__, static_folder=None)
    # A doubled slash is another address, and not one to be redirected from.
    app.url_map.merge_slashes = False
    for method, rule in routes:
        app.add_url_rule(rule, f"{method} {rule}", methods=[method])
    return app.url_map


def _who(request: Request) -> tuple[str, bool]:
    """Return the address that asks, and whether it gives a token."""
    client = request.remote_addr or "an unknown address"
    return client, "Authorization" in request.headers


def _is_shown(response: Response) -> bool:
    return response.is_json or response.mimetype in {"text/html", "text/plain"}


def _redact_json(text: str, redact: Callable[[str], str], ours: Collection[str]) -> str:
    """Take secrets out of JSON: out of values, and out of keys that are no field's name.

    A token that is called as a field would take that out of every answer, and so be known.
    """
    if redact(text) == text:
        return text
    return json.dumps(_redacted(json.loads(text), redact, ours))


def _redacted(value: JSON, redact: Callable[[str], str], ours: Collection[str]) -> JSON:
    if isinstance(value, dict):
        return {
            key if key in ours else redact(key): _redacted(item, redact, ours)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_redacted(item, redact, ours) for item in value]
    return redact(value) if isinstance(value, str) else value
