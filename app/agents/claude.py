"""What every call of the model goes through: budget, patience, price.

It is middleware of the SDK's client, so it holds for the tool runner and for whatever else a class
of one's own does with that client.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anthropic
from anthropic import AsyncAPIResponse

from actp_supervise import Backoff, current_child
from actp_supervise.service import retry
from app.store.protocol import CostEntry

from .budget import Budget
from .handle import finish_anyway
from .outcomes import HandBack, Paused, Refused
from .prices import Usage
from .verdicts import Consequence, Verdict, judge, judge_exception, judge_unreadable

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator
    from datetime import datetime

    from anthropic import APIRequest, AsyncAnthropic

    from .contract import AgentContext

logger = logging.getLogger(__name__)

CALL_TIMEOUT: Final = 600.0
"""Seconds that one call of the model may take."""

CONNECT_TIMEOUT: Final = 10.0
"""Seconds that the connection for it may take."""

LONGEST_REST: Final = 3600.0
"""Seconds after which the model is asked again, whatever it said of when."""

MOST_TOKENS: Final = 10**9
"""More than any call can use: a greater count is nonsense."""

CHARACTERS_PER_TOKEN: Final = 3
"""For the estimate of a prompt that is not sent yet: rather too few, so that it is high enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a call that fails is repeated."""

    backoff: Backoff = field(
        default_factory=lambda: Backoff(initial=1.0, factor=2.0, maximum=60.0, jitter=0.25)
    )
    """The waits where the API does not say how long."""
    total: float = 900.0
    """Seconds of waiting after which the work is handed back."""


@dataclass(slots=True, kw_only=True)
class Spent:
    """What calls have used."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    usd: float = 0.0

    def add(self, usage: Usage, usd: float) -> None:
        """Add a call."""
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.cache_read_tokens += usage.cache_read_tokens
        self.cache_write_tokens += usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
        self.usd += usd


class ModelCalls:
    """The calls of the model by one instance of an agent.

    Args:
        context: The agent's.
        patience: How long it repeats what fails.
        rng: Spreads the waits.
    """

    def __init__(self, context: AgentContext, patience: Patience, rng: random.Random) -> None:
        self._context = context
        self._store = context.store
        self._activity = context.activity
        self._budget = Budget(context, lifetime=CALL_TIMEOUT + 60.0)
        self._patience = patience
        self._rng = rng
        self.task_id: str | None = None
        """The task on which calls are booked."""
        self.spent = Spent()
        """By all calls since it was last replaced."""

    @asynccontextmanager
    async def open_client(self) -> AsyncIterator[AsyncAnthropic]:
        """Make a client whose calls go through here, and close it in the end.

        Its calls raise `Refused`, `HandBack` and `Paused` in place of the SDK's errors.
        """
        made = self._context.claude()
        # The SDK's own retries are off: they wait in silence, and end only when they are over.
        client = made.with_options(
            max_retries=0,
            timeout=anthropic.Timeout(CALL_TIMEOUT, connect=CONNECT_TIMEOUT),
            middleware=[*made.middleware, self._middleware],
        )
        try:
            yield client
        finally:
            await finish_anyway(client.close())

    async def _middleware(self, request: APIRequest, call_next: Any) -> AsyncAPIResponse[Any]:  # noqa: ANN401
        # A gateway's address may have a path of its own in front.
        if not urlsplit(request.url).path.endswith("/v1/messages"):
            plain: AsyncAPIResponse[Any] = await call_next(request)
            return plain
        if request.stream:
            raise TypeError("a streamed call has no price here: leave out stream=True")
        waited = 0.0

        async def attempt() -> AsyncAPIResponse[Any]:
            now = await self._store.ping()
            answer = await self._attempt(request, call_next, now)
            if isinstance(answer, Verdict):
                raise _Unanswered(answer)
            return answer

        async def pause(error: _Unanswered, seconds: float) -> None:
            nonlocal waited
            waited += await self._bear(error.verdict, seconds, waited)

        return await retry(
            attempt, _Unanswered, backoff=self._patience.backoff, rng=self._rng, pause=pause
        )

    async def _attempt(
        self,
        request: APIRequest,
        call_next: Any,  # noqa: ANN401
        now: datetime,
    ) -> AsyncAPIResponse[Any] | Verdict:
        """Make one call, its money set aside before and settled after."""
        # Where it is cancelled half-way, or its answer is lost, the call may have its price: then
        # the money stays set aside until that lapses.
        reservation = await self._budget.reserve(
            self._most_it_costs(request, now),
            now,
            least=self._most_it_costs(request, now, with_prompt=False),
            spent_on_this=self.spent.usd,
        )
        self._activity.wait("waiting for Claude", CALL_TIMEOUT)
        answer = await _call(request, call_next, now)
        if not isinstance(answer, Verdict) or answer.consequence is not Consequence.WAIT:
            self._activity.unthrottle()
        if isinstance(answer, Verdict):
            if not answer.may_cost:
                await self._budget.release(reservation)
            return answer
        await finish_anyway(self._settle(answer, reservation, now))
        return answer.response

    async def _settle(self, answer: _Answer, reservation: str | None, now: datetime) -> None:
        usage = answer.usage
        price = self._context.prices.price(answer.model, usage, now.date())
        self.spent.add(usage, price.usd)
        entry = CostEntry(
            id=uuid.uuid4().hex,
            agent_id=self._context.agent_id,
            run_id=self._context.run_id,
            task_id=self.task_id,
            model=answer.model,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_5m_tokens=usage.cache_write_5m_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
            cost_usd=price.usd,
            priced=price.known,
            request_id=answer.response.request_id,
            duration=answer.duration,
        )
        await self._store.record_cost(entry, reservation=reservation)

    def _most_it_costs(
        self, request: APIRequest, now: datetime, *, with_prompt: bool = True
    ) -> float:
        body: Any = request.json
        prompt = len(json.dumps(body, default=str)) // CHARACTERS_PER_TOKEN if with_prompt else 0
        usage = Usage(cache_write_5m_tokens=prompt, output_tokens=body["max_tokens"])
        return self._context.prices.price(body["model"], usage, now.date()).usd

    # What follows from an error.

    async def _bear(self, verdict: Verdict, seconds: float, waited: float) -> float:
        """Wait until the call may be repeated, and return how long that was; or raise."""
        if verdict.consequence is Consequence.FAIL:
            raise Refused(verdict.reason)
        if verdict.consequence is Consequence.PAUSE:
            raise Paused(verdict.reason, until=verdict.until)
        delay = seconds if verdict.retry_after is None else verdict.retry_after
        if waited + delay > self._patience.total:
            delay = min(delay, LONGEST_REST)
            raise HandBack(verdict.reason, delay=delay, count_attempt=verdict.counts)
        extra = {"action": "throttled", "seconds": delay}
        logger.warning("%s; trying again in %.1f s", verdict.reason, delay, extra=extra)
        self._activity.throttle(delay, verdict.reason)
        with current_child().cancel_on_stop() as stop:
            await asyncio.sleep(delay)
        if stop.cancelled_caught:
            raise HandBack(f"asked to stop while waiting: {verdict.reason}")
        return delay


