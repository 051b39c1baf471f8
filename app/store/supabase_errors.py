"""What Supabase answers when something is wrong, in the store's own words.

The codes are those of PostgREST 12 and newer; where they differ, both are here. What does not come
from PostgREST at all (a gateway's page, a half answer, no answer) is taken for "away just now".
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

import httpx
from postgrest import APIError

from actp_supervise.service import shorten
from app.store.errors import StoreError, StoreUnavailable, TableMissing, WrongSettings
from app.store.schema import MIGRATION_COMMAND

if TYPE_CHECKING:
    from postgrest.types import JSON

MOST_SAID: Final = 200
"""Characters of what the project said: it may be a whole page of HTML."""

__all__ = [
    "FunctionMissing",
    "KeyRefused",
    "PassingFault",
    "StrangeAnswer",
    "WrongSettings",
    "in_store_words",
    "refuse_strange_answers",
]

_AWAY = (
    "PGRST000",  # PostgREST reaches no database
    "PGRST001",
    "PGRST002",  # nor has read the schema
    "PGRST003",  # all its connections are in use
    "PGRSTX",  # an error inside PostgREST
    "08",  # connection lost
    "0A000",  # a replica that is not promoted yet; a plan from before a migration
    "25006",  # read-only, as Supabase makes a database whose disk is full
    "40001",  # serialization failure
    "40P01",  # deadlock
    "53",  # out of connections, memory, disk
    "55P03",  # lock not available
    "57",  # statement timeout, shutdown, starting up
    "58",  # a file of the database cannot be read
    "XX",  # an error inside PostgreSQL
)
"""Beginnings of codes that pass."""

_KEY_REFUSED = ("PGRST301", "PGRST302", "PGRST303", "28")
"""A bad or expired key."""

_DENIED = "42501"
"""A good key, of a role that may not."""

_NOT_EXPOSED = "PGRST106"

_MISSING = {
    "42P01": "a table",
    "PGRST205": "a table",
    "42704": "a table",  # of whose rows a function would answer
    "3F000": "a schema",
    "42703": "a column",
    "PGRST204": "a column",
    "PGRST202": "a function",
    "PGRST203": "a function",  # or has two of the name, half migrated
    "42725": "a function",
    "42883": "a function",
}

_OUTDATED = re.compile(r"attribute \d+ of type record")
"""A column was dropped or changed, and PostgREST has not read the schema anew."""

_CODE = re.compile("PGRST[0-9A-Z]+|[0-9A-Z]{5}")
"""What PostgREST and PostgreSQL call an error; a gateway may have numbers of its own."""

_TOO_LARGE = (413, 414)
_TOO_MANY_REQUESTS = 429


class PassingFault(StoreUnavailable):
    """Away for what may be a moment: worth another try at once."""


class KeyRefused(PassingFault):
    """The key is not taken; a good one may be refused for a moment, so it is tried again."""


class RoleDenied(StoreUnavailable):
    """The key is taken and will not do: it expired, or is of a role that may not."""


class NotExposed(StoreUnavailable):
    """The project's API does not show the schema with the tables."""


class FunctionMissing(TableMissing):
    """The migrations were not applied, or only older ones."""


class StrangeAnswer(Exception):
    """An answer that is not PostgREST's."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        """The status of HTTP."""
        self.text = text
        super().__init__(status, text)


async def refuse_strange_answers(response: httpx.Response) -> None:
    """Look at each answer before supabase-py does, which would take any text for data.

    Raises:
        StrangeAnswer: If it is neither data nor an error with a code.
    """
    content = await response.aread()
    try:
        answer: JSON = json.loads(content) if content else None
    except (ValueError, RecursionError):
        raise StrangeAnswer(response.status_code, response.text) from None
    if response.is_success:
        return
    error = answer if isinstance(answer, dict) else {}
    code = error.get("code")
    if not (isinstance(code, str) and _CODE.fullmatch(code)):
        raise StrangeAnswer(response.status_code, str(error.get("message") or response.text))


def in_store_words(error: Exception, where: str) -> StoreError:
    """Turn an error of supabase-py or httpx into one of the store's.

    Args:
        error: What was raised.
        where: Where the data is, for the message.
    """
    if isinstance(error, StrangeAnswer):
        return _strange(error, where)
    if isinstance(error, APIError):
        return _refused(error, where)
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return StoreError(f"{where} cannot be asked: {error}")
    if isinstance(error, httpx.HTTPError):
        return PassingFault(f"{where} cannot be reached: {_named(error)}")
    return StoreError(f"{where} cannot be asked: {_named(error)}")


def _strange(error: StrangeAnswer, where: str) -> StoreError:
    said = shorten(error.text, MOST_SAID) or "nothing that makes sense"
    message = f"{where} answered with status {error.status}: {said}"
    if error.status in (401, 403):
        return KeyRefused(message)
    if error.status in _TOO_LARGE:
        return StoreError(message)
    if error.status == _TOO_MANY_REQUESTS:
        return StoreUnavailable(message)
    return PassingFault(message)


def _refused(error: APIError, where: str) -> StoreError:
    code = str(error.code)
    message = f"{code} {shorten(error.message or '', MOST_SAID)}"
    if code == _DENIED:
        hint = f"if that is the service role, it gets its rights back by: {MIGRATION_COMMAND}"
        return RoleDenied(f"{where} denies this to the key's role: {message}; {hint}")
    if code.startswith(_KEY_REFUSED):
        refusal = RoleDenied if "expired" in message.lower() else KeyRefused
        return refusal(f"{where} refused the key: {message}")
    if code == _NOT_EXPOSED:
        return NotExposed(
            f"{where} does not expose the schema public, where the tables are: add it in the "
            f"dashboard under Settings, Data API, Exposed schemas ({message})"
        )
    if code.startswith(_AWAY) or _OUTDATED.match(error.message or ""):
        return PassingFault(f"{where} cannot be used just now: {message}")
    if code in ("PGRST202", "42883"):
        return FunctionMissing(f"{where} lacks a function: {message}")
    if code in _MISSING:
        return TableMissing(f"{where} lacks {_MISSING[code]}: {message}")
    return StoreError(f"{where} refused: {message}")


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {shorten(str(error), MOST_SAID)}".removesuffix(": ")
