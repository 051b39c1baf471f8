"""How the journal is asked and told, for all jobs of a scheduler: one wait while it is away.

A job needs the journal to learn where it goes on, to claim what is due, and to tell how claimed
moments ended. It gets a turn for that: it is queued, a few workers serve the queue, and each serves
a job until nothing is left to ask or tell. What is due stays in the job's schedule until then, so
that a long wait costs no memory, and ends like a sleep: `coalesce`, `misfire_grace`, `overlap` and
pauses apply to all that has passed.

A job that gets no answer is held. Held jobs do not ask: one task, the probe, asks for one of them
at a time, with growing pauses. Any answer, to whichever job, lets all go. So a journal that fails
for one job alone (a name that its column cannot hold) holds up that job and no other.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from datetime import UTC
from typing import TYPE_CHECKING, Final

import trio

from .child import current_child
from .events import logger
from .jobs import Claims, Entry
from .journal import JOURNAL_TIMEOUT, JournalCalls, JournalUnavailable
from .policies import Backoff
from .runner import NEVER_BEGAN
from .runs import Outcome
from .schedule import BACKLOG, Firing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from .embedding import Embedding
    from .journal import Journal
    from .runner import Runner
    from .timetable import Timetable

JOURNAL_BACKOFF: Final = Backoff(initial=1.0, maximum=60.0)
"""How long to wait before a journal that failed is asked again."""

LAST_WORDS: Final = 2 * JOURNAL_TIMEOUT
"""Seconds after the last run's end that the scheduler gives to the journal: a claim may be under
way, and its end is then to be told."""

RECOVERY_INTERVAL: Final = 60.0
"""Seconds between questions for moments that another daemon left unfinished."""

WORKERS: Final = 100
"""How many questions are asked at once. Slow answers for one job must not hold up the others; but a
thousand jobs that are due together must not overrun a database's connections either."""

MOMENT: Final = 1e-3
"""Seconds after a grace has ended at which that is looked at."""

AWAY_FOR_ALL: Final = 2
"""For how many jobs the journal has to fail, with no answer in between, to count as away. Then even
a job for which it has not failed does not ask, but takes its place among those that wait."""

MOST_UNTOLD: Final = 1000
"""How many ends of a job's runs are kept for a journal that is away; the oldest are dropped."""


