"""Who may ask: the checks that every request passes before its view, and the headers after it.

A loopback address is no boundary: any page that the operator's browser shows can send requests to
it, and by DNS rebinding can read the answers too. So the Host must be a name of ours, whatever
changes something must not come from another site, and must carry the token where one is set.
"""

from __future__ import annotations

import hmac
import re
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from actp_supervise.service import is_loopback
from app.web.problems import Problem

if TYPE_CHECKING:
    from quart import Request, Response

MAX_BODY: Final = 65_536
"""Bytes of a request body."""

LOGIN: Final = "/login"

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+)(:[0-9]{1,5})?")


def check_request(request: Request, *, bound_to: str, token: str | None) -> None:
    """Refuse a request that this server must not answer.

    Raises:
        Problem: 421 for a foreign Host; for a method that changes something, what `check_change`
            raises, 413 for a body too large, 415 for one that is not JSON.
    """
    if not is_own_host(request.headers.get("Host", ""), bound_to):
        raise Problem(
            421,
            "This server does not answer under that Host. Use localhost, 127.0.0.1 or [::1], or "
            "set WORKER_HEALTH_HOST to the name it is reached by.",
        )
    if request.method not in SAFE_METHODS:
        # The body of a login is the token.
        check_change(request, None if request.path == LOGIN else token)
        _check_body(request)


def check_change(request: Request, token: str | None) -> None:
    """Refuse a request to change something that comes from another site or lacks the token.

    Raises:
        Problem: 403 from another site or as a prefetch, 401 for a token missing or wrong.
    """
    headers = request.headers
    site = headers.get("Sec-Fetch-Site", "none").lower()
    # A browser that knows no Sec-Fetch-Site sends no Origin with a GET, but where it came from.
    origin = headers.get("Origin", headers.get("Referer"))
    if site not in {"none", "same-origin"} or (
        origin is not None and _host_of(origin) != headers["Host"].lower()
    ):
        raise Problem(403, "Requests that change something are not taken from other sites.")
    if "prefetch" in headers.get("Sec-Purpose", headers.get("Purpose", "")).lower():
        raise Problem(403, "A prefetch may not change anything.")
    if token is not None:
        _check_token(headers.get("Authorization", ""), token)


def check_no_browser(request: Request) -> None:
    """Refuse to change anything by a GET that a browser sends on its way to a page.

    A link in a mail may lead anywhere and be redirected to here, and a browser then says nothing of
    where it came from: it has not, as the user began it (w3c/webappsec-fetch-metadata#39).

    Raises:
        Problem: 403, with what to do in place of it.
    """
    headers = request.headers
    is_navigation = headers.get("Sec-Fetch-Mode", "").lower() == "navigate"
    is_of_browser = "Sec-Fetch-Dest" in headers or "text/html" in headers.get("Accept", "").lower()
    if is_navigation or is_of_browser:
        raise Problem(403, "A link that a browser follows changes nothing. Use the agent's page.")


def _host_of(address: str) -> str:
    return address.lower().partition("://")[2].partition("/")[0]


def is_own_host(header: str, bound_to: str) -> bool:
    """Whether a Host header names this server, whose listening address is `bound_to`.

    Any port will do, as a forwarded one is not ours. Listening on loopback, the names are the
    loopback ones and `bound_to`; otherwise also any IP address, which cannot be rebound, and the
    machine's own name.
    """
    match = _HOST.fullmatch(header)
    if match is None:
        return False
    name = match["name"].strip("[]").lower()
    if name in {"localhost", bound_to.lower()}:
        return True
    reachable = not is_loopback(bound_to)
    try:
        return ip_address(name).is_loopback or reachable
    except ValueError:
        return reachable and name == socket.gethostname().lower()


def bearer(authorization: str) -> str | None:
    """Return the token of an Authorization header; None where it has none."""
    scheme, _, given = authorization.partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


def _check_token(authorization: str, token: str) -> None:
    scheme, _, given = authorization.partition(" ")
    # Bytes, because compare_digest refuses text beyond ASCII; a header is Latin-1.
    known = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token.encode())
    if scheme.lower() != "bearer" or not known:
        challenge = 'Bearer realm="worker"' + (', error="invalid_token"' if authorization else "")
        raise Problem(
            401,
            "This needs the header 'Authorization: Bearer <WORKER_API_TOKEN>'.",
            headers={"WWW-Authenticate": challenge},
        )


def _check_body(request: Request) -> None:
    length = request.content_length or 0
    if length > MAX_BODY:
        raise Problem(413, f"The request body may have at most {MAX_BODY} bytes.")
    has_body = length > 0 or "Transfer-Encoding" in request.headers
    if has_body and request.mimetype != "application/json":
        raise Problem(415, "The request body must be application/json.")


def secure(response: Response) -> Response:
    """Add the headers that every answer carries."""
    for name, value in SECURITY_HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Cache-Control", "no-store")
    return response
