"""The page in the browser: rendered here, and kept current by a script that fetches it again."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Any, Final

import jinja2
from quart import Request, Response
from werkzeug.exceptions import NotFound

from app.store.protocol import TaskStatus

DASHBOARD: Final = Path(__file__).parent.parent / "dashboard"

_TONES: Final = {
    "healthy": "good",
    "running": "good",
    "succeeded": "good",
    "degraded": "warn",
    "starting": "warn",
    "restarting": "warn",
    "backing_off": "warn",
    "draining": "warn",
    "paused": "warn",
    "stopping": "warn",
    "unknown": "warn",
    "missed": "warn",
    "critical": "bad",
    "crashed": "bad",
    "failed": "bad",
    "timed_out": "bad",
    "interrupted": "bad",
}


class Page:
    """The page and the files that it loads, read once."""

    def __init__(self) -> None:
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(DASHBOARD),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {"duration": duration, "last_line": last_line}
        environment.globals |= {"tone": lambda word: _TONES.get(word, ""), "statuses": TaskStatus}
        self._template = environment.get_template("index.html")
        self._assets = {path.name: path.read_bytes() for path in (DASHBOARD / "static").iterdir()}

    def render(self, **state: Any) -> Response:  # noqa: ANN401  (the template's variables)
        """Render the page; what the template shows is given by name."""
        html = self._template.render(state)
        return Response(html, content_type="text/html; charset=utf-8")

    async def asset(self, name: str, request: Request) -> Response:
        """Answer with a file of the page, or 304 where the browser has it.

        Raises:
            NotFound: If there is no such file.
        """
        if name not in self._assets:
            raise NotFound
        response = Response(self._assets[name], mimetype=mimetypes.guess_type(name)[0])
        response.headers["Cache-Control"] = "no-cache"
        await response.add_etag()
        return await response.make_conditional(request)


def duration(seconds: float | None) -> str:
    """Say a duration in its two largest units.

    >>> duration(7384.2), duration(59.9), duration(86_400), duration(None)
    ('2 h 3 min', '59 s', '1 d', '-')
    """
    if seconds is None:
        return "-"
    rest = int(seconds)
    counts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        counts.append((count, unit))
    while len(counts) > 1 and counts[0][0] == 0:
        counts.pop(0)
    first, *others = counts
    shown = [first, *(other for other in others[:1] if other[0])]
    return " ".join(f"{count} {unit}" for count, unit in shown)


def last_line(text: str) -> str:
    """Return a traceback's last line, which names the error."""
    return text.strip().rpartition("\n")[2]
