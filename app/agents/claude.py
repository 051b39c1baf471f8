"""Calls of the model: streamed, within the budgets, repeated with patience, each of them booked."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anthropic
import httpx2
from anthropic import AsyncStream

from actp_supervise import Backoff, current_child
from app.store.errors import NO_THREAD, is_out_of_threads
from app.store.protocol import CostEntry, TaskCost

from .budget import Budget
from .handle import finish_anyway
from .outcomes import HandBack, Paused, Refused, TooLong
from .prices import Usage
from .replies import Assembly, OddReply, Reply, parse_json, read_reply
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

    from app.store.protocol import Reservation

    from .approvals import Gate
    from .contract import AgentContext

logger = logging.getLogger(__name__)

SILENCE: Final = 300.0
"""Seconds without a word of the API after which a call counts as lost; it sends pings."""

CALL_TIMEOUT: Final = 1800.0
"""Seconds that one call of the model may take."""

CONNECT_TIMEOUT: Final = 10.0
"""Seconds that the connection for it may take."""

LONGEST_REST: Final = 3600.0
"""Seconds after which the model is asked again, whatever it said of when."""

CHARACTERS_PER_TOKEN: Final = 3
"""For the estimate of a prompt that is not sent yet: rather too few, so that it is high enough."""

_MOST_READ: Final = 4 * 1024 * 1024
"""Bytes of an answer that is no stream."""

Request = dict[str, Any]
"""The parameters of `messages.create`, as the API has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a call that fails is repeated."""

    backoff: Backoff = field(
        default_factory=lambda: Backoff(initial=1.0, factor=2.0, maximum=60.0, jitter=0.25)
    )
    """The waits where the API does not say how long."""
    total: float = 900.0
    """Seconds of waiting after which the work is handed back."""
    lost: int = 3
    """Calls in a row whose answer may be lost and billed; then the work is handed back."""
    lost_usd: float = 5.0
    """What these may have cost together."""


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
        self._context = context
        self._client = client
        self._task_id = task_id
        self._store = context.store
        self._activity = context.activity
        self._budget = Budget(context, task_id, gate, lifetime=CALL_TIMEOUT + 60.0)
        self._patience = patience
        self._rng = rng
        self._booked: list[CostEntry] = []

    @property
    def cost(self) -> TaskCost:
        """What was booked here."""
        entries = self._booked
        return TaskCost(
            calls=len(entries),
            input_tokens=sum(entry.input_tokens for entry in entries),
            output_tokens=sum(entry.output_tokens for entry in entries),
            cache_read_tokens=sum(entry.cache_read_tokens for entry in entries),
            cache_write_tokens=sum(
                entry.cache_write_5m_tokens + entry.cache_write_1h_tokens for entry in entries
            ),
            cost_usd=sum(entry.cost_usd for entry in entries),
            estimated_usd=sum(entry.cost_usd for entry in entries if entry.estimated),
        )

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
        waited, lost, attempt = 0.0, 0, 0
        lost_usd = 0.0
        while True:
            attempt += 1
            answer, booked = await self._attempt(request, stream=stream)
            if isinstance(answer, Reply):
                return answer
            lost, lost_usd = lost + answer.may_cost, lost_usd + booked
            if answer.may_cost and (
                lost >= self._patience.lost or lost_usd >= self._patience.lost_usd
            ):
                raise HandBack(
                    f"{answer.reason}; of {lost} calls that may have cost ${lost_usd:.2f} no "
                    "answer came, so it is not asked on at once",
                    delay=self._patience.backoff.maximum,
                    count_attempt=True,
                )
            waited += await self._bear(answer, attempt, waited)

    async def _attempt(self, request: Request, *, stream: bool) -> tuple[Reply | Verdict, float]:
        """Make one call, its money set aside before and settled after; with what was booked."""
        now = await self._store.ping()
        reservation = await self._budget.reserve(
            request["model"],
            self._most_it_costs(request, now),
            now,
            least=self._most_it_costs(request, now, with_prompt=False),
        )
        self._activity.wait("waiting for Claude", SILENCE)
        call = _Call(self._client, request, now, self._hear)
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            answer = await call.make(stream=stream)
        except asyncio.CancelledError:
            # It may be billed. Should there be no time for this, the reservation lapses into it.
            await finish_anyway(self._book(reservation, call.partial, now, clock() - began))
            raise
        if not isinstance(answer, Verdict) or answer.consequence is not Consequence.WAIT:
            self._activity.unthrottle()
        if isinstance(answer, Verdict) and not answer.may_cost:
            await self._budget.release(reservation)
            return answer, 0.0
        usage = call.partial if isinstance(answer, Verdict) else answer.usage
        settling = self._book(
            reservation,
            usage,
            now,
            clock() - began,
            reply=None if isinstance(answer, Verdict) else answer,
        )
        return answer, await finish_anyway(settling)

    def _hear(self) -> None:
        self._activity.wait("waiting for Claude", SILENCE)

    async def _book(
        self,
        reservation: Reservation,
        usage: Usage | None,
        now: datetime,
        seconds: float,
        *,
        reply: Reply | None = None,
    ) -> float:
        """Book a call, at what it may have cost where its reply was lost; return how much."""
        model = reservation.model if reply is None else reply.model
        used = usage or Usage()
        price = self._context.prices.price(model, used, now.date())
        entry = CostEntry(
            id=reservation.id,
            agent_id=self._context.agent_id,
            run_id=self._context.run_id,
            task_id=self._task_id,
            model=model,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            cache_read_tokens=used.cache_read_tokens,
            cache_write_5m_tokens=used.cache_write_5m_tokens,
            cache_write_1h_tokens=used.cache_write_1h_tokens,
            cost_usd=reservation.amount_usd if usage is None else price.usd,
            priced=price.known,
            estimated=reply is None,
            request_id=None if reply is None else reply.request_id,
            duration=seconds,
        )
        await self._store.record_cost(entry, reservation=reservation.id)
        self._booked.append(entry)
        self._context.activity.spent_usd += entry.cost_usd
        return entry.cost_usd

    def _most_it_costs(self, request: Request, now: datetime, *, with_prompt: bool = True) -> float:
        prompt = 0
        if with_prompt:
            prompt = len(json.dumps(request, default=str)) // CHARACTERS_PER_TOKEN
        usage = Usage(cache_write_5m_tokens=prompt, output_tokens=request["max_tokens"])
        return self._context.prices.price(request["model"], usage, now.date()).usd

    # What follows from an error.

    async def _bear(self, verdict: Verdict, attempt: int, waited: float) -> float:
        """Wait until the call may be repeated, and return how long that was; or raise."""
        if verdict.consequence is Consequence.FAIL:
            raise TooLong(verdict.reason) if verdict.too_long else Refused(verdict.reason)
        if verdict.consequence is Consequence.PAUSE:
            raise Paused(verdict.reason, until=verdict.until)
        delay = verdict.retry_after
        if delay is None:
            delay = self._patience.backoff.delay(attempt, self._rng)
        if waited + delay > self._patience.total:
            delay = min(delay, LONGEST_REST)
            raise HandBack(verdict.reason, delay=delay, count_attempt=verdict.counts)
        extra = {"action": "throttled", "seconds": delay, "attempt": attempt}
        logger.warning("%s; trying again in %.1f s", verdict.reason, delay, extra=extra)
        self._activity.throttle(delay, verdict.reason)
        with current_child().cancel_on_stop() as stop:
            await asyncio.sleep(delay)
        if stop.cancelled_caught:
            raise HandBack(f"asked to stop while waiting: {verdict.reason}")
        return delay


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
        async for event in AsyncStream.raw_events(http):
            self._hear()
            if event.event == "error":
                return judge_event(_json_or_text(event.data), now=self._now)
            if event.event in {None, "ping"} or not event.data:
                continue
            self._assembly.add(parse_json(event.data))
            if self._assembly.complete:
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


def _json_or_text(text: str) -> object:
    try:
        return parse_json(text)
    except OddReply:
        return text


@asynccontextmanager
async def open_client(context: AgentContext) -> AsyncIterator[AsyncAnthropic]:
    """Make a client for `ModelCalls`, and close it in the end."""
    made = context.claude()
    # The SDK's own retries are off: they wait in silence, and their calls would not be booked.
    client = made.with_options(
        max_retries=0, timeout=anthropic.Timeout(SILENCE, connect=CONNECT_TIMEOUT)
    )
    try:
        yield client
    finally:
        await finish_anyway(client.close())
