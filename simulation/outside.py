"""The world outside: what tools have done there, as nobody but the simulation counts it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final

from .promises import Rule
from .talks import answers_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    from .life import Life
    from .talks import Talks

RING: Final = "ring_bell"
"""A keyed tool: who hears its bell knows by the key whether it has rung before."""

DELIVER: Final = "deliver_parcel"
"""A tool that must not simply be called twice."""

SIGN: Final = "sign_contract"
"""The same, and a person has to approve it."""

UNKNOWN: Final = "may have had its effect"
"""What the model is told of a call whose end is not known."""

_TRIGGER: Final = """
create temp trigger seen_waiting after update of status on actp_agent_tasks
when new.status = 'waiting' begin select observe_waiting(
    new.id, new.worker_id is null and new.instance is null and new.lease_token is null
        and new.lease_until is null
); end
"""


class Outside:
    """What happened in the world outside.

    Args:
        talks: The conversations.
        break_: Told of a rule that did not hold, and why.
    """

    def __init__(self, talks: Talks, break_: Callable[[Rule, str], object]) -> None:
        self._talks = talks
        self._break = break_
        self._rings: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._deliveries: Counter[str] = Counter()
        self._of_key: Counter[str] = Counter()
        self._signed: Counter[tuple[str, str]] = Counter()

    def watch(self, db: sqlite3.Connection) -> None:
        """See each change of a database from now on."""
        self._db = db
        db.create_function("observe_waiting", 2, self._saw_waiting)
        db.execute(_TRIGGER)

    # What tools do.

    def ring(self, task_id: str, key: str, target: str) -> None:
        """Ring a bell, unless it has rung for this key."""
        self._rings[task_id, target].add(key)
        if len(self._rings[task_id, target]) > 1:
            self._break(Rule.KEYED_ONCE, f"task {task_id} rang the bell of {target} twice")

    def deliver(self, task_id: str, key: str) -> str:
        """Deliver a parcel; returns the receipt."""
        self._deliveries[task_id] += 1
        self._once(DELIVER, task_id, key)
        asked = self._talks.called(task_id, DELIVER)
        if asked is not None and self._deliveries[task_id] > asked:
            self._break(Rule.ONCE_OR_TOLD, f"task {task_id} delivered more than it was asked to")
        return f"receipt {self._deliveries[task_id]} of {task_id}"

    def sign(self, task_id: str, key: str, arguments: Mapping[str, Any]) -> None:
        """Sign a contract."""
        self._once(SIGN, task_id, key)
        shown = json.dumps(arguments, sort_keys=True)
        self._signed[task_id, shown] += 1
        approved = sum(
            json.dumps(json.loads(row["arguments"]), sort_keys=True) == shown
            for row in self._db.execute(
                "select arguments from actp_approvals"
                " where task_id = ? and tool = ? and status = 'approved'",
                [task_id, SIGN],
            )
        )
        if self._signed[task_id, shown] > approved:
            self._break(
                Rule.APPROVED,
                f"task {task_id} signed {self._signed[task_id, shown]} times with {shown}, "
                f"and {approved} of that were approved",
            )

    def _once(self, tool: str, task_id: str, key: str) -> None:
        self._of_key[key] += 1
        if self._of_key[key] > 1:
            self._break(Rule.ONCE_OR_TOLD, f"{tool} was called twice for one call in {task_id}")

    # What is seen.

    def asked(self, life: Life, body: Mapping[str, Any]) -> None:
        """Judge what the model is told of its calls."""
        task_id = self._talks.task_of(life, body)
        if task_id is None:
            return
        told = list(answers_of(body, DELIVER))
        known = sum("receipt " in text or UNKNOWN in text for text in told)
        # Of more calls than these it was told in the conversation before.
        if len(told) == self._talks.called(task_id, DELIVER) and known < min(
            len(told), self._deliveries[task_id]
        ):
            self._break(Rule.ONCE_OR_TOLD, f"in task {task_id} the model was told: {told}")
        for text in answers_of(body, SIGN):
            if not (UNKNOWN in text or self._is_decision(task_id, text)):
                self._break(Rule.ANSWERED, f"in task {task_id} the model was told: {text}")

    def _is_decision(self, task_id: str, text: str) -> bool:
        """Return whether what the model is told has the words of a person who decided."""
        return any(
            row["comment"] in text
            for row in self._db.execute(
                "select comment from actp_approvals where task_id = ? and tool = ?"
                " and status in ('approved', 'denied') and comment is not null",
                [task_id, SIGN],
            )
        )

    def _saw_waiting(self, task_id: str, is_free: int) -> None:
        if not is_free:
            self._break(Rule.WAITS_FREE, f"task {task_id} waits, and has a worker or a lease")
