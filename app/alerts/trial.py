"""`--alert-test`: shows what would be sent, and sends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actp_supervise.clock import SystemWallClock
from actp_supervise.service import make_redactor
from app.alerts.channels import DeliveryError, make_channels
from app.alerts.plan import Message, News
from app.alerts.service import send
from app.reasons import ReasonKind, reason
from app.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.settings import Settings


class NotDeliveredError(OSError):
    """A channel did not take the message."""


async def try_alerts(settings: Settings, say: Callable[[str], object]) -> None:
    """Send an alert by each channel, and say what it is and what came of it.

    Args:
        settings: Which channels there are.
        say: Writes a line.

    Raises:
        SettingsError: If there is no channel, or one cannot be used.
        NotDeliveredError: If one did not take it.
    """
    redact = make_redactor(settings.secrets)
    channels = make_channels(settings)
    if not channels:
        raise SettingsError(
            "nobody is told: set TELEGRAM_BOT_TOKEN and TELEGRAM_CHAT_ID, or WORKER_ALERT_URLS"
        )
    message = sample(settings)
    say(f"{message.title}\n{message.body}\n")
    failed = []
    for channel in channels:
        try:
            await send(channel, message)
        except DeliveryError as error:
            failed.append(channel.name)
            say(redact(f"{channel.name}: not delivered: {error}"))
        else:
            say(f"{channel.name}: delivered")
    if failed:
        raise NotDeliveredError(f"not delivered by {', '.join(failed)}")


def sample(settings: Settings) -> Message:
    """Return an alert as it would be, about nothing."""
    now = SystemWallClock().now()
    text = "this is a test of the alerts; nothing is wrong"
    about = reason(ReasonKind.ALERTS_FAILING, text, since=now)
    return News(begun=(about,)).message(settings.worker_id, settings.timezone)
