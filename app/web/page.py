"""The pages' templates and the files that they load: read once, and rendered for many at once."""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jinja2
import trio
from quart import Request, Response
from typing_extensions import override
from werkzeug.exceptions import NotFound

from app.event_kinds import EventKind, tone_of_event
from app.status import tone_of
from app.store.protocol import TaskStatus
from app.tones import Tone
from app.web import words

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import CodeType

    from jinja2.bccache import Bucket

DASHBOARD: Final = Path(__file__).parent.parent / "dashboard"

NAVIGATION: Final = (
    ("overview", "/", "Overview"),
    ("tasks", "/ui/tasks", "Tasks"),
    ("work", "/ui/drafts", "Work"),
    ("approvals", "/ui/approvals", "Approvals"),
    ("charts", "/ui/charts", "Charts"),
    ("api", "/api", "API"),
)
"""The pages in the bar on top: what each says in its block `here`, its address, its name."""

KEEP: Final = 0.25
"""Seconds that a rendered page serves everybody who asks for it.

Less than the script waits after an event, or it would be shown the page from before it.
"""

_SIGNS: Final = ("gap", "bye")
"""What stands in a stream of events and is none."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A page as it goes out."""

    html: str
    status: int = 200

    def response(self) -> Response:
        """Return the answer."""
        return Response(self.html, self.status, content_type="text/html; charset=utf-8")


class _Compiled(jinja2.BytecodeCache):
    """What templates were compiled to, by their text: ten of them take half a second.

    It is for environments with the same options and filters, as `Templates` makes them.
    """

    def __init__(self) -> None:
        self._codes: dict[tuple[str, str], CodeType | None] = {}

    @override
    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._codes.get((bucket.key, bucket.checksum))

    @override
    def dump_bytecode(self, bucket: Bucket) -> None:
        self._codes[bucket.key, bucket.checksum] = bucket.code


_COMPILED: Final = _Compiled()


class Templates:
    """The templates in ``app/dashboard`` and the files beside them.

    Args:
        redact: Takes secrets out of a text before it is cut, for the half of one is not known.
        folder: Where they are.
        demo: Whether all that is shown is simulated, which each page then says.
    """

    def __init__(
        self, redact: Callable[[str], str], folder: Path = DASHBOARD, *, demo: bool = False
    ) -> None:
        environment = jinja2.Environment(
            # Read now: what an upgrade puts there is not for the code that runs.
            loader=jinja2.DictLoader(
                {path.name: path.read_text("utf-8") for path in folder.glob("*.html")}
            ),
            autoescape=True,
            bytecode_cache=_COMPILED,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {
            name: getattr(words, name)
            for name in (
                "as_json", "countdown", "duration", "elapsed", "first_line", "error_line",
                "fine_money", "money", "without", "words",
            )
        }  # fmt: skip
        environment.filters["first_line"] = lambda text, most=120: words.first_line(
            redact(text), most
        )
        environment.globals |= {
            "tone": tone_of,
            "event_tone": event_tone,
            "statuses": list(TaskStatus),
            "navigation": NAVIGATION,
            "demo": demo,
            "event_kinds": " ".join((*EventKind, *_SIGNS)),
        }
        self._environment = environment
        self._demo = demo
        self._assets = {path.name: path.read_bytes() for path in (folder / "static").iterdir()}
        # By which a page that stays open over an upgrade knows that it needs another script.
        contents = b"".join(self._assets[name] for name in sorted(self._assets))
        environment.globals["version"] = hashlib.sha256(contents).hexdigest()[:12]

    def render(self, name: str, status: int = 200, **state: Any) -> Rendered:  # noqa: ANN401
        """Render a template; what it shows is given by name."""
        html = self._environment.get_template(name).render(state)
        # Wherever an amount stands, in the words of an event too: it must not look real.
        return Rendered(words.unreal(html) if self._demo else html, status)

    async def asset(self, name: str, request: Request) -> Response:
        """Answer with a file of the pages, or 304 where the browser has it.

        Raises:
            NotFound: If there is no such file.
        """
        if name not in self._assets:
            raise NotFound
        response = Response(self._assets[name], mimetype=mimetypes.guess_type(name)[0])
        response.headers["Cache-Control"] = "no-cache"
        await response.add_etag()
        return await response.make_conditional(request)


class Kept:
    """Pages that were rendered just now, so that many readers cost as much as one."""

    def __init__(self) -> None:
        self._pages: dict[str, tuple[float, Rendered]] = {}
        self._rendering: dict[str, trio.Lock] = {}

    async def get(self, address: str, render: Callable[[], Awaitable[Rendered]]) -> Rendered:
        """Return the page at an address, rendering it unless that was done `KEEP` seconds ago.

        Whoever asks meanwhile waits for the same rendering.
        """
        lock = self._rendering.setdefault(address, trio.Lock())
        try:
            async with lock:
                until, page = self._pages.get(address, (0.0, None))
                if page is None or until < trio.current_time():
                    page = await render()
                    self._drop_old()
                    self._pages[address] = (trio.current_time() + KEEP, page)
                return page
        finally:
            if not lock.locked():
                self._rendering.pop(address, None)

    def _drop_old(self) -> None:
        now = trio.current_time()
        self._pages = {each: kept for each, kept in self._pages.items() if kept[0] >= now}


def event_tone(kind: str, facts: Mapping[str, Any]) -> Tone:
    """Return the tone of an event in a list: what is well has none, so that one sees what is not.

    >>> event_tone("restart_scheduled", {}).name, event_tone("task_queued", {}).name
    ('WARN', 'PLAIN')
    """
    tone = tone_of_event(kind, facts)
    return tone if tone in {Tone.WARN, Tone.BAD} else Tone.PLAIN
