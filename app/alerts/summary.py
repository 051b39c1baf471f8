"""What is told once a day: what was done, what it cost, what waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from app.alerts.plan import Message
from app.store.protocol import TaskStatus
from app.web.words import duration, money

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.store.protocol import Store

COUNTED: Final = 1000
"""How many of the newest tasks are looked at; a day's, where an agent does one in six minutes."""

DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """What came of a day's work."""

    done: Mapping[str, int]
    """agent_id -> how many tasks succeeded."""
    failed: Mapping[str, int]
    spent: Mapping[str, float]
    """agent_id -> US dollars."""
    queued: int
    oldest: float | None
    """Seconds that the oldest task has waited."""


async def look_back(store: Store, now: datetime) -> Day:
    """Return what came of the last 24 hours.

    Raises:
        StoreError: If the store does not answer.
    """
    since = now - DAY
    done: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for task in await store.tasks(limit=COUNTED):
        if task.finished_at is not None and task.finished_at >= since:
            done[task.agent_type] += task.status is TaskStatus.SUCCEEDED
            failed[task.agent_type] += task.status is TaskStatus.FAILED
    spent: Counter[str] = Counter()
    for cost in await store.costs(since=since):
        spent[cost.agent_id] += cost.cost_usd  # type: ignore[assignment]  # a Counter adds any number
    counts = (await store.count_tasks()).values()
    waits = await store.oldest_queued()
    return Day(
        done=+done,
        failed=+failed,
        spent=dict(spent),
        queued=sum(statuses.get(TaskStatus.QUEUED, 0) for statuses in counts),
        oldest=max(waits.values(), default=None),
    )


def summary(worker: str, day: Day, reasons: Sequence[str]) -> Message:
    """Put a day into words.

    Args:
        worker: What the daemon is called.
        day: What came of it.
        reasons: What is not well just now.
    """
    done, failed = sum(day.done.values()), sum(day.failed.values())
    oldest = "" if day.oldest is None else f", the oldest for {duration(day.oldest)}"
    lines = [
        f"Done: {done} task{'s' * (done != 1)}{_by_agent(day.done)}",
        f"Failed: {failed}{_by_agent(day.failed)}",
        f"Spent: {money(sum(day.spent.values()))}"
        + _by_agent({agent_id: money(usd) for agent_id, usd in day.spent.items()}),
        f"Waiting: {day.queued}{oldest}",
        *(f"Needs a look: {each}" for each in reasons),
    ]
    state = "all is well" if not reasons else f"{len(reasons)} to look at"
    return Message(title=f"{worker}, the last 24 hours: {state}", body="\n".join(lines))


def _by_agent(values: Mapping[str, object]) -> str:
    parts = ", ".join(f"{agent_id} {value}" for agent_id, value in sorted(values.items()))
    return f" ({parts})" if parts else ""
