"""Whether Claude's API takes the key: one call that costs nothing, for `--dry-run`."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx
import trio

from actp_supervise.service import is_loopback, shorten, visible, why
from app.settings import Settings, SettingsError

if TYPE_CHECKING:
    from app.facts import JSON

ANTHROPIC: Final = "https://api.anthropic.com"

TIMEOUT: Final = 10.0
"""Seconds that the trial may take in all."""

_REFUSED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


async def try_key(settings: Settings) -> str:
    """Ask the API for a model, and return in words what came of it.

    Where the API cannot be reached, or answers otherwise, the key was not tried, and that is said.

    Raises:
        SettingsError: If the API refuses the key.
    """
    base = (settings.anthropic_base_url or ANTHROPIC).rstrip("/")
    host = urlsplit(base).hostname or base
    try:
        with trio.fail_after(TIMEOUT):
            answer = await _ask(base, settings.anthropic_api_key or "", host)
    except (httpx.HTTPError, trio.TooSlowError) as error:
        return f"not tried, {host} cannot be reached: {shorten(visible(why(error)), 200)}"
    if answer.status_code in _REFUSED:
        raise SettingsError(f"ANTHROPIC_API_KEY: {host} refuses it: {_reason(answer)}")
    if answer.is_success:
        return f"{host} takes it"
    return f"not tried, {host} answered {answer.status_code}: {_reason(answer)}"


async def _ask(base: str, key: str, host: str) -> httpx.Response:
    # A proxy that the environment names would look for our own machine on its own.
    async with httpx.AsyncClient(trust_env=not is_loopback(host), timeout=TIMEOUT) as http:
        headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
        return await http.get(f"{base}/v1/models", params={"limit": 1}, headers=headers)


def _reason(answer: httpx.Response) -> str:
    """Return what the API says is wrong, in one line."""
    try:
        body: JSON = answer.json()
        message = str(body["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = answer.reason_phrase or "no reason given"
    return shorten(visible(message), 200)
