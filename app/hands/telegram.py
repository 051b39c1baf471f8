"""The hand `telegram`: messages to the operator; and questions with two buttons, and their answers.

The tool only sends, and only to `TELEGRAM_CHAT_ID`. `Telegram.ask` and `Telegram.presses` are for
approvals. Of one bot only one program may ask for updates at a time; Telegram refuses the second.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from .contract import (
    Address,
    Arguments,
    Hand,
    HandError,
    Json,
    Kind,
    Options,
    OutcomeUnknownError,
    SetUp,
    Use,
    Variable,
    options_of,
    tool_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

API: Final = "https://api.telegram.org"

TIMEOUT: Final = 20.0
"""Seconds that a request may take, beyond the wait that it asks for."""

MOST_TEXT: Final = 4_096
"""Characters of one message."""

MOST_DATA: Final = 64
"""Bytes of a button's data."""

_APPROVE: Final = "a"
_DENY: Final = "d"


class TelegramError(Exception):
    """Telegram refused a request; without the token, which is part of each address."""


class TelegramAway(TelegramError):
    """Telegram could not be reached, or did not answer in time: it may have done it."""


class AnotherReader(TelegramError):
    """Another program asks for this bot's updates, or a webhook gets them."""


class TooMany(TelegramError):
    """Telegram wants to be left alone for `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Telegram wants no request for {seconds:.0f} s")
        self.seconds = seconds


class TelegramOptions(Options):
    """Where Telegram is."""

    api: Address | None = None
    """For a Bot API server of your own; else TELEGRAM_API_URL."""


class TelegramSend(Arguments):
    """Send a short message to the operator, who reads it on the phone. Nobody else gets it."""

    text: Annotated[str, Field(min_length=1, max_length=MOST_TEXT)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Press:
    """A button that was pressed under a question."""

    question: str
    """What `Telegram.ask` was given as its id."""
    approve: bool
    by: str
    """Who pressed, by name and number."""
    callback: str
    """By which it is answered."""
    message: int | None
    """The message with the question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presses:
    """What a look for updates brought."""

    presses: tuple[Press, ...]
    offset: int
    """For the next look, which acknowledges these: until then they come again."""


