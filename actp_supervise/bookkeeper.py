"""Asks a scheduler's journal what its jobs must know, and reports to it how moments ended.

A job needs the journal to learn after which moment it goes on, to claim the moments that are due,
and to report how claimed moments ended. When it may ask is in `turns`. Moments that come due while
the journal is away stay in the job's schedule, so that a long wait costs no memory and ends like a
sleep: `coalesce`, `misfire_grace`, `overlap` and pauses apply to all that has passed.
"""

from __future__ import annotations

import contextlib
import logging
import math
from datetime import UTC
from typing import TYPE_CHECKING, Final

import trio

from .child import current_child
from .claims import Claims
from .events import log
from .journal import JOURNAL_TIMEOUT, JournalCalls, JournalUnavailable
from .runner import NEVER_BEGAN
from .runs import Outcome
from .schedule import BACKLOG, Firing
from .turns import WORKERS, Turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from .embedding import Embedding
    from .jobs import Entry
    from .journal import Journal
    from .runner import Runner
    from .timetable import Timetable

FINAL_REPORT_TIMEOUT: Final = 2 * JOURNAL_TIMEOUT
"""Seconds that the journal has, once the last run has ended, to answer a claim that is under way
and to take the last reports."""

RECOVERY_INTERVAL: Final = 60.0
"""Seconds between two calls of `take_interrupted`, which finds the moments of daemons that died."""

MOST_UNTOLD: Final = 1000
"""How many ends of a job's runs are kept for a journal that is away; the oldest are dropped."""

GRACE_MARGIN: Final = 1e-3
"""Seconds added to the end of a `misfire_grace`, so that a moment is surely too late by then."""


