"""One run of a program: started, looked after until it has ended, and its end judged."""

from __future__ import annotations

import errno
import inspect
import math
import os
import signal
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from actp_supervise.child import Child, current_child, record_of
from actp_supervise.errors import unwrap_single
from actp_supervise.events import logger

from .account import Account, UnknownAccountError, look_up
from .errors import ProcessExited, ProcessNotStarted
from .keeper import DIRECTORY, Order
from .keeping import PYTHON, KeeperLostError, Keeping, StepFailedError
from .notify import NOT_INHERITED, NotifySocket
from .options import LIMITS
from .output import Output, Stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from actp_supervise import record

    from .keeping import KeptProgram
    from .options import Options

ABORT_TIMEOUT: Final = 2.0
"""Seconds that a stalled process has to write its stack and end, once it got SIGABRT."""

_STATUSES: Final = 10  # that wait while on_status runs
_LONGEST_NUMBER: Final = 20  # digits; more are no number of microseconds


class Run:
    """One run of a program.

    Args:
        options: What is to be run, and how.
        task_status: Told when the program is ready.
    """

    def __init__(self, options: Options, task_status: trio.TaskStatus[int]) -> None:
        self._options = options
        self._task_status = task_status
        self._child: Child | None = None
        self._run_of_child: record.Run | None = None
        with suppress(RuntimeError):  # in a bare nursery there is none
            self._child = current_child()
            self._run_of_child = record_of(self._child).run
            _ = self._child.stopping  # from now on it is asked to stop before it is cancelled
        self._notifications: NotifySocket | None = None
        self._output = Output(())
        self._ready = trio.Event()
        self._until_ready = trio.CancelScope()
        self._asked = False

    async def run(self) -> None:
        """Start the program, look after it until it has ended, and judge its end."""
        error: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._beat_until_ready)
                async with AsyncExitStack() as resources:
                    program = await self._start(resources)
                    await self._look_after(program)
                nursery.cancel_scope.cancel(reason="the process has ended")
                self._judge(program)
        except ExceptionGroup as group:
            error = unwrap_single(group)
        if error is not None:
            raise error

    async def _beat_until_ready(self) -> None:
        """Beat for the program until it is ready: its watchdog begins then, as systemd's does."""
        watchdog = None if self._child is None else self._child.watchdog
        while watchdog is not None and not self._ready.is_set():
            self._beat()
            with trio.move_on_after(watchdog / 2):
                await self._ready.wait()

    # The start.

    async def _start(self, resources: AsyncExitStack) -> KeptProgram:
        try:
            account = await look_up(self._options.user, self._options.group)
            with ExitStack() as theirs:
                descriptors = self._open_descriptors(resources, theirs)
                order = self._order(account, list(descriptors), resources)
                return await self._start_in_keeper(order, list(descriptors.values()), resources)
        except UnknownAccountError as error:
            why = str(error)
            raise ProcessNotStarted(f"cannot start {self._options.program!r}: {why}") from error
        except OSError as error:
            step = error.step if isinstance(error, StepFailedError) else ""
            program = f"{self._options.program!r}{_where(step, self._options)}"
            raise ProcessNotStarted(f"cannot start {program}: {error.strerror}") from error

    def _open_descriptors(self, resources: AsyncExitStack, theirs: ExitStack) -> dict[int, int]:
        """Return the descriptors for the program, by the number that each has in it."""
        options = self._options
        # The caller's own come first: the number of one that is closed could be taken by the next
        # that is opened here.
        descriptors = {number: _open_already(number) for number in options.pass_fds}
        if options.stdin is not None:
            descriptors[0] = _open_already(options.stdin)
        flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY
        descriptors[DIRECTORY] = os.open(".", flags)
        theirs.callback(os.close, descriptors[DIRECTORY])
        open_stream = partial(self._open_stream, resources, theirs)
        if options.stdout is not None:
            descriptors[1] = _open_already(options.stdout)
            errors, descriptors[2] = open_stream("stderr", options.on_stderr)
            self._output = Output([errors])
            return descriptors
        output, descriptors[1] = open_stream("stdout", options.on_output)
        if options.on_stderr is None and options.on_output is not None:
            descriptors[2] = descriptors[1]
            self._output = Output([output])
        else:
            errors, descriptors[2] = open_stream("stderr", options.on_stderr)
            self._output = Output([output, errors])
        return descriptors

    def _open_stream(
        self,
        resources: AsyncExitStack,
        theirs: ExitStack,
        name: str,
        callback: Callable[[str], object] | None,
    ) -> tuple[Stream, int]:
        """Open a pipe; return what reads it, and the end to write to."""
        reading, writing = os.pipe()
        resources.callback(os.close, reading)
        theirs.callback(os.close, writing)
        os.set_blocking(reading, False)
        hand_on = partial(self._log, name) if callback is None else callback
        return Stream(reading, partial(_call, hand_on)), writing

    def _order(self, account: Account, targets: list[int], resources: AsyncExitStack) -> Order:
        options = self._options
        environment = _environment(options.env, account)
        if options.notify:
            environment |= self._listen(account, resources)
        directory = self._notifications.directory if self._notifications is not None else None
        return Order(
            argv=[os.fsencode(argument) for argument in options.argv],
            environment={
                os.fsencode(name): os.fsencode(value) for name, value in environment.items()
            },
            groups=(account.group, account.groups),
            leftover=None if directory is None else os.fsencode(directory),
            limits=options.soft_and_hard(),
            nice=options.nice,
            programs=_places_of(options.program, environment),
            targets=targets,
            umask=options.umask,
            user=account.user,
            working_directory=None if options.cwd is None else os.fsencode(options.cwd),
        )

    def _listen(self, account: Account, resources: AsyncExitStack) -> dict[str, str]:
        """Open the notification socket, and return the variables that announce it."""
        user = None
        if account.user is not None and account.group is not None:
            user = (account.user, account.group)
        try:
            self._notifications = NotifySocket(user)
        except OSError as error:
            raise StepFailedError("notify", error.errno or errno.EINVAL) from error
        resources.callback(self._notifications.close)
        environment = {"NOTIFY_SOCKET": self._notifications.address}
        watchdog = math.inf if self._child is None else self._child.watchdog or math.inf
        if watchdog < math.inf:
            environment["WATCHDOG_USEC"] = str(int(watchdog * 1_000_000))
        return environment

    async def _start_in_keeper(
        self, order: Order, descriptors: Sequence[int], resources: AsyncExitStack
    ) -> KeptProgram:
        try:
            return await self._try_to_start(order, descriptors, resources)
        except KeeperLostError:  # it may have been killed since the last run
            return await self._try_to_start(order, descriptors, resources)

    async def _try_to_start(
        self, order: Order, descriptors: Sequence[int], resources: AsyncExitStack
    ) -> KeptProgram:
        keeping = Keeping.hold()
        try:
            program = await keeping.start(order, descriptors)
        except BaseException:
            await keeping.release()  # noqa: ASYNC102  (shielded and bounded in itself)
            raise
        resources.push_async_callback(keeping.release)
        resources.push_async_callback(self._end, program)
        return program

    # While it runs.

    async def _look_after(self, program: KeptProgram) -> None:
        before = None if self._run_of_child is None else self._run_of_child.program
        self._show(program)
        try:
            async with trio.open_nursery() as nursery:
                self._attend(nursery, program)
                async with trio.open_nursery() as readers:
                    readers.start_soon(self._output.hand_on)
                    if self._notifications is not None:
                        readers.start_soon(self._take_notifications, self._notifications, program)
                    await program.wait()
                    self._show(before)
                    self._finish_reading()
                nursery.cancel_scope.cancel(reason="the process has ended")
        finally:
            self._show(before)
            if self._child is not None and self._child.stalled and program.status is None:
                await self._abort(program)  # noqa: ASYNC102  (bounded)

    def _show(self, program: record.Program | None) -> None:
        """Make the program known to the child, for `Child.pid` and `Child.send_signal`."""
        if self._run_of_child is not None:
            self._run_of_child.program = program

    def _attend(self, nursery: trio.Nursery, program: KeptProgram) -> None:
        """Start the tasks that wait for the program to be ready and for a request to stop."""
        if self._child is not None:
            nursery.start_soon(self._stop_when_asked, self._child, program)
        if self._options.ready_when is not None:
            nursery.start_soon(self._until_ready_by, self._options.ready_when, program)
        if self._options.notify or self._options.ready_when is not None:
            nursery.start_soon(self._expect_ready)
        else:
            self._is_ready(program)

    async def _stop_when_asked(self, child: Child, program: KeptProgram) -> None:
        await child.stopping.wait()
        self._asked = True
        program.send_signal(self._options.stop_signal, to_group=self._options.stop_group)
        program.send_signal(signal.SIGCONT, to_group=True)  # a suspended process could not stop

    def _finish_reading(self) -> None:
        self._output.finish()
        if self._notifications is not None:
            self._notifications.source.finish()

    def _beat(self, within: float | None = None) -> None:
        if self._child is not None:
            self._child.beat(within=within)

    # What it tells.

    def _is_ready(self, program: KeptProgram) -> None:
        if not self._ready.is_set():
            self._ready.set()
            self._beat()
            self._task_status.started(program.pid)

    async def _until_ready_by(
        self, ready_when: Callable[[], Awaitable[object]], program: KeptProgram
    ) -> None:
        await _unprotected(ready_when)
        self._is_ready(program)

    async def _expect_ready(self) -> None:
        timeout = self._options.ready_timeout
        with self._until_ready:
            self._until_ready.deadline = trio.current_time() + timeout
            await self._ready.wait()
            return
        what = "sent no READY=1" if self._options.notify else "was not ready"
        message = f"{self._options.program!r} {what} within {timeout} s"
        raise ProcessNotStarted("\n  ".join([message, *self._output.last_lines]))

    async def _take_notifications(self, notifications: NotifySocket, program: KeptProgram) -> None:
        """Take the program's messages as they come; a slow `on_status` holds up no beat."""
        tell, told = trio.open_memory_channel[str](_STATUSES)
        async with told, trio.open_nursery() as nursery:
            nursery.start_soon(self._hand_on_statuses, told)
            with tell:
                while (message := await notifications.receive()) is not None:
                    for name, value in message:
                        if name == "STATUS":
                            _send_latest(value, tell, told)
                            # So that the status is handed on before a READY=1 that follows it: when
                            # `start` returns, its caller has got all statuses up to then.
                            await trio.lowlevel.checkpoint()
                        else:
                            self._take(name, value, program)

    def _take(self, name: str, value: str, program: KeptProgram) -> None:
        if (name, value) == ("READY", "1"):
            self._is_ready(program)
        elif (name, value) == ("WATCHDOG", "1"):
            self._beat()
        elif name == "EXTEND_TIMEOUT_USEC" and value.isdecimal() and len(value) < _LONGEST_NUMBER:
            self._extend(int(value) / 1_000_000)

    def _extend(self, seconds: float) -> None:
        if self._ready.is_set():
            watchdog = self._child.watchdog if self._child is not None else None
            self._beat(max(seconds, watchdog or 0.0))
        else:
            until = trio.current_time() + seconds
            self._until_ready.deadline = max(self._until_ready.deadline, until)

    async def _hand_on_statuses(self, told: trio.MemoryReceiveChannel[str]) -> None:
        async for status in told:
            if self._options.on_status is not None:
                await _call(self._options.on_status, status)

    def _log(self, stream: str, line: str) -> None:
        name = self._options.program
        extra = {"action": "process_output", "stream": stream}
        if self._child is not None:
            name = extra["path"] = "/".join(self._child.path)
        apart = "" if stream == "stdout" else f" ({stream})"
        with suppress(Exception):  # a log that cannot be written is no reason to end the program
            logger.info("%s%s: %s", name, apart, line, extra=extra)

    # The end.

    async def _abort(self, program: KeptProgram) -> None:
        """Make a stalled process write its stack, kill it, and raise what is known of it."""
        self._output.expect_stack()
        with trio.move_on_after(ABORT_TIMEOUT, shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._output.hand_on)
                program.send_signal(signal.SIGABRT)
                program.send_signal(signal.SIGCONT)
                await program.wait()
                self._finish_reading()
        await program.end()
        raise self._exited(program)

    async def _end(self, program: KeptProgram) -> None:
        await program.end()
        if program.not_permitted:
            pids = ", ".join(map(str, program.not_permitted))
            message = "%r has left processes that may not be killed: %s"
            extra = {"action": "process_left"}
            with suppress(Exception):
                logger.warning(message, self._options.program, pids, extra=extra)

    def _judge(self, program: KeptProgram) -> None:
        """Raise an error unless it ended well."""
        clean = set(self._options.exit_codes)
        if self._asked:
            number = self._options.stop_signal
            clean |= {0, -number, 128 + number}
        if program.status not in clean:
            raise self._exited(program)

    def _exited(self, program: KeptProgram) -> ProcessExited:
        return ProcessExited(
            self._options.program,
            -signal.SIGKILL if program.status is None else program.status,
            self._output.last_lines,
            "its keeper was killed" if program.is_lost else "",
        )


