"""The output of a program: read to its end, cut into lines, and the last lines kept."""

from __future__ import annotations

import codecs
import os
import re
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

MAX_LINE: Final = 65_536
"""Characters after which a line is handed on in pieces, so that none fills the memory."""
LAST_LINES: Final = 10
"""How many of the last lines of output a `ProcessExited` shows, with 200 characters of each."""
STACK_LINES: Final = 50
"""How many lines a `ProcessExited` shows of the stack that a stalled program writes."""

_SHOWN: Final = 200  # characters of a line
_CHUNK: Final = 65_536
_LARGEST_PIPE: Final = 1_048_576
_LINE_ENDS: Final = re.compile(r"\r*\n|\r+")


class Source:
    """Reads what a process sends: all while it lives, after its end what is still in the pipe.

    So nothing is lost, and no reader waits for a grandchild that holds the other end open.

    Args:
        fd: What to wait for.
        receive: Reads that many bytes of it; does not block.
    """

    def __init__(self, fd: int, receive: Callable[[int], bytes]) -> None:
        self._fd = fd
        self._receive = receive
        self._left = _LARGEST_PIPE
        self._waiting = trio.CancelScope()
        self.is_finished = False
        """Whether the process has ended, so that a source which is empty remains so."""

    async def wait(self) -> None:
        """Wait until there may be something to take."""
        await trio.lowlevel.checkpoint()
        if not self.is_finished:
            with trio.CancelScope() as self._waiting:
                await trio.lowlevel.wait_readable(self._fd)

    def take(self, size: int) -> bytes | None:
        """Return the data that is there; None if there is none now."""
        if self._left <= 0:
            return None
        try:
            data = self._receive(size)
        except BlockingIOError:
            return None
        if self.is_finished:
            self._left -= len(data)
        return data

    def finish(self) -> None:
        """Wait for nothing more."""
        self.is_finished = True
        self._waiting.cancel(reason="the process has ended")


class Stream:
    """Standard output or standard error of a program.

    Args:
        fd: The end of a pipe that is to be read.
        hand_on: Called with each line.
    """

    def __init__(self, fd: int, hand_on: Callable[[str], Awaitable[None]]) -> None:
        self.source = Source(fd, partial(os.read, fd))
        self.hand_on = hand_on
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lines = Lines()

    def lines(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes; empty data is the end of the stream."""
        if data:
            return self._lines.cut(self._decoder.decode(data))
        return self._lines.cut(self._decoder.decode(b"", final=True)) + self._lines.rest()


class Output:
    """All that a program writes.

    What it wrote to an earlier stream before it wrote to a later one is handed on first, so errors
    stay behind the output that they follow. A line is handed on when the callback for the line
    before it has returned. Until then nothing is read, which slows the program.

    Args:
        streams: Its output and, if that is apart, its errors.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams
        self._one_at_a_time = trio.Lock()
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._stack: list[str] | None = None

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines of output; those of a stack are not shortened."""
        return (*self._last, *(self._stack or ()))

    async def hand_on(self) -> None:
        """Hand on all that is written, until all streams are at their end or finished."""
        async with trio.open_nursery() as nursery:
            for index in range(len(self._streams)):
                nursery.start_soon(self._follow, index)

    def expect_stack(self) -> None:
        """From now on keep more lines, those of the stack, and hand none on."""
        self._stack = []

    def finish(self) -> None:
        """Wait for nothing more."""
        for stream in self._streams:
            stream.source.finish()

    async def _follow(self, index: int) -> None:
        is_open = True
        while is_open:
            await self._streams[index].source.wait()
            async with self._one_at_a_time:
                is_open = await self._take(index)

    async def _take(self, index: int) -> bool:
        """Hand on what a stream holds; return whether more may come."""
        stream = self._streams[index]
        data = stream.source.take(_CHUNK)
        if data is None and not stream.source.is_finished:
            return True
        for earlier in self._streams[:index]:
            await self._catch_up(earlier)
        await self._pass(stream, data or b"")
        return bool(data)

    async def _catch_up(self, stream: Stream) -> None:
        for _ in range(_LARGEST_PIPE // _CHUNK):
            data = stream.source.take(_CHUNK)
            if not data:
                return
            await self._pass(stream, data)

    async def _pass(self, stream: Stream, data: bytes) -> None:
        lines = stream.lines(data)
        if self._stack is not None:
            self._stack += [line[:_SHOWN] for line in lines[: STACK_LINES - len(self._stack)]]
            return
        for line in lines:
            self._last.append(line[:_SHOWN])
        for line in lines:
            await stream.hand_on(line)


class Lines:
    r"""Text cut into lines, which end with ``\n``, ``\r\n``, or ``\r`` as those that show progress.

    >>> lines = Lines()
    >>> lines.cut("one\r\ntw"), lines.cut("o\n"), lines.cut("10%\r20%\r"), lines.cut("\n\nthree")
    (['one'], ['two'], ['10%', '20%'], [''])
    >>> lines.rest()
    ['three']
    """

    def __init__(self) -> None:
        self._rest = ""
        self._is_after_cr = False

    def cut(self, text: str) -> list[str]:
        """Return the lines that some more text completes."""
        if self._is_after_cr:  # whose line was handed on at once; what follows may belong to it
            text = text.lstrip("\r")
            self._is_after_cr = not text
            text = text.removeprefix("\n")
        text = self._rest + text
        lines: list[str] = []
        begin = 0
        for end in _LINE_ENDS.finditer(text):
            line = text[begin : end.start()]
            begin = end.end()
            if line or end[0].endswith("\n"):  # "\r" at the start of a line ends none
                lines += _pieces(line)
                self._is_after_cr = begin == len(text) and end[0].endswith("\r")
        *full, self._rest = _pieces(text[begin:])
        return lines + full

    def rest(self) -> list[str]:
        """Return the last line, if it has no end."""
        rest, self._rest = self._rest, ""
        return [rest] if rest else []


def _pieces(line: str) -> list[str]:
    return [line[i : i + MAX_LINE] for i in range(0, len(line), MAX_LINE)] or [""]
