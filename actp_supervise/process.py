"""An operating-system process as a child: `process_child`.

It is started in a session of its own, so that it and all that it starts can be ended together, and
nothing of it outlives the run. It talks to its supervisor as a systemd service does (sd_notify).
"""

from __future__ import annotations

import codecs
import inspect
import math
import os
import signal
import socket
import subprocess
import tempfile
from collections import deque
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from .errors import SupervisionError, unwrap_single
from .events import logger
from .nursery import Child, current_child

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from typing import Any

MAX_LINE: Final = 65_536
"""Characters after which a line is handed on in pieces, so that none fills the memory."""
LAST_LINES: Final = 10
"""How many of the last lines of output a `ProcessExited` shows; 200 characters of each."""

_CHUNK: Final = 65_536
_LEFT_OVER: Final = 1_048_576  # bytes read after the exit: as much as the largest pipe holds
_NOTIFY_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ProcessNotStarted(SupervisionError):
    """The program could not be started, or did not say in time that it is ready."""


class ProcessExited(SupervisionError):
    """A process ended with another status than 0, or by a signal, and nobody had asked it to.

    Of its arguments it shows the first alone, since others may hold secrets.
    """

    def __init__(self, program: str, returncode: int, output: tuple[str, ...]) -> None:
        how = f"exited with status {returncode}"
        if returncode < 0:
            how = f"was killed by {_signal_name(-returncode)}"
        super().__init__("\n  ".join([f"{program!r} {how}", *output]))
        self.program = program
        self.returncode = returncode
        """The exit status; where a signal ended it, the negative of its number."""
        self.output = output
        """The last lines that it wrote."""


