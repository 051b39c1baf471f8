"""Rules of conversations: what is recorded is gone on with, and no reply is paid for twice.

Seen are the steps as they are recorded, the claims of tasks, and what Claude is asked.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import trio

from .life import current_life, current_verb
from .promises import Rule

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping

    from .life import Life

FINAL: Final = frozenset({"succeeded", "failed", "cancelled"})

NOT_SENT: Final = frozenset({"max_tokens", "refusal", "model_context_window_exceeded"})
"""How a reply ends that is no part of what is sent later: its question is asked again."""

_TRIGGERS: Final = (
    "after insert on actp_task_turns begin select observe_turn(new.task_id, new.role, new.step,"
    " new.content, new.meta); end",
    "after insert on actp_agent_tasks when new.status = 'running' begin"
    " select observe_claim(new.id, new.lease_token); end",
    "after update of lease_token on actp_agent_tasks when new.lease_token is not null begin"
    " select observe_claim(new.id, new.lease_token); end",
    "after update of status on actp_agent_tasks when new.status <> old.status begin"
    " select observe_status(new.id, new.status); end",
)


@dataclass(slots=True)
class Talk:
    """One task's conversation, as it is recorded."""

    task_id: str
    opening: str
    sent: int = 0
    """Replies that were recorded and are part of what is sent later."""
    uses: Counter[str] = field(default_factory=Counter)
    """How often the model has called each tool."""


class Talks:
    """The conversations of one world.

    Args:
        break_: Told of a rule that did not hold, and why.
        told_within: Seconds within which a daemon learns that it has lost a claim.
    """

    def __init__(self, break_: Callable[[Rule, str], object], told_within: float) -> None:
        self._break = break_
        self._told_within = told_within
        self._talks: dict[str, Talk] = {}
        self._by_opening: defaultdict[str, set[str]] = defaultdict(set)
        self._claims: dict[str, tuple[Life, str]] = {}
        """Of each task the claim that it is done under."""
        self._on_its_way: dict[tuple[Life, str], str] = {}
        """By life and task: the claim under which a whole reply came that is not recorded yet."""
        self._stale: dict[tuple[Life, str], float] = {}
        """Since when a daemon goes on with a task whose claim it has lost."""
        self._were_over: set[str] = set()

    def watch(self, db: sqlite3.Connection) -> None:
        """See each change of a database from now on."""
        db.create_function("observe_turn", 5, self._saw_turn)
        db.create_function("observe_claim", 2, self._saw_claim)
        db.create_function("observe_status", 2, self._saw_status)
        for number, trigger in enumerate(_TRIGGERS):
            db.execute(f"create temp trigger seen_talk_{number} {trigger}")

    def called(self, task_id: str, tool: str) -> int | None:
        """Return how often the model has called a tool in a task.

        That is not known of one that was over and is wanted again.
        """
        talk = self._talks.get(task_id)
        return None if talk is None or task_id in self._were_over else talk.uses[tool]

    def task_of(self, life: Life, body: Mapping[str, Any]) -> str | None:
        """Return about which task a request is; None where that is not certain."""
        tasks = self._by_opening.get(_opening(body), set())
        if len(tasks) > 1:  # by the same words in the same minute
            tasks = {task for task in tasks if self._holds(life, task)}
        return next(iter(tasks)) if len(tasks) == 1 else None

    def asked(self, life: Life, body: Mapping[str, Any]) -> None:
        """See that Claude is asked."""
        task_id = self.task_of(life, body)
        if task_id is None:
            return
        talk = self._talks[task_id]
        sent = sum(message["role"] == "assistant" for message in body["messages"])
        if sent >= talk.sent:
            return
        if not self._holds(life, task_id):  # it is about to learn that it has lost its lease
            now = trio.current_time()
            if now <= self._stale.setdefault((life, task_id), now) + self._told_within:
                return
        self._break(
            Rule.PAID_ONCE,
            f"{life.name} asks for reply {sent + 1} of task {task_id}, which has {talk.sent}",
        )

    def replied(self, life: Life, body: Mapping[str, Any]) -> None:
        """See that a whole reply is sent."""
        task_id = self.task_of(life, body)
        if task_id is None:
            return
        holder, token = self._claims.get(task_id, (life, ""))
        claim = token if holder is life else "an older one"
        if self._on_its_way.get((life, task_id)) == claim:
            self._break(
                Rule.PAID_ONCE,
                f"{life.name} had a reply in task {task_id}, recorded it not, and asked again",
            )
        self._on_its_way[life, task_id] = claim

    def _holds(self, life: Life, task_id: str) -> bool:
        return self._claims.get(task_id, (None, ""))[0] is life

    def _saw_claim(self, task_id: str, token: str) -> None:
        life = current_life.get(None)
        if life is not None:
            self._claims[task_id] = (life, token)
            self._stale.pop((life, task_id), None)

    def _saw_status(self, task_id: str, status: str) -> None:
        if status in FINAL:
            self._forget(task_id)

    def _forget(self, task_id: str) -> None:
        self._were_over.add(task_id)
        talk = self._talks.pop(task_id, None)
        if talk is not None:
            self._by_opening[talk.opening].discard(task_id)
            if not self._by_opening[talk.opening]:
                del self._by_opening[talk.opening]
        self._claims.pop(task_id, None)
        for kept in (self._on_its_way, self._stale):
            for key in [key for key in kept if key[1] == task_id]:
                del kept[key]

    def _saw_turn(self, task_id: str, role: str, step: int, content: str, meta: str | None) -> None:
        blocks = json.loads(content)
        if role == "user" and step == 0:
            self._began(task_id, blocks[0]["text"])
        talk = self._talks.get(task_id)
        if role != "assistant" or talk is None:
            return
        life = current_life.get(None)
        if life is not None:
            self._on_its_way.pop((life, task_id), None)
        if blocks and json.loads(meta or "{}").get("stop_reason") not in NOT_SENT:
            talk.sent += 1
            talk.uses.update(block["name"] for block in blocks if block["type"] == "tool_use")

    def _began(self, task_id: str, opening: str) -> None:
        before = self._talks.get(task_id)
        if before is not None and before.sent:
            self._break(
                Rule.PAID_ONCE,
                f"the conversation about task {task_id} began anew by {current_verb.get()}; "
                f"{before.sent} of its replies are paid for",
            )
        if before is not None:
            self._by_opening[before.opening].discard(task_id)
        self._talks[task_id] = Talk(task_id, opening)
        self._by_opening[opening].add(task_id)


def _opening(body: Mapping[str, Any]) -> str:
    content = body["messages"][0]["content"]
    return (
        content
        if isinstance(content, str)
        else "\n".join(block.get("text", "") for block in content)
    )


def answers_of(body: Mapping[str, Any], tool: str) -> Iterator[str]:
    """Give what the model was told of each of its calls of a tool."""
    names = {
        block["id"]: block["name"]
        for message in body["messages"]
        if message["role"] == "assistant"
        for block in message["content"]
        if block["type"] == "tool_use"
    }
    for message in body["messages"]:
        for block in message["content"] if isinstance(message["content"], list) else ():
            if block["type"] == "tool_result" and names.get(block["tool_use_id"]) == tool:
                yield str(block["content"])
