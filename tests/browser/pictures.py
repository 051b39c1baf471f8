"""Makes the pictures in docs/pictures, of daemons with a simulated Claude: `make pictures`."""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in (".", "e2e"))

from daemons import ROOT, running_claude
from looking import Running, find_chromium, open_browser, running
from situations import (
    SITUATIONS,
    do_some_tasks,
    end_badly,
    make_place,
    spend,
)
from small_png import smaller

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

PICTURES = ROOT / "docs" / "pictures"

SPENT = (0.9, 1.4, 1.1, 0.0, 0.3, 1.9, 2.2, 1.6, 2.8, 2.4, 0.4, 0.2, 3.1)
"""USD of the days before today."""

LARGEST = 120_000
"""Bytes of a picture."""


def main(wanted: list[str]) -> None:
    """Take all pictures, or those of the situations that are named."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit("Chromium is not on PATH; install it, for example with: apt-get install chromium")
    PICTURES.mkdir(exist_ok=True)
    with running_claude() as claude, open_browser(chromium) as browser:
        if not wanted:
            with stage(claude) as daemon:
                take_tour(browser, daemon)
        for situation in SITUATIONS:
            if wanted and situation.name not in wanted:
                continue
            with (
                tempfile.TemporaryDirectory(prefix="actp-pictures-") as folder,
                situation.daemon(make_place(Path(folder), claude)) as daemon,
            ):
                take(browser, daemon.address, f"situation-{situation.name}")
    for picture in sorted(PICTURES.glob("*.png")):
        size = picture.stat().st_size
        print(f"{picture.relative_to(ROOT)}: {size // 1000} kB")
        assert size < LARGEST, "too large for the repository"


@contextmanager
def stage(claude: str) -> Iterator[Running]:
    """A daemon with something of everything to show."""
    with tempfile.TemporaryDirectory(prefix="actp-pictures-") as folder:
        place = make_place(Path(folder), claude)
        place.environ["CONTENT_AGENT_DAILY_BUDGET_USD"] = "5"
        with running(place) as daemon:
            do_some_tasks(daemon)
            end_badly(daemon, "revenue", "Read what nobody may see")
            for days_ago, usd in enumerate(reversed(SPENT), start=1):
                spend(place.database, usd, days_ago=days_ago)
            daemon.http.post("/agents/acquisition/pause").raise_for_status()
            daemon.post("acquisition", "Ask 'Northwind Traders' for a date")
            daemon.crash(12)  # it goes on crashing after its first wait
            daemon.until_agent("social", "backing_off")
            yield daemon


def take_tour(browser: Browser, daemon: Running) -> None:
    at_work = "Find a viral template and draft content about our launch from it"
    task_id = daemon.post("content", f"{at_work}\n\n[simulate: slow 30]")
    daemon.until(f"/tasks/{task_id}/turns", lambda turns: len(turns) >= 4)
    for name, path, width, scheme in (
        ("task", f"/ui/tasks/{task_id}", 1280, "light"),
        ("page-light", "/", 1280, "light"),
        ("page-dark", "/", 1280, "dark"),
        ("page-narrow", "/", 390, "light"),
        ("agent", "/ui/agents/content", 1280, "dark"),
        ("tasks", "/ui/tasks", 1280, "light"),
        ("charts", "/ui/charts", 1280, "light"),
    ):
        take(browser, daemon.address + path, name, width=width, scheme=scheme)


def take(
    browser: Browser, address: str, name: str, *, width: int = 1280, scheme: str = "light"
) -> None:
    page = browser.new_page(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page.goto(address)
    page.locator("#connection[data-state=live]").wait_for()
    (PICTURES / f"{name}.png").write_bytes(smaller(page.screenshot()))
    page.close()


if __name__ == "__main__":
    main(sys.argv[1:])
