"""Connections to public addresses alone, for addresses that the model chose.

A name is resolved once, every address that it has is checked, and the connection goes to one of
those that were checked: a name whose answer changes in between (DNS rebinding) leads nowhere else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from .contract import HandError

Resolve: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""Returns the addresses of a host."""

Connect: TypeAlias = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""Opens a connection to an address."""

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Return whether an address is on the public internet, and not on this machine or network.

    >>> [is_public(it) for it in ("1.1.1.1", "10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254")]
    [True, False, False, False]
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    inner = _embedded(ip)
    if inner is not None:  # an IPv6 address that a gateway turns into this one
        return _is_global(inner)
    return _is_global(ip)


def _is_global(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _embedded(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | None:
    if isinstance(ip, ipaddress.IPv4Address):
        return None
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    teredo = ip.teredo
    return ip.ipv4_mapped or ip.sixtofour or (teredo[1] if teredo else None)


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, as the system knows them."""
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


async def connect(address: str, port: int) -> trio.abc.Stream:
    """Open a connection to an address."""
    return await trio.open_tcp_stream(address, port)


class PublicNetwork:
    """Connects to public addresses alone.

    Args:
        resolve: Returns the addresses of a host.
        connect: Opens a connection to one of them.
    """

    def __init__(self, resolve: Resolve = resolve, connect: Connect = connect) -> None:
        self._resolve = resolve
        self._connect = connect

    async def open(self, host: str, port: int) -> trio.abc.Stream:
        """Open a connection to a host.

        Raises:
            HandError: If there is no such host, it has an address that is not public, or none of
                its addresses answers.
        """
        try:
            addresses = await self._resolve(host, port)
        except OSError:
            raise HandError(f"There is no host {host!r}.") from None
        if not addresses or not all(is_public(address) for address in addresses):
            raise HandError(f"{host!r} has an address that is not public: it is not fetched.")
        for address in addresses:
            try:
                return await self._connect(address, port)
            except OSError:
                continue
        raise HandError(f"{host!r} does not answer.")
