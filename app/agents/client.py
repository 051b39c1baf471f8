"""The client of Claude's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from actp_supervise.service import is_loopback

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic


def make_client(api_key: str | None, base_url: str | None) -> AsyncAnthropic:
    """Make a client, to be called in the loop that will use it.

    Args:
        api_key: The key.
        base_url: Where the API is; None for Anthropic's own.
    """
    import anthropic  # takes seconds, and not every class needs it

    options: dict[str, Any] = {"api_key": api_key}
    if base_url is not None:
        options["base_url"] = base_url
        if is_loopback(urlsplit(base_url).hostname or ""):
            # A proxy that the environment names would look for it on its own machine.
            directly = dict.fromkeys(("all://", "http://", "https://"))
            options["http_client"] = anthropic.DefaultAsyncHttpxClient(mounts=directly)
    return anthropic.AsyncAnthropic(**options)
