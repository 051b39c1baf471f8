"""An address for the page that cannot be had: one line that names the variable to change."""

from __future__ import annotations

import pytest

from actp_supervise.service import AddressUnavailableError
from app.web.listening import listen


async def test_a_port_in_use_is_one_line_that_names_the_variable_to_change():
    (listener,) = await listen("127.0.0.1", 0)
    port = listener.socket.getsockname()[1]
    async with listener:
        with pytest.raises(AddressUnavailableError) as caught:
            await listen("127.0.0.1", port)
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port}: another program has that port, "
        "or this one runs or stops still; set WORKER_HEALTH_PORT to a free one"
    )


async def test_a_host_that_is_not_ours_names_the_variables_to_check():
    with pytest.raises(
        AddressUnavailableError, match=r"^cannot listen on 192\.0\.2\.1:8090: .*_HOST"
    ):
        await listen("192.0.2.1", 8090)
