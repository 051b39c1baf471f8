"""Log lines for a reader that may stop reading: a terminal that is stopped, a pipe that is full.

Writing to those waits, perhaps for ever, and Trio's loop would wait with it. So a thread writes,
and how many lines may wait for it is bounded.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import stat
import threading
from contextlib import suppress
from typing import IO, Final

FLUSH_TIMEOUT: Final = 1.0
"""Seconds that the end of the program waits for what is not written yet."""


def handler_for(stream: IO[str]) -> logging.Handler:
    """Return a handler that writes to a stream: in a thread if its reader may stop reading."""
    with suppress(OSError):  # it is no file
        mode = os.fstat(stream.fileno()).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode):
            return BackgroundHandler(stream.fileno())
    return logging.StreamHandler(stream)


class BackgroundHandler(logging.Handler):
    """Writes lines in a thread.

    Args:
        descriptor: The file to write to.
        most: How many lines may wait; those that come then are lost, and counted.
    """

    def __init__(self, descriptor: int, *, most: int = 1000) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._waiting: queue.Queue[str | threading.Event] = queue.Queue(most)
        self._counting = threading.Lock()
        self._lost = 0
        # A daemon thread, which does not keep the process from ending.
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Give a line to the thread; count it as lost where too many wait."""
        try:
            self._waiting.put_nowait(f"{self.format(record)}\n")
        except queue.Full:
            with self._counting:
                self._lost += 1
        except Exception:  # noqa: BLE001  (as logging's own handlers do)
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all is written, but not for long."""
        written = threading.Event()
        with suppress(queue.Full):
            self._waiting.put(written, timeout=FLUSH_TIMEOUT)
            written.wait(FLUSH_TIMEOUT)

    # In the thread.

    def _write_all(self) -> None:
        while True:
            waiting = self._waiting.get()
            if isinstance(waiting, threading.Event):
                waiting.set()
                continue
            self._write(waiting)
            with self._counting:
                lost, self._lost = self._lost, 0
            if lost:
                self._write(f"{self.format(_lines_lost(lost))}\n")

    def _write(self, text: str) -> None:
        left = text.encode(errors="backslashreplace")
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another program on this terminal made it non-blocking
                select.select((), (self._descriptor,), ())
            except OSError:  # its reader is gone, which must not disturb the service
                return


def _lines_lost(lost: int) -> logging.LogRecord:
    text = f"{lost} lines of the log are lost, because nobody read it"
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)
    record.action = "log_lines_lost"
    return record
