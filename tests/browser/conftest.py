"""Chromium by Playwright, and daemons as real processes for it to look at.

Playwright's own loop runs as long as it is started, so it is stopped after each module, before
tests that run Trio.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parents[1] / "e2e"))  # for `daemons`

from daemons import running_claude
from looking import Look, find_chromium, open_browser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = find_chromium()
    if chromium is None:
        missing = "the pages are looked at with Chromium, which is not on PATH"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    with open_browser(chromium) as browser:
        yield browser


@pytest.fixture(scope="session")
def claude() -> Iterator[str]:
    """Run a simulated Claude; gives its address."""
    with running_claude() as address:
        yield address


@pytest.fixture
def look(browser: Browser) -> Iterator[Look]:
    """Opens pages; at the end there must have been no error in any of them."""
    look = Look(browser)
    yield look
    look.close()
    assert look.errors == []
