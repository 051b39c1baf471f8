"""That asyncio code is heard to listen for a stop, as Trio code is (`test_listening`)."""

from __future__ import annotations

import asyncio

import pytest
import trio
from actors import Log

from actp_supervise import current_child, open_supervisor
from actp_supervise.bridge import asyncio_child, run_in_trio


async def asyncio_reads():
    assert not current_child().stopping


async def asyncio_enters_a_block():
    with current_child().cancel_on_stop():
        await asyncio.sleep(0)


async def asyncio_looks_in_trio():
    async def look():
        assert not current_child().stopping

    await run_in_trio(look)


async def asyncio_does_not_look():
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("look", "timeout"),
    [
        (asyncio_reads, 5.0),
        (asyncio_enters_a_block, 5.0),
        (asyncio_looks_in_trio, 5.0),
        (asyncio_does_not_look, 0.0),
    ],
)
async def test_the_same_holds_in_asyncio_code(isolation, clock, look, timeout):
    async def code():
        await look()
        await run_in_trio(looked_and_released)

    async def looked_and_released():
        looked.set()
        await released.wait()

    log = Log()
    looked, released = trio.Event(), trio.Event()
    async with open_supervisor(on_event=log) as supervisor:
        supervisor.start_soon(asyncio_child(code, isolation=isolation), name="c")
        await looked.wait()
        supervisor.request_shutdown()
        released.set()
    assert log.last("stop_requested").timeout == timeout
