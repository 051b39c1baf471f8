"""Whether and when a child that ended by itself is started again, and what is kept to know that."""

from __future__ import annotations

import logging
import random
from collections import deque
from typing import TYPE_CHECKING, Final

from . import events as ev
from .errors import ErrorText, RestartLimitExceeded
from .policies import Decision, Exit, Restart, decide_by_kind, decide_by_policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from .record import ChildRecord, Run
    from .spec import SupervisorSpec

WARN_AT_RETURN: Final = 2
"""At which return of a permanent child a warning suggests `Restart.TRANSIENT`."""


class Restarts:
    """The restarts of one supervisor.

    Args:
        spec: What the supervisor was opened with.
        now: Tells Trio's time.
    """

    __slots__ = ("_limit", "_name", "_now", "_rng", "_times")

    def __init__(self, spec: SupervisorSpec, now: Callable[[], float]) -> None:
        self._name = spec.name
        self._now = now
        self._limit = spec.limit
        self._rng = random.Random() if spec.rng is None else spec.rng
        self._times: deque[float] = deque(maxlen=0 if spec.limit is None else spec.limit.memory)

    def decision(self, child: ChildRecord, run: Run, error: BaseException | None) -> Decision:
        """Return what the child's restart policy says of the end of a run."""
        policy = child.spec.restart
        if isinstance(policy, Restart):
            if error is None and policy is Restart.PERMANENT:
                child.returns += 1
                if child.returns == WARN_AT_RETURN:
                    _warn_of_returns(child)
            return decide_by_kind(policy, returned=error is None)
        now = self._now()
        exit_ = Exit(
            error=error,
            uptime=now - (now if run.began_at is None else run.began_at),
            crashes=child.crashes,
            restarts=child.restarts,
        )
        try:
            return decide_by_policy(policy, exit_)
        except Exception as failure:  # noqa: BLE001  (of a policy of the user's)
            ev.log(
                logging.ERROR,
                "%s: its restart policy failed, so it is started again\n%s",
                "/".join(child.path),
                ErrorText(failure),
                action="restart_policy_failed",
                path=child.path,
            )
            return Decision(restart=True)

    def is_one_too_many(self) -> bool:
        """Count a restart, and return whether the limit is exceeded by it."""
        if self._limit is None:
            return False
        now = self._now()
        self._times.append(now)
        while now - self._times[0] > self._limit.within:
            self._times.popleft()  # so that the window holds no more than the limit asks for
        return self._limit.exceeded(self._times, now)

    def give_up(self, child: ChildRecord, error: BaseException | None) -> RestartLimitExceeded:
        """Return what leaves the supervisor's block, because of the end of a child."""
        assert self._limit is not None  # noqa: S101  (or it could not be exceeded)
        failure = RestartLimitExceeded(
            f"child {child.name!r} of supervisor {self._name!r} ended once too often: more "
            f"than {self._limit.max_restarts} restarts within {self._limit.within} s",
            path=child.path,
            max_restarts=self._limit.max_restarts,
            within=self._limit.within,
        )
        failure.__cause__ = error
        return failure

    def delay(self, child: ChildRecord, decision: Decision) -> float:
        """Count a crash in the backoff's window, and return how long to wait before the restart."""
        backoff = child.backoff
        if backoff.initial == 0:
            return 0.0 if decision.delay is None else decision.delay
        now = self._now()
        times = child.crash_times
        if times is None:
            times = child.crash_times = deque(maxlen=backoff.memory)
        times.append(now)
        while times[0] < now - backoff.window:
            times.popleft()
        delay = backoff.delay(len(times), self._rng)
        return delay if decision.delay is None else decision.delay


def recall_crashes(child: ChildRecord, now: float) -> None:
    """Put a child's crashes from before this program began into its backoff's window."""
    times = sorted(now - age for age in child.spec.crash_ages)
    child.crash_times = deque(times, maxlen=child.backoff.memory)


def _warn_of_returns(child: ChildRecord) -> None:
    ev.log(
        logging.WARNING,
        "%s returns and is started again and again, for it is permanent; to let it end when it "
        "returns, start it with restart=Restart.TRANSIENT",
        "/".join(child.path),
        action="permanent_child_returns",
        path=child.path,
    )