class Bookkeeper:
    """Keeps the journal for a scheduler, as one child of its supervisor.

    Args:
        journal: The one that the user gave to the scheduler.
        embedding: What the scheduler uses of its supervisor.
        timetable: Where the jobs' moments come from.
        runner: Runs what was claimed.
        jobs: All jobs, by name.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        embedding: Embedding,
        timetable: Timetable,
        runner: Runner,
        jobs: Mapping[str, Entry],
    ) -> None:
        self._calls = JournalCalls(journal)
        self._turns = Turns(self._ask_and_tell, self._on_held)
        self._embedding = embedding
        self._timetable = timetable
        self._runner = runner
        self._jobs = jobs
        self._open: set[tuple[str, datetime]] = set()
        """Claimed moments whose end is not reported yet. A second claim of one of them gets True
        again, and must not start a second run."""
        self._unrestored = 0
        self._all_restored = trio.Event()
        self._is_last_try = False

    # What the scheduler and the runner tell it.

    def open(self) -> None:
        """Start the bookkeeper's task. It is stopped last, since it is told of every run's end."""
        self._runner.on_recorded = self.recorded
        supervisor = self._embedding.supervisor
        supervisor.start_soon(self._run, name="(journal)", shutdown_timeout=math.inf)

    def add(self, entry: Entry) -> None:
        """Ask the journal after which moment a new job goes on."""
        entry.claims = Claims(entry)
        self._unrestored += 1
        self._timetable.put(entry)
        self._turns.request(entry.claims)

    def come_due(self, entry: Entry, now: float) -> None:
        """Claim the due moments of a job, as soon as the journal can be asked."""
        claims = _claims_of(entry)
        if not claims.has_turn:
            self._take_due(claims, now)
            self._timetable.put(entry)
            self._turns.request(claims)
            return
        if self._turns.is_held(claims):
            self._give_up(claims, now)
            if claims.only_untold and not self._turns.is_away:
                self._turns.let_go(claims)
        self._wait_on(claims, now)

    def keep_due(self, entry: Entry, now: float) -> None:
        """Take the due moments out of a job's schedule before that schedule changes."""
        if not entry.paused:
            claims = _claims_of(entry)
            self._take_due(claims, now)
            self._turns.request(claims)

    def is_restored(self, entry: Entry) -> bool:
        """Return whether the journal has said where a job goes on."""
        return _claims_of(entry).restored

    def put(self, entry: Entry, now: float) -> None:
        """Put a job back in the timetable after its schedule has changed."""
        claims = _claims_of(entry)
        if self._turns.is_held(claims):
            self._wait_on(claims, now)
        else:
            self._timetable.put(entry)

    def withdraw(self, entry: Entry, reason: str) -> None:
        """Claim no more moments of a job, because it is paused or removed.

        Moments that were due before a pause are recorded as skipped; those of a removed job are
        left to other daemons. A claim that is under way is waited for, and its end reported.
        """
        claims = _claims_of(entry)
        if not entry.removed and not entry.paused:
            self._take_due(claims, self._timetable.now())
        firings = claims.let_go()
        if claims.in_hand is not None:
            firings.append(claims.in_hand)
        if entry.removed:
            firings = _doubtful(firings)
            self._mark_restored(claims)  # where it goes on need not be asked any more
        self._record(firings, Outcome.SKIPPED, reason)

    def recorded(self, firing: Firing) -> None:
        """Report the end of a claimed moment to the journal."""
        if not firing.claimed:
            return
        claims = _claims_of(firing.entry)
        claims.untold.append(firing)
        if len(claims.untold) > MOST_UNTOLD:
            lost = claims.untold.popleft()
            self._open.discard(_key(lost))
            _log_lost(f"the end of {lost.entry.name!r} of {lost.moment}")
        self._turns.request(claims)

    # What a turn is made of.

    async def _ask_and_tell(self, claims: Claims) -> None:
        """Ask and tell the journal all that a job needs: moments to run first, missed ones last."""
        if not claims.restored and not self._is_closing:
            await self._restore(claims)
        while True:
            if (firing := self._next_to_run(claims)) is not None:
                await self._claim(claims, firing)
            # Ends are reported even if more moments wait to be claimed: otherwise a job that is due
            # more often than the journal answers would never report one.
            if claims.untold and self._is_last_try:
                await self._tell_at_once(claims)
            elif claims.untold:
                await self._tell(claims)
            elif firing is None and claims.missed:
                await self._claim(claims, claims.missed.popleft())
            elif firing is None:
                return

    async def _restore(self, claims: Claims) -> None:
        entry, now = claims.entry, self._timetable.now_here()
        last = await self._calls.last_fire(entry.name)
        since = await self._calls.scheduled_since(entry.name, self._timetable.identity(entry), now)
        self._turns.answered(claims)
        if claims.restored:  # by its removal meanwhile
            return
        self._mark_restored(claims)
        claims.add(self._timetable.resume_from(entry, last, since))
        if not entry.paused:
            self._timetable.put(entry)

    def _mark_restored(self, claims: Claims) -> None:
        if not claims.restored:
            claims.restored = True
            self._unrestored -= 1
            if not self._unrestored:
                self._all_restored.set()

    def _next_to_run(self, claims: Claims) -> Firing | None:
        """Return the next moment to claim and run; None if there is none."""
        entry = claims.entry
        if entry.paused or entry.removed or self._is_closing:
            return None
        now = self._timetable.now()
        # While the journal is away, only a moment whose claim got no answer is claimed again. The
        # other moments stay in the schedule, where they cost no memory.
        if not claims.failures or not (claims.to_run or len(claims.missed) >= BACKLOG):
            self._take_due(claims, now)
        while claims.to_run:
            firing = claims.to_run.popleft()
            firing.missed = entry.schedule.why_too_late(firing.time, now)
            if firing.missed is None:
                return firing
            claims.missed.append(firing)
        return None

    def _take_due(self, claims: Claims, now: float) -> None:
        waited = claims.entry.schedule.waits
        taken = self._timetable.take_due(claims.entry, now)
        claims.add(taken)
        if taken or waited:
            self._timetable.put(claims.entry)

    async def _claim(self, claims: Claims, firing: Firing) -> None:
        entry = claims.entry
        was_away = claims.failures > 0
        claims.only_untold = False
        claims.in_hand = firing
        firing.asked = True
        try:
            firing.claimed = await self._calls.claim(entry.name, firing.moment)
        except JournalUnavailable:
            if not (entry.paused or entry.removed or self._is_closing):
                claims.put_back(firing)
            raise
        finally:
            claims.in_hand = None
        self._turns.answered(claims)
        if not firing.claimed or _key(firing) in self._open:
            return  # another daemon has it, or a job of ours that was removed and added again
        self._open.add(_key(firing))
        if firing.run is not None:  # it was recorded meanwhile: too late, paused, or removed
            claims.untold.append(firing)
            return
        missed = firing.missed or self._timetable.why_too_late(firing)
        if was_away and missed is None:
            missed = self._why_superseded(claims)
        if missed is None:
            self._runner.admit(firing)
        else:
            self._runner.record(firing, Outcome.MISSED, missed)

    def _why_superseded(self, claims: Claims) -> str | None:
        """Return why a moment must not run if later ones came due while its claim was waiting."""
        now = self._timetable.now_if_any()
        if now is not None and not self._is_closing:
            self._take_due(claims, now)
        return claims.why_superseded

    async def _tell(self, claims: Claims) -> None:
        firing = claims.untold.popleft()
        run = firing.run
        assert run is not None and run.outcome is not None  # noqa: S101, PT018  (it is recorded)
        try:
            await self._calls.finished(firing.entry.name, firing.moment, run.outcome, run.error)
        except JournalUnavailable:
            claims.untold.append(firing)  # behind other ends, which the journal may accept
            claims.only_untold = True
            raise
        self._open.discard(_key(firing))
        self._turns.answered(claims)

    async def _tell_at_once(self, claims: Claims) -> None:
        """Report all ends of a job together, as the time is limited; raise if one is not taken."""

        async def try_to_tell() -> None:
            with contextlib.suppress(JournalUnavailable):
                await self._tell(claims)

        before = math.inf
        while len(claims.untold) < before:
            before = len(claims.untold)
            async with trio.open_nursery() as nursery:
                for _ in range(min(before, WORKERS)):
                    nursery.start_soon(try_to_tell)
        if claims.untold:
            raise JournalUnavailable(self._turns.problem)

    # While the journal is away.

    def _on_held(self, claims: Claims) -> None:
        if not claims.entry.paused and not claims.entry.removed:
            self._wait_on(claims, self._timetable.now())

    def _wait_on(self, claims: Claims, now: float) -> None:
        """Leave a job's due moments unclaimed until the oldest is past its `misfire_grace`."""
        schedule = claims.entry.schedule
        again = self._timetable.look_ahead(claims.entry, now)
        first = math.inf
        if claims.to_run:
            first = claims.to_run[0].time
        elif schedule.waits:
            first = schedule.due
        expiry = first + schedule.spec.grace + GRACE_MARGIN
        self._timetable.put(claims.entry, min(again, expiry) if expiry > now else again)

    def _give_up(self, claims: Claims, now: float) -> None:
        """Record moments that are too late to run as missed; the journal is told later."""
        if not claims.restored:
            return
        schedule = claims.entry.schedule
        late: list[Firing] = []
        while claims.to_run and schedule.why_too_late(claims.to_run[0].time, now):
            late.append(claims.to_run.popleft())
        most = max(0, BACKLOG - len(claims.missed))  # one record stands for all beyond
        late += self._timetable.take_too_late(claims.entry, now, most)
        for firing in late:
            why = schedule.why_too_late(firing.time, now)
            self._runner.record(firing, Outcome.MISSED, f"{why}: {self._turns.problem}")
            claims.missed.append(firing)

    # Daemons that died.

    async def _recover(self) -> None:
        """Take over moments of daemons that died: once all jobs are known, then every minute."""
        while True:
            with trio.move_on_after(RECOVERY_INTERVAL):
                await self._all_restored.wait()
            self._all_restored = trio.Event()
            if not self._turns.is_any_held:  # else the probe of `turns` asks
                with contextlib.suppress(JournalUnavailable):
                    await self._take_interrupted()

    async def _take_interrupted(self) -> None:
        for name, moment in await self._calls.take_interrupted(tuple(self._jobs)):
            entry = self._jobs.get(name)
            if entry is None:  # removed meanwhile
                continue
            died, again = (Firing(entry, moment, moment.timestamp()) for _ in range(2))
            late = self._timetable.why_too_late(died)
            is_run_again = entry.spec.rerun_interrupted and not entry.paused and late is None
            self._open.add(_key(died))
            died.claimed, again.claimed = not is_run_again, is_run_again
            self._runner.record(died, Outcome.INTERRUPTED, "its daemon died while it ran")
            if is_run_again:
                self._runner.admit(again)

    # It begins and ends.

    @property
    def _is_closing(self) -> bool:
        return self._embedding.is_stopping

    async def _run(self) -> None:
        """Serve the journal, as a child of the scheduler's supervisor."""
        try:
            async with trio.open_nursery() as nursery:
                self._turns.open(nursery)
                if self._calls.can_recover:
                    nursery.start_soon(self._recover)
                await current_child().stopping.wait()
                await self._wind_up()
                nursery.cancel_scope.cancel(reason="all that can be told is told")
        finally:
            self._turns.close()

    async def _wind_up(self) -> None:
        """Wait until all runs have ended, and report their ends within a bounded time."""
        for claims in self._turns.all:
            # Moments that are not claimed yet are left to other daemons.
            self._record(_doubtful(claims.let_go()), Outcome.CANCELLED, NEVER_BEGAN)
        self._runner.cancel_unstarted()
        await self._runner.until_idle()
        told = set(self._turns.all)
        self._is_last_try = True
        with trio.move_on_after(FINAL_REPORT_TIMEOUT):
            await self._turns.finish()
        for claims in told:
            if claims.untold:
                _log_lost(f"{len(claims.untold)} ends of {claims.entry.name!r}")

    def _record(self, firings: Iterable[Firing], outcome: Outcome, reason: str) -> None:
        """Record moments that will not be claimed any more."""
        for firing in firings:
            if firing.run is None and firing.missed is None:
                self._runner.record(firing, outcome, reason)
            elif firing.run is None:
                self._runner.record(firing, Outcome.MISSED, firing.missed)


def _claims_of(entry: Entry) -> Claims:
    assert entry.claims is not None  # noqa: S101  (`Bookkeeper.add` sees to it)
    return entry.claims


def _key(firing: Firing) -> tuple[str, datetime]:
    return firing.entry.name, firing.moment.astimezone(UTC)


def _doubtful(firings: Iterable[Firing]) -> list[Firing]:
    """Return the moments that may be claimed in the journal although the answer was lost.

    No other daemon runs a claimed moment, so this scheduler has to record what became of it.
    """
    return [firing for firing in firings if firing.asked]


def _log_lost(what: str) -> None:
    log(logging.ERROR, "the journal could not be told %s", what, action="journal_not_told")
