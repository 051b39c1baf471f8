"""What a call of the model has used, read from what the API says of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .prices import Usage

MOST_TOKENS: Final = 10**9
"""More than any call can use: a greater count is nonsense."""

_TOKENS: Final = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_input_tokens",
}


def usage_of(usage: object) -> Usage:
    """Return the usage of a message, including what the API counts by itself.

    Args:
        usage: The `usage` of a message, as JSON.

    Raises:
        ValueError: If it makes no sense.
    """
    if not isinstance(usage, Mapping):
        raise ValueError("the usage is no object")
    # A compaction is billed, and not in the sums.
    parts = [usage, *(i for i in _list(usage.get("iterations")) if i.get("type") == "compaction")]
    counts = [_counts(part) for part in parts]
    tools = usage.get("server_tool_use")
    searches = _count(tools.get("web_search_requests")) if isinstance(tools, Mapping) else 0
    return Usage(
        **{name: sum(count[name] for count in counts) for name in counts[0]},
        web_searches=searches,
        inference_geo=_text(usage.get("inference_geo")),
        service_tier=_text(usage.get("service_tier")),
    )


def _counts(usage: Mapping[str, Any]) -> dict[str, int]:
    written = _count(usage.get("cache_creation_input_tokens"))
    creation = usage.get("cache_creation")
    for_an_hour = (
        _count(creation.get("ephemeral_1h_input_tokens")) if isinstance(creation, Mapping) else 0
    )
    return {
        **{name: _count(usage.get(theirs)) for name, theirs in _TOKENS.items()},
        "cache_write_5m_tokens": max(0, written - for_an_hour),
        "cache_write_1h_tokens": for_an_hour,
    }


def _count(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_TOKENS:
        raise ValueError("it says that it used what no call can")
    return value


def _list(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def tokens_of(usage: Usage) -> int:
    """Return all tokens of a call: what the next prompt of its conversation has at least."""
    return usage.prompt_tokens + usage.output_tokens
