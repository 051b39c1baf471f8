"""Asyncio code that keeps Trio's loop: it is named as any child, and a thread may block."""

from __future__ import annotations

import trio
from test_service_loop_watch import BLOCKING_LINE, SOON, block_the_loop, watched

from actp_supervise.bridge import asyncio_child


async def test_asyncio_code_that_blocks_the_loop_is_named_by_its_child():
    (block,), _ = await watched(asyncio_child(block_the_loop))
    assert block.who == "worker/content"
    assert block.where == f"test_service_loop_watch.py:{BLOCKING_LINE}"


async def test_code_in_a_thread_of_its_own_may_block():
    told, watch = await watched(asyncio_child(block_the_loop, isolation="thread"))
    await trio.sleep(2 * SOON)
    assert told == []
    assert watch.problem() is None
