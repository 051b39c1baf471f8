"""The worker daemon's command line. How the daemon itself starts and ends stands in `startup`.

Only what a command needs is imported, so that looking at the agents is quick.
"""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":  # before the imports below, which take a while
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(130))

import gc
import json
import logging
import sys
import threading
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from actp_supervise.clock import SystemWallClock
from actp_supervise.service import Interrupted, log_what_nobody_catches, shorten
from actp_supervise.service.signals import INTERRUPTED, SIGNALS
from app.command_line import WRONG, item_in, read_arguments
from app.environment import SharedEnvironment
from app.running import findable
from app.setting_values import is_shortage
from app.settings import (
    HAS_TRIO_ASYNCIO,
    Settings,
    SettingsError,
    given_variables,
    load_settings,
    validate_env,
)
from app.store.errors import (
    NO_THREAD,
    StoreError,
    TableMissing,
    WrongSettings,
    is_out_of_threads,
)
from app.store.schema import MIGRATION_COMMAND
from app.terminal.errors import DaemonError
from app.terminal.signals import INTERRUPTS, until_interrupted

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from app.web.listening import Address

logger = logging.getLogger(__name__)

FINE = 0
"""Also after a signal, and a second one: nothing is lost then."""
FAILED = 1

LEAVE_TIMEOUT: Final = 2.0
"""Seconds that the end waits for threads that an agent has left behind."""

OF_THE_SDK: Final = ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")
"""By these a class that makes its own client finds the simulated Claude of the demo, too."""

