"""`--show`: a task with its conversation, or one of the lists in `SHOWS`.

A list is added by a line in that table, and a module of its own that is imported where it is asked
for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.items import KINDS, Kind

if TYPE_CHECKING:
    from app.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What of a list is wanted."""

    agent_id: str | None = None
    """Only what is of this agent."""
    status: str | None = None
    """Only what stands there."""
    text: str | None = None
    """Only tasks with this in their goal or their error."""
    limit: int = 50
    """The most to show."""
    as_json: bool = False
    """Whether it is to be JSON."""


Write = Callable[["Settings", Wanted], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Show:
    """One list that can be shown."""

    help: str
    write: Write
    """Writes it on stdout."""


async def _tasks(settings: Settings, wanted: Wanted) -> None:
    from app.terminal.show_tasks import show_tasks

    await show_tasks(settings, wanted)


async def _routines(settings: Settings, wanted: Wanted) -> None:
    from app.terminal.show_routines import show_routines

    await show_routines(settings, wanted)


def _items(kind: Kind) -> Show:
    async def write(settings: Settings, wanted: Wanted) -> None:
        from app.terminal.items import show_items

        await show_items(settings, kind, wanted)

    return Show(f"{kind.summary[0].lower()}{kind.summary[1:]}", write)


SHOWS: Final[dict[str, Show]] = {
    "tasks": Show("tasks, the newest first", _tasks),
    "routines": Show("the agents' routines, when they run and how they went", _routines),
    **{kind.name: _items(kind) for kind in KINDS.values()},
}
"""What `--show` takes besides the id of a task: its name -> what it shows."""


async def show(settings: Settings, name: str, wanted: Wanted) -> None:
    """Write a list, or a task with its conversation.

    Args:
        settings: Where the daemon and the store are.
        name: What is to be shown: a name in `SHOWS`, or the id of a task.
        wanted: What of a list.

    Raises:
        SettingsError: If what is wanted of a list is not as it must be.
        DaemonError: If there is nothing of that name, or neither a daemon nor a store to ask.
    """
    if name in SHOWS:
        await SHOWS[name].write(settings, wanted)
        return
    from app.terminal.conversation import show_task

    await show_task(settings, name, lists=tuple(SHOWS), as_json=wanted.as_json)
