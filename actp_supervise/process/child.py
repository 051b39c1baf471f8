"""`process_child`: what a user calls."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from .options import Options
from .run import Run

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
    from typing import Any


def process_child(
    argv: Sequence[str | os.PathLike[str]],
    *,
    on_output: Callable[[str], object] | None = None,
    on_stderr: Callable[[str], object] | None = None,
    on_status: Callable[[str], object] | None = None,
    notify: bool = False,
    ready_when: Callable[[], Awaitable[object]] | None = None,
    ready_timeout: float = 90.0,
    stop_signal: int = signal.SIGTERM,
    stop_group: bool = True,
    exit_codes: Collection[int] = frozenset({0}),
    stdin: int | None = None,
    stdout: int | None = None,
    pass_fds: Collection[int] = (),
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    user: str | int | None = None,
    group: str | int | None = None,
    umask: int | None = None,
    nice: int | None = None,
    limits: Mapping[int, int | tuple[int, int]] | None = None,
) -> Callable[..., Coroutine[Any, Any, None]]:
    r"""Make a Trio async function that runs a program for as long as the program does.

    It returns when the program exits with one of `exit_codes`, or as it was asked to. Asked to
    stop, the process gets `stop_signal`; cancelled (so also when its time to stop is over) it is
    killed at once. When it has ended, whatever it has left behind is killed: on Linux all that it
    started, elsewhere its process group. That happens also when this program dies, however it dies.

    Any other end is a `ProcessExited`, a program that cannot be started a `ProcessNotStarted`.
    A run that the watchdog ends gets SIGABRT and `ABORT_TIMEOUT` seconds before it is killed, in
    which a Python writes its stack; the error shows it.

    Callbacks are called inside the child and may be async functions. While `on_output` or
    `on_stderr` runs nothing more is read, so that a slow one slows the process and loses nothing.

    Args:
        argv: The program, searched on ``PATH``, and its arguments.
        on_output: Called with each line of output, in order, without its end (``\n`` or ``\r``);
            what is not UTF-8 is replaced. Where `on_stderr` is not given it gets the lines of
            standard error as well. Where neither is given, lines are logged at level INFO, with the
            child's path and the name of the stream.
        on_stderr: Called with each line of standard error; those of standard output then go to
            `on_output` alone, or to the log.
        on_status: Called with each status that the process sends (``STATUS=...``); while it runs,
            the last 10 wait.
        notify: Whether the program itself tells when it is ready, by sd_notify (``READY=1``), where
            the child is started with `Supervisor.start`; otherwise it is ready at once. It may then
            also send ``WATCHDOG=1``, which is a beat; it need not before ``READY=1``, however the
            child is started. ``EXTEND_TIMEOUT_USEC=...`` is a beat that allows that time until the
            next, or until it is ready.
        ready_when: An async function that is called when the program has been started: it is ready
            when that returns. For a program that cannot notify: `functools.partial` of
            `trio.sleep` for "when it has lived that long", or something that tries its port.
        ready_timeout: Seconds that it has to become ready so; ``inf`` for no limit.
        stop_signal: What it gets when the child is asked to stop.
        stop_group: Whether its whole process group gets that signal, or the program alone.
        exit_codes: The statuses that are a clean end; the negative number of a signal is death by
            that signal.
        stdin: The descriptor of an open file, pipe or socket that is its input; the caller closes
            it, not before the run has ended. Where not given, its input is empty.
        stdout: The descriptor of an open file, pipe or socket that its output goes to, in place of
            `on_output` and the log: for a program that speaks a protocol. The caller closes it,
            which it may do once the program has been started. Standard error is no part of it.
        pass_fds: Descriptors that it inherits under the same numbers, as of a socket that listens.
        env: Variables that it gets besides those of this process; None removes one. What a service
            manager told this process (``NOTIFY_SOCKET``, ``WATCHDOG_USEC``, ``WATCHDOG_PID``) is
            never passed on; ``PYTHONFAULTHANDLER=1`` is added where it is not set.
        cwd: The directory that it starts in; where not given, this process's own.
        user: As whom it runs, by name or number, with that user's groups, ``HOME``, ``LOGNAME``,
            ``USER`` and ``SHELL``.
        group: Its group, by name or number; where not given, the user's.
        umask: Its file mode creation mask.
        nice: Its priority, from -20 to 19.
        limits: By ``resource.RLIMIT_*``, the soft and the hard limit, or one number for both.

    Raises:
        TypeError: If an option is of the wrong type, such as one string for `argv`.
        ValueError: If an option has a value that cannot be.

    Source:
        systemd's services: ``Type=notify``, ``TimeoutStartSec``, ``WatchdogSec``,
        ``SuccessExitStatus`` and ``KillMode``, whose ``control-group`` is `stop_group` and
        ``mixed`` is not. Differs: death by a signal is clean only if it was asked for.
    """
    options = Options(
        argv=argv,
        on_output=on_output,
        on_stderr=on_stderr,
        on_status=on_status,
        notify=notify,
        ready_when=ready_when,
        ready_timeout=ready_timeout,
        stop_signal=stop_signal,
        stop_group=stop_group,
        exit_codes=exit_codes,
        stdin=stdin,
        stdout=stdout,
        pass_fds=pass_fds,
        env={} if env is None else env,
        cwd=cwd,
        user=user,
        group=group,
        umask=umask,
        nice=nice,
        limits={} if limits is None else limits,
    )

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the program; callbacks may be struck by it
    async def child(task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        await Run(options, task_status).run()

    child.__name__ = Path(options.program).name  # which names the child
    return child
