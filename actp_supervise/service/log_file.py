"""A log in a file that is its user's alone, may be moved away, and may be on a full disk.

A process that writes a log as root, or in a folder that others may write to, can be made to write
elsewhere: by a link laid in place of the file or of a folder on its way. So the way is walked
folder by folder, and no link is followed that another user made.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from logging.handlers import WatchedFileHandler
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from io import TextIOWrapper
    from pathlib import Path

MOST_LINKS: Final = 40
"""Links on the way to a file, as in Linux; more are taken for a circle."""

_FOLDER: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# Not waiting for a reader, should a FIFO have been laid there.
_APPEND: Final = (
    os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
)


def open_private(path: Path) -> int:
    """Open a file to append to; one that is new only its user can read.

    A file that is there keeps its mode, which its owner may have chosen. Links on the way are
    followed if they are ours or root's. The file itself must be ours or root's too, be a file (or a
    device, as ``/dev/null``), and have no second name, for another user could have given it that.

    Returns:
        Its descriptor.

    Raises:
        OSError: If that is not possible, or not safe.

    Source:
        Postfix's safe_open(3), and how Linux protects links in shared folders (proc_sys_fs(5)).
    """
    way = list(reversed(path.absolute().parts))  # "/" is the last
    folder = os.open(way.pop(), _FOLDER)
    links = 0
    try:
        while True:
            name = way.pop()
            target = _followed(name, folder)
            if target is not None:
                links += 1
                if links > MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                way += reversed(PurePath(target).parts)
            elif way:
                # An absolute name, as of a link's target, begins at the root again.
                inner = os.open(name, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = inner
            else:
                return _open_last(name, folder)
    finally:
        os.close(folder)


def _followed(name: str, folder: int) -> str | None:
    """Return where a link leads; None if it is no link."""
    try:
        before = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISLNK(before.st_mode):
            return None
        _check_owner(before, "a link on its way")
        target = os.readlink(name, dir_fd=folder)
        after = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    # A link that was exchanged while it was read may have given the target of the other link.
    if (before.st_ino, before.st_ctime_ns) != (after.st_ino, after.st_ctime_ns):
        raise OSError(errno.EPERM, "a link on its way was just exchanged")
    return target


def _open_last(name: str, folder: int) -> int:
    file = os.open(name, _APPEND, 0o600, dir_fd=folder)
    try:
        status = os.fstat(file)
        is_file = stat.S_ISREG(status.st_mode)
        if not (is_file or stat.S_ISCHR(status.st_mode)):
            raise OSError(errno.EINVAL, "it is no file")
        _check_owner(status, "it")
        if is_file and status.st_nlink > 1:
            raise OSError(errno.EPERM, "it has a second name (a hard link)")
        os.set_blocking(file, True)
    except OSError:
        os.close(file)
        raise
    return file


def _check_owner(status: os.stat_result, what: str) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise OSError(errno.EPERM, f"{what} belongs to another user (uid {status.st_uid})")


class LogFile(WatchedFileHandler):
    """A log file that is begun anew when it was moved away; its failure stops no service.

    It is opened as `open_private` does, each time.

    Args:
        path: Where it is.
        instead: Gets the lines that the file does not take.

    Raises:
        OSError: If it cannot be opened.
    """

    def __init__(self, path: Path, *, instead: logging.Handler) -> None:
        self._path = path.absolute()
        super().__init__(path, encoding="utf-8")
        self._instead = instead
        self._error: OSError | None = None

    def _open(self) -> TextIOWrapper:
        return os.fdopen(open_private(self._path), "a", encoding="utf-8")

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802  (logging's)
        """Set what writes a record as a line, here and in place of here."""
        super().setFormatter(fmt)
        self._instead.setFormatter(fmt)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; where that fails, hand it on, and log once that it does."""
        failed, self._error = self._error, None
        try:
            super().emit(record)
        except OSError as error:  # it could not be begun anew
            self._error = error
        if self._error is not None:
            if failed is None:
                self._instead.handle(self._failure(self._error))
            self._instead.handle(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's)
        """Remember that a record could not be written."""
        error = sys.exception()
        if isinstance(error, OSError):
            self._error = error

    def _failure(self, error: OSError) -> logging.LogRecord:
        text = f"The log cannot be written to {self._path} and goes here: {error.strerror}"
        level = logging.ERROR
        record = logging.LogRecord(__name__, level, __file__, 0, text, None, None)
        record.action = "log_file_failed"
        return record
