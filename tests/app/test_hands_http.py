"""The hand `http`, against a real server that is reached under a public address."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import socket
import ssl
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hands_server import Reply, serving

from actp_supervise.clock import SystemWallClock
from app.hands import HandError, Hands
from app.hands.http import MOST_TEXT, Pages, hand_of
from app.hands.net import PublicNetwork, is_public

PUBLIC = "93.184.215.14"
TLS = ssl.create_default_context()


class Internet:
    """Names, and what is behind the address of each: a port of this machine."""

    def __init__(self, names):
        self.names = names
        self.connected = []
        self.asked = []
        self.port = 0

    async def resolve(self, host, port):
        self.asked.append(host)
        addresses = self.names[host]
        return addresses.pop(0) if isinstance(addresses[0], list) else addresses

    async def connect(self, address, port):
        self.connected.append((address, port))
        return await trio.open_tcp_stream("127.0.0.1", self.port)


def page(text, kind="text/html; charset=utf-8", **headers):
    return Reply(headers={"content-type": kind, **headers}, body=text.encode())


@asynccontextmanager
async def web(pages, names=None, domains=("site.example",)):
    """Serve pages by path; gives a function that fetches, and the internet."""
    internet = Internet(names or {"site.example": [PUBLIC]})
    requests = []

    async def answer(request):
        requests.append(request)
        reply = pages[request.path]
        return reply() if callable(reply) else reply

    async with serving(answer) as url:
        internet.port = int(url.rpartition(":")[2])
        network = PublicNetwork(internet.resolve, internet.connect)
        hands = Hands([hand_of(Pages(domains, network, TLS))])

        async def get(address):
            answer = await hands.call("http_get", {"url": address}, key="k")
            return answer["content"]

        get.hands, get.requests = hands, requests
        yield get, internet


async def test_a_page_is_fetched_as_text_and_marked_as_from_outside():
    html = "<title>Prices</title><script>alert(1)</script><p>From &euro; 5</p>"
    async with web({"/p": page(html)}) as (get, _):
        answer = await get.hands.call("http_get", {"url": "http://site.example/p?q=a%20b"}, key="k")
        assert answer == {
            "from_outside": "a page of the web",
            "content": {"url": "http://site.example/p?q=a%20b", "text": "Prices\nFrom € 5"},
        }
        assert get.requests[0].query == {"q": "a b"}
        assert get.requests[0].headers["host"] == "site.example"


async def test_a_subdomain_of_an_allowed_domain_is_allowed():
    names = {"www.site.example": [PUBLIC]}
    async with web({"/": page("yes", "text/plain")}, names) as (get, _):
        assert (await get("http://www.site.example/"))["text"] == "yes"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://other.example/", "other.example is not among the allowed domains: site.example"),
        ("http://evilsite.example/", "not among the allowed"),
        ("http://site.example.evil.example/", "not among the allowed"),
        ("http://site.example:8080/", "site.example:8080 is not among"),
        ("http://site.example@evil.example/", "a name or a password"),
        ("http://127.0.0.1/", "not among the allowed"),
        ("file:///etc/passwd", "Give an http or https address"),
        ("http://sit\u0435.example/", "in ASCII"),
        ("http://[::1", "no address of a page"),
        ("http:///", "Give an http or https address"),
    ],
)
async def test_what_is_not_within_the_allowed_domains_is_not_fetched(url, why):
    async with web({}) as (get, internet):
        with pytest.raises(HandError, match=why.replace("(", r"\(")):
            await get(url)
        assert internet.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "ff02::1",
        "fe80::1%eth0",
        "not an address",
    ],
)
async def test_a_private_address_is_never_connected_to(address):
    assert not is_public(address)
    async with web({}, {"site.example": [address]}) as (get, internet):
        with pytest.raises(HandError, match="has an address that is not public"):
            await get("http://site.example/")
        assert internet.connected == []


async def test_one_private_address_among_public_ones_is_enough_to_refuse():
    async with web({}, {"site.example": [PUBLIC, "10.0.0.1"]}) as (get, internet):
        with pytest.raises(HandError, match="not public"):
            await get("http://site.example/")
        assert internet.connected == []


async def test_the_connection_goes_to_the_address_that_was_checked():
    names = {"site.example": [[PUBLIC], ["127.0.0.1"]]}  # it changes from one look to the next
    async with web({"/": page("yes", "text/plain")}, names) as (get, internet):
        assert (await get("http://site.example/"))["text"] == "yes"
        assert internet.connected == [(PUBLIC, 80)]
        assert internet.asked == ["site.example"]


async def test_a_redirect_is_followed_within_the_allowed_domains():
    pages = {"/a": Reply(status=302, headers={"location": "/b"}), "/b": page("here", "text/plain")}
    async with web(pages) as (get, _):
        assert await get("http://site.example/a") == {
            "url": "http://site.example/b",
            "text": "here",
        }


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://other.example/", "not among the allowed"),
        ("http://127.0.0.1/", "not among the allowed"),
        ("//site.example:22/", "not among the allowed"),
        ("file:///etc/passwd", "Give an http"),
        ("http://inner.site.example/", "not public"),
        ("/a", "redirects more than 5 times"),
    ],
)
async def test_a_redirect_is_checked_as_the_first_address_is(target, why):
    names = {"site.example": [PUBLIC], "inner.site.example": ["10.0.0.1"]}
    pages = {"/a": Reply(status=302, headers={"location": target})}
    async with web(pages, names) as (get, _):
        with pytest.raises(HandError, match=why):
            await get("http://site.example/a")


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(status=404), "status 404"),
        (page("x", "application/octet-stream"), "of type 'application/octet-stream'"),
        (page("x", "text/plain", **{"content-encoding": "br"}), "packed as 'br'"),
        (page("no gzip", "text/plain", **{"content-encoding": "gzip"}), "says that it is gzip"),
    ],
)
async def test_what_is_no_text_is_the_tool_s_error(reply, why):
    async with web({"/": reply}) as (get, _):
        with pytest.raises(HandError, match=why):
            await get("http://site.example/")


async def test_a_long_page_is_cut_and_says_so():
    async with web({"/": page("x" * 3_000_000, "text/plain")}) as (get, _):
        answer = await get("http://site.example/")
        assert (len(answer["text"]), answer["cut"]) == (MOST_TEXT, True)


async def test_a_bomb_of_a_gzip_is_cut():
    bomb = Reply(
        headers={"content-type": "text/plain", "content-encoding": "gzip"},
        body=gzip.compress(bytes(200_000_000)),
    )
    async with web({"/": bomb}) as (get, _):
        assert (await get("http://site.example/"))["cut"] is True


async def test_a_gzip_that_ends_too_early_is_shown_as_cut():
    half = Reply(
        headers={"content-type": "text/plain", "content-encoding": "gzip"},
        body=gzip.compress(b"hello" * 10_000)[:-10],
    )
    async with web({"/": half}) as (get, _):
        assert (await get("http://site.example/"))["cut"] is True


async def test_a_page_in_an_unknown_charset_is_read_as_utf_8():
    async with web({"/": page("ä", "text/plain; charset=klingon")}) as (get, _):
        assert (await get("http://site.example/"))["text"] == "ä"


async def test_a_server_that_is_not_there_is_the_tool_s_error():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        internet = Internet({"site.example": [PUBLIC]})
        internet.port = unused.getsockname()[1]
        network = PublicNetwork(internet.resolve, internet.connect)
        hands = Hands([hand_of(Pages(("site.example",), network, TLS))])
        with pytest.raises(HandError, match=r"'site.example' does not answer"):
            await hands.call("http_get", {"url": "http://site.example/"}, key="k")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000,
    ],
)
async def test_a_server_that_does_not_speak_http_is_the_tool_s_error(sent, nursery):
    async def answer(stream):
        await stream.receive_some(65_536)
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(sent)
        await stream.aclose()

    listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
    internet = Internet({"site.example": [PUBLIC]})
    internet.port = listeners[0].socket.getsockname()[1]
    network = PublicNetwork(internet.resolve, internet.connect)
    hands = Hands([hand_of(Pages(("site.example",), network, TLS))])
    with pytest.raises(HandError, match=r"site.example could not be read"):
        await hands.call("http_get", {"url": "http://site.example/"}, key="k")


async def test_a_name_that_nobody_has_is_the_tool_s_error():
    async def nobody(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    hands = Hands([hand_of(Pages(("site.example",), PublicNetwork(nobody), TLS))])
    with pytest.raises(HandError, match=r"There is no host 'site.example'"):
        await hands.call("http_get", {"url": "http://site.example/"}, key="k")


# TLS: the certificate is checked for the name, though the connection is to an address.


def certificate_for(host):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = SystemWallClock().now()
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return made.public_bytes(serialization.Encoding.PEM), private


async def answer_one(context, stream):
    secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    try:
        await secure.receive_some(65_536)
        await secure.send_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 6\r\n\r\nsecret"
        )
    except trio.BrokenResourceError:
        pass  # refused by the client


@pytest.mark.parametrize("host", ["site.example", "another.example"])
async def test_a_certificate_is_checked_for_the_name_of_the_address(host, tmp_path, nursery):
    public, private = certificate_for(host)
    (tmp_path / "pair.pem").write_bytes(public + private)
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(tmp_path / "pair.pem")
    ours = ssl.create_default_context(cadata=public.decode())
    listeners = await nursery.start(
        partial(trio.serve_tcp, partial(answer_one, theirs), 0, host="127.0.0.1")
    )
    internet = Internet({"site.example": [PUBLIC]})
    internet.port = listeners[0].socket.getsockname()[1]
    network = PublicNetwork(internet.resolve, internet.connect)
    hands = Hands([hand_of(Pages(("site.example",), network, ours))])
    fetch = partial(hands.call, "http_get", {"url": "https://site.example/"}, key="k")

    if host == "site.example":
        assert (await fetch())["content"]["text"] == "secret"
        assert internet.connected == [(PUBLIC, 443)]
    else:
        with pytest.raises(HandError, match=r"could not be read: .*Hostname mismatch"):
            await fetch()
