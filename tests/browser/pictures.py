"""Makes the pictures in docs/pictures, of a daemon with a simulated Claude: `make pictures`."""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import uuid
from contextlib import closing
from datetime import timedelta
from pathlib import Path

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in (".", "e2e"))

from daemons import ROOT, Place, start_claude
from looking import ON_DEMAND, Running, find_chromium, open_browser, running

from actp_supervise.clock import SystemWallClock
from app.demo.show import TASKS

PICTURES = ROOT / "docs" / "pictures"

SPENT = (0.9, 1.4, 1.1, 0.0, 0.3, 1.9, 2.2, 1.6, 2.8, 2.4, 0.4, 0.2, 3.1)
"""USD of the days before today."""

LARGEST = 200_000
"""Bytes of a picture."""


def main() -> None:
    chromium = find_chromium()
    if chromium is None:
        sys.exit("Chromium is not on PATH; install it, for example with: apt-get install chromium")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="actp-pictures-") as folder, start_claude() as claude:
        assert claude.stdout is not None
        place = Place(Path(folder), claude.stdout.readline().strip())
        place.use_class(ON_DEMAND, "OnDemand")
        place.environ |= {"WORKER_ID": "studio", "CONTENT_AGENT_DAILY_BUDGET_USD": "5"}
        with running(place) as daemon:
            task_id = set_the_scene(daemon)
            take_pictures(chromium, daemon, task_id)
        claude.kill()
    for picture in sorted(PICTURES.glob("*.png")):
        size = picture.stat().st_size
        print(f"{picture.relative_to(ROOT)}: {size // 1000} kB")
        assert size < LARGEST, "too large for the repository"


def set_the_scene(daemon: Running) -> str:
    """Have something of everything to show; gives the task that is being done."""
    for agent_id in ("content", "acquisition", "revenue"):
        daemon.until_agent(agent_id, "running")
    posted = [daemon.post(agent_id, goal) for agent_id, goal in TASKS if agent_id != "social"]
    posted.append(daemon.post("revenue", "Read what nobody may see [simulate: refusal]"))
    remember = "Remember that our tone of voice is plain, as the 'Launch week' goal says"
    posted.append(daemon.post("content", remember))
    for task_id in posted:
        daemon.until(f"/tasks/{task_id}", lambda task: task["finished_at"] is not None)
    spend(daemon.place.database)
    daemon.http.post("/agents/acquisition/pause")
    daemon.post("acquisition", "Ask 'Northwind Traders' for a date")
    daemon.crash(6)
    daemon.until_agent("social", "backing_off")
    at_work = "Find a viral template and draft content about our launch from it"
    task_id = daemon.post("content", f"{at_work}\n\n[simulate: slow 12]")
    daemon.until(f"/tasks/{task_id}/turns", lambda turns: len(turns) >= 4)
    return task_id


def spend(database: Path) -> None:
    """Make up what was spent on the days before today."""
    today = SystemWallClock().now()
    with closing(sqlite3.connect(database, timeout=10)) as db, db:
        columns = [row[1] for row in db.execute("pragma table_info(anthropic_cost_log)")]
        one = db.execute("select * from anthropic_cost_log where agent_id = 'content'").fetchone()
        for days_ago, usd in enumerate(reversed(SPENT), start=1):
            row = dict(zip(columns, one, strict=True))
            created_at = (today - timedelta(days=days_ago)).replace(tzinfo=None)
            row |= {
                "id": uuid.uuid4().hex,
                "cost_usd": usd,
                "created_at": f"{created_at.isoformat(timespec='microseconds')}Z",
            }
            marks = ", ".join("?" * len(row))
            db.execute(
                f"insert into anthropic_cost_log ({', '.join(row)}) values ({marks})",
                tuple(row.values()),
            )


def take_pictures(chromium: str, daemon: Running, task_id: str) -> None:
    with open_browser(chromium) as browser:
        for name, path, width, height, scheme in (
            ("task", f"/ui/tasks/{task_id}", 1280, 900, "light"),
            ("page-light", "/", 1280, 900, "light"),
            ("page-dark", "/", 1280, 900, "dark"),
            ("page-narrow", "/", 360, 900, "light"),
            ("agent", "/ui/agents/content", 1280, 900, "dark"),
        ):
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            page.goto(daemon.address + path)
            page.locator("#connection[data-state=live]").wait_for()
            page.screenshot(path=PICTURES / f"{name}.png")
            page.close()


if __name__ == "__main__":
    main()
