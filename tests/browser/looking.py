"""A browser to look with, and daemons to look at, both without Trio."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
from daemons import PATIENCE, Place, pauses
from forks import Fork
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import ConsoleMessage, Page

QUIET = (
    "--no-sandbox",  # there is none for root
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
)

ON_DEMAND = """
import asyncio
from pathlib import Path
from actp_supervise import current_child

class OnDemand:
    async def run_as_daemon(self, poll_interval):
        while not current_child().stopping:
            crashes = sorted(Path(".").glob("crash-*"))
            if crashes:
                crashes[0].unlink()
                raise ValueError("no such stage")
            await asyncio.sleep(0.02)
"""
"""An agent that crashes once for each file that tells it to."""


def find_chromium() -> str | None:
    """Return the path of the machine's Chromium."""
    on_a_mac = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", on_a_mac)
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def open_browser(chromium: str) -> Iterator[Browser]:
    """Run Chromium for the time of the block."""
    expect.set_options(timeout=1000 * PATIENCE)
    # Playwright wants asyncio's own loop, and trio-asyncio would give it one of its.
    asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
            yield browser
            browser.close()
    finally:
        asyncio.set_event_loop_policy(None)


@dataclass
class Look:
    """Opens pages, and takes down what goes wrong in them."""

    browser: Browser
    errors: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()
    """Parts of what a browser reports as an error although the test means it to happen."""
    contexts: list[BrowserContext] = field(default_factory=list)

    def at(self, address: str, *, width: int = 1280, **options: Any) -> Page:
        """Open a page as a new visitor."""
        viewport = {"width": width, "height": 900}
        context = self.browser.new_context(viewport=viewport, locale="en-GB", **options)
        context.set_default_timeout(1000 * PATIENCE)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(address)
        return page

    def close(self) -> None:
        """Close all pages, before a daemon goes away that they look at."""
        while self.contexts:
            self.contexts.pop().close()

    def _note(self, message: ConsoleMessage) -> None:
        # A violation of the content security policy is told here, too.
        if message.type in {"error", "warning"}:
            text = f"{message.text} ({message.location.get('url')})"
            if not any(part in text for part in self.expected):
                self.errors.append(text)


@dataclass
class Running:
    """A daemon that runs."""

    process: subprocess.Popen[bytes] | Fork
    address: str
    http: httpx.Client
    place: Place

    def post(self, agent_type: str, goal: str) -> str:
        """Post a task; gives its id."""
        answer = self.http.post("/agents/task", json={"agent_type": agent_type, "goal": goal})
        task_id: str = answer.raise_for_status().json()["id"]
        return task_id

    def until(self, path: str, condition: Callable[[Any], bool]) -> Any:
        """Wait until what is answered is so; gives the answer."""
        return until(lambda: self.http.get(path).json(), condition)

    def until_task(self, task_id: str, status: str) -> None:
        self.until(f"/tasks/{task_id}", lambda task: task["status"] == status)

    def until_agent(self, agent_id: str, status: str) -> None:
        self.until(f"/agents/{agent_id}", lambda agent: agent["status"] == status)

    def crash(self, times: int) -> None:
        """Have the agent on demand crash so often."""
        for number in range(times):
            (self.place.folder / f"crash-{number}").touch()


@contextmanager
def running(place: Place, *arguments: str, **changes: str) -> Iterator[Running]:
    """Run a daemon for the time of the block."""
    log = place.folder / "daemon.err"
    with log.open("wb") as stderr:
        process = place.start_here(*arguments, stderr=stderr, **changes)
    try:
        line = until(lambda: _starting(log), lambda line: line is not None or process.poll())
        assert line is not None, log.read_text()
        address = line["page"]
        with httpx.Client(base_url=address, timeout=PATIENCE) as http:
            yield Running(process, address, http, place)
    finally:
        process.kill()
        until(process.poll, lambda code: code is not None)


def until(ask: Callable[[], Any], condition: Callable[[Any], bool]) -> Any:
    """Wait until something of another process is so, which tells nobody."""
    deadline = time.perf_counter() + PATIENCE
    pause = pauses()
    while time.perf_counter() < deadline:
        answer = ask()
        if condition(answer):
            return answer
        time.sleep(next(pause))  # noqa: TID251  (without Trio)
    raise AssertionError(f"still so: {answer}")


def _starting(log: Path) -> dict[str, Any] | None:
    complete = log.read_text().rpartition("\n")[0].splitlines()
    lines = (json.loads(line) for line in complete if line.startswith("{"))
    return next((line for line in lines if line.get("action") == "starting"), None)
