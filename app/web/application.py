"""What all that is served has in common: the checks before a view, the headers after it, errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from quart import Response, request
from quart_trio import QuartTrio

from app.web import guard
from app.web.problems import answer_errors
from app.web.routes import routes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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


def make_app(owner: Owner, parts: Iterable[object]) -> QuartTrio:
    """Return an application with all routes that its parts declare."""
    views = [
        (route, getattr(part, name)) for part in parts for route, name in routes_of(type(part))
    ]
    refused = {route.rule for route, _ in views if route.refuses}
    app = QuartTrio(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = guard.MAX_BODY
    app.config["BODY_TIMEOUT"] = BODY_TIMEOUT
    # A doubled slash is another address, and not one to be redirected from.
    app.url_map.merge_slashes = False
    answer_errors(app)

    async def check() -> None:
        settings = owner.settings
        guard.check_request(request, bound_to=settings.health_host, token=settings.api_token)
        if request.method not in guard.SAFE_METHODS:
            # All of it, before anything is changed: what is cut off or broken changes nothing.
            await request.get_data(cache=True, as_text=False, parse_form_data=False)

    async def finish(response: Response) -> Response:
        # Agents and their tools write what is shown, so whatever is shown is looked through.
        if response.is_json or response.mimetype in {"text/html", "text/plain"}:
            response.set_data(owner.redact(await response.get_data(as_text=True)))
        if request.path in refused and "Allow" in response.headers:
            # The router counts the route that only refuses, and that of an agent of this name.
            response.headers["Allow"] = "OPTIONS, POST"
        return guard.secure(response)

    app.before_request(check)
    app.after_request(finish)
    for route, view in views:
        app.add_url_rule(route.rule, str(route), view, methods=[route.method])
    return app
