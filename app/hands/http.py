"""The hand `http`: pages of allowed domains, as text; never from a private address."""

from __future__ import annotations

import ssl
import zlib
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import h11
import trio
from pydantic import Field
from typing_extensions import override

from actp_supervise.service import shorten

from .contract import (
    Arguments,
    Hand,
    HandError,
    Json,
    Kind,
    Options,
    SetUp,
    Use,
    options_of,
    tool_of,
)
from .net import PublicNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TIMEOUT: Final = 30.0
"""Seconds that a page may take, redirects included."""

MOST_BYTES: Final = 2_000_000
"""Bytes of a page that are read, as it is sent and as it is unpacked."""

MOST_TEXT: Final = 60_000
"""Characters of a page's text that the model is given."""

MOST_REDIRECTS: Final = 5

_PORTS: Final = {"http": 80, "https": 443}
_READABLE: Final = ("text/", "application/json", "application/xml", "application/xhtml+xml")
_SAFE: Final = "/?&=%:@!$'()*+,;~[]"
_CHUNK: Final = 65_536
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

Domain = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(:\d{1,5})?$")]


class HttpOptions(Options):
    """What may be fetched."""

    domains: Annotated[tuple[Domain, ...], Field(min_length=1)]
    """Each with all below it; with a port where that is not the usual one."""


class HttpGet(Arguments):
    """Fetch a page of the web by GET and return its text. Only some domains are allowed."""

    url: Annotated[str, Field(max_length=2_000, description="An http or https address.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: bool


class Pages:
    """Fetches pages of allowed domains.

    Args:
        domains: What is allowed.
        network: What opens connections; it is what refuses private addresses.
        tls: By what a server's certificate is checked.
    """

    def __init__(
        self,
        domains: tuple[str, ...],
        network: PublicNetwork,
        tls: ssl.SSLContext,
    ) -> None:
        self._domains = tuple(domain.lower().rstrip(".") for domain in domains)
        self._network = network
        self._tls = tls

    async def get(self, given: HttpGet, use: Use) -> Json:
        """Fetch a page; each redirect is checked as the first address is."""
        url = given.url
        secure = False
        for _ in range(MOST_REDIRECTS + 1):
            address = self._checked(url)
            if secure and address.scheme != "https":
                raise HandError("The page redirects from https to http: it is not followed.")
            secure = address.scheme == "https"
            reply = await self._fetch(address)
            location = reply.headers.get("location")
            if reply.status not in _REDIRECTS or location is None:
                return _told(url, reply)
            url = urljoin(url, location)
        raise HandError(f"The page redirects more than {MOST_REDIRECTS} times.")

    def _checked(self, url: str) -> SplitResult:
        try:
            address = urlsplit(url)
            port = address.port
        except ValueError:
            raise HandError("That is no address of a page.") from None
        host = (address.hostname or "").rstrip(".")
        if address.scheme not in _PORTS or not host or not host.isascii():
            raise HandError("Give an http or https address, with the host in ASCII.")
        if address.username is not None or address.password is not None:
            raise HandError("An address with a name or a password in it is not fetched.")
        usual = port in (None, _PORTS[address.scheme])
        allowed = any(self._is_within(host, port, usual, domain) for domain in self._domains)
        if not allowed:
            place = host if usual else f"{host}:{port}"
            raise HandError(
                f"{place} is not among the allowed domains: {', '.join(self._domains)}."
            )
        return address

    @staticmethod
    def _is_within(host: str, port: int | None, usual: bool, domain: str) -> bool:  # noqa: FBT001
        name, _, its_port = domain.partition(":")
        if its_port:
            if its_port != str(port):
                return False
        elif not usual:
            return False
        return host == name or host.endswith(f".{name}")

    async def _fetch(self, address: SplitResult) -> _Reply:
        host = address.hostname or ""
        port = address.port or _PORTS[address.scheme]
        stream = await self._network.open(host, port)
        try:
            async with stream:
                if address.scheme == "https":
                    stream = trio.SSLStream(
                        stream, self._tls, server_hostname=host, https_compatible=True
                    )
                    await stream.do_handshake()
                return await _exchange(stream, address)
        except (trio.BrokenResourceError, h11.ProtocolError) as error:
            why = str(error.__cause__ or error) or type(error).__name__
            raise HandError(f"{host} could not be read: {shorten(why, 300)}.") from None


async def _exchange(stream: trio.abc.Stream, address: SplitResult) -> _Reply:
    """Ask for a page on a connection of its own, and read what comes."""
    connection = h11.Connection(h11.CLIENT)
    target = quote(address.path or "/", safe=_SAFE)
    if address.query:
        target += "?" + quote(address.query, safe=_SAFE)
    request = h11.Request(
        method="GET",
        target=target,
        headers=[
            ("Host", address.netloc),
            ("User-Agent", "actp-worker"),
            ("Accept-Encoding", "gzip"),
            ("Connection", "close"),
        ],
    )
    asked = connection.send(request) or b""
    await stream.send_all(asked + (connection.send(h11.EndOfMessage()) or b""))
    response: h11.Response | None = None
    body = _Body("")
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_CHUNK)))
        elif isinstance(event, h11.Response):
            response = event
            body = _Body(_headers_of(event).get("content-encoding", ""))
        elif isinstance(event, h11.Data):
            body.add(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            body.end()
        if response is not None and (body.is_cut or isinstance(event, h11.EndOfMessage)):
            return _Reply(
                status=response.status_code,
                headers=_headers_of(response),
                body=bytes(body.content),
                cut=body.is_cut,
            )


def _headers_of(response: h11.Response) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
    }


