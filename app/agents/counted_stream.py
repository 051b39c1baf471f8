"""The body of a reply that is streamed, looked at while the caller reads it."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, Final

import httpx2
from typing_extensions import override

from .replies import Assembly, OddReply, parse_json, read_reply
from .verdicts import judge_event, judge_unreadable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime, timedelta

    from .activity import Activity
    from .books import OpenEntry
    from .counted_log import CallLog
    from .verdicts import Verdict

SILENCE: Final = 300.0
"""Seconds without a word of the API after which a reply counts as lost; it sends pings."""

_LONGEST_EVENT: Final = 16 * 1024 * 1024
"""Characters that one event may have; what is longer is not looked at any more."""


class CountedStream(httpx2.AsyncByteStream):
    """The body in the place of that of a response; it books the call when it ends, however it does.

    Args:
        response: The response, whose body it takes the place of.
        entry: The call.
        activity: The agent's.
        log: Where it is written down what was said.
    """

    def __init__(
        self, response: httpx2.Response, entry: OpenEntry, activity: Activity, log: CallLog
    ) -> None:
        body = response.stream
        assert isinstance(body, httpx2.AsyncByteStream)  # noqa: S101  (that of an async client)
        self._body = body
        self._chunks = aiter(body)
        self._begun: list[bytes] = []
        """What was read already, for the caller who reads on."""
        self._entry = entry
        self._activity = activity
        self._log = log
        self._request_id = response.headers.get("request-id")
        self._assembly: Assembly | None = Assembly()
        if response.headers.get("content-encoding", "identity") != "identity":
            self._assembly = None  # a gateway has packed it, so it cannot be read here
        self._events = _Events()
        self._is_ended = False
        response.stream = self

    @property
    def elapsed(self) -> timedelta | None:
        """What the body measures, where httpx looks for it."""
        return getattr(self._body, "elapsed", None)

    async def begin(self, now: datetime) -> Verdict | None:
        """Read until the reply begins.

        Args:
            now: The present moment.

        Returns:
            What is wrong, if it is an error in place of a reply.
        """
        while self._assembly is not None and self._assembly.message is None:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                return judge_unreadable("an empty stream")
            self._begun.append(chunk)
            error = self._look_at(chunk)
            if error is not None:
                return judge_event(error, now=now)
        return None

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._begun:
            yield chunk
        self._begun.clear()
        try:
            async for chunk in self._chunks:
                self._look_at(chunk)
                if self._assembly is not None and self._assembly.complete:
                    await self._end()  # before the reader may make its next call
                yield chunk
        finally:
            await self._end()

    @override
    async def aclose(self) -> None:
        try:
            await self._end()
        finally:
            await self._body.aclose()

    def _look_at(self, chunk: bytes) -> object:
        """Take in what came; return the error that it is, if it is one."""
        self._activity.wait("waiting for Claude", SILENCE)
        if self._assembly is None:
            return None
        try:
            for kind, data in self._events.feed(chunk):
                if kind == "error":
                    return _json_or_text(data)
                if kind != "ping":
                    self._assembly.add(parse_json(data))
        except (OddReply, UnicodeDecodeError):  # the reader will see it, too
            self._assembly = None
        return None

    async def _end(self) -> None:
        """Book the call."""
        if self._is_ended or self._entry.is_settled:
            return
        self._is_ended = True
        assembly = self._assembly
        try:
            if assembly is not None and assembly.complete:
                reply = read_reply(assembly.result(), self._request_id)
                await self._entry.settle(reply)
                await self._log.answered(reply)
        except OddReply:
            pass
        finally:
            self._entry.partial = None if assembly is None else assembly.usage_so_far()
            await self._entry.fail(may_cost=True)  # where it is not settled
            self._activity.end_call()


class _Events:
    """Server-sent events, taken from a stream of bytes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._kind = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[tuple[str, str]]:
        """Take in bytes; return the events that are whole with them: kinds and data."""
        self._text += self._decoder.decode(chunk)
        if len(self._text) > _LONGEST_EVENT:
            raise OddReply("an event of its stream does not end")
        *lines, self._text = self._text.split("\n")
        found = []
        for line in lines:
            event = self._line(line.removesuffix("\r"))
            if event is not None:
                found.append(event)
        return found

    def _line(self, line: str) -> tuple[str, str] | None:
        if not line:
            event = (self._kind, "\n".join(self._data))
            self._kind, self._data = "", []
            return event if event[1] else None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        return None


def _json_or_text(text: str) -> Any:  # noqa: ANN401  (JSON)
    try:
        return parse_json(text)
    except OddReply:
        return text
