"""What may be said on the command line: one table of flags.

Reading them, `--help`, which go together, and the completion of shells are made of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from typing_extensions import override

import actp_supervise
from app.items import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

WRONG: Final = 2
"""The exit code for wrong use or configuration."""

STATUSES: Final = ("queued", "running", "waiting", "succeeded", "failed", "cancelled")
"""Where a task may stand."""

OF_ITEMS: Final = tuple(
    dict.fromkeys(status for kind in KINDS.values() for status in kind.statuses)
)
"""Where a draft, an action, a deal, a goal or a report may stand."""


class Completes(StrEnum):
    """What a shell offers behind a flag, where that is no fixed list."""

    AGENT = "agents"
    ROUTINE = "routines"
    AGENT_OR_ROUTINE = "agents routines"
    LIST = "lists"
    FOLDER = "folders"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag of the command line."""

    name: str
    """As it is written, with its dashes."""
    help: str
    metavar: str | None = None
    """What its value is called; None where it has none."""
    values: Literal["one", "perhaps", "any"] = "one"
    """How many values it has: one, one or none, any number."""
    read: Callable[[str], object] = str
    """Reads a value, or raises that it will not do."""
    is_command: bool = False
    """Whether it says what is to be done, of which there is one thing at a time."""
    runs_agents: bool = False
    """Whether what it does is about the agents of a new daemon."""
    goes_with: tuple[str, ...] = ()
    """Flags without which it means nothing, one of which is enough."""
    offers: Completes | tuple[str, ...] | None = None
    """What a shell offers as its value; nothing where not given."""

    @property
    def key(self) -> str:
        """What it is called among the options that were read."""
        return self.name.removeprefix("--").replace("-", "_")


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong use ends the program with one line and exit code 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    given = {name for name, value in vars(options).items() if value not in (None, False)}
    for flag in FLAGS:
        partners = [_BY_NAME[partner].key for partner in flag.goes_with]
        if flag.key in given and partners and given.isdisjoint(partners):
            parser.error(f"{flag.name} goes with {_listed(flag.goes_with)}")
        if flag.is_command and not flag.runs_agents and {flag.key, "agents"} <= given:
            parser.error(f"--agents says what is run, and {flag.name} runs nothing")
    fault = _fault(options, given)
    if fault is not None:
        parser.error(fault)
    return options


def _fault(options: argparse.Namespace, given: set[str]) -> str | None:
    """Return what is wrong with flags that were given together; None if nothing is."""
    if {"watch", "json"} <= given:
        return "--watch is for people, and goes without --json"
    if "task" in given and "agent" not in given:
        return "--task needs --agent: who is to do it"
    if "edit" in given and "changes" not in given:
        return "--edit needs --changes: what becomes of it"
    if options.tail and options.agent not in (None, options.tail):
        return "--tail: name one agent"
    for name in given & {"retry", "cancel"}:
        ids, filters = getattr(options, name), given & {"all", *_FILTERS}
        if ids and filters:
            return f"--{name}: give ids or say which, not both"
        if not ids and not filters:
            return f"--{name}: give ids, or say which: {_listed(_WHICH)}"
    return None


def item_in(options: argparse.Namespace) -> str | None:
    """Return which item is decided about, as ``drafts/3f8a``; None where none is."""
    own: str | None = options.reject or options.edit or options.done
    shared: str = options.approve or options.deny or ""
    return own or (shared if "/" in shared else None)


def _listed(names: Sequence[str]) -> str:
    return " or ".join(names)


