"""How a view answers with JSON."""

from __future__ import annotations

import json
from typing import Final

from quart import Response

from app.facts import to_json

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
