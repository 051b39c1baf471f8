"""Approvals on the operator's phone: each question goes to Telegram with two buttons.

Of all daemons that share the store one talks to the bot, by a lease, because Telegram gives a bot's
updates to one reader. It asks Telegram, so it works behind any router. Only presses in the chat of
TELEGRAM_CHAT_ID count.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from actp_supervise import Backoff
from actp_supervise.service import LeaderLease, shorten
from app.event_kinds import EventKind
from app.hands.telegram import (
    API,
    MOST_TEXT,
    AnotherReader,
    Telegram,
    TelegramAway,
    TelegramError,
    TooMany,
    open_bot,
)
from app.store.protocol import ApprovalRow, ApprovalStatus, StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.event_log import LoggedEvent
    from app.hands.telegram import Press
    from app.store.protocol import Store

logger = logging.getLogger(__name__)

LEASE_NAME: Final = "telegram approvals"
LEASE: Final = 60.0
"""Seconds after which another daemon takes over from one that died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often Telegram and the store are asked, in seconds."""

    look_every: float = 15.0
    """Between two looks for questions of other daemons; those of this one are told at once."""
    wait: float = 30.0
    """For which Telegram holds a request for presses while there are none."""
    least_between: float = 1.0
    """Between two requests for presses that brought none, whatever Telegram does."""
    after_another_reader: float = 60.0
    """Until it is tried again whether another program still reads the updates."""
    after_failures: Backoff = field(default_factory=partial(Backoff, initial=1.0, maximum=60.0))
    """After failures in a row."""


_TOO_LONG: Final = (
    "\n\n... This is too long for a message, so it cannot be decided here: nobody may approve what "
    "is not shown. Use the page, or: python -m app.main --approvals"
)


class TelegramApprovals:
    """Asks the operator, and takes the answers.

    Args:
        store: Where the approvals are.
        token: The bot's.
        chat_id: The operator's chat.
        instance: This start of the daemon.
        redact: Takes secrets out of a text.
        api: Where Telegram is.
        pace: How often it and the store are asked.
    """

    def __init__(
        self,
        store: Store,
        token: str,
        chat_id: str,
        *,
        instance: str,
        redact: Callable[[str], str] = str,
        api: str = API,
        pace: Pace | None = None,
    ) -> None:
        self.pace = pace or Pace()
        self._store = store
        self._token = token
        self._chat_id = chat_id
        self.asked = trio.Event()
        """Set where a question is there to be told."""
        self._redact = redact
        self._api = api
        self._lease = LeaderLease(
            store, LEASE_NAME, instance, LEASE, away=StoreUnavailable, refused=StoreError
        )

    def notice(self, event: LoggedEvent) -> None:
        """Tell a question at once that is asked in this daemon."""
        if event.kind is EventKind.APPROVAL_ASKED:
            self.asked.set()

    async def run(self) -> None:
        """Ask and take answers, while no other daemon does, until cancelled."""
        try:
            while True:
                await self._lease.acquire(lambda _holder: None)
                with trio.CancelScope() as held:
                    async with self._lease.renewing(held.cancel):
                        await self._serve()
        finally:
            await self._lease.release()  # noqa: ASYNC102  (bounded and shielded)

    async def _serve(self) -> None:
        async with (
            open_bot(self._token, self._chat_id, api=self._api) as bot,
            trio.open_nursery() as nursery,
        ):
            asking, listening = _Asking(self, bot), _Listening(self, bot)
            nursery.start_soon(_persist, "ask on Telegram", asking.step, self.pace)
            nursery.start_soon(_persist, "read Telegram's answers", listening.step, self.pace)

    async def tell_new(self, bot: Telegram) -> None:
        """Ask what was not asked yet, the oldest first."""
        waiting = await self._store.approvals(status=ApprovalStatus.WAITING, limit=100)
        for row in reversed(waiting):
            if row.told_at is None:
                await self._tell(bot, row)
                await self._store.told_approval(row.id)

    async def _tell(self, bot: Telegram, row: ApprovalRow) -> None:
        task = await self._store.task(row.task_id)
        text = self._redact(question_text(row, None if task is None else task.goal))
        if len(text) > MOST_TEXT:
            await bot.send(text[: MOST_TEXT - len(_TOO_LONG)] + _TOO_LONG)
        else:
            await bot.ask(row.id, text)

    async def decide(self, press: Press) -> str:
        """Take a decision; return what came of it, for who pressed."""
        row = await self._store.decide_approval(
            press.question, approve=press.approve, decided_by=f"{press.by} by Telegram"
        )
        if row is None:
            return "There is no such approval any more."
        wanted = ApprovalStatus.APPROVED if press.approve else ApprovalStatus.DENIED
        if row.status is wanted:
            return f"{wanted.capitalize()}: {row.tool} of {row.agent_id}"
        by = f" by {row.decided_by}" if row.decided_by else ""
        return f"It was decided before: {row.status}{by}."


class _Asking:
    """Sends what is new, now and then."""

    def __init__(self, approvals: TelegramApprovals, bot: Telegram) -> None:
        self._approvals = approvals
        self._bot = bot

    async def step(self) -> None:
        self._approvals.asked = trio.Event()
        await self._approvals.tell_new(self._bot)
        with trio.move_on_after(self._approvals.pace.look_every):
            await self._approvals.asked.wait()


class _Listening:
    """Takes presses; one is acknowledged only when its decision is kept."""

    def __init__(self, approvals: TelegramApprovals, bot: Telegram) -> None:
        self._approvals = approvals
        self._bot = bot
        self._offset = 0

    async def step(self) -> None:
        began = trio.current_time()
        found = await self._bot.presses(self._offset, wait=self._approvals.pace.wait)
        for press in found.presses:
            text = await self._approvals.decide(press)
            try:
                await self._bot.settle(press, text)
            except TelegramError as error:  # it is decided all the same
                logger.info("A press on Telegram was not answered: %s", error)
        self._offset = found.offset
        if not found.presses:
            await trio.sleep_until(began + self._approvals.pace.least_between)


async def _persist(what: str, step: Callable[[], Awaitable[None]], pace: Pace) -> None:
    """Repeat a step for ever, whatever Telegram and the store are about."""
    failures = 0
    while True:
        try:
            await step()
            failures = 0
            continue
        except TooMany as error:
            pause = error.seconds
        except AnotherReader as error:
            pause = pace.after_another_reader
            logger.warning("Cannot %s: %s", what, error, extra={"action": "telegram_taken"})
        except (TelegramError, StoreError) as error:
            failures += 1
            pause = pace.after_failures.delay(failures)
            passes = isinstance(error, TelegramAway | StoreUnavailable)
            level = logging.INFO if passes and failures < 3 else logging.WARNING
            extra = {"action": "telegram_failed", "seconds": pause}
            logger.log(level, "Cannot %s: %s; next try in %.0f s", what, error, pause, extra=extra)
        await trio.sleep(pause)


def question_text(row: ApprovalRow, goal: str | None) -> str:
    """Write what is asked: what exactly will be done, for what, and why the agent wants it."""
    arguments = json.dumps(row.arguments, ensure_ascii=False, indent=2)
    parts = [f"{row.agent_id} wants to call {row.tool} with", arguments]
    if row.why:
        parts.append(f"Because: {shorten(row.why, 1000)}")
    if goal is not None:
        parts.append(f"Task: {shorten(goal, 500)}")
    if row.expires_at is not None:
        parts.append(f"Denied by itself at {row.expires_at:%Y-%m-%d %H:%M} UTC.")
    return "\n\n".join(parts)
