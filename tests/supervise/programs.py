"""Programs that tests run, and what they ask of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio
from processes import is_alive

from actp_supervise.process import process_child


def sh(script: str, **options):
    return process_child(["/bin/sh", "-c", script], **options)


def python(script: str, **options):
    return process_child([sys.executable, "-u", "-c", script], **options)


class Lines(list):
    """Output to wait for."""

    def __init__(self) -> None:
        self._more = trio.Event()

    def __call__(self, line: str) -> None:
        self.append(line)
        self._more.set()
        self._more = trio.Event()

    async def until(self, count: int) -> None:
        with trio.fail_after(20):
            while len(self) < count:
                await self._more.wait()


def is_there(pid: int) -> bool:
    """Return whether there is a process of that number, be it a zombie (or, on macOS, ended)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(condition, *, within: float = 20.0) -> None:
    """Wait until something that happens outside of this process is so."""
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def until_gone(*pids: int) -> None:
    """Wait for processes that were killed: the signal is sent, their death takes a moment."""
    await until(lambda: not any(is_alive(pid) for pid in pids))


def children_of(pid: int) -> list[int]:
    """Return the ids of a process's children, zombies as well (on Linux); none if it is gone."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in text.split()]


def descendants_of(pid: int) -> list[int]:
    """Return the ids of all below a process."""
    return [below for child in children_of(pid) for below in (child, *descendants_of(child))]


def command_of(pid: int) -> str:
    """Return the command that a process runs; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


OTHERS: set[int] = set()
"""Processes that this one had started before the test: servers of other tests, browsers."""


def children() -> list[int]:
    """Return the ids of the processes that this one has started in the test."""
    return [pid for pid in children_of(os.getpid()) if pid not in OTHERS]


def keeper() -> int:
    """Return the id of the one process that this one has started: the keeper."""
    (pid,) = children()
    return pid
