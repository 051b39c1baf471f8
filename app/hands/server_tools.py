"""The hands that the Messages API has itself: `web_search`, `web_fetch`, `code_execution`.

They are entries among the `tools` of a request, and run on Anthropic's side while the reply is
made. What they brought stands in the reply's content, in blocks that are sent back verbatim with
the rest of it; `sources_of` and `failures_of` read those.

A reply that such a tool makes too long ends with the stop reason ``pause_turn``: it is sent back as
it is, and goes on.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import pydantic
from pydantic import Field

from .contract import Hand, Kind, Options, ServerTool, SetUp, options_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

Domain = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(/\S*)?$")]
Uses = Annotated[int, Field(ge=1, le=100)]


class _OnTheWeb(Options):
    """Where a tool may look; with all that is below each domain."""

    allowed_domains: tuple[Domain, ...] = ()
    blocked_domains: tuple[Domain, ...] = ()

    @pydantic.model_validator(mode="after")
    def _not_both(self) -> _OnTheWeb:
        if self.allowed_domains and self.blocked_domains:
            raise ValueError("give allowed_domains or blocked_domains, not both")
        return self

    def domains(self) -> dict[str, Any]:
        """Return the domains as an entry has them."""
        given = {
            "allowed_domains": list(self.allowed_domains),
            "blocked_domains": list(self.blocked_domains),
        }
        return {name: domains for name, domains in given.items() if domains}


class Place(Options):
    """Where a search is made from, about."""

    city: str | None = None
    region: str | None = None
    country: Annotated[str, Field(pattern="^[A-Z]{2}$")] | None = None
    timezone: str | None = None


class WebSearchOptions(_OnTheWeb):
    """The limits of `web_search`."""

    max_uses: Uses = 5
    """Searches in one request, each of which has its price."""
    place: Place | None = None
    version: Literal["20250305", "20260209", "20260318"] = "20250305"
    """Later ones filter results by code, with Claude 4.6 and newer; the first one every model has.
    """


class WebFetchOptions(_OnTheWeb):
    """The limits of `web_fetch`."""

    max_uses: Uses = 10
    max_content_tokens: Annotated[int, Field(ge=100, le=500_000)] = 20_000
    """Of each page, about."""
    version: Literal["20250910", "20260209", "20260309", "20260318"] = "20250910"


class CodeExecutionOptions(Options):
    """The version of `code_execution`."""

    version: Literal["20250825", "20260120", "20260521"] = "20250825"


@asynccontextmanager
async def open_web_search(setup: SetUp) -> AsyncIterator[Hand]:
    """Open the hand."""
    options = options_of(WebSearchOptions, setup.options, "web_search")
    entry: dict[str, Any] = {"max_uses": options.max_uses, **options.domains()}
    if options.place is not None:
        entry["user_location"] = {
            "type": "approximate",
            **options.place.model_dump(exclude_none=True),
        }
    yield _hand("web_search", options.version, entry)


@asynccontextmanager
async def open_web_fetch(setup: SetUp) -> AsyncIterator[Hand]:
    """Open the hand."""
    options = options_of(WebFetchOptions, setup.options, "web_fetch")
    entry = {
        "max_uses": options.max_uses,
        "max_content_tokens": options.max_content_tokens,
        "citations": {"enabled": True},
        **options.domains(),
    }
    yield _hand("web_fetch", options.version, entry)


@asynccontextmanager
async def open_code_execution(setup: SetUp) -> AsyncIterator[Hand]:
    """Open the hand."""
    options = options_of(CodeExecutionOptions, setup.options, "code_execution")
    yield _hand("code_execution", options.version, {})


def _hand(name: str, version: str, entry: Mapping[str, Any]) -> Hand:
    whole = {"type": f"{name}_{version}", "name": name, **entry}
    return Hand(name=name, server_tools=(ServerTool(name=name, entry=whole),))


WEB_SEARCH: Final = Kind(
    name="web_search",
    summary="Claude searches the web",
    options=WebSearchOptions,
    open=open_web_search,
)
WEB_FETCH: Final = Kind(
    name="web_fetch",
    summary="Claude reads pages whose addresses it was given or has found",
    options=WebFetchOptions,
    open=open_web_fetch,
)
CODE_EXECUTION: Final = Kind(
    name="code_execution",
    summary="Claude runs programs in a container of Anthropic's",
    options=CodeExecutionOptions,
    open=open_code_execution,
)


# What comes back.

MOST_CITED: Final = 300
"""Characters of a cited text that are kept in a task's result."""

MOST_SOURCES: Final = 50
"""Sources that are kept in a task's result."""


def sources_of(content: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return what the text of a reply cites, each source once: kept in the result of a task.

    Args:
        content: The blocks of the reply, or of several, as JSON.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for block in content:
        for citation in block.get("citations") or ():
            url = str(citation.get("url") or "")
            title = str(citation.get("title") or citation.get("document_title") or "")
            cited = str(citation.get("cited_text") or "")[:MOST_CITED]
            source = {"url": url, "title": title, "cited_text": cited}
            kept = {name: text for name, text in source.items() if text}
            if url or title:
                found.setdefault((url, title), kept)
    return list(found.values())[:MOST_SOURCES]


def failures_of(content: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return why the API's own tools failed in a reply: ``web_search: max_uses_exceeded``."""
    names = dict.fromkeys(["bash_code_execution", "text_editor_code_execution"], "code_execution")
    failures = []
    for block in content:
        kind = str(block.get("type"))
        result = block.get("content")
        if kind.endswith("_tool_result") and isinstance(result, dict) and "error_code" in result:
            name = kind.removesuffix("_tool_result")
            failures.append(f"{names.get(name, name)}: {result['error_code']}")
    return failures
