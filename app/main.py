"""The worker daemon's command line. How the daemon itself starts and ends stands in `startup`.

Only what a command needs is imported, so that looking at the agents is quick.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import trio

import actp_supervise
from app.agents.spec import AGENT_SPECS
from app.settings import Settings, SettingsError, load_settings
from app.store.protocol import StoreError, TableMissing
from app.store.schema import MIGRATION_COMMAND

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FINE = 0
"""Also after a signal, and a second one: nothing is lost then."""
FAILED = 1
WRONG = 2
"""Wrong use or configuration."""
INTERRUPTED = 130
"""By a signal, before there was a daemon that could have ended well."""

ENV_FILE = Path(".env")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for, and return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.json and not options.list_agents:
        parser.error("--json goes with --list-agents")
    # A shell starts its background jobs with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Until there is a daemon that ends well, SIGTERM is as good as Ctrl-C, which Trio handles.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        trio.run(_obey, options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # noqa: BLE001  (what can be expected becomes one line)
        return _report(error)
    return FINE


async def _obey(options: argparse.Namespace) -> None:
    if options.demo:
        await _demo(options)
        return
    settings = load_settings(os.environ, env_file=ENV_FILE)
    if options.list_agents:
        await _list_agents(settings, as_json=options.json)
    elif options.restart_agent is not None:
        await _restart_agent(settings, options.restart_agent)
    elif options.migrate:
        await _migrate(settings)
    else:
        settings.check_runnable()
        settings = _settings_of_daemon(options)
        if options.dry_run:
            await _dry_run(settings)
        else:
            await _run(options, settings)


def _settings_of_daemon(
    options: argparse.Namespace, environ: Mapping[str, str] = os.environ
) -> Settings:
    settings = load_settings(environ, env_file=ENV_FILE)
    return settings if options.agents is None else settings.with_agents(options.agents)


async def _run(options: argparse.Namespace, settings: Settings) -> None:
    _import_trio_asyncio()
    from app.startup import run_daemon

    await run_daemon(settings, reread=partial(_settings_of_daemon, options))


async def _dry_run(settings: Settings) -> None:
    _import_trio_asyncio()
    from app.startup import check

    banner, lacking = await check(settings)
    print(banner)
    if lacking is not None:
        raise StoreError(lacking)
    print("Configuration and database are fine. No agent was started.")


async def _demo(options: argparse.Namespace) -> None:
    _import_trio_asyncio()
    from app.demo.show import open_demo
    from app.startup import run_daemon

    async with open_demo(os.environ) as demo:
        reread = partial(_settings_of_daemon, options, demo.environ)
        settings = reread()

        def introduce(page: str) -> None:
            print(demo.introduction(settings, page), flush=True)

        await run_daemon(settings, reread=reread, prepare=demo.queue_tasks, announce=introduce)


async def _list_agents(settings: Settings, *, as_json: bool) -> None:
    from app.listing import listed_agents, table

    agents = await listed_agents(settings)
    if as_json:
        print(json.dumps([agent.to_dict() for agent in agents], indent=2))
    else:
        print(table(agents, settings))


async def _restart_agent(settings: Settings, agent_id: str) -> None:
    from app.listing import request_restart

    print(await request_restart(settings, agent_id))


async def _migrate(settings: Settings) -> None:
    from app.store.migrate import WITHOUT_DB_URL, migrate

    if settings.supabase_db_url is None:
        if settings.supabase_url is not None:
            raise SettingsError(WITHOUT_DB_URL)
        print(
            f"SQLite is used, whose file gets its tables by itself. For Supabase: {WITHOUT_DB_URL}"
        )
        return
    for line in await trio.to_thread.run_sync(migrate, settings.supabase_db_url):
        print(line)


def _import_trio_asyncio() -> None:
    # Before anything takes asyncio's own way to find the running loop, as anyio and the SDK do.
    import trio_asyncio  # noqa: F401


def _report(error: BaseException) -> int:
    """Say what went wrong: in one line where it was to be expected."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, SettingsError | StoreError | OSError):
        hint = f". To make it, run: {MIGRATION_COMMAND}" if isinstance(error, TableMissing) else ""
        print(f"error: {' '.join(str(error).split())}{hint}", file=sys.stderr)
        return WRONG if isinstance(error, SettingsError) else FAILED
    logging.getLogger(__name__).critical("The daemon failed", exc_info=error)
    return FAILED


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, f"error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    known = ", ".join(spec.agent_id for spec in AGENT_SPECS)
    parser = _Parser(
        prog="python -m app.main",
        description="Runs the domain agents: supervised, scheduled, and with a page to look at.",
        epilog="Settings come from the environment and from .env; .env.example names them all. "
        "Ctrl-C or SIGTERM lets work in flight finish; a second one stops at once, and what was "
        "in flight is queued again. Exit codes: 0 fine, 1 failed, 2 wrong use or configuration.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=actp_supervise.__version__)
    parser.add_argument(
        "--agents",
        metavar="ID[,ID...]",
        type=_agent_ids,
        help=f"run these and no others, whatever their flags say (of {known})",
    )
    command = parser.add_mutually_exclusive_group()
    command.add_argument(
        "--demo",
        action="store_true",
        help="run with a simulated Claude, a store that is thrown away, and some tasks",
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
    parser.add_argument("--json", action="store_true", help="with --list-agents: as JSON")
    return parser


def _agent_ids(text: str) -> list[str]:
    agent_ids = [part.strip() for part in text.split(",") if part.strip()]
    known = [spec.agent_id for spec in AGENT_SPECS]
    if not agent_ids:
        raise argparse.ArgumentTypeError(f"name one or more of {', '.join(known)}")
    for agent_id in agent_ids:
        if agent_id not in known:
            raise argparse.ArgumentTypeError(
                f"there is no agent {agent_id!r}; known are {', '.join(known)}"
            )
    return agent_ids


if __name__ == "__main__":
    sys.exit(main())
