"""`--completion`: what makes bash or zsh complete the command line."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.command_line import FLAGS, Completes, Flag
from app.terminal.shows import SHOWS

if TYPE_CHECKING:
    from app.settings import Settings

FUNCTION: Final = "actp-worker"
"""The command that the script makes: ``python -m app.main`` in the checkout, from any folder."""


def script(shell: str, settings: Settings) -> str:
    """Return a script for a shell to read at its start.

    The agents, routines and lists in it are those of today.

    Args:
        shell: bash or zsh.
        settings: Which agents and routines there are.
    """
    return _bash(settings) if shell == "bash" else _zsh(settings)


def offered(flag: Flag, settings: Settings) -> list[str]:
    """Return what is offered as the value of a flag; nothing where anything will do."""
    if isinstance(flag.offers, tuple):
        return list(flag.offers)
    agents = [agent.agent_id for agent in settings.agents]
    routines = [
        f"{agent.agent_id}.{routine.method}"
        for agent in settings.agents
        for routine in agent.spec.routines
    ]
    return {
        Completes.AGENT: agents,
        Completes.ROUTINE: routines,
        Completes.AGENT_OR_ROUTINE: [*agents, *routines],
        Completes.LIST: list(SHOWS),
    }.get(flag.offers or Completes.FOLDER, [])


def _command() -> str:
    checkout = Path(__file__).parents[2]
    python = shlex.quote(sys.executable)
    return f'{FUNCTION}() {{ (cd {shlex.quote(str(checkout))} && exec {python} -m app.main "$@") }}'


def _bash(settings: Settings) -> str:
    cases = []
    for flag in FLAGS:
        words = offered(flag, settings)
        if flag.offers is Completes.FOLDER:
            cases.append(f'    {flag.name}) COMPREPLY=($(compgen -d -- "$word")) ;;')
        elif words:
            cases.append(f"    {flag.name}) _actp_worker_of {_quoted(' '.join(words))} ;;")
        elif flag.metavar is not None:
            cases.append(f"    {flag.name}) ;;")
    flags = " ".join([flag.name for flag in FLAGS] + ["--help", "--version"])
    return _BASH.format(
        command=_command(), function=FUNCTION, cases="\n".join(cases), flags=_quoted(flags)
    )


def _zsh(settings: Settings) -> str:
    lines = []
    for flag in FLAGS:
        described = flag.help.translate(_ZSH_SPECIAL)
        line = f"{flag.name}[{described}]"
        if flag.metavar is not None and flag.values != "any":  # ids follow as plain words
            words = offered(flag, settings)
            values = f"({' '.join(words)})" if words else " "
            if flag.offers is Completes.FOLDER:
                values = "_files -/"
            colon = "::" if flag.values == "perhaps" else ":"
            line += f"{colon}{flag.metavar.translate(_ZSH_SPECIAL)}:{values}"
        lines.append(f"    {_quoted(line)}")
    lines.append("""    '*:id:_guard "^-*" id'""")
    return _ZSH.format(command=_command(), function=FUNCTION, flags=" \\\n".join(lines))


def _quoted(text: str) -> str:
    return shlex.quote(text)


_ZSH_SPECIAL: Final = str.maketrans({"[": r"\[", "]": r"\]", ":": r"\:", "\\": r"\\"})

_BASH: Final = """\
# Completion of the worker daemon's commands for bash. In ~/.bashrc:
#   source <(python -m app.main --completion bash)
{command}
_actp_worker_of() {{ COMPREPLY=($(compgen -W "$1" -- "$word")); }}
_actp_worker() {{
  local word="$2" before="$3"
  COMPREPLY=()
  if [[ ${{COMP_WORDS[0]}} != {function} ]] &&
    [[ ${{COMP_WORDS[1]}} != -m || ${{COMP_WORDS[2]}} != app.main ]]; then return; fi
  if [[ $word != -* ]]; then
    case "$before" in
{cases}
    esac
    return
  fi
  _actp_worker_of {flags}
}}
complete -F _actp_worker {function}
complete -o bashdefault -o default -F _actp_worker python python3
"""

_ZSH: Final = """\
# Completion of the worker daemon's commands for zsh. In ~/.zshrc, after compinit:
#   source <(python -m app.main --completion zsh)
{command}
_actp_worker() {{
  if [[ ${{words[1]}} != {function} ]]; then
    if [[ ${{words[2]}} != -m || ${{words[3]}} != app.main ]]; then _python; return; fi
    shift 2 words
    (( CURRENT -= 2 ))
  fi
  _arguments -S \\
{flags}
}}
compdef _actp_worker {function} python python3
"""
