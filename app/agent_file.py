"""The file of agents, `agents.toml`: which agents there are, in place of the four that ship.

Each `[agents.ID]` becomes an `AgentSpec`. The values of settings are read where all settings are
(`app.settings`), because variables of the environment override them; what only the file can say is
checked here. Every error names the file, the line and the key.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from actp_supervise.triggers import Cron
from app.agents.spec import (
    AGENT_SPECS,
    HAND_NAMES,
    PROMPTED_CLASS,
    AgentSpec,
    Given,
    ReleaseTool,
    Routine,
    WantedHand,
)
from app.items import KINDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

Table = Mapping[str, Any]
"""A table of TOML: its values are what the file says, and checked where they are read."""

PROMPT_FILE: Final = "file:"
"""What a prompt begins with that stands in a file of its own."""

OWN_KEYS: Final = ("prompt", "about", "tools", "approve", "release", "routines", "mcp")
"""The keys of an agent that are no settings of the environment."""

AGENT_ID: Final = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
"""What an agent may be called: the name is part of tables, addresses and variables."""

_LONGEST_ID: Final = 40
_SHIPPED: Final = {spec.agent_id: spec for spec in AGENT_SPECS}
_RELEASED: Final = tuple(
    dict.fromkeys(column for kind in KINDS.values() if kind.releases for column in kind.released)
)
"""The fields of what a person approves that a tool can be given."""
_MCP_KEYS: Final = ("command", "args", "env", "cwd", "url", "headers", "timeout", "approve")


class AgentFileError(Exception):
    """The file of agents is wrong. The text is one line that names the file, line and key."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A key in the file. Its line is looked for when it is asked for, which is in errors only."""

    file: str
    text: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        """Return the file, the line and the key."""
        line = line_of(self.text, self.keys)
        where = self.file if line is None else f"{self.file}, line {line}"
        return f"{where}: {'.'.join(self.keys)}"

    def below(self, *keys: str) -> Spot:
        """Return a key of the table that this one is."""
        return dataclasses.replace(self, keys=(*self.keys, *keys))

    def wrong(self, what: str) -> NoReturn:
        """Raise the error that says what is wrong here."""
        raise AgentFileError(f"{self}: {what}")


def read_agents(path: Path, settings: Collection[str]) -> tuple[AgentSpec, ...]:
    """Read the file of agents.

    Args:
        path: Where it is.
        settings: The names of an agent's settings, in lower case.

    Raises:
        AgentFileError: If it cannot be read, or something in it is wrong.
    """
    text = _text_of(path)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r" \(at line (\d+), column \d+\)$", str(error))
        where = f"{path}, line {found[1]}" if found else str(path)
        what = str(error)[: found.start()] if found else str(error)
        raise AgentFileError(f"{where}: {what[:1].lower()}{what[1:]}") from None
    root = Spot(str(path), text, ())
    _check_keys(content, ("agents",), root)
    agents = _table(content.get("agents", {}), root.below("agents"))
    if not agents:
        raise AgentFileError(f"{path}: names no agent; write [agents.ID] for each")
    specs = tuple(
        _spec(agent_id, value, root.below("agents", agent_id), path, settings)
        for agent_id, value in agents.items()
    )
    _check_prefixes(specs, root)
    return specs


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise AgentFileError(f"{path} cannot be read: {error}") from error


def _spec(
    agent_id: str, value: object, spot: Spot, path: Path, settings: Collection[str]
) -> AgentSpec:
    if not AGENT_ID.fullmatch(agent_id) or len(agent_id) > _LONGEST_ID:
        spot.wrong(
            f"an agent's name has at most {_LONGEST_ID} small letters and digits, with - or _ "
            "between them, and begins with a letter"
        )
    table = _table(value, spot)
    _check_keys(table, (*settings, *OWN_KEYS), spot)
    if "class" in table and "prompt" in table:
        spot.below("prompt").wrong("stands in place of a class, so only one of the two can be")
    given = {
        name: Given(_as_text(table[name], spot.below(name)), spot.below(name))
        for name in settings
        if name in table
    }
    shipped = _shipped(agent_id, table)
    return dataclasses.replace(
        shipped,
        tables=_tables(shipped, given),
        prompt=_prompt(table, spot, path),
        about=_about(table, shipped, spot, path),
        about_keys=_about_keys(table, shipped),
        hands=_hands(table, spot),
        offered=() if {"tools", "class"} & table.keys() else shipped.offered,
        approve=tuple(_texts(table.get("approve", ()), spot.below("approve"))),
        routines=_routines(table, shipped.routines, spot.below("routines")),
        release=_release(table, spot.below("release")),
        given=given,
        place=spot,
    )


