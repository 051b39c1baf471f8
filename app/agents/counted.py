"""A client of Claude's API for a class of one's own, whose calls are treated as ours are.

Each call of the messages API, streamed or not and whatever of the SDK makes it (`messages.create`,
`messages.stream`, `beta.messages.tool_runner`), has its money set aside before and is booked after,
on the task that is being done if there is one. It is repeated with the same patience. Tools that
the replies call are in the log of tool calls, and what is said about a task is in its transcript.

Where it is no use to ask on, a call that is made for a task raises `HandBack`, by which `Worker`
hands the task back or pauses the agent. One that is made for no task waits, and the agent shows
why; in a routine it raises at once. What the API takes for wrong is the SDK's own error, as ever.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeGuard
from urllib.parse import urlsplit

import anthropic
import httpx2
from anthropic import AsyncAPIResponse
from typing_extensions import override

from actp_supervise import current_child
from app.store.records import moment_text

from .approvals import Gate
from .books import CALL_TIMEOUT, Books
from .counted_log import CallLog
from .counted_stream import CountedStream
from .lease import current_claim
from .outcomes import HandBack, Paused, Refused
from .patience import Patience, Tries
from .pauses import until_over
from .replies import OddReply, parse_json, read_reply
from .verdicts import Consequence, Verdict, judge, judge_exception, judge_unreadable

if TYPE_CHECKING:
    from anthropic import APIRequest, AsyncAnthropic, AsyncCallNext

    from .books import OpenEntry, Request
    from .contract import AgentContext

logger = logging.getLogger(__name__)

_PATH: Final = "/v1/messages"

_REST: Final = 5.0
"""Seconds that a call waits at least which could not be made."""

_LOST: Final = (anthropic.APIError, httpx2.HTTPError, OSError, TimeoutError)
"""The errors of a call that got no answer, or only the beginning of one."""


def counted(context: AgentContext, *, patience: Patience | None = None) -> AsyncAnthropic:
    """Make a client whose calls are counted; to be called in the agent's own loop.

    Args:
        context: The agent's.
        patience: How long calls that fail are repeated.
    """
    return context.make_client().with_options(
        # The SDK's own retries wait in silence. A stream that is packed could not be read by us.
        max_retries=0,
        default_headers={"accept-encoding": "identity"},
        middleware=[_Counting(context, patience or Patience())],
    )


class _Counting(anthropic.Middleware):
    """What the SDK calls for each request of the client.

    Args:
        context: The agent's.
        patience: How long calls that fail are repeated.
    """

    def __init__(self, context: AgentContext, patience: Patience) -> None:
        self._context = context
        self._patience = patience
        self._log = CallLog(context)
        self._books: dict[str | None, Books] = {}

    @override
    async def handle_async(
        self, request: APIRequest, call_next: AsyncCallNext
    ) -> AsyncAPIResponse[Any]:
        path = urlsplit(request.url).path.rstrip("/")
        body = request.json
        if request.method.upper() != "POST" or not path.endswith(_PATH) or not _is_whole(body):
            return await call_next(request)
        call = _Call(self._context, self._books_of_task(), self._log, body, request, call_next)
        return await call.make(Tries(self._patience, random.Random()))

    def _books_of_task(self) -> Books:
        """Return the books of the task that is being done, whose budget may have been raised."""
        claim = current_claim()
        task_id = None if claim is None else claim.task_id
        if task_id not in self._books:
            self._books = {task_id: Books(self._context, task_id, Gate(self._context, task_id))}
        return self._books[task_id]


def _is_whole(body: object) -> TypeGuard[Request]:
    """Return whether a request says what its price depends on; else the API will refuse it."""
    return (
        isinstance(body, dict)
        and isinstance(body.get("model"), str)
        and isinstance(body.get("max_tokens"), int)
    )


@dataclass(frozen=True, slots=True)
class _Failed:
    """A try that failed."""

    verdict: Verdict
    booked: float
    what: AsyncAPIResponse[Any] | Exception
    """What the SDK would have made its own error of."""

    def give_back(self) -> AsyncAPIResponse[Any]:
        """Leave it to the SDK to tell of it."""
        if isinstance(self.what, Exception):
            raise self.what
        return self.what

    async def forget(self) -> None:
        if not isinstance(self.what, Exception):
            await self.what.http_response.aclose()


class _Call:
    """One call of the API with all its tries.

    Args:
        context: The agent's.
        books: Where it is booked.
        log: Where it is written down what was said.
        body: What is asked.
        request: The same as the SDK has it.
        call_next: Makes one try.
    """

    def __init__(
        self,
        context: AgentContext,
        books: Books,
        log: CallLog,
        body: Request,
        request: APIRequest,
        call_next: AsyncCallNext,
    ) -> None:
        self._context = context
        self._activity = context.activity
        self._books = books
        self._log = log
        self._body = body
        self._request = request
        self._send = partial(call_next, request)

    async def make(self, tries: Tries) -> AsyncAPIResponse[Any]:
        """Make the call, and make it again until there is an answer."""
        await self._log.asked(self._body)
        self._activity.begin_call()
        is_streaming = False
        try:
            while True:
                answer = await self._try()
                if not isinstance(answer, _Failed):
                    is_streaming = isinstance(answer.http_response.stream, CountedStream)
                    return answer
                given_up = await self._bear(answer, tries)
                if given_up:
                    return answer.give_back()
                await answer.forget()
        finally:
            if not is_streaming:  # else the stream ends it
                self._activity.end_call()

    async def _try(self) -> AsyncAPIResponse[Any] | _Failed:
        entry = await self._open()
        self._activity.wait("waiting for Claude", CALL_TIMEOUT)
        try:
            return await self._made(entry)
        except asyncio.CancelledError:  # it may be billed
            await entry.fail(may_cost=True)
            raise
        except Exception:  # it could not be sent
            await entry.fail(may_cost=False)
            raise

    async def _open(self) -> OpenEntry:
        """Set aside what the call may cost; wait where a budget is spent."""
        while True:
            now = await self._context.store.ping()
            try:
                return await self._books.open(self._body, now, held=self._log.held(self._body))
            except HandBack as back:
                await self._wait_for(back)

    async def _made(self, entry: OpenEntry) -> AsyncAPIResponse[Any] | _Failed:
        try:
            response = await self._send()
        except _LOST as error:
            return await self._failed(entry, judge_exception(error), error)
        try:
            http = response.http_response
            if not http.is_success:
                return await self._refused(entry, response)
            if "text/event-stream" in http.headers.get("content-type", ""):
                return await self._streamed(entry, response)
            message = parse_json(await http.aread())
            reply = read_reply(message, http.headers.get("request-id"))
        except OddReply as error:
            return await self._failed(entry, judge_unreadable(str(error)), response)
        except _LOST as error:
            return await self._failed(entry, judge_exception(error), error)
        self._activity.unthrottle()
        await entry.settle(reply)
        await self._log.answered(reply)
        return response

    async def _refused(self, entry: OpenEntry, response: AsyncAPIResponse[Any]) -> _Failed:
        http = response.http_response
        text = await http.aread()
        try:
            body = parse_json(text)
        except OddReply:
            body = text.decode(errors="replace")
        now = await self._context.store.ping()
        judged = judge(http.status_code, body, http.headers, now=now)
        verdict = judged or judge_unreadable(f"status {http.status_code}")
        return await self._failed(entry, verdict, response)

    async def _streamed(
        self, entry: OpenEntry, response: AsyncAPIResponse[Any]
    ) -> AsyncAPIResponse[Any] | _Failed:
        """Read on until the reply begins; the rest is for the caller to read."""
        http = response.http_response
        stream = CountedStream(http, entry, self._activity, self._log)
        verdict = await stream.begin(await self._context.store.ping())
        if verdict is not None:
            return await self._failed(entry, verdict, response)
        self._activity.unthrottle()
        return response

    async def _failed(
        self, entry: OpenEntry, verdict: Verdict, what: AsyncAPIResponse[Any] | Exception
    ) -> _Failed:
        if verdict.consequence is not Consequence.WAIT:
            self._activity.unthrottle()
        return _Failed(verdict, await entry.fail(may_cost=verdict.may_cost), what)

    # What follows from an error.

    @property
    def _hands_back(self) -> bool:
        """Whether there is more than this call that can wait."""
        return current_claim() is not None or self._context.is_routine

    async def _bear(self, failed: _Failed, tries: Tries) -> bool:
        """Wait until the call may be made again; return whether it is given up instead."""
        try:
            delay = tries.next_after(failed.verdict, failed.booked)
        except Refused:
            return True
        except Paused as paused:
            await self._wait_for(paused)
            return False
        except HandBack:
            if self._hands_back:
                raise
            return True
        await self._rest(delay, failed.verdict.reason)
        return False

    async def _wait_for(self, back: HandBack) -> None:
        """Wait until a call may be made that cannot be made now; or raise it."""
        if self._hands_back:
            raise back
        if isinstance(back, Paused):
            await self._pause(back)
        else:
            await self._rest(max(back.delay, _REST), back.reason)

    async def _pause(self, paused: Paused) -> None:
        logger.error("Paused: %s", paused.reason, extra={"action": "agent_paused"})
        until = None if paused.until is None else moment_text(paused.until)
        self._activity.pause(paused.reason, until=until)
        with self._activity.resting():
            await until_over(paused.until, self._context.store, self._activity)
        self._activity.unpause()

    async def _rest(self, delay: float, reason: str) -> None:
        extra = {"action": "throttled", "seconds": delay}
        logger.warning("%s; trying again in %.1f s", reason, delay, extra=extra)
        self._activity.throttle(delay, reason)
        if not self._hands_back:  # who is asked to stop is ended here: see `app.agents.host`
            with self._activity.resting():
                await asyncio.sleep(delay)
            return
        with current_child().cancel_on_stop() as stop:
            await asyncio.sleep(delay)
        if stop.cancelled_caught:
            raise HandBack(f"asked to stop while waiting: {reason}")
