"""Fixtures for the tests of the tree."""

from __future__ import annotations

import logging

import pytest
from trio.testing import MockClock


@pytest.fixture
def record():
    """What happened, in order; see `actors.Actor`."""
    return []


@pytest.fixture
def silent():
    """Switch the library's log off, for tests of what a restart itself costs."""
    logger = logging.getLogger("actp_supervise")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


@pytest.fixture(params=["loop", "thread"])
def isolation(request):
    """The isolation of an asyncio child."""
    return request.param


@pytest.fixture
def clock(isolation):
    """Virtual time where the loop follows it; a thread has real time, so its waits are short."""
    return MockClock(autojump_threshold=0) if isolation == "loop" else None


@pytest.fixture
def fast_clock():
    """A clock on which a second lasts 20 ms, for limits that are tried out on real sockets."""
    return MockClock(rate=50)