def _shipped(agent_id: str, table: Table) -> AgentSpec:
    """Return what an agent is before the file says more: the shipped one, if it has that name."""
    shipped = _SHIPPED.get(agent_id)
    if shipped is None:
        name = agent_id.upper().replace("-", "_")
        shipped = AgentSpec(
            agent_id=agent_id,
            class_path=PROMPTED_CLASS,
            enable_flag=f"ENABLE_{name}_AGENT",
            env_prefix=f"{name}_AGENT_",
        )
    if "prompt" not in table:
        return shipped
    # With a prompt it is another agent, which has none of the shipped one's methods.
    return dataclasses.replace(
        shipped, class_path=PROMPTED_CLASS, routines=(), tables=(), about_keys=(), offered=()
    )


def _tables(shipped: AgentSpec, given: Mapping[str, Given]) -> tuple[str, ...]:
    """Return the tables that an agent needs: those of its class, where that one ships."""
    if "class" not in given:
        return shipped.tables
    tables = {spec.class_path: spec.tables for spec in AGENT_SPECS}
    return tables.get(given["class"].text, ())


def _about_keys(table: Table, shipped: AgentSpec) -> tuple[str, ...]:
    """Return what an agent's class reads of `about`; of a class of the user's anything."""
    return () if "class" in table else shipped.about_keys


def _about(table: Table, shipped: AgentSpec, spot: Spot, path: Path) -> dict[str, str]:
    """Return what the file says of the business."""
    here = spot.below("about")
    given = _table(table.get("about", {}), here)
    known = _about_keys(table, shipped)
    if known:
        _check_keys(given, known, here)
    return {name: _text(value, here.below(name), path) for name, value in given.items()}


def _prompt(table: Table, spot: Spot, path: Path) -> str | None:
    if "prompt" not in table:
        return None
    return _text(table["prompt"], spot.below("prompt"), path)


def _text(value: object, spot: Spot, path: Path) -> str:
    """Return a text; one that begins with ``file:`` stands in a file of its own."""
    text = _string(value, spot)
    if text.startswith(PROMPT_FILE):
        file = path.parent / text.removeprefix(PROMPT_FILE).strip()
        try:
            text = file.expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeError, RuntimeError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            spot.wrong(f"{file} cannot be read: {why}")
    if not text.strip():
        spot.wrong("is empty; write what it is, or leave the line out")
    return text.strip()


def _hands(table: Table, spot: Spot) -> tuple[WantedHand, ...]:
    hands: list[WantedHand] = []
    spot_of_tools = spot.below("tools")
    for entry in _list(table.get("tools", ()), spot_of_tools):
        options = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
        name = options.pop("name", None)
        if not isinstance(name, str):
            spot_of_tools.wrong('must hold names, or tables such as {name = "web_search", ...}')
        if name not in HAND_NAMES:
            hint = _hint(name, HAND_NAMES)
            spot_of_tools.wrong(f"there is no tool {name!r}{hint}; known are {_all(HAND_NAMES)}")
        if name in {hand.name for hand in hands}:
            spot_of_tools.wrong(f"names {name!r} twice")
        hands.append(WantedHand(name=name, options=options))
    servers = _servers(table, spot.below("mcp"))
    return (*hands, *([WantedHand(name="mcp", options=servers)] if servers else []))


def _release(table: Table, spot: Spot) -> ReleaseTool | None:
    """Return what carries out what a person has approved."""
    if "release" not in table:
        return None
    given = _table(table["release"], spot)
    _check_keys(given, ("tool", "arguments"), spot)
    if "tool" not in given:
        spot.wrong('needs the name of a tool, such as tool = "mcp__poster__publish"')
    tool = _string(given["tool"], spot.below("tool"))
    named = spot.below("arguments")
    arguments = {}
    for name, value in _table(given.get("arguments", {}), named).items():
        column = _string(value, named.below(name))
        if column not in _RELEASED:
            hint = _hint(column, _RELEASED)
            named.below(name).wrong(
                f"there is no field {column!r}{hint}; known are {_all(_RELEASED)}"
            )
        arguments[name] = column
    return ReleaseTool(tool=tool, arguments=arguments)


