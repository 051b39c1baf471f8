"""Tasks found again: by what is in them and when they were made, page by page.

What is stored may have secrets in it that no answer shows. A search must not find them either: who
may read would learn one by asking for more and more of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Final

from app.agents.days import start_of_day, start_of_next_day
from app.store.protocol import TaskFilter as WhichTasks
from app.store.protocol import TaskRow
from app.web.next_page import page_is_gone

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

    from app.store.protocol import Store
    from app.web.inputs import BulkRequest, TaskFilter

AT_ONCE: Final = 50
"""Tasks that are asked for at least, where some of them may have to be left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of the tasks that are wanted, the newest first."""

    tasks: list[TaskRow]
    next: str | None
    """The cursor of the page behind it; None where it is the last one."""


async def find_tasks(
    store: Store, wanted: TaskFilter, *, timezone: tzinfo, redact: Callable[[str], str]
) -> Page:
    """Return a page of tasks.

    Args:
        store: Where they are.
        wanted: Which tasks, and which page of them.
        timezone: Where a day begins.
        redact: Takes secrets out of a text.

    Raises:
        Problem: 422 if the task behind which the page begins is gone.
    """
    since, until = span(wanted.since, wanted.until, timezone)
    found: list[TaskRow] = []
    before = wanted.cursor
    while len(found) <= wanted.limit:  # one more, by which it is known that there is a next page
        asked = max(wanted.limit + 1 - len(found), AT_ONCE if wanted.q else 1)
        rows = await store.tasks(
            status=wanted.status,
            agent_type=wanted.agent_type,
            limit=asked,
            search=wanted.q,
            since=since,
            until=until,
            before=before,
        )
        found += [row for row in rows if wanted.q is None or _shows(row, wanted.q, redact)]
        if len(rows) < asked:
            break
        before = rows[-1].id
    if not found and wanted.cursor is not None and await store.task(wanted.cursor) is None:
        raise page_is_gone("tasks")
    shown = found[: wanted.limit]
    return Page(tasks=shown, next=shown[-1].id if len(found) > len(shown) else None)


def which_tasks(wanted: BulkRequest, timezone: tzinfo) -> WhichTasks:
    """Return which tasks a request for many is about, in the store's words."""
    since, until = span(wanted.since, wanted.until, timezone)
    return WhichTasks(
        agent_type=wanted.agent_type,
        status=wanted.status,
        text=wanted.text,
        search=wanted.q,
        since=since,
        until=until,
    )


def span(
    since: date | None, until: date | None, timezone: tzinfo
) -> tuple[datetime | None, datetime | None]:
    """Return from which moment to which; a day at the end is one of those that are meant."""
    return (
        _moment(since, timezone, start_of_day),
        _moment(until, timezone, start_of_next_day),
    )


def _moment(
    day: date | None, timezone: tzinfo, edge: Callable[[datetime, tzinfo], datetime]
) -> datetime | None:
    if day is None or isinstance(day, datetime):
        return day
    try:
        return edge(datetime.combine(day, time(12), timezone), timezone).astimezone(UTC)
    except OverflowError:  # at the edge of the calendar
        return datetime.combine(day, time(), UTC)


def _shows(task: TaskRow, text: str, redact: Callable[[str], str]) -> bool:
    """Whether a task that was found has the text where it can be seen."""
    if task.agent_type == text or task.id.startswith(text):
        return True
    shown = redact(f"{task.goal}\n{task.error or ''}")
    return text.casefold() in shown.casefold()
