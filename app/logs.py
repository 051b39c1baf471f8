"""Logs on stderr: lines for people on a terminal, JSON lines for everybody else; no secret passes.

Or in a file, as JSON lines, which may be moved away or be on a full disk.

Whatever runs inside `log_context` has its fields in each line, in whatever task, loop or thread.
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
from logging.handlers import WatchedFileHandler
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import quote

from typing_extensions import override

from app.background_log import handler_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    Redact = Callable[[str], str]
    ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None]

logger = logging.getLogger(__name__)

REDACTED: Final = "[redacted]"

SHORTEST_SECRET: Final = 4
"""Characters that a secret has at least; to take out less would only spoil the text."""

_context: ContextVar[Mapping[str, str]] = ContextVar("log_context", default={})  # noqa: B039

MOST_TEXT: Final = 20_000
"""Characters of a text that are logged, or kept of an error."""

# These report every request or retry as news, with nothing that our own lines do not say.
_CHATTY: Final = ("anthropic", "httpcore", "httpx", "httpx2", "hypercorn", "quart")


@contextmanager
def log_context(**fields: str) -> Iterator[None]:
    """Have the fields in each line that is logged in this block and by what it starts."""
    token = bind_log_context(**fields)
    try:
        yield
    finally:
        _context.reset(token)


def bind_log_context(**fields: str) -> Token[Mapping[str, str]]:
    """Have the fields in each line that is logged from now on in this task."""
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


def cut(text: str, most: int = MOST_TEXT) -> str:
    """Leave out the middle of a text that nobody would read; at its ends is what says most.

    >>> cut("It was a dark and stormy night.", 16)
    'It was a [15 characters left out] y night.'
    """
    half = most // 2
    left_out = len(text) - 2 * half
    if len(text) <= most:
        return text
    return f"{text[:half]} [{left_out} characters left out] {text[len(text) - half :]}"


def why(error: Exception) -> str:
    """Say why something did not work; a time-out, of any library, has no text of its own.

    >>> why(OSError("no such host")), why(TimeoutError())
    ('no such host', 'it took too long')
    """
    return str(error) or "it took too long"


def clean_json(value: object, redact: Redact) -> Any:  # noqa: ANN401  (JSON)
    """Return a value as JSON can hold it, with every text in it redacted, keys excepted."""
    if isinstance(value, dict):
        return {str(key): clean_json(item, redact) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean_json(item, redact) for item in value]
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return redact(str(value))


def configure_logging(
    stream: IO[str],
    *,
    redact: Redact,
    as_json: bool,
    file: Path | None = None,
    background: bool = False,
) -> None:
    """Send all logs to `stream`, as JSON lines or as lines for people; or to a file in its place.

    Args:
        stream: Where to.
        redact: Takes secrets out of a text.
        as_json: Whether a program reads it.
        file: The file in its place.
        background: Whether a thread writes to the stream, where its reader may stop reading.

    Raises:
        OSError: If the file cannot be opened.
    """
    handler = handler_for(stream) if background else logging.StreamHandler(stream)
    if file is not None:
        handler, as_json = LogFile(file, instead=handler), True
    handler.setFormatter(JsonFormatter(redact) if as_json else TextFormatter(redact))
    handler.addFilter(_add_context)
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.captureWarnings(capture=True)
    # A reader of our stderr that went away must not disturb the daemon.
    logging.raiseExceptions = False
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("trio.serve_listeners").filters = [Seldom()]


def log_what_nobody_catches() -> None:
    """Have errors in threads and in `__del__` logged like all else, and not printed."""
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


class Seldom(logging.Filter):
    """Lets one line through a minute, without its traceback, of what is said ten times a second.

    So it is while a process may open no more files.
    """

    EVERY: Final = 60.0
    """Seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._passed_at = -math.inf

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        # Not more seldom either, where the clock was set back.
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


class LogFile(WatchedFileHandler):
    """A file that is begun anew when it was moved away, and whose failure harms nobody.

    Args:
        path: Where it is.
        instead: Gets the lines that it does not take.

    Raises:
        OSError: If it cannot be opened.
    """

    def __init__(self, path: Path, *, instead: logging.Handler) -> None:
        super().__init__(path, encoding="utf-8")
        self._instead = instead
        self._error: OSError | None = None

    @override
    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        super().setFormatter(fmt)
        self._instead.setFormatter(fmt)

    @override
    def emit(self, record: logging.LogRecord) -> None:
        failed, self._error = self._error, None
        try:
            super().emit(record)
        except OSError as error:  # it could not be begun anew
            self._error = error
        if self._error is not None:
            if failed is None:
                self._instead.handle(self._lament(self._error))
            self._instead.handle(record)

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if isinstance(error, OSError):
            self._error = error

    def _lament(self, error: OSError) -> logging.LogRecord:
        text = f"The log cannot be written to {self.baseFilename} and goes here: {error.strerror}"
        level = logging.ERROR
        record = logging.LogRecord(__name__, level, __file__, 0, text, None, None)
        record.action = "log_file_failed"
        return record


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then whatever else is known."""

    def __init__(self, redact: Redact) -> None:
        super().__init__()
        self._redact = redact

    @override
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _moment(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if error := _traceback(self, record):
            fields["error"] = error
        fields = clean_json(fields, lambda text: cut(self._redact(text)))
        return json.dumps(fields, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A line that begins with the time of day, how bad it is, and which agent it is about."""

    def __init__(self, redact: Redact) -> None:
        super().__init__()
        self._redact = redact

    @override
    def format(self, record: logging.LogRecord) -> str:
        clock = _moment(record).astimezone().strftime("%H:%M:%S")
        extra = _extra(record)
        who = " ".join(str(extra[name])[:12] for name in ("agent_id", "run") if name in extra)
        text = f"{clock} {record.levelname:<7} {f'[{who}] ' if who else ''}{record.getMessage()}"
        text = cut(self._redact(text))
        if error := _traceback(self, record):
            text += "\n" + cut(self._redact(error))
        return text.translate(_CONTROL_CHARACTERS)


# What others write into a line must not steer the terminal that shows it.
_CONTROL_CHARACTERS: Final = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
}

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
