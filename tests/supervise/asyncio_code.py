"""Asyncio code that does wrong, for the tests of the bridge."""

from __future__ import annotations


async def fail(error: BaseException) -> None:
    raise error


def raises(error: BaseException) -> None:
    raise error
