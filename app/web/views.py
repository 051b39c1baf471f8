"""How a view reads JSON and answers with it."""

from __future__ import annotations

import json
from typing import Final

from quart import Response, request

from app.facts import to_json
from app.web.problems import Problem

STORE_TIMEOUT: Final = 2.0
"""Seconds that a page, `/readyz` and `/metrics` wait for the store before they call it away."""


def answer(value: object, status: int = 200, **headers: str) -> Response:
    """Answer with JSON; `headers` are named with underscores for hyphens."""
    return Response(
        json.dumps(to_json(value)),
        status,
        headers={name.replace("_", "-"): text for name, text in headers.items()},
        content_type="application/json",
    )


async def json_body() -> bytes:
    """Return the body of a request that has to be JSON.

    Raises:
        Problem: 415, if it says that it is something else.
    """
    if request.mimetype != "application/json":
        raise Problem(415, "The request body must be application/json.")
    return await request.get_data(cache=True, as_text=False, parse_form_data=False)
