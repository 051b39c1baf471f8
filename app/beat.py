"""The daemon's beat: one call every few seconds that says what is due and learns what is asked.

A beat carries the daemon's presence, its agents' heartbeats and the renewals of leases. It brings
back restart requests, cancellations, pauses, and which queues hold work. It waits behind no other
record, so that a record that cannot be written makes nobody take this daemon for dead.
"""

from __future__ import annotations

import logging
import math
import uuid
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from app.looks import USUAL
from app.store.protocol import StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actp_supervise.service import Outbox
    from app.desk import Desk
    from app.heartbeat import HealthHeartbeat
    from app.registry import AgentRegistry
    from app.store.protocol import Beat
    from app.worker import DaemonPresence

logger = logging.getLogger(__name__)

SHORTEST_WAIT: Final = 0.1
"""Seconds between the end of a beat and the next one, however long it took."""


class DaemonBeat:
    """Sends the beats of one daemon, one at a time.

    Args:
        desk: The store, which is told what each beat brought back.
        presence: What the daemon says of itself.
        heartbeat: What it passes on of its agents.
        registry: Registers them anew where the registry has lost them.
        records: Told whether the store can be reached.
        lease: Seconds that claims and named leases last.
        every: Seconds between two beats, at most.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        presence: DaemonPresence,
        heartbeat: HealthHeartbeat,
        registry: AgentRegistry,
        records: Outbox,
        lease: float,
        every: float = USUAL.beat,
    ) -> None:
        self._desk = desk
        self._presence = presence
        self._heartbeat = heartbeat
        self._registry = registry
        self._records = records
        self._lease = lease
        self._every = every
        self._request: str | None = None
        self._hurried = trio.Event()
        self._sent_at = -math.inf
        presence.on_publish = self.hurry

    def hurry(self) -> None:
        """Send the next beat now."""
        self._hurried.set()

    async def wait(self, interval: float) -> None:
        """Wait until the next beat is due: `interval` seconds after the last, or hurried."""
        # Each of them is done by a beat, and must not be late for it.
        often = min(interval, self._every, self._lease / 3, self._presence.interval)
        with trio.move_on_at(max(self._sent_at + often, trio.current_time() + SHORTEST_WAIT)):
            await self._hurried.wait()
        self._hurried = trio.Event()

    async def once(self, agents: Sequence[str]) -> Beat | None:
        """Send a beat, and hand on what it brings back to the desk.

        Args:
            agents: The agents that run here just now.

        Returns:
            What it brought back; None if the store did not answer.
        """
        # Stays until an answer has come, so that an answer that is lost loses no request.
        self._request = self._request or uuid.uuid4().hex
        heartbeats = self._heartbeat.due()
        presence = self._presence.due(heartbeats)
        asked, asked_at = self._desk.ask_for_leases(), trio.current_time()
        self._sent_at = asked_at
        try:
            beat = await self._desk.beat(
                self._presence.instance,
                agents=agents,
                tokens=self._desk.tokens(),
                leases=sorted(asked.names),
                lease=self._lease,
                request=self._request,
                presence=presence,
            )
        except StoreError as error:
            self._desk.missed(asked, error)
            if presence is not None:
                self._presence.unsaid()
            self._note(error)
            return None
        self._request = None
        self._desk.heard(beat, asked, asked_at=asked_at)
        if presence is not None:
            self._presence.said(beat.dead)
            self._heartbeat.sent(presence.heartbeats)
        if not self._records.waiting:  # this may go well while writing does not
            self._records.note(None)
        if beat.unregistered:
            self._register_again(beat.unregistered)
        return beat

    def _note(self, error: StoreError) -> None:
        self._records.note(str(error))
        if not isinstance(error, StoreUnavailable):
            logger.error("The store refuses the beat: %s", error, extra={"action": "beat_refused"})

    def _register_again(self, agent_ids: Sequence[str]) -> None:
        extra = {"action": "registered_again"}
        logger.warning(
            "The registry has lost %s: registered again", ", ".join(agent_ids), extra=extra
        )
        again = partial(self._registry.register_again, agent_ids)
        self._records.put("registration of agents that were lost", again, key="register again")
