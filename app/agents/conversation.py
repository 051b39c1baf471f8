"""One piece of work, done by talking with the model: a task, or what a routine asks for.

All that belongs to it is here and in its parts, and nothing of it in the agent, which may hold
several at once. Each step is recorded before the next is taken. So after a kill, a crash or a
hand-back the next worker goes on behind the last step: no reply is paid for twice, and no tool that
has answered is called again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from app.hands import block, from_outside
from app.hands.server_tools import failures_of, sources_of

from .approvals import Gate
from .claude import ModelCalls
from .course import Answer, Ask, Compact, End, Rules, Tell, model_of, next_step
from .history import (
    FORMAT,
    earlier_calls,
    has_read_outside,
    last_conversation,
    why_not_resumed,
)
from .outcomes import Outcome, TooLong
from .patience import Patience
from .spec import DEFAULT_EFFORT
from .toolbox import Toolbox
from .tools import Tool
from .traces import span
from .transcript import Transcript
from .usage import tokens_of

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

    from app.store.protocol import TaskCost, Turn

    from .books import Request
    from .contract import AgentContext
    from .history import History
    from .replies import Reply

logger = logging.getLogger(__name__)

MOST_TEXT: Final = 20_000
"""Characters of the last reply that are kept as a task's result."""

COMPACTION: Final = "compact-2026-09-04"
"""The beta of the API by which a conversation is summed up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a conversation is about."""

    goal: str
    context: Mapping[str, Any] | None
    """Facts for it."""
    key: str
    """Names the work: effects that an earlier try had under it do not happen again."""
    task_id: str | None = None
    """The task, if it is one; only then the conversation is recorded."""
    token: str | None = None
    """The claim under which the task is done."""
    needs_tool: bool = False
    """Whether it has failed where the model called no tool at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How an agent's class wants its conversations held; an operator's settings come before it."""

    prompt: str
    tools: Sequence[Tool]
    server_tools: Sequence[Mapping[str, Any]] = ()
    """The entries of the tools that the API runs itself."""
    max_tokens: int
    max_turns: int
    patience: Patience