def _servers(table: Table, spot: Spot) -> dict[str, Any]:
    servers = {}
    for name, value in _table(table.get("mcp", {}), spot).items():
        here = spot.below(name)
        server = _table(value, here)
        _check_keys(server, _MCP_KEYS, here)
        if ("command" in server) == ("url" in server):
            here.wrong("needs a command or a url, and not both")
        servers[name] = dict(server)
    return servers


def _routines(table: Table, shipped: Sequence[Routine], spot: Spot) -> tuple[Routine, ...]:
    """Return an agent's routines: those that ship, with what the file says in their place."""
    routines = {routine.method: routine for routine in shipped}
    for name, value in _table(table.get("routines", {}), spot).items():
        here = spot.below(name)
        if not re.fullmatch(r"[^\W\d]\w*(-\w+)*", name) or len(name) > _LONGEST_ID * 2:
            here.wrong("a routine's name has letters, digits, - and _, and begins with a letter")
        if value is False:
            routines.pop(name, None)
            continue
        routines[name] = _routine(name, value, here)
    return tuple(routines.values())


def _routine(name: str, value: object, spot: Spot) -> Routine:
    goal = None
    cron_spot = spot
    if isinstance(value, Mapping):
        _check_keys(value, ("cron", "goal"), spot)
        if "cron" not in value:
            spot.wrong('needs a time, such as cron = "0 9 * * *"')
        goal = _string(value["goal"], spot.below("goal")) if "goal" in value else None
        value, cron_spot = value["cron"], spot.below("cron")
    cron = _string(value, cron_spot)
    try:
        Cron(cron)
    except ValueError as error:
        cron_spot.wrong(str(error))
    if goal is not None and not goal.strip():
        spot.below("goal").wrong("is empty; write what is to be reached")
    return Routine(method=name, cron=cron, goal=goal)


def _check_prefixes(specs: Iterable[AgentSpec], root: Spot) -> None:
    """Refuse two agents whose variables would have the same names."""
    seen: dict[str, str] = {}
    for spec in specs:
        other = seen.setdefault(spec.env_prefix, spec.agent_id)
        if other != spec.agent_id:
            root.below("agents", spec.agent_id).wrong(
                f"its variables would begin with {spec.env_prefix} as those of {other!r} do"
            )


def variables_in(specs: Iterable[AgentSpec]) -> set[str]:
    """Return the variables of the environment that options of tools refer to, as ``${NAME}``."""
    found: set[str] = set()
    waiting: list[object] = [hand.options for spec in specs for hand in spec.hands]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, str):
            found.update(re.findall(r"\$\{(\w+)\}", value))
    return found


# Values.


def _check_keys(table: Table, known: Sequence[str], spot: Spot) -> None:
    for key in table:
        if key not in known:
            hint = _hint(key, known)
            spot.below(key).wrong(f"is no key here{hint}; known are {_all(known)}")


def _hint(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _all(names: Iterable[str]) -> str:
    return ", ".join(names)


def _table(value: object, spot: Spot) -> Table:
    if not isinstance(value, Mapping):
        spot.wrong("must be a table")
    return value


def _list(value: object, spot: Spot) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        spot.wrong("must be a list, in brackets")
    return value


def _string(value: object, spot: Spot) -> str:
    if not isinstance(value, str):
        spot.wrong("must be a text, in quotes")
    return value


def _texts(value: object, spot: Spot) -> list[str]:
    return [_string(item, spot) for item in _list(value, spot)]


def _as_text(value: object, spot: Spot) -> str:
    """Return a value as it would be written in the environment, where all are read alike."""
    if not isinstance(value, str | int | float):
        spot.wrong("must be a text, a number, true or false")
    text = str(value).lower() if isinstance(value, bool) else str(value).strip()
    if not text:
        spot.wrong("is empty; leave the line out where the default is to hold")
    return text


# Lines.


def line_of(text: str, keys: Sequence[str]) -> int | None:
    """Return the line of a TOML document in which a key is given, from 1; None if it is not found.

    tomllib tells no lines, so this finds the first line that makes the key be there.
    """
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if keys[-1] not in line:
            continue
        before = _parsed(lines[: number - 1])
        if before is None or _has(before, keys):  # None: in the middle of a text of several lines
            continue
        for end in range(number, len(lines) + 1):
            upto = _parsed(lines[:end])
            if upto is not None:
                if _has(upto, keys):
                    return number
                break
    return None


def _parsed(lines: Sequence[str]) -> Table | None:
    try:
        return tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return None


def _has(content: object, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(content, Mapping) or key not in content:
            return False
        content = content[key]
    return True
