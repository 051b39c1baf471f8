"""Calls of the model: streamed, within the budgets, repeated with patience, each of them booked."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import anthropic
import httpx2
from anthropic import AsyncStream

from actp_supervise import current_child
from app.store.errors import NO_THREAD, is_out_of_threads

from .books import CALL_TIMEOUT, Books
from .handle import finish_anyway
from .outcomes import HandBack
from .patience import Patience, Tries
from .replies import Assembly, OddReply, Reply, parse_json, read_reply
from .traces import span
from .verdicts import (
    Consequence,
    Verdict,
    judge,
    judge_event,
    judge_exception,
    judge_unreadable,
)

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator
    from datetime import datetime

    from anthropic import AsyncAnthropic

    from app.store.protocol import TaskCost

    from .approvals import Gate
    from .books import OpenEntry, Request
    from .contract import AgentContext
    from .prices import Usage
    from .traces import Span

logger = logging.getLogger(__name__)

SILENCE: Final = 300.0
"""Seconds without a word of the API after which a call counts as lost; it sends pings."""

CONNECT_TIMEOUT: Final = 10.0
"""Seconds that the connection for it may take."""

END_OF_BODY: Final = 0.5
"""Seconds that the end of a body has once the reply is whole; a gateway may never send it."""

_MOST_READ: Final = 4 * 1024 * 1024
"""Bytes of an answer that is no stream."""


class ModelCalls:
    """The calls of the model by one conversation.

    Args:
        context: The agent's.
        client: The client of the API.
        task_id: The task on which the calls are booked, if it is one.
        patience: How long what fails is repeated.
        rng: Spreads the waits.
        gate: Asks a person where the task's budget is spent.
    """

    def __init__(
        self,
        context: AgentContext,
        client: AsyncAnthropic,
        task_id: str | None,
        patience: Patience,
        rng: random.Random,
        gate: Gate,
    ) -> None:
        self._client = client
        self._store = context.store
        self._activity = context.activity
        self._books = Books(context, task_id, gate)
        self._patience = patience
        self._rng = rng

    @property
    def cost(self) -> TaskCost:
        """What was booked here."""
        return self._books.cost

    async def reply(self, request: Request, *, stream: bool = True) -> Reply:
        """Ask the model, until it replies.

        Args:
            request: What it is asked.
            stream: Whether the reply is to come word by word, so that no idle connection is cut.

        Raises:
            HandBack: If it is no use to ask on now.
            Paused: If it is no use until somebody has done something, or for a known time.
            Refused: If the API takes the request for wrong.
            TooLong: If it does because of its length.
        """
        tries = Tries(self._patience, self._rng)
        while True:
            answer, booked = await self._attempt(request, stream=stream)
            if isinstance(answer, Reply):
                return answer
            await self._bear(answer, tries.next_after(answer, booked))

    async def _attempt(self, request: Request, *, stream: bool) -> tuple[Reply | Verdict, float]:
        """Make one call, its money set aside before and settled after; with what was booked."""
        now = await self._store.ping()
        call = _Call(self._client, request, now, self._hear)
        model = request["model"]
        async with self._books.call(request, now) as entry:
            with span(
                f"chat {model}",
                client=True,
                gen__ai_operation_name="chat",
                gen__ai_provider_name="anthropic",
                gen__ai_request_model=model,
                gen__ai_request_max__tokens=request["max_tokens"],
            ) as traced:
                answer = await self._answer(call, entry, stream=stream)
                _tell(traced, answer)
                if isinstance(answer, Verdict):
                    booked = await entry.fail(may_cost=answer.may_cost)
                else:
                    booked = await entry.settle(answer)
                traced.set(actp_cost__usd=booked)
        return answer, booked

    async def _answer(self, call: _Call, entry: OpenEntry, *, stream: bool) -> Reply | Verdict:
        self._activity.wait("waiting for Claude", SILENCE)
        try:
            answer = await call.make(stream=stream)
        finally:
            entry.partial = call.partial
        if not isinstance(answer, Verdict) or answer.consequence is not Consequence.WAIT:
            self._activity.unthrottle()
        return answer

    def _hear(self) -> None:
        self._activity.wait("waiting for Claude", SILENCE)

    async def _bear(self, verdict: Verdict, delay: float) -> None:
        """Wait until the call may be repeated."""
        logger.warning(
            "%s; trying again in %.1f s",
            verdict.reason,
            delay,
            extra={"action": "throttled", "seconds": delay},
        )
        self._activity.throttle(delay, verdict.reason)
        with current_child().cancel_on_stop() as stop:
            await asyncio.sleep(delay)
        if stop.cancelled_caught:
            raise HandBack(f"asked to stop while waiting: {verdict.reason}")


def _tell(traced: Span, answer: Reply | Verdict) -> None:
    """Write into a trace what came of a call."""
    if isinstance(answer, Verdict):
        traced.fail(answer.consequence.value)
        return
    usage = answer.usage
    traced.set(
        gen__ai_response_model=answer.model,
        gen__ai_response_id=answer.message_id,
        gen__ai_usage_input__tokens=usage.prompt_tokens,
        gen__ai_usage_output__tokens=usage.output_tokens,
        gen__ai_usage_cache__read_input__tokens=usage.cache_read_tokens,
        anthropic_message_stop__reason=answer.stop_reason,
        anthropic_request_id=answer.request_id,
    )


class _Call:
    """One request to the API, and what has come of its answer.

    Args:
        client: The client.
        request: What is sent.
        now: The present moment.
        hear: Called with each word of the API.
    """

    def __init__(
        self,
        client: AsyncAnthropic,
        request: Request,
        now: datetime,
        hear: Any,  # noqa: ANN401
    ) -> None:
        self._client = client
        self._request = request
        self._now = now
        self._hear = hear
        self._assembly = Assembly()
        self._usage: Usage | None = None

    @property
    def partial(self) -> Usage | None:
        """What a call whose reply was lost has used at least; None where it is not known."""
        return self._usage or self._assembly.usage_so_far()

    async def make(self, *, stream: bool) -> Reply | Verdict:
        """Make the call, and judge what comes."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                return await self._make(stream=stream)
        except anthropic.APIStatusError as error:
            status, headers = error.status_code, error.response.headers
            body = error.body if error.body is not None else error.response.text
            judged = judge(status, body, headers, now=self._now)
            return judged or judge_unreadable(f"status {status}")
        except OddReply as error:
            return judge_unreadable(str(error))
        except (anthropic.APIError, TimeoutError, httpx2.HTTPError, OSError) as error:
            return judge_exception(error)
        except ValueError as error:  # half a character, for one, that a tool or the model wrote
            reason = f"the conversation cannot be sent: {type(error).__name__}"
            return Verdict(consequence=Consequence.FAIL, reason=reason)
        except RuntimeError as error:
            if not is_out_of_threads(error):  # of which the SDK needs one before its first request
                raise
            return Verdict(
                consequence=Consequence.WAIT, reason=f"Claude could not be asked: {NO_THREAD}"
            )

    async def _make(self, *, stream: bool) -> Reply | Verdict:
        messages = self._client.beta.messages.with_streaming_response
        async with messages.create(**self._request, stream=stream) as response:
            http = response.http_response
            if "text/event-stream" not in http.headers.get("content-type", ""):
                message = await self._whole(http)
            else:
                verdict = await self._streamed(http)
                if verdict is not None:
                    return verdict
                message = self._assembly.result()
            reply = read_reply(message, http.headers.get("request-id"))
            self._usage = reply.usage
            return reply

    async def _streamed(self, http: httpx2.Response) -> Verdict | None:
        """Take in a stream; what is wrong with it, if it is not whole."""
        events = AsyncStream.raw_events(http)
        async for event in events:
            self._hear()
            if event.event == "error":
                return judge_event(_json_or_text(event.data), now=self._now)
            if event.event in {None, "ping"} or not event.data:
                continue
            self._assembly.add(parse_json(event.data))
            if self._assembly.complete:
                await _read_out(events)
                return None
        if self._assembly.message is None:
            raise OddReply("an empty stream")
        raise httpx2.RemoteProtocolError("the stream ended before the reply did")

    async def _whole(self, http: httpx2.Response) -> object:
        """Read an answer that came in one piece, as some gateways send it."""
        body = bytearray()
        async for chunk in http.aiter_bytes():
            body += chunk
            if len(body) > _MOST_READ:
                raise OddReply("it does not end")
        try:
            message = parse_json(bytes(body))
            if not isinstance(message, dict) or message.get("type") != "message":
                raise OddReply("it is no message")
        except OddReply:
            kind = http.headers.get("content-type", "of no type")
            beginning = bytes(body[:80]).decode(errors="replace")
            raise OddReply(f"{kind}: {beginning!r}") from None
        return message


async def _read_out(events: AsyncIterator[object]) -> None:
    """Take in what follows the last event of a reply, which is the end of the body.

    A connection whose answer was not read to its end is closed, and the next call needs a new one.
    """
    with suppress(TimeoutError, httpx2.HTTPError, UnicodeError):  # the reply is there
        async with asyncio.timeout(END_OF_BODY):
            async for _ in events:
                pass


def _json_or_text(text: str) -> object:
    try:
        return parse_json(text)
    except OddReply:
        return text


@asynccontextmanager
async def open_client(context: AgentContext) -> AsyncIterator[AsyncAnthropic]:
    """Make a client for `ModelCalls`, and close it in the end."""
    made = context.make_client()
    # The SDK's own retries are off: they wait in silence, and their calls would not be booked.
    client = made.with_options(
        max_retries=0, timeout=anthropic.Timeout(SILENCE, connect=CONNECT_TIMEOUT)
    )
    try:
        yield client
    finally:
        await finish_anyway(client.close())