class Conversation:
    """A conversation with the model about one piece of work.

    Args:
        context: The agent's.
        client: The client of the API.
        work: What it is about.
        manner: How it is held.
    """

    def __init__(
        self, context: AgentContext, client: AsyncAnthropic, work: Work, manner: Manner
    ) -> None:
        self._context = context
        self._work = work
        self._manner = manner
        options = context.options
        self._rules = Rules(
            model=context.model,
            fallback_model=options.fallback_model,
            max_tokens=options.max_tokens or manner.max_tokens,
            max_turns=options.max_turns or manner.max_turns,
            needs_tool=work.needs_tool,
        )
        self._transcript = Transcript(context, work.task_id, work.token)
        gate = Gate(context, work.task_id)
        self._toolbox = Toolbox(
            context, manner.tools, work.key, self._transcript, gate, manner.server_tools
        )
        self._calls = ModelCalls(
            context, client, work.task_id, manner.patience, random.Random(), gate
        )

    @property
    def _history(self) -> History:
        return self._transcript.history

    async def hold(self) -> Outcome:
        """Hold the conversation to its end, from where an earlier worker left it.

        Raises:
            HandBack: If it cannot go on now; `Parked` where a person has to decide first.
            Refused: If the API takes it for wrong.
            LeaseEnded: If the task is another's by now.
        """
        with span("conversation", gen__ai_conversation_id=self._work.task_id) as traced:
            await self._take_up()
            traced.set(actp_conversation_resumed=self._transcript.is_resumed)
            return await self._go_on()

    async def _go_on(self) -> Outcome:
        while True:
            match next_step(self._history, self._rules):
                case End(failure):
                    return await self._outcome(failure)
                case Answer():
                    await self._toolbox.answer(self._history.open_uses, self._history.step)
                case Tell(kind, text):
                    await self._tell(kind, text)
                case Compact():
                    await self._compact()
                case Ask(model=model, max_tokens=max_tokens):
                    await self._ask(model, max_tokens)

    # Beginning.

    async def _take_up(self) -> None:
        """Go on with what was recorded, or begin."""
        turns = await self._transcript.recorded()
        if self._work.task_id is not None:
            await self._context.store.settle_task(self._work.task_id)
        recorded = last_conversation(turns)
        if recorded:
            why_not = why_not_resumed(recorded, self._context.model)
            if why_not is None:
                self._transcript.resume(recorded)
                why_not = await self._why_over(recorded[0])
            if why_not is None:
                self._report("goes on behind reply %d", self._history.step)
                return
            self._report("begins anew: %s", why_not)
        await self._begin(turns)

    async def _why_over(self, opening: Turn) -> str | None:
        """Return why a conversation that was recorded to its end is not simply over.

        A task that has failed and that somebody wants done again has all its attempts before it.
        """
        if (opening.meta or {}).get("needs_tool"):
            self._rules = replace(self._rules, needs_tool=True)
        step = next_step(self._history, self._rules)
        if not isinstance(step, End) or step.failure is None or self._work.task_id is None:
            return None
        task = await self._context.store.task(self._work.task_id)
        again = task is not None and task.attempts <= 1
        return "it had come to no good end, and is wanted again" if again else None

    def _report(self, text: str, *args: object) -> None:
        extra = {"action": "conversation_taken_up", "task_id": self._work.task_id}
        logger.info(f"The conversation {text}", *args, extra=extra)

    async def _begin(self, before: Sequence[Turn]) -> None:
        self._transcript.begin()
        earlier: object = earlier_calls(before)
        if earlier and has_read_outside(before):
            earlier = from_outside("answers of tools, and what the model made of them", earlier)
        opening = await self._opening(earlier)
        meta = {
            "format": FORMAT,
            "model": self._context.model,
            "needs_tool": self._work.needs_tool,
            "system": self._context.redact(self._manner.prompt),
        }
        await self._transcript.add("user", 0, [{"type": "text", "text": opening}], meta)

    async def _opening(self, earlier: object) -> str:
        now = (await self._context.store.ping()).astimezone(self._context.timezone)
        parts = [f"<goal>\n{self._work.goal}\n</goal>"]
        if self._work.context:
            parts.append(block("context", self._work.context))
        if earlier:
            parts.append(
                "An earlier try at this goal called these tools. What it did is done: do not do "
                f"it again.\n{block('earlier', earlier)}"
            )
        parts.append(f"It is {now:%A}, {now:%Y-%m-%d %H:%M} ({self._context.timezone}).")
        return "\n\n".join(parts)

    # Steps.

    async def _ask(self, model: str, max_tokens: int) -> None:
        request = self._request(model, max_tokens)
        try:
            await self._reply(request)
        except TooLong:
            last = self._history.last
            if last is None or last.stop_reason == "compaction":
                raise
            await self._compact()

    async def _compact(self) -> None:
        """Ask the API to sum the conversation up so far."""
        self._context.activity.wait("having the conversation summed up", 0.0)
        request = self._request(model_of(self._history, self._rules), self._rules.max_tokens)
        request |= {"compaction": {"type": "summarize"}, "betas": [COMPACTION]}
        # It is one block that comes at once, so there is nothing to stream.
        await self._reply(request, stream=False)

    async def _tell(self, kind: str, text: str) -> None:
        block = {"type": "text", "text": text}
        await self._transcript.add("user", self._history.step, [block], {"note": kind})

    async def _reply(self, request: Request, *, stream: bool = True) -> None:
        """Ask the model for a reply; record it and what it took, vain tries included."""
        clock = asyncio.get_running_loop().time
        began, spent = clock(), self._calls.cost.cost_usd
        reply = await self._calls.reply(request, stream=stream)
        usd = self._calls.cost.cost_usd - spent
        await self._record(reply, seconds=round(clock() - began, 3), usd=usd)

    async def _record(self, reply: Reply, *, seconds: float, usd: float) -> None:
        step, usage = self._history.step + 1, reply.usage
        meta = {
            "format": FORMAT,
            "model": reply.model,
            "message_id": reply.message_id,
            "stop_reason": reply.stop_reason,
            "stop_details": reply.stop_details,
            "tokens": tokens_of(usage),
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cache_read_tokens,
            "output_tokens": usage.output_tokens,
            "usd": usd,
            "seconds": seconds,
        }
        await self._transcript.add("assistant", step, reply.content, meta)
        for failure in failures_of(reply.content):
            extra = {"action": "tool_failed", "task_id": self._work.task_id}
            logger.warning("A tool of the API failed: %s", failure, extra=extra)
        self._context.activity.progress(f"turn {step}", task_id=self._work.task_id, step=step)

    def _request(self, model: str, max_tokens: int) -> Request:
        request: Request = {
            "model": model,
            "max_tokens": max_tokens,
            # Two breakpoints of the prompt's cache: behind what never changes, and at the end.
            "system": [
                {
                    "type": "text",
                    "text": self._context.redact(self._manner.prompt),
                    "cache_control": {"type": "ephemeral"},
                }
            ],
            "cache_control": {"type": "ephemeral"},
            "messages": self._history.messages,
            "tools": self._toolbox.definitions,
        }
        effort = self._context.options.effort or DEFAULT_EFFORT.get(model)
        if effort is not None:
            request["output_config"] = {"effort": effort}
        if self._history.messages[0]["role"] == "assistant":  # a summary
            request["betas"] = [COMPACTION]
        return request

    # Its end.

    async def _outcome(self, failure: str | None) -> Outcome:
        last, history = self._history.last, self._history
        cost = await self._cost()
        sources = sources_of(part for said in history.messages for part in said["content"])
        return Outcome(
            failure=failure,
            result={
                "text": "" if last is None else last.text[:MOST_TEXT],
                "turns": history.replies,
                "tool_calls": history.calls,
                "usd": cost.cost_usd,
                "estimated_usd": cost.estimated_usd,
                "tokens": {
                    "input_tokens": cost.input_tokens,
                    "output_tokens": cost.output_tokens,
                    "cache_read_tokens": cost.cache_read_tokens,
                    "cache_write_tokens": cost.cache_write_tokens,
                },
                "model": None if last is None else last.model,
                "stop_reason": None if last is None else last.stop_reason,
                **({"sources": sources} if sources else {}),
            },
        )

    async def _cost(self) -> TaskCost:
        """Return what the work has cost, all attempts at a task together."""
        if self._work.task_id is not None:
            return await self._context.store.settle_task(self._work.task_id)
        return self._calls.cost
