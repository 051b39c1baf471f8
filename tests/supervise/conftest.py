"""Fixtures for the tests of the tree."""

from __future__ import annotations

import logging

import pytest


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
