"""The client of Claude's API."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from actp_supervise.service import is_loopback

if TYPE_CHECKING:
    import ssl

    from anthropic import AsyncAnthropic


def make_client(api_key: str | None, base_url: str | None) -> AsyncAnthropic:
    """Make a client, to be called in the loop that will use it.

    Args:
        api_key: The key.
        base_url: Where the API is; None for Anthropic's own.
    """
    import anthropic  # takes seconds, and not every class needs it

    options: dict[str, Any] = {"verify": _trusted()}
    if base_url is not None and is_loopback(urlsplit(base_url).hostname or ""):
        # A proxy that the environment names would look for it on its own machine.
        options["mounts"] = dict.fromkeys(("all://", "http://", "https://"))
    http = anthropic.DefaultAsyncHttpxClient(**options)
    return anthropic.AsyncAnthropic(api_key=api_key, base_url=base_url, http_client=http)


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Return the certificates that are trusted, for all clients of this process.

    Each client would read them anew: 0.03 s and 0.8 MB for each agent.
    """
    import httpx2  # which the SDK uses, and which takes as long

    return httpx2.create_ssl_context()