class _Unanswered(Exception):
    """A call of the model had no answer; the verdict tells what follows."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


@dataclass(frozen=True, slots=True)
class _Answer:
    response: AsyncAPIResponse[Any]
    model: str
    usage: Usage
    duration: float


async def _call(request: APIRequest, call_next: Any, now: datetime) -> _Answer | Verdict:  # noqa: ANN401
    clock = asyncio.get_running_loop().time
    began = clock()
    try:
        async with asyncio.timeout(CALL_TIMEOUT):
            response: AsyncAPIResponse[Any] = await call_next(request)
    except (anthropic.APIError, TimeoutError) as error:
        return judge_exception(error)
    except ValueError as error:  # half a character, for one, that a tool or the model wrote
        reason = f"the conversation cannot be sent: {type(error).__name__}"
        return Verdict(consequence=Consequence.FAIL, reason=reason)
    verdict = judge(response.status_code, _body(response), response.headers, now=now)
    if verdict is not None:
        return verdict
    try:
        message = await response.parse()
        usage = usage_of(message)  # first, as it tells whether this is a message at all
        _check_message(message)
        return _Answer(response, message.model, usage, clock() - began)
    except (anthropic.APIError, ValueError):
        http = response.http_response
        beginning = http.content[:80].decode(errors="replace")
        return judge_unreadable(http.headers.get("content-type", "of no type"), beginning)


def _check_message(message: Any) -> None:  # noqa: ANN401  (any kind of the SDK's messages)
    """Check what the SDK does not, and fails at later.

    Raises:
        ValueError: If it is no message, or nested so deeply that nobody can write it down.
    """
    has_content = isinstance(message.content, list) and all(
        isinstance(getattr(block, "type", None), str) for block in message.content
    )
    if not (has_content and isinstance(message.model, str)):
        raise ValueError("the answer is no message")
    message.model_dump(mode="json", warnings=False)


def usage_of(message: Any) -> Usage:  # noqa: ANN401  (any kind of the SDK's messages)
    """Return the tokens of a reply, those included that the API counts by themselves.

    Raises:
        ValueError: If it is no message.
    """
    try:
        compactions = [
            iteration
            for iteration in getattr(message.usage, "iterations", None) or ()
            if iteration.type == "compaction"  # billed, and not in the sums
        ]
        parts = [_plain_usage(part) for part in (message.usage, *compactions)]
        usage = _sum(parts)
        if all(0 <= tokens <= MOST_TOKENS for tokens in asdict(usage).values()):
            return usage
    except (AttributeError, TypeError) as error:  # the SDK checks nothing
        raise ValueError("the answer is no message") from error
    raise ValueError("it says that it used what no call can")


def _sum(parts: list[Usage]) -> Usage:
    return Usage(
        input_tokens=sum(part.input_tokens for part in parts),
        output_tokens=sum(part.output_tokens for part in parts),
        cache_read_tokens=sum(part.cache_read_tokens for part in parts),
        cache_write_5m_tokens=sum(part.cache_write_5m_tokens for part in parts),
        cache_write_1h_tokens=sum(part.cache_write_1h_tokens for part in parts),
    )


def _plain_usage(usage: Any) -> Usage:  # noqa: ANN401
    written = usage.cache_creation_input_tokens or 0
    for_an_hour = 0
    if usage.cache_creation is not None:
        for_an_hour = usage.cache_creation.ephemeral_1h_input_tokens
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_input_tokens or 0,
        cache_write_5m_tokens=max(0, written - for_an_hour),
        cache_write_1h_tokens=for_an_hour,
    )


def _body(response: AsyncAPIResponse[Any]) -> object:
    """Return the JSON of an error, or its text."""
    http = response.http_response
    if http.is_success:
        return None
    try:
        return http.json()
    except ValueError:
        return http.text