class Keeper:
    """Keeps the journal for a scheduler, as one child of its supervisor.

    Args:
        journal: The user's.
        embedding: Of the scheduler in its supervisor.
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
        self._embedding = embedding
        self._timetable = timetable
        self._runner = runner
        self._jobs = jobs
        self._nursery: trio.Nursery | None = None  # of the workers
        self._queue: deque[Entry] = deque()
        self._in_hand: set[Entry] = set()
        self._held: dict[Entry, None] = {}
        self._open: set[tuple[str, datetime]] = set()
        """What is claimed and not told yet: a second claim of ours is answered with True."""
        self._workers = 0
        self._unrestored = 0
        self._is_last_try = False
        # Since the last answer: for which jobs the journal failed, how often the probe asked in
        # vain, and when it may ask again.
        self._failing: set[Entry] = set()
        self._failures = 0
        self._probe_at = -math.inf
        self._problem = ""
        self._held_changed = trio.Event()
        self._all_restored = trio.Event()
        self._worker_left = trio.Event()

    # What the scheduler and the runner tell it.

    def open(self) -> None:
        """Begin. It stops last of all, since it is told of every run's end."""
        self._runner.on_recorded = self.recorded
        supervisor = self._embedding.supervisor
        supervisor.start_soon(self._run, name="(journal)", shutdown_timeout=math.inf)

    def add(self, entry: Entry) -> None:
        """Ask where a new job goes on."""
        entry.claims = Claims()
        self._unrestored += 1
        self._timetable.put(entry)
        self._attend(entry)

    def come_due(self, entry: Entry, now: float) -> None:
        """Claim what is due of a job, as soon as that can be."""
        claims = _claims_of(entry)
        if claims.attended:  # it waits for the journal, or for what a worker asks
            if entry in self._held:
                self._give_up(entry, now)
                if claims.only_untold and not self._is_away:
                    self._let_go_on(entry)
            self._wait_on(entry, now)
        else:
            self._take_due(entry, now)
            self._timetable.put(entry)
            self._attend(entry)

    def keep_due(self, entry: Entry, now: float) -> None:
        """Take what is due of a job before its schedule changes."""
        if not entry.paused:
            self._take_due(entry, now)
            self._attend(entry)

    def is_restored(self, entry: Entry) -> bool:
        """Return whether the journal has said where a job goes on."""
        return _claims_of(entry).restored

    def put(self, entry: Entry, now: float) -> None:
        """Put a job in the timetable whose schedule has changed."""
        if entry in self._held:
            self._wait_on(entry, now)
        else:
            self._timetable.put(entry)

    def withdraw(self, entry: Entry, reason: str) -> None:
        """Claim nothing more of a job that is paused or removed.

        What was due before a pause is recorded as skipped; what was due of a removed job is left to
        other daemons. A claim that is under way is waited for, and its end told.
        """
        claims = _claims_of(entry)
        if not entry.removed and not entry.paused:
            self._take_due(entry, self._timetable.now())
        self._let_go(claims, Outcome.SKIPPED, reason, doubtful_only=entry.removed)
        if entry.removed:
            self._mark_restored(claims)  # the journal need not say where it goes on

    def _let_go(
        self, claims: Claims, outcome: Outcome, reason: str, *, doubtful_only: bool
    ) -> None:
        """Record what will not be claimed any more.

        Of a doubtful one the claim may stand in the journal, its answer having been lost. Then no
        daemon runs it any more, and the record here is the only one.
        """
        for firing in claims.let_go():
            if firing.run is None and (firing.asked or not doubtful_only):
                if firing.missed is None:
                    self._runner.record(firing, outcome, reason)
                else:
                    self._runner.record(firing, Outcome.MISSED, firing.missed)

    def recorded(self, firing: Firing) -> None:
        """Tell the end of a claimed moment to the journal."""
        if firing.claimed:
            untold = _claims_of(firing.entry).untold
            untold.append(firing)
            if len(untold) > MOST_UNTOLD:
                lost = untold.popleft()
                self._open.discard(_key(lost))
                _log_lost(f"the end of {lost.entry.name!r} of {lost.moment}")
            self._attend(firing.entry)

    # Who gets a turn.

    def _attend(self, entry: Entry) -> None:
        """Give a job a turn, unless it has one or waits for one."""
        claims = _claims_of(entry)
        if claims.attended:
            return
        claims.attended = True
        if self._is_away:
            self._hold(entry)
        else:
            self._enqueue(entry)

    @property
    def _is_away(self) -> bool:
        return len(self._failing) >= AWAY_FOR_ALL

    def _enqueue(self, entry: Entry) -> None:
        self._queue.append(entry)
        self._start_worker()

    def _hold(self, entry: Entry) -> None:
        self._held[entry] = None
        self._held_changed.set()
        if not entry.paused and not entry.removed:
            self._wait_on(entry, self._timetable.now())

    def _start_worker(self) -> None:
        if self._nursery is not None and self._workers < WORKERS:
            self._workers += 1
            self._nursery.start_soon(self._work, name="ask the journal")

    async def _work(self) -> None:
        while self._queue:
            await self._serve(self._queue.popleft())
        self._workers -= 1

    async def _serve(self, entry: Entry) -> None:
        self._in_hand.add(entry)
        try:
            await self._ask_and_tell(entry)
        except JournalUnavailable as error:
            self._failed(entry, str(error))
        else:
            _claims_of(entry).attended = False
        # Not where it is cancelled: should this child be started again, it takes these up.
        self._in_hand.discard(entry)
        self._worker_left.set()

    def _failed(self, entry: Entry, problem: str) -> None:
        """Hold a job for which the journal gave no answer."""
        claims, steady = _claims_of(entry), trio.current_time()
        self._problem = problem
        self._failing.add(entry)
        if steady >= self._probe_at:  # those that were asked at once with another count once
            self._failures += 1
            self._probe_at = steady + JOURNAL_BACKOFF.delay(self._failures)
        claims.failures += 1
        claims.retry_at = steady + JOURNAL_BACKOFF.delay(claims.failures)
        if self._is_last_try:
            claims.attended = False
            return
        self._hold(entry)

    def _answered(self, entry: Entry) -> None:
        """The journal is there: let go all that are held, but for those that it failed just now."""
        _claims_of(entry).failures = 0
        self._failing.clear()
        self._failures, self._probe_at = 0, -math.inf
        if self._held:
            self._release(trio.current_time())

    def _release(self, steady: float) -> None:
        for entry in [held for held in self._held if _claims_of(held).retry_at <= steady]:
            self._let_go_on(entry)

    def _let_go_on(self, entry: Entry) -> None:
        del self._held[entry]
        self._held_changed.set()
        self._enqueue(entry)

    async def _probe(self) -> None:
        """Be the one task that asks while the journal is away: for one of the held jobs at a time.

        First those for which it has failed least often: a fresh one is not to wait for the others.
        """
        while True:
            self._held_changed = trio.Event()
            if not self._held:
                await self._held_changed.wait()
                continue
            entry = min(self._held, key=_turn)
            with trio.move_on_at(max(self._probe_at, _claims_of(entry).retry_at)):
                await self._held_changed.wait()
            if not self._held_changed.is_set():
                del self._held[entry]
                await self._serve(entry)

    # What a job's turn is made of.

    async def _ask_and_tell(self, entry: Entry) -> None:
        """Do all that a job needs the journal for: first what is to run, last what was missed."""
        claims = _claims_of(entry)
        if not claims.restored and not self._is_closing:
            await self._restore(entry)
        while True:
            if (firing := self._next_to_run(entry)) is not None:
                await self._claim(firing)
            # Also where more is to run: a job that is due more often than the journal answers would
            # never come to telling its ends.
            if claims.untold and self._is_last_try:
                await self._tell_at_once(claims.untold)
            elif claims.untold:
                await self._tell(claims.untold)
            elif firing is None and claims.missed:
                await self._claim(claims.missed.popleft())
            elif firing is None:
                return

    async def _restore(self, entry: Entry) -> None:
        name, schedule = entry.name, entry.schedule
        last = await self._calls.last_fire(name)
        text = _identity(entry, self._timetable)
        since = await self._calls.scheduled_since(name, text, self._timetable.now_here())
        self._answered(entry)
        claims = _claims_of(entry)
        if claims.restored:  # by its removal meanwhile
            return
        self._mark_restored(claims)
        passed = self._timetable.resume_from(entry, last, since)
        claims.add(passed, coalesce=schedule.spec.coalesce)
        if not entry.paused:
            self._timetable.put(entry)

    def _mark_restored(self, claims: Claims) -> None:
        if not claims.restored:
            claims.restored = True
            self._unrestored -= 1
            if not self._unrestored:
                self._all_restored.set()

    def _take_due(self, entry: Entry, now: float) -> None:
        waited = entry.schedule.waits
        taken = self._timetable.take_due(entry, now)
        _claims_of(entry).add(taken, coalesce=entry.spec.coalesce)
        if taken or waited:
            self._timetable.put(entry)

    def _next_to_run(self, entry: Entry) -> Firing | None:
        """Return what is to be claimed next in order to run, if anything is."""
        if entry.paused or entry.removed or self._is_closing:
            return None
        claims = _claims_of(entry)
        now = self._timetable.now()
        # While the journal is away, what had no answer is asked for again, and the rest stays where
        # it costs no memory: in the schedule.
        if not claims.failures or not (claims.to_run or len(claims.missed) >= BACKLOG):
            self._take_due(entry, now)
        while claims.to_run:
            firing = claims.to_run.popleft()
            firing.missed = entry.schedule.why_too_late(firing.time, now)
            if firing.missed is None:
                return firing
            claims.missed.append(firing)
        return None

    async def _claim(self, firing: Firing) -> None:
        entry = firing.entry
        claims = _claims_of(entry)
        was_away = claims.failures > 0
        claims.in_hand = firing
        claims.only_untold = False
        firing.asked = True
        try:
            firing.claimed = await self._calls.claim(entry.name, firing.moment)
        except JournalUnavailable:
            if not (entry.paused or entry.removed or self._is_closing):
                claims.put_back(firing, coalesce=entry.spec.coalesce)
            raise
        finally:
            claims.in_hand = None
        self._answered(entry)
        if not firing.claimed or _key(firing) in self._open:
            return  # another daemon has it, or a job of ours that was removed and added again
        self._open.add(_key(firing))
        if firing.run is not None:  # it was recorded meanwhile: too late, paused, or removed
            claims.untold.append(firing)
            return
        missed = firing.missed or self._timetable.why_too_late(firing)
        if was_away and missed is None and entry.spec.coalesce:
            missed = self._superseded(entry)
        if missed is None:
            self._runner.admit(firing)
        else:
            self._runner.record(firing, Outcome.MISSED, missed)

    def _superseded(self, entry: Entry) -> str | None:
        """Return why a claimed moment is not to run, if later ones came while it was claimed."""
        if not self._is_closing:
            self._take_due(entry, self._timetable.now())
        return _claims_of(entry).newer

    async def _tell(self, untold: deque[Firing]) -> None:
        firing = untold.popleft()
        run = firing.run
        assert run is not None and run.outcome is not None  # noqa: S101, PT018  (it is recorded)
        try:
            await self._calls.finished(firing.entry.name, firing.moment, run.outcome, run.error)
        except JournalUnavailable:
            untold.append(firing)  # behind the others, one of which may be told
            _claims_of(firing.entry).only_untold = True
            raise
        self._open.discard(_key(firing))
        self._answered(firing.entry)

    async def _tell_at_once(self, untold: deque[Firing]) -> None:
        """Tell all ends of a job at once, for the time is limited; raise if some cannot be told."""

        async def try_to_tell() -> None:
            with contextlib.suppress(JournalUnavailable):
                await self._tell(untold)

        before = math.inf
        while len(untold) < before:
            before = len(untold)
            async with trio.open_nursery() as nursery:
                for _ in range(min(before, WORKERS)):
                    nursery.start_soon(try_to_tell)
        if untold:
            raise JournalUnavailable(self._problem)

    # While the journal is away.

    def _wait_on(self, entry: Entry, now: float) -> None:
        """Let the clock go past what is due of a job, until the first of it is past its grace."""
        schedule, to_run = entry.schedule, _claims_of(entry).to_run
        again = self._timetable.look_ahead(entry, now)
        first = to_run[0].time if to_run else schedule.due if schedule.waits else math.inf
        expiry = first + schedule.spec.misfire_grace + MOMENT
        self._timetable.put(entry, min(again, expiry) if expiry > now else again)

    def _give_up(self, entry: Entry, now: float) -> None:
        """Record as missed what can run no more. The journal is told when it is back."""
        claims, schedule = _claims_of(entry), entry.schedule
        if not claims.restored:
            return
        late: list[Firing] = []
        while claims.to_run and schedule.why_too_late(claims.to_run[0].time, now):
            late.append(claims.to_run.popleft())
        most = max(0, BACKLOG - len(claims.missed))  # beyond, one record stands for all
        late += self._timetable.take_too_late(entry, now, most)
        for firing in late:
            why = schedule.why_too_late(firing.time, now)
            self._runner.record(firing, Outcome.MISSED, f"{why}: {self._problem}")
            claims.missed.append(firing)

    # Daemons that died.

    async def _recover(self) -> None:
        """Ask for moments of other daemons that died: once all jobs are known, then each minute."""
        while True:
            with trio.move_on_after(RECOVERY_INTERVAL):
                await self._all_restored.wait()
            self._all_restored = trio.Event()
            if not self._held:  # else the probe asks
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
        """Be the journal's child."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._begin(nursery)
                await current_child().stopping.wait()
                await self._wind_up()
                nursery.cancel_scope.cancel(reason="all that can be told is told")
        finally:
            self._nursery = None

    def _begin(self, nursery: trio.Nursery) -> None:
        self._queue += [*self._in_hand, *self._held]  # of the run before, where that crashed
        self._in_hand.clear()
        self._held.clear()
        self._workers = 0
        for _ in range(min(len(self._queue), WORKERS)):
            self._start_worker()
        nursery.start_soon(self._probe)
        if self._calls.can_recover:
            nursery.start_soon(self._recover)

    async def _wind_up(self) -> None:
        """Wait for the runs' ends, and tell the journal what it has to know, for a bounded time."""
        for entry in (*self._queue, *self._held, *self._in_hand):
            # What is not claimed yet is left to other daemons; a claim under way will be answered.
            claims = _claims_of(entry)
            in_hand, claims.in_hand = claims.in_hand, None
            self._let_go(claims, Outcome.CANCELLED, NEVER_BEGAN, doubtful_only=True)
            claims.in_hand = in_hand
        self._runner.cancel_unstarted()
        await self._runner.until_idle()
        told = {*self._queue, *self._held, *self._in_hand}
        self._is_last_try = True
        with trio.move_on_after(LAST_WORDS):
            self._release(math.inf)
            while self._queue or self._in_hand:
                self._worker_left = trio.Event()
                await self._worker_left.wait()
        for entry in told:
            if lost := len(_claims_of(entry).untold):
                _log_lost(f"{lost} ends of {entry.name!r}")


def _claims_of(entry: Entry) -> Claims:
    assert entry.claims is not None  # noqa: S101  (`Keeper.add` sees to it)
    return entry.claims


def _key(firing: Firing) -> tuple[str, datetime]:
    return firing.entry.name, firing.moment.astimezone(UTC)


def _turn(entry: Entry) -> tuple[int, float]:
    claims = _claims_of(entry)
    return claims.failures, claims.retry_at


def _identity(entry: Entry, timetable: Timetable) -> str | None:
    try:
        return entry.spec.trigger.identity(timetable.zone)
    except Exception:  # noqa: BLE001  (a trigger of the user's)
        return None


def _log_lost(what: str) -> None:
    logger.error("the journal could not be told %s", what, extra={"action": "journal_not_told"})
