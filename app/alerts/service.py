"""Tells people: watches the reasons, and delivers what is to be told. It holds nothing else up.

What all daemons that share a store see alike is told by one of them, which has the lease for it;
what one alone can see, as an agent that crashed in it, is told by that one.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import httpx
import trio

from actp_supervise import Backoff
from actp_supervise.clock import SystemWallClock, WallClock
from actp_supervise.cron import Cron
from app.alerts.channels import Channel, DeliveryError
from app.alerts.plan import Message, News, Plan, is_quiet
from app.alerts.summary import look_back, summary
from app.facts import from_json, to_json
from app.looks import USUAL
from app.reasons import Reason, ReasonKind, reason
from app.store.outbox import store_lease
from app.store.protocol import JSON, Store, StoreError
from app.store.records import json_text, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from actp_supervise import Supervisor
    from app.settings import Settings
    from app.status import Health

logger = logging.getLogger(__name__)

RECORD_TIMEOUT: Final = 10.0
"""Seconds that the store has, to say how a day was or to keep what was told."""

LEASE: Final = 60.0
"""Seconds after which another daemon speaks for one that is gone, where nothing else is said."""

SEND_TIMEOUT: Final = 30.0
"""Seconds that one delivery may take."""

RETRY: Final = Backoff(initial=5.0, factor=2.0, maximum=300.0)
"""How long a message that was not delivered waits for the next try."""

MOST_WAITING: Final = 50
"""Messages that wait for a channel; the oldest goes first, as it is the least news."""

HEARTBEAT_EVERY: Final = 60.0
HEARTBEAT_TIMEOUT: Final = 15.0
MISSED: Final = 3
"""Heartbeats one after another that are not taken before that is a reason."""

ALERTS: Final = "alerts"
HEARTBEAT: Final = "heartbeat"
HEARTBEAT_URL: Final = "heartbeat address"
"""What its child in the tree is called."""

_KEPT_UNDER: Final = ("daemon", "alerts that were told")
"""Where the store has what was told, among what agents remember."""


class Told(Protocol):
    """The daemon of which is told."""

    @property
    def settings(self) -> Settings:
        """Those in force."""

    @property
    def store(self) -> Store:
        """Where what was told is kept, for the next who speaks."""

    @property
    def stopping(self) -> bool:
        """Whether it stops, in which case nothing more is told."""

    @property
    def redact(self) -> Callable[[str], str]:
        """Takes secrets out of a text."""

    def health(self) -> Health:
        """Return how it is."""


@dataclass(slots=True)
class _Outgoing:
    """A channel with what waits for it."""

    channel: Channel
    waiting: deque[Message] = field(default_factory=lambda: deque(maxlen=MOST_WAITING))
    news: trio.Event = field(default_factory=trio.Event)


class Alerts:
    """Who is told, and what waits to be told.

    Args:
        channels: By which ways.
        instance: This start of the daemon.
        lease: Seconds after which another daemon speaks for one that is gone.
        wall_clock: Tells the time of day.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        instance: str,
        lease: float = LEASE,
        wall_clock: WallClock | None = None,
    ) -> None:
        self._outgoing = [_Outgoing(channel) for channel in channels]
        self._instance = instance
        self._lease = lease
        self._wall_clock = SystemWallClock() if wall_clock is None else wall_clock
        self._own = Plan()
        self._shared: Plan | None = None
        """What all see alike, while this daemon speaks of it."""
        self._failing: dict[str, Reason] = {}

    @property
    def speaks(self) -> bool:
        """Whether this daemon tells what all see alike."""
        return self._shared is not None

    def reasons(self) -> tuple[Reason, ...]:
        """Return what is wrong with the delivery itself."""
        return tuple(self._failing.values())

    def start(self, services: Supervisor, daemon: Told, every: float = USUAL.alerts) -> None:
        """Start what is configured, the alerts and the heartbeat address, under a supervisor.

        Args:
            services: Looks after them.
            daemon: Of which is told.
            every: Seconds between two looks.
        """
        if self._outgoing:
            services.start_soon(self.run, daemon, every, name=ALERTS)
        url = daemon.settings.heartbeat_url
        if url is not None:
            services.start_soon(self.beat, url, name=HEARTBEAT_URL)

    async def retake(
        self,
        services: Supervisor,
        daemon: Told,
        channels: Sequence[Channel],
        every: float = USUAL.alerts,
    ) -> None:
        """Tell from now on as the daemon's settings are by now; what was told is not told again.

        What waits for a channel that is still there waits on.

        Args:
            services: Looks after what was started.
            daemon: Of which is told.
            channels: By which ways.
            every: Seconds between two looks.
        """
        for name in (ALERTS, HEARTBEAT_URL):
            if name in services:
                await services.remove(name)
        waiting = {each.channel.name: each.waiting for each in self._outgoing}
        self._outgoing = [
            _Outgoing(channel, waiting.get(channel.name, deque(maxlen=MOST_WAITING)))
            for channel in channels
        ]
        self._failing.clear()
        self.start(services, daemon, every)

    async def run(self, daemon: Told, every: float = USUAL.alerts) -> None:
        """Tell of a daemon until cancelled.

        Args:
            daemon: Which.
            every: Seconds between two looks.
        """
        async with trio.open_nursery() as nursery:
            for outgoing in self._outgoing:
                nursery.start_soon(self._deliver, outgoing)
            nursery.start_soon(self._take_turns, daemon)
            due = self._next_summary(daemon.settings)
            while True:
                await trio.sleep(every)
                if daemon.stopping:
                    continue
                await self._look(daemon)
                if due is not None and self._wall_clock.now() >= due:
                    due = self._next_summary(daemon.settings)
                    if self.speaks:
                        await self._summarize(daemon)

    async def beat(self, url: str) -> None:
        """Ask an address each minute, for as long as this daemon lives."""
        missed = 0
        async with httpx.AsyncClient(timeout=HEARTBEAT_TIMEOUT) as http:
            while True:
                why = await _ask(http, url)
                missed = 0 if why is None else missed + 1
                if why is None:
                    self._failing.pop(HEARTBEAT, None)
                elif missed >= MISSED:
                    self._fail(HEARTBEAT, f"the heartbeat address is not reached: {why}")
                await trio.sleep(HEARTBEAT_EVERY)

    # What is told.

    async def _look(self, daemon: Told) -> None:
        settings, now = daemon.settings, self._wall_clock.now()
        quiet = is_quiet(settings.alert_quiet, now, settings.timezone)
        problems = daemon.health().problems
        own = [each for each in problems if not each.key.shared]
        news = self._own.look(own, now, quiet=quiet)
        if self._shared is not None:
            shared = [each for each in problems if each.key.shared]
            told = self._shared.look(shared, now, quiet=quiet)
            news += told
            if told:
                await self._remember(daemon.store, self._shared)
        if news:
            self._tell(daemon, news)

    def _tell(self, daemon: Told, news: News) -> None:
        settings = daemon.settings
        for outgoing in self._outgoing:
            wanted = news.for_channel(outgoing.channel.name)
            if wanted:
                message = wanted.message(settings.worker_id, settings.timezone)
                _put(outgoing, message, daemon.redact)

    def _next_summary(self, settings: Settings) -> datetime | None:
        """Return when the next daily summary is due."""
        at = settings.daily_summary
        if at is None:
            return None
        trigger = Cron(f"{at.minute} {at.hour} * * *", timezone=settings.timezone)
        return trigger.next_after(self._wall_clock.now())

    async def _summarize(self, daemon: Told) -> None:
        extra = {"action": "summary_left_out"}
        try:
            with trio.fail_after(RECORD_TIMEOUT):
                day = await look_back(daemon.store, self._wall_clock.now())
        except (StoreError, trio.TooSlowError) as error:
            logger.warning("No daily summary, as the store is away: %s", error, extra=extra)
            return
        message = summary(daemon.settings.worker_id, day, daemon.health().reasons)
        for outgoing in self._outgoing:
            _put(outgoing, message, daemon.redact)

    # Which daemon speaks.

    async def _take_turns(self, daemon: Told) -> None:
        """Speak of what all daemons see alike, whenever the lease for it is ours."""
        lease = store_lease(daemon.store, "alerts", self._instance, self._lease)
        while True:
            await lease.acquire(lambda _holder: None)
            self._shared = Plan(await self._recall(daemon.store))
            lost = trio.Event()
            try:
                async with lease.renewing(lost.set):
                    await lost.wait()
            finally:
                self._shared = None

    async def _recall(self, store: Store) -> list[Reason]:
        agent_id, key = _KEPT_UNDER
        try:
            rows = await store.recall(agent_id, key=key)
            kept: JSON = read_json(rows[0].value) if rows else []
            return from_json(list[Reason], kept)
        except (StoreError, ValueError):  # then something is told once more
            return []

    async def _remember(self, store: Store, plan: Plan) -> None:
        agent_id, key = _KEPT_UNDER
        try:
            with trio.move_on_after(RECORD_TIMEOUT):
                await store.remember(agent_id, key, json_text(to_json(plan.told)))
        except StoreError as error:  # as when the news is that the store is away
            extra = {"action": "told_not_recorded"}
            logger.warning("What was told could not be recorded: %s", error, extra=extra)

    # Delivery.

    async def _deliver(self, outgoing: _Outgoing) -> None:
        failures = 0
        while True:
            while not outgoing.waiting:
                outgoing.news = trio.Event()
                await outgoing.news.wait()
            message = outgoing.waiting[0]
            try:
                await send(outgoing.channel, message)
            except DeliveryError as error:
                failures += 1
                self._fail(
                    outgoing.channel.name,
                    f"alerts by {outgoing.channel.name} do not leave: {error}",
                )
                await trio.sleep(max(RETRY.delay(failures), min(error.retry_after, RETRY.maximum)))
                continue
            failures = 0
            self._failing.pop(outgoing.channel.name, None)
            if outgoing.waiting and outgoing.waiting[0] is message:  # not dropped meanwhile
                outgoing.waiting.popleft()

    def _fail(self, what: str, text: str) -> None:
        known = self._failing.get(what)
        since = self._wall_clock.now() if known is None else known.since
        if known is None:
            logger.warning("%s", text, extra={"action": "alert_not_delivered"})
        self._failing[what] = reason(ReasonKind.ALERTS_FAILING, text, since=since, what=what)


def _put(outgoing: _Outgoing, message: Message, redact: Callable[[str], str]) -> None:
    clean = Message(title=redact(message.title), body=redact(message.body))
    outgoing.waiting.append(clean)
    outgoing.news.set()


async def send(channel: Channel, message: Message) -> None:
    """Deliver a message within the time for it.

    Raises:
        DeliveryError: If that was not possible, whatever the channel did.
    """
    try:
        with trio.fail_after(SEND_TIMEOUT):
            await channel.send(message)
    except trio.TooSlowError:
        raise DeliveryError(f"it took more than {SEND_TIMEOUT:.0f} s") from None
    except DeliveryError:
        raise
    except Exception as error:
        logger.exception("A channel of alerts failed", extra={"action": "channel_failed"})
        raise DeliveryError(f"{type(error).__name__}, see the log") from error


async def _ask(http: httpx.AsyncClient, url: str) -> str | None:
    """Ask an address; return why it was not reached, None where it was."""
    try:
        answer = await http.get(url)
    except httpx.HTTPError as error:  # whose text may have the address
        return type(error).__name__
    return None if answer.is_success else f"it answers {answer.status_code}"