def process_child(
    argv: Sequence[str | os.PathLike[str]],
    *,
    on_output: Callable[[str], object] | None = None,
    on_status: Callable[[str], object] | None = None,
    notify: bool = False,
    ready_timeout: float = 90.0,
    stop_signal: signal.Signals = signal.SIGTERM,
    stop_group: bool = True,
    stdin: int | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Callable[..., Coroutine[Any, Any, None]]:
    """Make a Trio async function that runs a program for as long as the program does.

    It returns when the program exits with status 0, or as it was asked to. Asked to stop, the
    process gets `stop_signal`; cancelled (so also when its time to stop is over) it is killed at
    once. When it has ended, whatever is left of its process group is killed.

    Any other end is a `ProcessExited`, a program that cannot be started a `ProcessNotStarted`.

    Callbacks are called inside the child and may be async functions. While `on_output` runs nothing
    more is read, so that a slow one slows the process and loses nothing.

    Args:
        argv: The program, searched on ``PATH``, and its arguments.
        on_output: Called with each line of output and errors, in order, without its end; what is
            not UTF-8 is replaced. Where not given, lines are logged at level INFO.
        on_status: Called with each status that the process sends (``STATUS=...``).
        notify: Whether it says itself that it is ready, by sd_notify (``READY=1``), where the
            child is started with `Supervisor.start`; else it is ready at once. It may then
            also send ``WATCHDOG=1``, which is a beat; it need not before ``READY=1``, however the
            child is started.
        ready_timeout: Seconds that it has to send ``READY=1``; ``inf`` for no limit.
        stop_signal: What it gets when the child is asked to stop.
        stop_group: Whether all of its process group get that signal, or it alone.
        stdin: The descriptor of an open file, pipe or socket that is its input; the caller closes
            it, not before the run has ended. Where not given, its input is empty.
        env: Its whole environment; where not given, this process's own.
        cwd: The directory that it starts in; where not given, this process's own.

    Raises:
        TypeError: If `argv` is one string.
        ValueError: If `argv` is empty, or `ready_timeout` out of range.

    Source:
        systemd's services: ``Type=notify``, ``TimeoutStartSec``, ``WatchdogSec`` and ``KillMode``,
        whose ``control-group`` is `stop_group` and ``mixed`` is not. Differs: death by a signal is
        clean only if it was asked for, and a missed watchdog kills with SIGKILL instead of SIGABRT.
    """
    if isinstance(argv, (str, bytes)):
        raise TypeError("argv must be a sequence of arguments, not one string")
    if not argv:
        raise ValueError("argv must name a program")
    if not ready_timeout > 0:
        raise ValueError(f"ready_timeout must be a positive number of seconds, not {ready_timeout}")
    arguments = [os.fspath(argument) for argument in argv]

    async def child(task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        with suppress(RuntimeError):  # in a bare nursery there is none
            current_child().stopping  # it listens  # noqa: B018
        process = _Process(
            arguments[0], on_output, on_status, stop_signal, task_status, stop_group=stop_group
        )
        with ExitStack() as resources:
            environment = dict(env) if env is not None else _own_environment()
            if notify:
                environment |= process.listen(resources)
            await process.start(arguments, stdin, environment, cwd, resources)
            await process.run(ready_timeout)

    child.__name__ = Path(arguments[0]).name  # which names the child
    return child


class _Process:
    """One run of a program."""

    _process: trio.Process

    def __init__(
        self,
        program: str,
        on_output: Callable[[str], object] | None,
        on_status: Callable[[str], object] | None,
        stop_signal: signal.Signals,
        task_status: trio.TaskStatus[int],
        *,
        stop_group: bool,
    ) -> None:
        self._program = program
        self._on_output = self._log if on_output is None else on_output
        self._on_status = on_status
        self._stop_signal = stop_signal
        self._stop_group = stop_group
        self._task_status = task_status
        self._child: Child | None = None
        with suppress(RuntimeError):  # in a bare nursery there is none
            self._child = current_child()
        self._sources: list[_Source] = []
        self._notifications: _Source | None = None
        self._ready = trio.Event()
        self._asked = False
        self._ended = False
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)

    def listen(self, resources: ExitStack) -> dict[str, str]:
        """Open the notification socket, and return the environment that announces it."""
        directory = resources.enter_context(tempfile.TemporaryDirectory(prefix="notify-"))
        receiver = resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        receiver.settimeout(0)
        address = str(Path(directory, "socket"))
        receiver.bind(address)
        self._notifications = _Source(receiver.fileno(), receiver.recv)
        self._sources.append(self._notifications)
        environment = {"NOTIFY_SOCKET": address}
        if self._child is not None and self._child.watchdog is not None:
            environment["WATCHDOG_USEC"] = str(int(self._child.watchdog * 1_000_000))
        return environment

    async def start(
        self,
        argv: list[str],
        stdin: int | None,
        environment: dict[str, str],
        cwd: str | os.PathLike[str] | None,
        resources: ExitStack,
    ) -> None:
        """Start the program."""
        read_end, write_end = os.pipe()
        resources.callback(os.close, read_end)
        os.set_blocking(read_end, False)
        self._output = _Source(read_end, partial(os.read, read_end))
        self._sources.append(self._output)
        try:
            self._process = await trio.lowlevel.open_process(
                argv,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=write_end,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            place = "" if cwd is None or error.filename != cwd else f" in {os.fspath(cwd)!r}"
            raise ProcessNotStarted(
                f"cannot start {self._program!r}{place}: {error.strerror}"
            ) from error
        finally:
            os.close(write_end)

    async def run(self, ready_timeout: float) -> None:
        """Look after the process until it has ended, and judge its end."""
        error: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                if self._child is not None:
                    nursery.start_soon(self._stop_when_asked, self._child)
                if self._notifications is not None:
                    nursery.start_soon(self._expect_ready, ready_timeout)
                else:
                    self._is_ready()
                async with trio.open_nursery() as readers:
                    readers.start_soon(self._hand_on_output)
                    if self._notifications is not None:
                        readers.start_soon(self._take_notifications, self._notifications)
                    await self._process.wait()
                    self._kill_group()  # what it left behind
                    self._ended = True
                    for source in self._sources:
                        source.finish()
                nursery.cancel_scope.cancel(reason="the process has ended")
        except ExceptionGroup as group:
            error = unwrap_single(group)
        finally:
            self._kill_group()
            with trio.CancelScope(shield=True):  # only the kernel can delay it now
                await self._process.wait()  # noqa: ASYNC102
        if error is not None:
            raise error
        returncode = self._process.returncode
        asked_for = (-self._stop_signal, 128 + self._stop_signal) if self._asked else ()
        if returncode is not None and returncode not in (0, *asked_for):
            raise ProcessExited(self._program, returncode, tuple(self._last_lines))

    async def _stop_when_asked(self, child: Child) -> None:
        await child.stopping.wait()
        self._asked = True
        if self._stop_group:
            self._signal_group(self._stop_signal)
        else:
            with suppress(ProcessLookupError):
                self._process.send_signal(self._stop_signal)
        self._signal_group(signal.SIGCONT)  # what is suspended could not stop

    def _kill_group(self) -> None:
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        """Signal all of the process group, unless it is gone."""
        if not self._ended:  # from then on its number may be another's
            # macOS answers EPERM for a group of zombies.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _beat(self) -> None:
        if self._child is not None:
            self._child.beat()

    def _is_ready(self) -> None:
        if not self._ready.is_set():
            self._ready.set()
            self._beat()
            self._task_status.started(self._process.pid)

    async def _expect_ready(self, ready_timeout: float) -> None:
        """Wait until it is ready; its watchdog begins then, as systemd's does."""
        watchdog = self._child.watchdog if self._child is not None else None
        with trio.move_on_after(ready_timeout):
            while not self._ready.is_set():
                self._beat()
                with trio.move_on_after(math.inf if watchdog is None else watchdog / 2):
                    await self._ready.wait()
            return
        raise ProcessNotStarted(f"{self._program!r} sent no READY=1 within {ready_timeout} s")

    async def _take_notifications(self, source: _Source) -> None:
        while (message := await source.read(4096)) is not None:
            for line in message.decode("utf-8", "replace").splitlines():
                if line == "READY=1":
                    self._is_ready()
                elif line == "WATCHDOG=1":
                    self._beat()
                elif line.startswith("STATUS=") and self._on_status is not None:
                    await _call(self._on_status, line.removeprefix("STATUS="))

    async def _hand_on_output(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        while chunk := await self._output.read(_CHUNK):
            *lines, rest = (rest + decoder.decode(chunk)).split("\n")
            for line in lines:
                for piece in _cut(line.removesuffix("\r")):
                    await self._hand_on(piece)
            *pieces, rest = _cut(rest)
            for piece in pieces:
                await self._hand_on(piece)
        if rest := rest + decoder.decode(b"", final=True):
            await self._hand_on(rest)

    async def _hand_on(self, line: str) -> None:
        self._last_lines.append(line[:200])
        await _call(self._on_output, line)

    def _log(self, line: str) -> None:
        logger.info("%s: %s", self._program, line, extra={"action": "process_output"})


class _Source:
    """What a process sends: all of it while the process lives, then what is there already.

    So nothing is lost, and nobody waits for a grandchild that holds the other end open.
    """

    def __init__(self, fd: int, receive: Callable[[int], bytes]) -> None:
        self._fd = fd
        self._receive = receive
        self._left = _LEFT_OVER
        self._is_finished = False
        self._waiting = trio.CancelScope()

    async def read(self, size: int) -> bytes | None:
        """Return what is sent next; None when there is no more."""
        await trio.lowlevel.checkpoint()
        while self._left > 0:
            try:
                data = self._receive(size)
            except BlockingIOError:
                if self._is_finished:
                    return None
                with trio.CancelScope() as self._waiting:
                    await trio.lowlevel.wait_readable(self._fd)
            else:
                if self._is_finished:
                    self._left -= len(data)
                return data
        return None

    def finish(self) -> None:
        """Wait for nothing more."""
        self._is_finished = True
        self._waiting.cancel(reason="the process has ended")


async def _call(callback: Callable[[str], object], argument: str) -> None:
    result = callback(argument)
    if inspect.isawaitable(result):
        await result


def _cut(line: str) -> list[str]:
    return [line[i : i + MAX_LINE] for i in range(0, len(line), MAX_LINE)] or [""]


def _own_environment() -> dict[str, str]:
    # What systemd told this process is not for its children.
    return {name: value for name, value in os.environ.items() if name not in _NOTIFY_VARIABLES}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
