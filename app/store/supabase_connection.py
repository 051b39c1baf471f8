"""The connection to a Supabase project: one client, used from Trio alone.

supabase-py runs under Trio as it is, but for its own retry, which is asyncio's: that is off, and
ours repeats whatever may pass, because each verb of the store may be repeated.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import httpx
import msgspec
import supabase
import trio
from postgrest import APIError

from actp_supervise import Backoff
from actp_supervise.service import retry
from app.store.errors import (
    NO_THREAD,
    StoreError,
    StoreUnavailable,
    WrongSettings,
    is_out_of_threads,
)
from app.store.records import clean, json_text
from app.store.supabase_errors import (
    PassingFault,
    StrangeAnswer,
    in_store_words,
    refuse_strange_answers,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from postgrest import AsyncSelectRequestBuilder

    from app.store.verbs import JSON

    Reader = Callable[[Any], Any]

RowT = TypeVar("RowT")

ANSWER_WITHIN: Final = 10.0
"""Seconds that one request may take in all."""

CONNECT_WITHIN: Final = 5.0

PATIENCE: Final = 3.0
"""Seconds for which a call is repeated; whoever called can wait longer and call again."""

RETRY_BACKOFF: Final = Backoff(initial=0.1, factor=2.0, maximum=1.0)

_OK: Final = 200

MAX_ROWS: Final = 1000
"""Rows that are asked for at once. A project may allow fewer, and then cuts without a word."""


def any_rows(answer: JSON) -> list[dict[str, JSON]]:
    """Read rows of a table, whatever is in them.

    Raises:
        ValueError: If it is no list of them.
    """
    rows: list[dict[str, JSON]] = msgspec.convert(answer, list[dict[str, Any]])
    return rows


class Request(Protocol):
    """A request of supabase-py, ready to be sent."""

    async def execute(self) -> Any:  # noqa: ANN401  (an answer with `data`)
        """Send it."""


class SupabaseDatabase:
    """An open connection to a project."""

    def __init__(
        self,
        client: supabase.AsyncClient,
        http: httpx.AsyncClient,
        url: str,
        *,
        answer_within: float,
        patience: float,
    ) -> None:
        self.where = f"Supabase project {url}"
        self._client = client
        self._http = http
        self._answer_within = answer_within
        self._patience = patience
        self._closed = False
        self._most_rows = 1
        """The most rows that an answer was seen to hold."""

    async def call(self, function: str, parameters: Mapping[str, object], read: Reader) -> Any:  # noqa: ANN401  (as it is read)
        """Call a function of the migrations.

        Args:
            function: Its name.
            parameters: By name, as JSON.
            read: Reads the answer.

        Raises:
            StoreUnavailable: If the project is away, or takes the key no more.
            TableMissing: If a table, a column or the function is not there.
            StoreError: If a parameter is not JSON, or the database refuses for another reason.
        """
        json_text(parameters)  # refuses what is none
        cleaned = clean(dict(parameters))
        return await self.ask(lambda client: client.rpc(function, cleaned), read)

    async def rows(
        self,
        table: str,
        read: Callable[[JSON], list[RowT]],
        refine: Callable[[AsyncSelectRequestBuilder], AsyncSelectRequestBuilder],
        *,
        limit: int,
    ) -> list[RowT]:
        """Read rows of a table, more than one answer may hold if need be. Raises as `call`.

        Args:
            table: Its name.
            read: Reads an answer.
            refine: Adds the conditions and the order.
            limit: How many rows at most.
        """
        rows: list[RowT] = []
        while len(rows) < limit:
            part = len(rows), min(limit, len(rows) + MAX_ROWS) - 1
            found = await self.ask(
                lambda client, part=part: refine(client.table(table).select("*")).range(*part),
                read,
            )
            rows += found
            # A short answer is the end, or as much as this project gives at once: which of them,
            # is only known of one that is shorter than another was.
            if not found or len(found) < self._most_rows:
                break
            self._most_rows = len(found)
        return rows

    async def ask(self, make: Callable[..., Request], read: Reader = any_rows) -> Any:  # noqa: ANN401
        """Send the request that `make` makes of the client, again if it may help.

        Args:
            make: Makes the request.
            read: Reads the answer; what it cannot read is not the project's.
        """
        return await retry(
            partial(self._ask_once, make, read),
            PassingFault,
            backoff=RETRY_BACKOFF,
            within=self._patience,
        )

    async def aclose(self) -> None:
        """Close the connections. Safe to call twice."""
        self._closed = True
        await self._http.aclose()

    async def _ask_once(self, make: Callable[..., Request], read: Reader) -> Any:  # noqa: ANN401
        if self._closed:
            raise StoreError("the store is closed")
        try:
            # httpx's own time-outs are for each piece of an answer.
            with trio.move_on_after(self._answer_within):
                return _read((await make(self._client).execute()).data, read)
        except (APIError, StrangeAnswer, httpx.HTTPError, httpx.InvalidURL) as error:
            raise in_store_words(error, self.where) from error
        except RuntimeError as error:
            if self._closed:  # while it was under way
                raise StoreError("the store is closed") from error
            if is_out_of_threads(error):  # of which one looks the project's name up
                raise StoreUnavailable(NO_THREAD) from error
            raise
        raise PassingFault(f"{self.where} did not answer within {self._answer_within:g} s")


def _read(answer: JSON, read: Reader) -> Any:  # noqa: ANN401
    try:
        return read(answer)
    except (StoreError, ValueError, OverflowError) as error:
        text = json.dumps(answer)
        why = f"{error}, in {text}" if isinstance(error, StoreError) else text
        raise StrangeAnswer(_OK, why) from error


@asynccontextmanager
async def open_connection(
    url: str, key: str, *, answer_within: float, patience: float
) -> AsyncIterator[SupabaseDatabase]:
    """Open a connection; nothing is sent yet. For the arguments see `open_supabase_store`.

    Raises:
        WrongSettings: If the address cannot be one.
    """
    http = httpx.AsyncClient(
        http2=False,  # supabase-py's default breaks after idling
        timeout=httpx.Timeout(answer_within, connect=CONNECT_WITHIN),
        limits=httpx.Limits(max_connections=20, max_keepalive_connections=20, keepalive_expiry=5.0),
        event_hooks={"response": [refuse_strange_answers]},
    )
    options = supabase.AsyncClientOptions(
        httpx_client=http,
        postgrest_client_retry=False,
        auto_refresh_token=False,
        persist_session=False,
    )
    try:
        try:
            client = supabase.AsyncClient(url, key, options)
        except (supabase.AsyncSupabaseException, ValueError) as error:
            raise WrongSettings(f"SUPABASE_URL cannot be used: {error}") from error
        yield SupabaseDatabase(client, http, url, answer_within=answer_within, patience=patience)
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(2):
            await http.aclose()
