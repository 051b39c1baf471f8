"""The ways by which a message leaves: a chat of Telegram, and the addresses of `apprise`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import httpx
import trio
from typing_extensions import override

from app.settings import SettingsError

if TYPE_CHECKING:
    from app.alerts.plan import Message
    from app.settings import Settings

TELEGRAM: Final = "https://api.telegram.org"

ANSWER_WITHIN: Final = 20.0
"""Seconds for each step of a request to Telegram."""

LONGEST_TEXT: Final = 4096
"""Characters that a message of Telegram may have."""


class DeliveryError(Exception):
    """A message was not delivered. Its text says why, without an address or a key.

    Args:
        why: One sentence.
        retry_after: Seconds after which it may be tried again, where the other side says so.
    """

    def __init__(self, why: str, *, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Channel(Protocol):
    """A way by which messages leave."""

    @property
    def name(self) -> str:
        """What people call it, without a secret."""

    async def send(self, message: Message) -> None:
        """Deliver a message.

        Raises:
            DeliveryError: If that was not possible.
        """


class Telegram(Channel):
    """A chat of Telegram, by its Bot API.

    Args:
        token: The bot's.
        chat_id: The chat.
        address: Of the Bot API.
    """

    name = "Telegram"

    def __init__(self, token: str, chat_id: str, address: str = TELEGRAM) -> None:
        self._url = f"{address.rstrip('/')}/bot{token}/sendMessage"
        self._chat_id = chat_id

    @override
    async def send(self, message: Message) -> None:
        text = f"{message.title}\n{message.body}"
        if len(text) > LONGEST_TEXT:
            text = text[: LONGEST_TEXT - 3] + "..."
        body = {"chat_id": self._chat_id, "text": text, "disable_web_page_preview": True}
        try:
            async with httpx.AsyncClient(timeout=ANSWER_WITHIN) as http:
                answer = await http.post(self._url, json=body)
        except httpx.HTTPError as error:  # whose text may have the address, and so the token
            raise DeliveryError(f"it cannot be reached ({type(error).__name__})") from None
        if answer.is_success:
            return
        try:
            said = answer.json()
            why = str(said.get("description", ""))
            retry_after = float(said.get("parameters", {}).get("retry_after", 0.0))
        except (ValueError, AttributeError, TypeError):
            why, retry_after = "", 0.0
        raise DeliveryError(
            f"it answers {answer.status_code} {why}".rstrip(), retry_after=retry_after
        )


class ByApprise(Channel):
    """One address of `apprise`, which sends in a thread.

    Args:
        name: What people call it.
        url: The address.

    Raises:
        SettingsError: If `apprise` is not installed, or does not understand the address.
    """

    name = ""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        try:
            from apprise import Apprise
        except ImportError as error:
            raise SettingsError(
                "WORKER_ALERT_URLS needs the package apprise: pip install --group alerts"
            ) from error
        self._apprise = Apprise()
        if not self._apprise.add(url):
            raise SettingsError(f"WORKER_ALERT_URLS: apprise does not understand the {name}")

    @override
    async def send(self, message: Message) -> None:
        # Its own time-outs end the thread, if we do not wait for it any more.
        is_sent = await trio.to_thread.run_sync(
            lambda: self._apprise.notify(title=message.title, body=message.body),
            abandon_on_cancel=True,
        )
        if not is_sent:
            raise DeliveryError("it was not taken; a line of apprise in the log says why")


def make_channels(settings: Settings) -> list[Channel]:
    """Return the channels that are configured.

    Raises:
        SettingsError: If one cannot be used.
    """
    channels: list[Channel] = []
    token, chat_id = settings.telegram_bot_token, settings.telegram_chat_id
    if token is not None and chat_id is not None:
        address = settings.telegram_api_url or TELEGRAM
        channels.append(Telegram(token, chat_id, address))
    for number, url in enumerate(settings.alert_urls, 1):
        name = f"{url.partition('://')[0]} address, number {number} of WORKER_ALERT_URLS"
        channels.append(ByApprise(name, url))
    return channels
