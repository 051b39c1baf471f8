"""`.env.example`, made of the table of settings: ``python tests/env_example.py > .env.example``."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Final

from app.agents.spec import AGENT_SPECS
from app.settings import AgentSettings, Section, Setting, Settings, settings_of
from app.web.schemas import descriptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.agents.spec import AgentSpec

WIDTH: Final = 105

_HEAD: Final = (
    "Settings of the worker daemon. Copy this file to .env and fill in what you need; the "
    "environment wins over .env. An empty value is as good as none. Durations are in seconds. "
    "After '#' stands the default."
)


def example() -> str:
    """Return the file: every variable by its section, with what it is and its default."""
    lines = list(_comment(_HEAD))
    for section in Section:
        lines += ["", f"# -- {section} ".ljust(WIDTH - 2, "-")]
        lines += _of_agents() if section is Section.AGENTS else _of_daemon(section)
    return "\n".join(lines) + "\n"


def _of_daemon(section: Section) -> Iterator[str]:
    meanings = descriptions(Settings)
    for field, setting in settings_of(Settings).items():
        if setting.section is not section:
            continue
        if field in meanings:
            yield ""
            yield from _comment(meanings[field])
        # Without this one no daemon starts, so its line is there to be filled in.
        yield _line(setting).removeprefix("# " if setting.name == "ANTHROPIC_API_KEY" else "")


def _of_agents() -> Iterator[str]:
    yield from _of_daemon(Section.AGENTS)
    enable, *others = settings_of(AgentSettings).values()
    yield ""
    yield "# Which of them run: 1, true, yes, on or 0, false, no, off."
    yield from (_line(enable, spec) for spec in AGENT_SPECS)
    yield ""
    _, *meanings = descriptions(AgentSettings).values()
    said = "; ".join(f"{text[0].lower()}{text[1:].removesuffix('.')}" for text in meanings)
    yield from _comment(f"For each: {said}.")
    for number, spec in enumerate(AGENT_SPECS):
        yield from [""] if number else []
        yield from (_line(setting, spec) for setting in others)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ")


def _line(setting: Setting, spec: AgentSpec | None = None) -> str:
    return f"# {setting.variable(spec)}={setting.example or _default(setting, spec)}"


def _default(setting: Setting, spec: AgentSpec | None) -> str:
    default = setting.default
    if callable(default):
        default = None if spec is None else default(spec)
    if isinstance(default, bool):
        return str(default).lower()
    if default is None or default == ():
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


if __name__ == "__main__":
    sys.stdout.write(example())