def _agent_ids(text: str) -> list[str]:
    """Read a list; whether there are such agents is known when the settings are read."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that are none stand in it as half characters
        raise argparse.ArgumentTypeError("that is not UTF-8") from None
    return text


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(_unicode(text), parse_constant=_no_json)
        json.dumps(value, ensure_ascii=False).encode()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"that is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError('it must be a JSON object, such as {"post": 17}')
    return value


def _status(text: str) -> str:
    known = tuple(dict.fromkeys((*STATUSES, *OF_ITEMS)))
    if text not in known:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(known)}")
    return text


def _shell(text: str) -> str:
    if text not in SHELLS:
        raise argparse.ArgumentTypeError(f"must be {_listed(SHELLS)}")
    return text


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise argparse.ArgumentTypeError("must be a time as in 2026-12-01T08:00:00+01:00")
    return moment


SHELLS: Final = ("bash", "zsh")

_FILTERS: Final = ("agent", "status", "text", "since", "until")
_WHICH: Final = ("--all", *(f"--{name}" for name in _FILTERS))
_BULK: Final = ("--retry", "--cancel")
_LISTS: Final = (*_BULK, "--show")
_DECISIONS: Final = ("--approve", "--deny", "--reject", "--edit", "--done")
_CHANGES_AGENT: Final = ("--stop", "--start", "--pause", "--resume")

FLAGS: Final[tuple[Flag, ...]] = (
    Flag(
        name="--agents",
        metavar="ID[,ID...]",
        read=_agent_ids,
        help="run these and no others, whatever their flags say",
        offers=Completes.AGENT,
    ),
    Flag(
        name="--demo",
        help="run with a simulated Claude, a store that is thrown away, and some tasks; no key",
        is_command=True,
        runs_agents=True,
    ),
    Flag(
        name="--dry-run",
        help="check configuration, key and database, and start no agent",
        is_command=True,
        runs_agents=True,
    ),
    Flag(
        name="--list-agents",
        help="show every registered agent with its last status",
        is_command=True,
    ),
    Flag(
        name="--watch",
        help="with --list-agents: live, until Ctrl-C",
        goes_with=("--list-agents",),
    ),
    Flag(
        name="--restart-agent",
        metavar="ID",
        help="have the daemon that runs this agent restart it",
        is_command=True,
        offers=Completes.AGENT,
    ),
    Flag(
        name="--stop",
        metavar="AGENT",
        help="have an agent finish what it does, and stay stopped",
        is_command=True,
        offers=Completes.AGENT,
    ),
    Flag(
        name="--start",
        metavar="AGENT",
        help="start an agent that was stopped",
        is_command=True,
        offers=Completes.AGENT,
    ),
    Flag(
        name="--pause",
        metavar="NAME",
        help="have an agent take no new task, or a routine not run, until it is resumed",
        is_command=True,
        offers=Completes.AGENT_OR_ROUTINE,
    ),
    Flag(
        name="--resume",
        metavar="NAME",
        help="have a paused agent or routine go on",
        is_command=True,
        offers=Completes.AGENT_OR_ROUTINE,
    ),
    Flag(
        name="--run",
        metavar="ROUTINE",
        help="run a routine now, besides its schedule",
        is_command=True,
        offers=Completes.ROUTINE,
    ),
    Flag(
        name="--tail",
        metavar="AGENT",
        values="perhaps",
        help="show what happens in the running daemon, live; of an agent, its log lines too",
        is_command=True,
        offers=Completes.AGENT,
    ),
    Flag(
        name="--task",
        metavar="GOAL",
        read=_unicode,
        help="have an agent of the running daemon do something",
        is_command=True,
    ),
    Flag(
        name="--wait",
        help="with --task: follow it, and print the result; with --restart-agent: until it is "
        "obeyed or refused",
        goes_with=("--task", "--restart-agent"),
    ),
    Flag(
        name="--show",
        metavar="ID|LIST",
        read=_unicode,
        help="show a task and its conversation, or a list, as in --show tasks",
        is_command=True,
        offers=Completes.LIST,
    ),
    Flag(
        name="--retry",
        metavar="ID",
        values="any",
        read=_unicode,
        help="queue tasks again that failed or were cancelled: by their ids, or a filter",
        is_command=True,
    ),
    Flag(
        name="--cancel",
        metavar="ID",
        values="any",
        read=_unicode,
        help="cancel tasks that wait or run: by their ids, or a filter",
        is_command=True,
    ),
    Flag(name="--approvals", help="show what waits for a person's approval", is_command=True),
    Flag(
        name="--approve",
        metavar="ID",
        help="let an agent do what it asked for; or approve what it made, as in drafts/3f8a",
        is_command=True,
    ),
    Flag(name="--deny", metavar="ID", help="do not let it", is_command=True),
    Flag(
        name="--reject",
        metavar="KIND/ID",
        help=f"reject what an agent made: {', '.join(KINDS)}",
        is_command=True,
    ),
    Flag(
        name="--edit",
        metavar="KIND/ID",
        help="change what an agent made, with --changes",
        is_command=True,
    ),
    Flag(
        name="--done",
        metavar="KIND/ID",
        help="note that a draft or an action was carried out",
        is_command=True,
    ),
    Flag(
        name="--changes",
        metavar="JSON",
        read=_json_object,
        help='with --edit or --approve: what becomes of it, as in {"hook": "Tea"}',
        goes_with=("--edit", "--approve"),
    ),
    Flag(
        name="--comment",
        metavar="TEXT",
        read=_unicode,
        help="with --approve, --deny, --reject, --edit, --done: what the agent is told",
        goes_with=_DECISIONS,
    ),
    Flag(
        name="--agent",
        metavar="ID",
        help="with --task: who is to do it; with --tail, --show, --retry, --cancel: only of this "
        "one",
        goes_with=("--task", "--tail", *_LISTS),
        offers=Completes.AGENT,
    ),
    Flag(
        name="--all",
        help="with --retry or --cancel: all tasks that it can be done with",
        goes_with=_BULK,
    ),
    Flag(
        name="--status",
        metavar="STATUS",
        read=_status,
        help="with --show, --retry, --cancel: only what stands there",
        goes_with=_LISTS,
        offers=tuple(dict.fromkeys((*STATUSES, *OF_ITEMS))),
    ),
    Flag(
        name="--text",
        metavar="TEXT",
        read=_unicode,
        help="with --show, --retry, --cancel: only tasks with this in their goal",
        goes_with=_LISTS,
    ),
    Flag(
        name="--since",
        metavar="TIME",
        read=_moment,
        help="with --retry or --cancel: only tasks made then or later",
        goes_with=_BULK,
    ),
    Flag(
        name="--until",
        metavar="TIME",
        read=_moment,
        help="with --retry or --cancel: only tasks made before",
        goes_with=_BULK,
    ),
    Flag(
        name="--limit",
        metavar="N",
        read=int,
        help="with --show: how many to show, 50 if not given",
        goes_with=("--show",),
    ),
    Flag(
        name="--context",
        metavar="JSON",
        read=_json_object,
        help='with --task: facts for it, as in {"post": 17}',
        goes_with=("--task",),
    ),
    Flag(
        name="--priority",
        metavar="N",
        read=int,
        help="with --task: higher first, 0 if not given",
        goes_with=("--task",),
    ),
    Flag(
        name="--not-before",
        metavar="TIME",
        help="with --task: when it may begin, as in 2026-12-01T08:00:00+01:00",
        goes_with=("--task",),
    ),
    Flag(
        name="--timeout",
        metavar="SECONDS",
        read=float,
        help="with --task: how long one attempt may take",
        goes_with=("--task",),
    ),
    Flag(
        name="--max-attempts",
        metavar="N",
        read=int,
        help="with --task: after how many attempts that failed it fails, 3 if not given",
        goes_with=("--task",),
    ),
    Flag(
        name="--unique-key",
        metavar="KEY",
        help="with --task: nothing is posted while one of the agent's with this key waits or runs",
        goes_with=("--task",),
    ),
    Flag(
        name="--migrate",
        help="make the tables in Supabase, or what they lack, and end",
        is_command=True,
    ),
    Flag(
        name="--export",
        metavar="DIR",
        read=Path,
        help="with --migrate: copy the migrations into another repository's supabase/migrations",
        goes_with=("--migrate",),
        offers=Completes.FOLDER,
    ),
    Flag(
        name="--alert-test",
        help="show what an alert looks like, and send it to all who are to be told",
        is_command=True,
    ),
    Flag(
        name="--completion",
        metavar="SHELL",
        read=_shell,
        help="print what makes bash or zsh complete all this",
        is_command=True,
        offers=SHELLS,
    ),
    Flag(
        name="--json",
        help="with --list-agents, --tail, --task, --show, --retry, --cancel, the flags of "
        "approvals and those that tell an agent something: as JSON",
        goes_with=(
            "--list-agents", "--tail", "--task", "--approvals", *_DECISIONS,
            *_LISTS, *_CHANGES_AGENT, "--run",
        ),
    ),
)  # fmt: skip
"""All flags, in the order in which `--help` has them."""

_BY_NAME: Final = {flag.name: flag for flag in FLAGS}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    @override
    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, f"error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m app.main",
        description="Runs the domain agents: supervised, scheduled, and with a page to look at.",
        epilog="Settings come from the environment and from .env; .env.example names them all. "
        "Ctrl-C or SIGTERM lets work in flight finish; a second one stops at once, and what was "
        "in flight is queued again. Exit codes: 0 fine, 1 failed, 2 wrong use or configuration, "
        "130 interrupted before it was done.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=actp_supervise.__version__)
    commands = parser.add_mutually_exclusive_group()
    for flag in FLAGS:
        add = commands.add_argument if flag.is_command else parser.add_argument
        if flag.metavar is None:
            add(flag.name, action="store_true", help=flag.help)
        elif flag.values == "perhaps":
            add(flag.name, metavar=flag.metavar, nargs="?", const="", help=flag.help)
        elif flag.values == "any":
            add(flag.name, metavar=flag.metavar, nargs="*", type=flag.read, help=flag.help)
        else:
            add(flag.name, metavar=flag.metavar, type=flag.read, help=flag.help)
    return parser
