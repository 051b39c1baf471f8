"""An address for the page that cannot be had: one line that names the variable to change."""

from __future__ import annotations

import pytest
import trio

from actp_supervise.service import AddressUnavailableError
from app.web.listening import Address


async def test_a_port_in_use_is_one_line_that_names_the_variable_to_change():
    with await Address.open("127.0.0.1", 0) as address:
        port = address.port
        with pytest.raises(AddressUnavailableError) as caught:
            await Address.open("127.0.0.1", port)
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port}: another program has that port, "
        "or this one runs or stops still; set WORKER_HEALTH_PORT to a free one"
    )


async def test_a_host_that_is_not_ours_names_the_variables_to_check():
    with pytest.raises(
        AddressUnavailableError, match=r"^cannot listen on 192\.0\.2\.1:8090: .*_HOST"
    ):
        await Address.open("192.0.2.1", 8090)


async def test_what_connects_between_two_servers_is_answered_by_the_next():
    with await Address.open("127.0.0.1", 0) as address:
        (first,) = address.listeners()
        await first.aclose()
        client = await trio.open_tcp_stream("127.0.0.1", address.port)
        async with client, address.listeners()[0] as second, await second.accept() as stream:
            await stream.send_all(b"here")
            assert await client.receive_some() == b"here"
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", address.port)
