"""What may be said on the command line: the flags, and which go together."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from typing_extensions import override

import actp_supervise
from app.items import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WRONG: Final = 2
"""The exit code for wrong use or configuration."""


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong use ends the program with one line and exit code 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    given = {name for name, value in vars(options).items() if value not in (None, False)}
    for name, partners in _GOES_WITH.items():
        if name in given and given.isdisjoint(partners):
            flags = " or ".join(f"--{partner.replace('_', '-')}" for partner in partners)
            parser.error(f"--{name.replace('_', '-')} goes with {flags}")
    for name in _RUNS_NO_AGENT:
        if {name, "agents"} <= given:
            parser.error(f"--agents says what is run, and --{name.replace('_', '-')} runs nothing")
    if {"watch", "json"} <= given:
        parser.error("--watch is for people, and goes without --json")
    if {"edit", "changes"} & given == {"edit"}:
        parser.error("--edit needs --changes: what becomes of it")
    if "task" in given and "agent" not in given:
        parser.error("--task needs --agent: who is to do it")
    return options


def item_in(options: argparse.Namespace) -> str | None:
    """Return which item is decided about, as ``drafts/3f8a``; None where none is."""
    own: str | None = options.reject or options.edit or options.done
    shared: str = options.approve or options.deny or ""
    return own or (shared if "/" in shared else None)


_GOES_WITH: Final = {
    "json": (
        "list_agents", "tail", "task", "approvals", "approve", "deny", "show", "reject", "edit",
        "done",
    ),
    "watch": ("list_agents",),
    "agent": ("task", "tail", "show"),
    "context": ("task",),
    "priority": ("task",),
    "not_before": ("task",),
    "timeout": ("task",),
    "max_attempts": ("task",),
    "unique_key": ("task",),
    "wait": ("task",),
    "export": ("migrate",),
    "comment": ("approve", "deny", "reject", "edit", "done"),
    "status": ("show",),
    "changes": ("edit", "approve"),
}  # fmt: skip
"""Flags that mean nothing without one of some others."""

_RUNS_NO_AGENT: Final = (
    "list_agents",
    "restart_agent",
    "migrate",
    "tail",
    "task",
    "alert_test",
    "approvals",
    "approve",
    "deny",
    "show",
    "reject",
    "edit",
    "done",
)


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
    parser.add_argument(
        "--agents",
        metavar="ID[,ID...]",
        type=_agent_ids,
        help="run these and no others, whatever their flags say",
    )
    command = parser.add_mutually_exclusive_group()
    command.add_argument(
        "--demo",
        action="store_true",
        help="run with a simulated Claude, a store that is thrown away, and some tasks; no key",
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="check configuration and database, and start no agent",
    )
    command.add_argument(
        "--list-agents",
        action="store_true",
        help="show every registered agent with its last status",
    )
    command.add_argument(
        "--restart-agent",
        metavar="ID",
        help="have the daemon that runs this agent restart it",
    )
    command.add_argument(
        "--migrate",
        action="store_true",
        help="make the tables in Supabase, or what they lack, and end",
    )
    command.add_argument(
        "--alert-test",
        action="store_true",
        help="show what an alert looks like, and send it to all who are to be told",
    )
    command.add_argument(
        "--tail", action="store_true", help="show what happens in the running daemon, live"
    )
    command.add_argument(
        "--task",
        metavar="GOAL",
        type=_unicode,
        help="have an agent of the running daemon do something",
    )
    _add_approvals(command.add_argument)
    _add_items(command.add_argument)
    _add_details(parser)
    _add_details_of_items(parser)
    return parser


def _add_items(add: Callable[..., object]) -> None:
    add(
        "--show",
        metavar="KIND",
        choices=list(KINDS),
        help=f"show what agents make for people: {', '.join(KINDS)}",
    )
    add("--reject", metavar="KIND/ID", help="reject one, as in drafts/3f8a; --approve takes it too")
    add("--edit", metavar="KIND/ID", help="change one, with --changes")
    add("--done", metavar="KIND/ID", help="note that one was carried out")


def _add_details_of_items(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--status", metavar="STATUS", help="with --show: only those that stand there"
    )
    parser.add_argument(
        "--changes",
        metavar="JSON",
        type=_json_object,
        help='with --edit or --approve: what becomes of it, as in {"hook": "Tea"}',
    )


def _add_approvals(add: Callable[..., object]) -> None:
    add("--approvals", action="store_true", help="show what waits for a person's approval")
    add("--approve", metavar="ID", help="let an agent do what it asked for")
    add("--deny", metavar="ID", help="do not let it")


def _add_details(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--export",
        metavar="DIR",
        type=Path,
        help="with --migrate: copy the migrations into another repository's supabase/migrations",
    )
    parser.add_argument(
        "--watch", action="store_true", help="with --list-agents: live, until Ctrl-C"
    )
    parser.add_argument(
        "--agent", metavar="ID", help="with --task: who is to do it; with --tail: only of this one"
    )
    parser.add_argument(
        "--context",
        metavar="JSON",
        type=_json_object,
        help='with --task: facts for it, as in {"post": 17}',
    )
    parser.add_argument(
        "--priority", metavar="N", type=int, help="with --task: higher first, 0 if not given"
    )
    parser.add_argument(
        "--comment",
        metavar="TEXT",
        type=_unicode,
        help="with --approve or --deny: what the agent is told",
    )
    parser.add_argument(
        "--not-before",
        metavar="TIME",
        help="with --task: when it may begin, as in 2026-12-01T08:00:00+01:00",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        help="with --task: how long one attempt may take",
    )
    parser.add_argument(
        "--max-attempts",
        metavar="N",
        type=int,
        help="with --task: after how many attempts that failed it fails, 3 if not given",
    )
    parser.add_argument(
        "--unique-key",
        metavar="KEY",
        help="with --task: nothing is posted while one of the agent's with this key waits or runs",
    )
    parser.add_argument(
        "--wait", action="store_true", help="with --task: follow it, and print the result"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="with --list-agents, --tail, --task or the flags of approvals: as JSON",
    )


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
