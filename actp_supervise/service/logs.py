"""Logs on stderr or in a file: JSON lines for programs, lines for people; no secret passes.

Each record is one line, whatever is in it: what others wrote into it can neither steer the terminal
that shows it nor pass for a line of its own. Lines carry the fields of the `log_context` in which
they were logged, in whatever task, loop or thread.
"""

from __future__ import annotations

import html
import json
import logging
import math
import re
import sys
import threading
from contextlib import contextmanager
from contextvars import Context, ContextVar, Token
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import quote

from .background_log import handler_for
from .log_file import LogFile
from .text import STEERING, clean_json, shorten, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    Redact = Callable[[str], str]
    ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None]

logger = logging.getLogger(__name__)

REDACTED: Final = "[redacted]"

SHORTEST_SECRET: Final = 4
"""Characters that a secret has at least; to take out less would only spoil the text."""

_context: ContextVar[Mapping[str, str]] = ContextVar("log_context", default={})  # noqa: B039


@contextmanager
def log_context(**fields: str) -> Iterator[None]:
    """Add the fields to each record that is logged in this block and by what it starts."""
    token = bind_log_context(**fields)
    try:
        yield
    finally:
        _context.reset(token)


def bind_log_context(**fields: str) -> Token[Mapping[str, str]]:
    """Add the fields to each record that is logged from now on in this task."""
    return _context.set({**_context.get(), **fields})


def fields_of(context: Context) -> Mapping[str, str]:
    """Return the fields that lines logged in that context have; from any thread."""
    return context.get(_context, {})


def make_redactor(secrets: Iterable[str]) -> Redact:
    """Return what takes the given secrets, and anything that looks like an API key, out of a text.

    >>> make_redactor(["hunter2"])("the password is hunter2, the key sk-ant-api03-abc_DEF-1")
    'the password is [redacted], the key [redacted]'
    """
    # The longest first, for one may be the beginning of another.
    known = sorted(
        {
            form
            for secret in secrets
            if len(secret) >= SHORTEST_SECRET
            for form in _written_forms(secret)
        },
        key=len,
        reverse=True,
    )
    pattern = re.compile("|".join([*map(re.escape, known), r"sk-ant-[\w-]{4,}"]))

    def redact(text: str) -> str:
        return pattern.sub(REDACTED, text)

    return redact


def _written_forms(secret: str) -> set[str]:
    """Return a secret as it is, and as it stands in JSON, in HTML, in both, and in an address."""
    forms = {secret, *(json.dumps(secret, ensure_ascii=pure)[1:-1] for pure in (True, False))}
    escaped = {html.escape(form) for form in forms}
    # Jinja writes quotes by number, Python by name.
    numbered = {form.replace("&quot;", "&#34;").replace("&#x27;", "&#39;") for form in escaped}
    return forms | escaped | numbered | {quote(secret), quote(secret, safe="")}


def configure_logging(
    stream: IO[str],
    *,
    redact: Redact = str,
    as_json: bool,
    file: Path | None = None,
    background: bool = False,
    labels: Collection[str] = (),
    quiet: Iterable[str] = (),
) -> None:
    """Send all logs to `stream`, as JSON lines or as lines for people; or to a file in its place.

    Args:
        stream: Where to.
        redact: Takes secrets out of a text.
        as_json: Whether a program reads it; a file always gets JSON.
        file: The file in its place, see `LogFile`.
        background: Whether a thread writes to the stream, where its reader may stop reading.
        labels: Which fields of a record stand before its message, for people.
        quiet: Loggers of libraries, of which only warnings and worse are logged.

    Raises:
        OSError: If the file cannot be opened, or is not safe to write to.
    """
    handler = handler_for(stream) if background else logging.StreamHandler(stream)
    if file is not None:
        handler, as_json = LogFile(file, instead=handler), True
    handler.setFormatter(JsonFormatter(redact) if as_json else TextFormatter(redact, labels))
    handler.addFilter(_add_context)
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.captureWarnings(capture=True)
    # A reader of our stderr that went away must not disturb the service.
    logging.raiseExceptions = False
    for name in quiet:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("trio.serve_listeners").filters = [RateLimit()]


def log_what_nobody_catches() -> None:
    """Log the errors that nothing catches, in threads and `__del__`, which Python would print."""
    sys.unraisablehook = _on_unraisable
    threading.excepthook = _on_thread_error


def _on_unraisable(error: sys.UnraisableHookArgs) -> None:
    where = getattr(error.object, "__qualname__", type(error.object).__qualname__)
    text, extra = error.err_msg or "Exception ignored in", {"action": "error_ignored"}
    logger.error("%s: %s", text, where, exc_info=_exc_info(error), extra=extra)


def _on_thread_error(error: threading.ExceptHookArgs) -> None:
    if not issubclass(error.exc_type, SystemExit):
        name, extra = getattr(error.thread, "name", "unknown"), {"action": "thread_failed"}
        logger.error("Thread %s failed", name, exc_info=_exc_info(error), extra=extra)


def _exc_info(error: sys.UnraisableHookArgs | threading.ExceptHookArgs) -> ExceptionInfo:
    value = error.exc_value or Exception(error.exc_type.__name__)
    return error.exc_type, value, error.exc_traceback


class RateLimit(logging.Filter):
    """Lets one record a minute pass, without its traceback.

    For what Trio logs ten times a second while the process may open no more files.
    """

    EVERY: Final = 60.0
    """Seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._passed_at = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a minute is over since the last record that passed."""
        # A record passes too if the clock was set back.
        if 0 <= record.created - self._passed_at < self.EVERY:
            return False
        self._passed_at = record.created
        record.exc_info = None
        return True


def _add_context(record: logging.LogRecord) -> bool:
    # On the handler and not while formatting, because a handler may format later, elsewhere.
    for name, value in _context.get().items():
        if not hasattr(record, name):
            setattr(record, name, value)
    return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then what else is known."""

    def __init__(self, redact: Redact) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line, in which nothing steers a terminal that shows it."""
        own = {
            "time": _moment(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if error := _traceback(self, record):
            own["error"] = error
        fields = own | _extra(record) | own  # in this order, and no other passes for one of ours
        fields = clean_json(fields, lambda text: shorten(self._redact(text), ends=True))
        text = json.dumps(fields, ensure_ascii=False)
        # Escaped as JSON does it, so that who reads the JSON gets the text as it was.
        return STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class TextFormatter(logging.Formatter):
    """Lines for people: the time of day, the level, the labels, the message.

    The further lines of a record are indented, so that a text with a newline in it cannot pass for
    another record, which begins at the margin.

    Args:
        redact: Takes secrets out of a text.
        labels: Which fields stand before the message.
    """

    def __init__(self, redact: Redact, labels: Collection[str] = ()) -> None:
        super().__init__()
        self._redact = redact
        self._labels = labels

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as lines of which only the first begins at the margin."""
        clock = _moment(record).astimezone().strftime("%H:%M:%S")
        extra = _extra(record)
        who = " ".join(str(extra[name])[:12] for name in self._labels if name in extra)
        text = f"{clock} {record.levelname:<7} {f'[{who}] ' if who else ''}{record.getMessage()}"
        text = shorten(self._redact(text), ends=True)
        if error := _traceback(self, record):
            text += "\n" + shorten(self._redact(error), ends=True)
        return visible(text, lines=True).replace("\n", "\n    ")


_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was logged by `extra=` or added by a filter."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    """Return the traceback of a record; one of another process has it as text alone."""
    if record.exc_info:
        return formatter.formatException(record.exc_info)
    return record.exc_text


def _moment(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)