ENV_FILE = Path(".env")
STDOUT, STDERR = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for, and return the exit code."""
    INTERRUPTS.catch()
    # None makes the import fail, as httpx provides for: else it loads a command line of its own,
    # with rich and pygments, where these are installed.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    _open_missing_streams()
    options = read_arguments(arguments)
    try:
        trio.run(_obey_until_interrupted, options)
        sys.stdout.flush()
    except Interrupted:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (no signal raises the latter)
        return _report(error)
    return FINE


def _open_missing_streams() -> None:
    """Open what we were started without, as by ``2>&-``: else the next file would be stderr."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(number, True)  # noqa: FBT003  (positional alone)
    os.close(number)
    sys.stdout = sys.stdout or os.fdopen(STDOUT, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(STDERR, "w", closefd=False)


async def _obey_until_interrupted(options: argparse.Namespace) -> None:
    interrupted = await until_interrupted(partial(_obey, options))
    if interrupted and not (options.watch or options.tail):  # which nothing else ends
        logger.info("Interrupted before it was up or done", extra={"action": "interrupted"})
        raise Interrupted


async def _obey(options: argparse.Namespace) -> None:
    if options.demo:
        await _demo(options)
        return
    settings = load_settings(os.environ, env_file=ENV_FILE)
    beside = _command_beside(options)
    if beside is not None:
        await beside(settings)
        return
    validate_env(os.environ, env_file=ENV_FILE)
    environment = SharedEnvironment()
    settings = _settings_of_daemon(options, environment)
    if options.dry_run:
        await _dry_run(settings)
    else:
        await _run(options, settings, environment)


def _command_beside(
    options: argparse.Namespace,
) -> Callable[[Settings], Awaitable[None]] | None:
    """Return the command that was given, of those that need no daemon of ours; None if none was."""
    if options.watch:
        return _watch
    given = {name for name, value in vars(options).items() if value not in (None, False)}
    found = next((does for name, does in _BESIDE.items() if name in given), None)
    return None if found is None else partial(found, options=options)


def _settings_of_daemon(
    options: argparse.Namespace,
    environment: SharedEnvironment,
    *,
    instead: Mapping[str, str] | None = None,
    required: bool = False,
) -> Settings:
    """Read the settings, and share what `.env` says with the code of agents.

    Args:
        options: The command line.
        environment: That of this process.
        instead: What holds in place of it, as in the demo.
        required: Whether `.env` has to be there.
    """
    environ = environment.given if instead is None else instead
    settings = load_settings(environ, env_file=ENV_FILE, required=required)
    changed = {name: environ[name] for name in OF_THE_SDK if name in (instead or {})}
    environment.share({**settings.only_in_file, **changed})
    return settings if options.agents is None else settings.with_agents(options.agents)


async def _run(
    options: argparse.Namespace, settings: Settings, environment: SharedEnvironment
) -> None:
    log_what_nobody_catches()
    # Were the file gone later, so would be the limits in it.
    has_file = await trio.Path(ENV_FILE).exists()
    reread = partial(_settings_of_daemon, options, environment, required=has_file)
    async with _loaded(settings) as address:
        from app.agents.traces import stop_tracing
        from app.startup import run_daemon

        try:
            with findable(settings, address.port) as settings:
                await run_daemon(settings, address, reread=reread)
        finally:
            stop_tracing()


@asynccontextmanager
async def _loaded(settings: Settings) -> AsyncIterator[Address]:
    """Load the daemon's code for the block, and listen at its address.

    From the first moment on something answers there, which says that the daemon starts.

    Raises:
        AddressUnavailableError: If the address cannot be had.
    """
    from app.web.listening import Address
    from app.web.porch import open_porch

    _import_trio_asyncio()
    with await Address.open(settings.health_host, settings.health_port) as address:
        async with open_porch(address, settings):
            await trio.to_thread.run_sync(load_code, settings, abandon_on_cancel=True)
        yield address


def load_code(settings: Settings) -> None:
    """Load the code of the daemon and of its agents, which takes seconds."""
    with _never_collected():
        import anthropic  # noqa: F401  (the agents need it)

        import app.startup  # noqa: F401
        from app.agents.contract import load_agent_class

        for agent in settings.agents:
            if agent.enabled and agent.isolation != "process":
                with suppress(Exception):  # told when the agents are made
                    load_agent_class(agent.class_path)


@contextmanager
def _never_collected() -> Iterator[None]:
    """Keep what the block loads for good, and do not look through it for garbage.

    Python looks through all objects again and again while they get more, which is a tenth of what
    the loading takes; later each look at 200,000 objects would hold up the loop.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


async def _dry_run(settings: Settings) -> None:
    _import_trio_asyncio()
    from app.key_trial import try_key
    from app.startup import check

    banner, lacking = await check(settings)
    print(banner)
    print(f"The key: {await try_key(settings)}")
    if lacking is not None:
        raise StoreError(lacking)
    print("Configuration and database are fine. No agent was started.")


async def _demo(options: argparse.Namespace) -> None:
    from app.demo.show import open_demo

    log_what_nobody_catches()
    environment = SharedEnvironment()
    given = given_variables(environment.given, env_file=ENV_FILE)
    async with open_demo(environment.given, given=given) as demo:
        reread = partial(_settings_of_daemon, options, environment, instead=demo.environ)
        settings = reread()

        def introduce(page: str) -> None:
            print(demo.introduction(settings, page), flush=True)

        async with _loaded(settings) as address:
            from app.startup import run_daemon

            with findable(settings, address.port, demo=True) as settings:
                await run_daemon(
                    settings, address, reread=reread, prepare=demo.queue_tasks, announce=introduce
                )


async def _list_agents(settings: Settings, options: argparse.Namespace) -> None:
    from app.facts import to_json
    from app.listing import listed_agents, table

    agents = await listed_agents(settings)
    if options.json:
        print(json.dumps(to_json(agents), indent=2))
    else:
        print(table(agents, settings))


async def _restart_agent(settings: Settings, options: argparse.Namespace) -> None:
    from app.listing import await_restart, request_restart
    from app.store.protocol import OBEYED
    from app.terminal.person import person

    said = await request_restart(settings, options.restart_agent, by=person())
    print(said, file=sys.stderr if options.wait else sys.stdout)
    if options.wait:
        request = await await_restart(settings, options.restart_agent)
        if request.answer != OBEYED:
            raise DaemonError(f"{options.restart_agent}: {request.answer}")
        print(f"{options.restart_agent} was restarted by {request.answered_by}.")


async def _migrate(settings: Settings, options: argparse.Namespace) -> None:
    from app.store.export import export
    from app.store.migrate import WITHOUT_DB_URL, migrate

    folder: Path | None = options.export
    if folder is not None:
        for line in export(folder, SystemWallClock().now()):
            print(line)
        return
    if settings.supabase_db_url is None:
        if settings.supabase_url is not None:
            raise SettingsError(WITHOUT_DB_URL)
        print(
            f"SQLite is used, whose file gets its tables by itself. For Supabase: {WITHOUT_DB_URL}"
        )
        return
    for line in await trio.to_thread.run_sync(migrate, settings.supabase_db_url):
        print(line)


async def _watch(settings: Settings) -> None:
    from app.terminal.watch import watch

    await watch(settings)


async def _tail(settings: Settings, options: argparse.Namespace) -> None:
    from app.terminal.tail import follow

    await follow(settings, agent_id=options.tail or options.agent, as_json=options.json)


async def _tell(settings: Settings, options: argparse.Namespace) -> None:
    from app.terminal.agents import Command, command

    actions: tuple[Command, ...] = ("stop", "start", "pause", "resume")
    for action in actions:
        name = getattr(options, action)
        if name is not None:
            await command(settings, action, name, as_json=options.json)


async def _run_routine(settings: Settings, options: argparse.Namespace) -> None:
    from app.terminal.agents import run_routine

    await run_routine(settings, options.run, as_json=options.json)


async def _change_tasks(settings: Settings, options: argparse.Namespace) -> None:
    from app.terminal.tasks import change

    await change(
        settings,
        "cancel" if options.retry is None else "retry",
        ids=options.cancel if options.retry is None else options.retry,
        which={
            "agent_type": options.agent,
            "status": options.status,
            "text": options.text,
            "since": options.since and options.since.isoformat(),
            "until": options.until and options.until.isoformat(),
        },
        as_json=options.json,
    )


async def _show(settings: Settings, options: argparse.Namespace) -> None:
    from app.terminal.shows import Wanted, show

    wanted = Wanted(
        agent_id=options.agent,
        status=options.status,
        text=options.text,
        limit=50 if options.limit is None else options.limit,
        as_json=options.json,
    )
    await show(settings, options.show, wanted)


async def _completion(settings: Settings, options: argparse.Namespace) -> None:
    from app.terminal.completion import script

    print(script(options.completion, settings), end="")


async def _task(settings: Settings, options: argparse.Namespace) -> None:
    from app.terminal.task import post

    await post(
        settings,
        goal=options.task,
        agent_id=options.agent,
        context=options.context or {},
        priority=options.priority or 0,
        details={
            name: getattr(options, name)
            for name in ("not_before", "timeout", "max_attempts", "unique_key")
        },
        wait=options.wait,
        as_json=options.json,
    )


async def _alert_test(settings: Settings, options: argparse.Namespace) -> None:
    from app.alerts.trial import try_alerts

    await try_alerts(settings, print)


async def _decide_about_item(settings: Settings, options: argparse.Namespace) -> None:
    from app.terminal.items import decide

    await decide(settings, item_in(options) or "", options)


async def _approvals(settings: Settings, options: argparse.Namespace) -> None:
    from app.terminal.approvals import decide, show

    if item_in(options) is not None:
        await _decide_about_item(settings, options)
        return

    if options.approvals:
        await show(settings, as_json=options.json)
        return
    await decide(
        settings,
        options.deny if options.approve is None else options.approve,
        approve=options.approve is not None,
        comment=options.comment,
        as_json=options.json,
    )


_BESIDE: Final[Mapping[str, Callable[..., Awaitable[None]]]] = {
    "list_agents": _list_agents,
    "restart_agent": _restart_agent,
    **dict.fromkeys(("stop", "start", "pause", "resume"), _tell),
    "run": _run_routine,
    "migrate": _migrate,
    "tail": _tail,
    "task": _task,
    "show": _show,
    **dict.fromkeys(("retry", "cancel"), _change_tasks),
    "alert_test": _alert_test,
    **dict.fromkeys(("approvals", "approve", "deny"), _approvals),
    **dict.fromkeys(("reject", "edit", "done"), _decide_about_item),
    "completion": _completion,
}
"""What each command that needs no daemon of ours does, by its flag."""


def _import_trio_asyncio() -> None:
    # Before anything takes asyncio's own way to find the running loop, as anyio and the SDK do.
    if HAS_TRIO_ASYNCIO:
        import trio_asyncio  # noqa: F401


def _report(error: BaseException) -> int:
    """Say what went wrong: in one line where it was to be expected."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    for handler in logging.getLogger().handlers:  # what they have comes before the last word
        handler.flush()
    if isinstance(error, SettingsError | StoreError | OSError | DaemonError):
        hint = f". To make it, run: {MIGRATION_COMMAND}" if isinstance(error, TableMissing) else ""
        print(f"error: {shorten(str(error))}{hint}", file=sys.stderr)
        is_wrong = isinstance(error, SettingsError | WrongSettings) and not is_shortage(error)
        return WRONG if is_wrong else FAILED
    if is_out_of_threads(error):
        print(f"error: {NO_THREAD}", file=sys.stderr)
        return FAILED
    logger.critical("The daemon failed", exc_info=error)
    return FAILED


def _leave(code: int) -> NoReturn:
    """End the process, though threads that agents have left behind may go on."""
    # It ends as it is. Python gives signals that are handled back to the system before its end.
    for number in (*SIGNALS, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    over = threading.Timer(LEAVE_TIMEOUT, _leave_threads, (code,))
    over.daemon = True
    with suppress(RuntimeError):  # there may be no more threads
        over.start()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # a disk that is full; Python would make it the exit code
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def _leave_threads(code: int) -> NoReturn:
    main_thread = threading.main_thread()
    left = [thread for thread in threading.enumerate() if not thread.daemon]
    names = [thread.name for thread in left if thread is not main_thread]
    logger.warning("Not waited for threads that do not end: %s", ", ".join(names))
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    _leave(main())