def _open_already(descriptor: int) -> int:
    """Return a descriptor that the caller has opened, or raise an error that says it is closed."""
    try:
        os.fstat(descriptor)
    except OSError as error:
        raise StepFailedError(f"descriptor {descriptor}", error.errno or errno.EBADF) from error
    return descriptor


def _where(step: str, options: Options) -> str:
    """Return words for the step at which a start failed; none for the program itself."""
    name, _, number = step.partition(" ")
    if name == "limit":
        limit = int(number)
        return f" with {LIMITS[limit]} {options.limits[limit]}"
    if name == "descriptor":
        return f" with descriptor {number}"
    if name == "cwd":
        return f" in {os.fspath(options.cwd or os.curdir)!r}"
    if name in {"user", "group"}:
        return (
            f" as user {options.user!r}"
            if options.user is not None
            else f" as group {options.group!r}"
        )
    return {
        "nice": f" with nice {options.nice}",
        "notify": " with a socket for its notifications",
        "interpreter": f" with {PYTHON!r} as its keeper",
    }.get(name, "")


def _environment(given: Mapping[str, str | None], account: Account) -> dict[str, str]:
    environment = {"PYTHONFAULTHANDLER": "1", **os.environ, **account.environment}
    for name, value in given.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    return {name: value for name, value in environment.items() if name not in NOT_INHERITED}


def _places_of(program: str, environment: Mapping[str, str]) -> list[bytes]:
    """Return where a program may be, in the order in which it is looked for."""
    if os.sep in program:
        return [os.fsencode(program)]
    return [os.fsencode(Path(folder, program)) for folder in os.get_exec_path(environment)]


def _send_latest(
    status: str, tell: trio.MemorySendChannel[str], told: trio.MemoryReceiveChannel[str]
) -> None:
    """Queue a status; where there is no room, the oldest one that waits is dropped."""
    try:
        tell.send_nowait(status)
    except trio.WouldBlock:
        told.receive_nowait()
        tell.send_nowait(status)


async def _call(callback: Callable[[str], object], argument: str) -> None:
    await _unprotected(partial(callback, argument))


@trio.lowlevel.disable_ki_protection
async def _unprotected(callback: Callable[[], object]) -> None:
    """Call a user's callback without protection from Ctrl-C, as any code of theirs."""
    result = callback()
    if inspect.isawaitable(result):
        await result