class Telegram:
    """One bot, which talks to one chat.

    Args:
        client: A client whose base address is the bot's.
        chat_id: The chat; presses from anywhere else do not count.
    """

    def __init__(self, client: httpx.AsyncClient, chat_id: str) -> None:
        self._client = client
        self._chat_id = chat_id

    async def send(self, text: str) -> int:
        """Send a message, and return its number.

        Raises:
            TelegramError: If it was not sent, or nobody knows.
        """
        sent = await self._call("sendMessage", {"chat_id": self._chat_id, "text": text})
        return int(sent["message_id"])

    async def ask(self, question: str, text: str) -> int:
        """Send a question with the buttons *Approve* and *Deny*, and return its message's number.

        Args:
            question: Its id, which comes back with a press; at most 62 bytes.
            text: What is asked.

        Raises:
            ValueError: If the id is too long.
            TelegramError: If it was not sent, or nobody knows.
        """
        if len(question.encode()) > MOST_DATA - 2:
            raise ValueError(f"question must have at most {MOST_DATA - 2} bytes")
        buttons = [
            {"text": "Approve", "callback_data": f"{_APPROVE}:{question}"},
            {"text": "Deny", "callback_data": f"{_DENY}:{question}"},
        ]
        sent = await self._call(
            "sendMessage",
            {
                "chat_id": self._chat_id,
                "text": text[:MOST_TEXT],
                "reply_markup": {"inline_keyboard": [buttons]},
            },
        )
        return int(sent["message_id"])

    async def presses(self, offset: int, *, wait: float) -> Presses:
        """Return the buttons that were pressed, waiting for the first.

        A press comes again until a later look has acknowledged it, so after a crash a decision may
        come twice.

        Args:
            offset: From the look before; 0 at first.
            wait: Seconds to wait while there is none; at most 50.

        Raises:
            TelegramError: If it cannot be looked for now.
        """
        body = {
            "offset": offset,
            "timeout": round(min(wait, 50)),
            "allowed_updates": ["callback_query"],
        }
        updates = await self._call("getUpdates", body, wait=wait)
        found = []
        for update in updates:
            offset = max(offset, int(update["update_id"]) + 1)
            press = self._press_of(update.get("callback_query"))
            if press is not None:
                found.append(press)
        return Presses(presses=tuple(found), offset=offset)

    async def settle(self, press: Press, text: str) -> None:
        """Show who pressed what came of it, and take the buttons away.

        Args:
            press: What was pressed.
            text: What came of it.

        Raises:
            TelegramError: If it cannot be shown; a press that is old has nothing to be shown at.
        """
        answer = {"callback_query_id": press.callback, "text": text[:200]}
        await self._call("answerCallbackQuery", answer)
        if press.message is not None:
            body = {"chat_id": self._chat_id, "message_id": press.message}
            await self._call("editMessageReplyMarkup", body)

    def _press_of(self, query: Any) -> Press | None:  # noqa: ANN401  (JSON)
        """Read a press; None where it is not one of ours, or not from our chat."""
        if not isinstance(query, dict):
            return None
        message = query.get("message") or {}
        if str((message.get("chat") or {}).get("id")) != self._chat_id:
            return None
        letter, _, question = str(query.get("data") or "").partition(":")
        if letter not in {_APPROVE, _DENY} or not question:
            return None
        person = query.get("from") or {}
        name = person.get("username") or person.get("first_name") or "unknown"
        return Press(
            question=question,
            approve=letter == _APPROVE,
            by=f"{name} ({person.get('id')})",
            callback=str(query.get("id")),
            message=message.get("message_id"),
        )

    async def _call(self, method: str, body: dict[str, Any], *, wait: float = 0.0) -> Any:  # noqa: ANN401  (JSON)
        import httpx

        try:
            response = await self._client.post(method, json=body, timeout=TIMEOUT + wait)
        except httpx.HTTPError as error:
            raise TelegramAway(f"Telegram is away: {type(error).__name__}") from None
        try:
            answer = response.json()
        except ValueError:
            raise TelegramAway(f"Telegram answers with status {response.status_code}") from None
        if not isinstance(answer, dict):
            raise TelegramAway("Telegram answers with something else")
        if answer.get("ok") is True:
            return answer.get("result")
        why = str(answer.get("description") or "no reason given")
        match answer.get("error_code"):
            case 429:
                raise TooMany(float((answer.get("parameters") or {}).get("retry_after", 30)))
            case 409:
                raise AnotherReader(f"Telegram: {why}")
            case int(code) if code >= 500:
                raise TelegramAway(f"Telegram: {why}")
        raise TelegramError(f"Telegram: {why}")


@asynccontextmanager
async def open_bot(token: str, chat_id: str, *, api: str = API) -> AsyncIterator[Telegram]:
    """Open the way to a bot.

    Args:
        token: The bot's.
        chat_id: The operator's chat.
        api: Where Telegram is.
    """
    import httpx

    async with httpx.AsyncClient(base_url=f"{api}/bot{token}/") as client:
        yield Telegram(client, chat_id)


@asynccontextmanager
async def open_telegram(setup: SetUp) -> AsyncIterator[Hand]:
    """Open the hand."""
    options = options_of(TelegramOptions, setup.options, "telegram")
    variables = setup.variables
    token, chat_id = variables["TELEGRAM_BOT_TOKEN"], variables["TELEGRAM_CHAT_ID"]
    api = options.api or variables.get("TELEGRAM_API_URL") or API
    async with open_bot(token, chat_id, api=api) as bot:

        async def send(given: TelegramSend, use: Use) -> Json:
            try:
                return {"sent": await bot.send(given.text)}
            except TelegramAway as error:
                raise OutcomeUnknownError(
                    f"{error}. The message may have been sent, or not: do not send it again."
                ) from None
            except TelegramError as error:
                raise HandError(f"Not sent. {error}.") from None

        # It is the operator who gets it, so that no approval makes sense.
        tool = tool_of("telegram_send", TelegramSend, send, effect="once")
        yield Hand(name="telegram", tools=lambda: (tool,))


TELEGRAM: Final = Kind(
    name="telegram",
    summary="Messages to the operator",
    options=TelegramOptions,
    open=open_telegram,
    variables=(
        Variable(name="TELEGRAM_BOT_TOKEN", purpose="The token of a bot of yours", secret=True),
        Variable(name="TELEGRAM_CHAT_ID", purpose="The chat between it and you"),
        Variable(name="TELEGRAM_API_URL", purpose="Another address of the Bot API", required=False),
    ),
)
