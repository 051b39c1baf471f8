"""What is answered as JSON: the daemon's state in plain values."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Final

from quart import Response

STORE_TIMEOUT: Final = 2.0
"""Seconds that a page, `/readyz` and `/metrics` wait for the store before they call it away."""

JSON = Any
"""Whatever `json.dumps` accepts."""


def answer(value: object, status: int = 200, **headers: str) -> Response:
    """Answer with JSON; `headers` are named with underscores for hyphens."""
    return Response(
        json.dumps(plain(value)),
        status,
        headers={name.replace("_", "-"): text for name, text in headers.items()},
        content_type="application/json",
    )


def plain(value: object) -> JSON:
    """Turn rows and moments into JSON: moments as ISO 8601 in UTC, infinite numbers as null."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def agent_summary(agent_id: str, status: Mapping[str, Any]) -> dict[str, Any]:
    """Return one agent as `GET /agents` lists it: its status with the facts of its health apart."""
    health = {name: status[name] for name in _HEALTH if name in status}
    rest = {name: value for name, value in status.items() if name not in _HEALTH}
    return {"agent_id": agent_id, **rest, "health": health}


_HEALTH = (
    "doing",
    "store_error",
    "task_id",
    "step",
    "heartbeat_age",
    "progress_age",
    "paused",
    "paused_until",
    "throttled_until",
    "throttled_for",
    "throttled_age",
    "throttled_why",
    "tasks_done",
    "tasks_failed",
)
"""What of a status tells how the agent is doing just now."""
