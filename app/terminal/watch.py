"""`--list-agents --watch`: how all agents are, kept current."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from actp_supervise.service import shorten
from app.status import AgentState, AgentStatus, Health
from app.terminal.api import open_api
from app.terminal.errors import DaemonAwayError
from app.terminal.output import MOST_ON_LINE
from app.terminal.signals import until_interrupted
from app.tones import Tone
from app.web.words import countdown, duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rich.console import ConsoleOptions

    from app.settings import Settings
    from app.terminal.api import Api

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the daemon."""

STORE_EVERY: Final = 3.0
"""Seconds between two looks at the store, where no daemon answers."""

WIDTH: Final = 100
"""Columns where there is no terminal."""


async def watch(settings: Settings) -> None:
    """Show the agents until interrupted: as the daemon knows them, else as the store does.

    Raises:
        SettingsError: If the store is wanted and is not as it must be.
    """
    console = Console(highlight=False)
    async with open_api(settings) as api:
        if not console.is_terminal:
            await until_interrupted(lambda: _look_on(api, settings, _write))
            return
        last: View | None = None
        # As a full screen, which survives a change of the terminal's size.
        with Live(console=console, screen=True, auto_refresh=False) as live:

            def show(view: View) -> None:
                nonlocal last
                last = view
                live.update(view.shown(), refresh=True)

            await until_interrupted(lambda: _look_on(api, settings, show))
    if last is not None:
        console.print(last.shown())


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is shown of an agent."""

    agent_id: str
    status: AgentState
    doing: str = "-"
    heartbeat: str = "-"
    uptime: str = "-"
    restarts: str = "-"
    crashes: str = "-"
    restart_in: str = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that is shown at one look."""

    tone: Tone
    """By which the headline is coloured."""
    headline: str
    rows: list[Row]
    notes: list[str]
    away: bool = False
    """Whether no daemon answers, and the store is asked instead."""

    def shown(self) -> Group:
        """Return it as rich shows it."""
        notes = [Text(f"  {note}", "yellow") for note in self.notes]
        headline = Text(self.headline, _STYLES[self.tone])
        return Group(headline, *notes, "", _Agents(self.rows))


@dataclass(frozen=True, slots=True)
class _Agents:
    """The table. What an agent does is cut to what the other columns leave of the terminal."""

    rows: list[Row]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Table]:
        cells = {title: [getattr(row, name) for row in self.rows] for title, name in _COLUMNS}
        cells["STATUS"] = [row.status.words for row in self.rows]
        widths = {
            title: max(map(len, (title, *texts)))
            for title, texts in cells.items()
            if title != "DOING"
        }
        for title, wanted in _LEAST_FIRST:
            if _left_of(options.max_width, widths) >= wanted:
                break
            del widths[title]
        widths["DOING"] = max(1, _left_of(options.max_width, widths))
        shown = [title for title in cells if title in widths]

        table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
        for title in shown:
            right = title not in {"AGENT", "STATUS", "DOING"}
            table.add_column(
                title,
                width=widths[title],
                no_wrap=True,
                overflow="ellipsis",
                justify="right" if right else "left",
            )
        for number, row in enumerate(self.rows):
            styles = {"STATUS": _STYLES[row.status.tone]}
            table.add_row(*(Text(cells[title][number], styles.get(title, "")) for title in shown))
        yield table


_COLUMNS: Final = (
    ("AGENT", "agent_id"),
    ("STATUS", "status"),
    ("DOING", "doing"),
    ("HEARTBEAT", "heartbeat"),
    ("UPTIME", "uptime"),
    ("RESTARTS", "restarts"),
    ("CRASHES", "crashes"),
    ("NEXT", "restart_in"),
)

_LEAST_FIRST: Final = (
    ("UPTIME", 16),
    ("RESTARTS", 16),
    ("CRASHES", 16),
    ("NEXT", 5),
    ("HEARTBEAT", 5),
)
"""Which columns a narrow terminal does without, and below which width of DOING."""

GAP: Final = 2
"""Columns of the terminal between two of the table."""


def _left_of(width: int, widths: Mapping[str, int]) -> int:
    """Return what is left for DOING beside columns of these widths."""
    return width - sum(widths.values()) - GAP * len(widths)


_STYLES: Final = {
    Tone.GOOD: "green",
    Tone.WARN: "yellow",
    Tone.BAD: "red",
    Tone.OFF: "bright_black",
}


async def _look_on(api: Api, settings: Settings, show: Callable[[View], object]) -> None:
    while True:
        try:
            view = await _of_daemon(api)
        except DaemonAwayError as error:
            view = await _of_store(settings, str(error))
        show(view)
        await trio.sleep(STORE_EVERY if view.away else LOOK_EVERY)


def _write(view: View) -> None:
    # Not straight to stdout: rich ends the program when whoever reads has had enough.
    text = io.StringIO()
    Console(file=text, width=WIDTH, highlight=False).print(view.shown())
    sys.stdout.write(text.getvalue() + "\n")
    sys.stdout.flush()


async def _of_daemon(api: Api) -> View:
    health = await api.get(Health, "/health")
    agents = await api.get(list[AgentStatus], "/agents")
    return View(
        tone=health.status.tone,
        headline=f"{health.status}, up {duration(health.uptime)}, {api.address}",
        rows=[row_of(agent) for agent in agents],
        notes=[shorten(reason, MOST_ON_LINE) for reason in health.reasons],
    )


def row_of(agent: AgentStatus) -> Row:
    """Return what is shown of an agent."""
    health, restart_in = agent.health, agent.restart_in
    return Row(
        agent_id=agent.agent_id,
        status=agent.state,
        doing=_doing(health.doing or agent.why_disabled),
        heartbeat=duration(health.heartbeat_age),
        uptime=duration(agent.uptime) if agent.enabled else "-",
        restarts=str(agent.restarts),
        crashes=str(agent.error_count),
        restart_in="-" if restart_in is None else f"in {countdown(restart_in)}",
    )


async def _of_store(settings: Settings, why: str) -> View:
    from app.listing import listed_agents  # the store, which is not needed beside a daemon
    from app.store.protocol import StoreError

    headline = f"{shorten(why, MOST_ON_LINE)}. Meanwhile the store says:"
    try:
        agents = await listed_agents(settings)
    except StoreError as error:
        notes = [f"the store cannot be read: {shorten(str(error), MOST_ON_LINE)}"]
        return View(tone=Tone.WARN, headline=headline, rows=[], notes=notes, away=True)
    rows = [
        Row(
            agent_id=agent.agent_id,
            status=agent.status,
            doing=_doing(agent.doing),
            heartbeat=duration(agent.heartbeat_age),
        )
        for agent in agents
    ]
    notes = list(dict.fromkeys(agent.note for agent in agents if agent.note))
    if not rows:
        notes = ["No agent is registered: no daemon has run on this store yet."]
    return View(tone=Tone.WARN, headline=headline, rows=rows, notes=notes, away=True)


def _doing(doing: str | None) -> str:
    return "-" if not doing else shorten(doing, MOST_ON_LINE)