class _Body:
    """What is read of a page, unpacked; a bomb of a gzip is cut as a long page is.

    Args:
        encoding: How it says that it is packed.
    """

    def __init__(self, encoding: str) -> None:
        self.content = bytearray()
        self.is_cut = False
        self._sent = 0
        self._encoding = encoding.strip().lower()
        self._unpacker = zlib.decompressobj(wbits=31) if "gzip" in self._encoding else None

    def add(self, data: bytes) -> None:
        """Take a piece of it."""
        if self._encoding not in {"", "identity", "gzip", "x-gzip"}:
            raise HandError(f"The page comes packed as {self._encoding[:40]!r}: it is not read.")
        self._sent += len(data)
        left = MOST_BYTES - len(self.content) + 1
        if self._unpacker is None:
            self.content += data[:left]
        else:
            try:
                self.content += self._unpacker.decompress(data, left)
            except zlib.error:
                raise HandError("The page says that it is gzip, and is not.") from None
        self.is_cut = self._sent > MOST_BYTES or len(self.content) > MOST_BYTES

    def end(self) -> None:
        """Take note that nothing more comes."""
        self.is_cut = self._unpacker is not None and self._sent > 0 and not self._unpacker.eof


def _told(url: str, reply: _Reply) -> Json:
    """Return a page as the model is told of it."""
    if not 200 <= reply.status < 300:
        raise HandError(f"The page answers with status {reply.status}.")
    kind, charset = _type_of(reply.headers.get("content-type", "text/plain"))
    if not kind.startswith(_READABLE):
        raise HandError(f"The page is of type {kind[:80]!r}, which is not text.")
    try:
        text = reply.body.decode(charset, "replace")
    except LookupError:
        text = reply.body.decode("utf-8", "replace")
    if "html" in kind:
        text = text_of(text)
    cut = {"cut": True} if reply.cut or len(text) > MOST_TEXT else {}
    return {"url": url, "text": text[:MOST_TEXT], **cut}


def _type_of(header: str) -> tuple[str, str]:
    kind, *parameters = (part.strip() for part in header.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return kind.lower(), value.strip("\"' ") or "utf-8"
    return kind.lower(), "utf-8"


class _Text(HTMLParser):
    """Collects the text of a page, without scripts and styles."""

    _SILENT: Final = frozenset({"script", "style", "noscript", "template", "svg"})
    _LINES: Final = frozenset(
        {"p", "br", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "title", "section"}
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent: list[str] = []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._SILENT:
            self._silent.append(tag)
        elif tag in self._LINES:
            self.parts.append("\n")

    @override
    def handle_endtag(self, tag: str) -> None:
        if self._silent and self._silent[-1] == tag:
            self._silent.pop()
        elif tag in self._LINES:
            self.parts.append("\n")

    @override
    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)


def text_of(page: str) -> str:
    r"""Return the text of an HTML page, a line for each of its blocks.

    >>> text_of("<title>A</title><script>x</script><p>one <b>two</b><p>three &amp; four")
    'A\none two\nthree & four'
    """
    parser = _Text()
    parser.feed(page)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.parts).split("\n"))
    return "\n".join(line for line in lines if line)


@asynccontextmanager
async def open_http(setup: SetUp) -> AsyncIterator[Hand]:
    """Open the hand."""
    options = options_of(HttpOptions, setup.options, "http")
    tls = await trio.to_thread.run_sync(ssl.create_default_context)  # it reads many files
    yield hand_of(Pages(options.domains, PublicNetwork(), tls))


def hand_of(pages: Pages) -> Hand:
    """Return the hand that fetches by `pages`."""
    tool = tool_of(
        "http_get", HttpGet, pages.get, effect="read", timeout=TIMEOUT, source="a page of the web"
    )
    return Hand(name="http", tools=lambda: (tool,))


HTTP: Final = Kind(
    name="http",
    summary="GET of pages within allowed domains, as text",
    options=HttpOptions,
    open=open_http,
)
