"""Who may ask the journal, and when: one wait for all jobs while it is away.

A job that needs the journal requests a turn. It is queued, workers serve the queue, and a turn
lasts until nothing is left to ask or tell. A job that got no answer is *held*: it does not ask. One
task, the probe, asks for one of the held at a time, with growing pauses, and any answer, to
whichever job, lets all go. So a journal that fails for one job alone (a name that its column cannot
hold) holds up that job and no other.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from .journal import JournalUnavailable
from .policies import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .claims import Claims

JOURNAL_BACKOFF: Final = Backoff(initial=1.0, maximum=60.0)
"""How long to wait before a journal that failed is asked again."""

WORKERS: Final = 100
"""How many jobs ask at once. Slow answers for one must not hold up the others; but a thousand jobs
that are due together must not overrun a database's connections either."""

AWAY_FOR_ALL: Final = 2
"""For how many jobs the journal has to fail, with no answer in between, to count as away. Then even
a job for which it has not failed does not ask, but takes its place among the held."""


class Turns:
    """The queue of the jobs that need the journal, and the jobs that are held.

    Args:
        serve: Asks and tells all that there is for one job; raises `JournalUnavailable` where the
            journal does not answer.
        on_held: Called with each job that becomes held.
    """

    def __init__(
        self, serve: Callable[[Claims], Awaitable[None]], on_held: Callable[[Claims], None]
    ) -> None:
        self._serve_one = serve
        self._on_held = on_held
        self._nursery: trio.Nursery | None = None  # of the workers
        self._workers = 0
        self._queue: deque[Claims] = deque()
        self._in_hand: set[Claims] = set()
        self._held: dict[Claims, None] = {}
        self._is_last_try = False
        # Since the last answer: for which jobs the journal failed, how often the probe asked in
        # vain, and when it may ask again.
        self._failing: set[Claims] = set()
        self._failures = 0
        self._probe_at = -math.inf
        self._held_changed = trio.Event()
        self._served = trio.Event()
        self.problem = ""
        """The last error of the journal, in words."""

    # Asking for a turn.

    def request(self, claims: Claims) -> None:
        """Queue a job for a turn, unless it has one or waits for one."""
        if claims.has_turn:
            return
        claims.has_turn = True
        if self.is_away:
            self._hold(claims)
        else:
            self._enqueue(claims)

    @property
    def is_away(self) -> bool:
        """Whether the journal answers no job at present."""
        return len(self._failing) >= AWAY_FOR_ALL

    def is_held(self, claims: Claims) -> bool:
        """Return whether a job waits for the journal to be back."""
        return claims in self._held

    @property
    def is_any_held(self) -> bool:
        """Whether any job is held, for which the probe then asks."""
        return bool(self._held)

    @property
    def all(self) -> tuple[Claims, ...]:
        """All jobs that have a turn, or wait for one."""
        return (*self._queue, *self._held, *self._in_hand)

    def let_go(self, claims: Claims) -> None:
        """Give a held job its turn now."""
        del self._held[claims]
        self._held_changed.set()
        self._enqueue(claims)

    def answered(self, claims: Claims) -> None:
        """Release the held jobs, as the journal is back, except those that it failed just now."""
        claims.failures = 0
        self._failing.clear()
        self._failures, self._probe_at = 0, -math.inf
        if self._held:
            self._release(trio.current_time())

    def _release(self, time: float) -> None:
        for claims in [held for held in self._held if held.retry_at <= time]:
            self.let_go(claims)

    def _enqueue(self, claims: Claims) -> None:
        self._queue.append(claims)
        self._start_worker()

    def _hold(self, claims: Claims) -> None:
        self._held[claims] = None
        self._held_changed.set()
        self._on_held(claims)

    # Serving.

    def open(self, nursery: trio.Nursery) -> None:
        """Begin to serve, or go on after the task that served before has crashed."""
        self._nursery = nursery
        self._queue += [*self._in_hand, *self._held]
        self._in_hand.clear()
        self._held.clear()
        self._workers = 0
        for _ in range(min(len(self._queue), WORKERS)):
            self._start_worker()
        nursery.start_soon(self._probe)

    def close(self) -> None:
        """Serve no more."""
        self._nursery = None

    async def finish(self) -> None:
        """Serve all jobs that are left, with one last try for those that are held."""
        self._is_last_try = True
        self._release(math.inf)
        while self._queue or self._in_hand:
            self._served = trio.Event()
            await self._served.wait()

    def _start_worker(self) -> None:
        if self._nursery is not None and self._workers < WORKERS:
            self._workers += 1
            self._nursery.start_soon(self._work, name="ask the journal")

    async def _work(self) -> None:
        while self._queue:
            await self._serve(self._queue.popleft())
        self._workers -= 1

    async def _serve(self, claims: Claims) -> None:
        self._in_hand.add(claims)
        try:
            await self._serve_one(claims)
        except JournalUnavailable as error:
            self._failed(claims, str(error))
        else:
            claims.has_turn = False
        # Not in a `finally`: after a cancellation or crash, `open` takes up the jobs in hand again.
        self._in_hand.discard(claims)
        self._served.set()

    def _failed(self, claims: Claims, problem: str) -> None:
        time = trio.current_time()
        self.problem = problem
        self._failing.add(claims)
        if time >= self._probe_at:  # failures of the same round count once
            self._failures += 1
            self._probe_at = time + JOURNAL_BACKOFF.delay(self._failures)
        claims.failures += 1
        claims.retry_at = time + JOURNAL_BACKOFF.delay(claims.failures)
        if self._is_last_try:
            claims.has_turn = False
        else:
            self._hold(claims)

    async def _probe(self) -> None:
        """Ask for one held job at a time, while the journal is away; one task does only this.

        Jobs for which it has failed least often come first, so that a new job need not wait for
        all.
        """
        while True:
            self._held_changed = trio.Event()
            if not self._held:
                await self._held_changed.wait()
                continue
            claims = min(self._held, key=lambda held: (held.failures, held.retry_at))
            with trio.move_on_at(max(self._probe_at, claims.retry_at)):
                await self._held_changed.wait()
            if not self._held_changed.is_set():
                del self._held[claims]
                await self._serve(claims)
