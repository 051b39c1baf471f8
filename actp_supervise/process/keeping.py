"""Our side of the keeper, which is started for the first run of a program and ended after the last.

`keeper` says what it is for. `Keeping` is the keeper's process; `KeptProgram` is a program in it.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, final

import trio

from . import keeper

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KEEPER_TIMEOUT: Final = 5.0
"""Seconds that a keeper has to end. Then a run keeper is woken, in case it is suspended, and the
keeper of this program is killed."""

PYTHON: Final = sys.executable
"""What runs the keeper."""

# The keeper gets the code that was imported here, and not what is in the package's folder by then:
# after an upgrade of the package that would be another version.
_CODE: Final = marshal.dumps(keeper.__spec__.loader.get_code(keeper.__name__))  # type: ignore[union-attr]
# Of a program that is killed before it has sent all of that, the keeper ends without a word: its
# traceback would stand in the log of a program that did nothing wrong.
_SCRIPT: Final = (
    "import marshal, sys\n"
    f"code = sys.stdin.buffer.read({len(_CODE)})\n"
    f"if len(code) == {len(_CODE)}: exec(marshal.loads(code))"
)


class KeeperLostError(OSError):
    """The keeper died, so it is not known whether its last order was carried out."""


class StepFailedError(OSError):
    """A program could not be started; `step` names the action that failed."""

    def __init__(self, step: str, number: int) -> None:
        super().__init__(number, os.strerror(number))
        self.step = step


@final
class Keeping:
    """The keeper's process. Each run of a program holds it; when none does any more it is ended."""

    def __init__(self) -> None:
        # The executable of a frozen program is that program, and no Python.
        if not PYTHON or getattr(sys, "frozen", False):
            raise StepFailedError("interpreter", errno.ENOEXEC)
        self._holders = 0
        self._is_lost = False
        self._privileges = _privileges()
        self._socket, theirs = _socketpair()
        try:
            with theirs, _signals_blocked():
                # Where this process has closed its output, a new descriptor may have that number.
                channel = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 3)
                try:
                    self._process = self._start_process(channel)
                finally:
                    os.close(channel)
                self._send_code()
        except OSError as error:
            self._socket.close()
            raise StepFailedError("interpreter", error.errno or errno.EINVAL) from error

    def _start_process(self, channel: int) -> subprocess.Popen[bytes]:
        label = f"keeper of {os.getpid()}"
        numbers = map(str, (channel, os.getpid()))
        return subprocess.Popen(  # noqa: S603
            [PYTHON, "-I", "-S", "-c", _SCRIPT, label, *numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[channel],
            cwd="/",  # so that it keeps no file system busy
            start_new_session=True,  # out of the reach of Ctrl-C
        )

    def _send_code(self) -> None:
        assert self._process.stdin is not None  # noqa: S101
        try:
            with self._process.stdin as stdin:
                stdin.write(_CODE)  # which fits into a pipe, so that it waits for nothing
        except OSError:
            self._process.kill()
            self._process.wait()
            raise

    @classmethod
    def hold(cls) -> Keeping:
        """Return the keeper of this Trio run, and start it where there is none.

        Raises:
            OSError: If it cannot be started.
        """
        keeping = _of_this_run.get()
        if keeping is None or not keeping.is_usable:
            keeping = cls()
            _of_this_run.set(keeping)
        keeping._holders += 1
        return keeping

    @property
    def is_usable(self) -> bool:
        """Whether a further run may be started in it."""
        return not (
            self._is_lost
            or self._holders == 0  # it is being ended
            or self.is_dead
            or self._privileges != _privileges()  # which programs inherit from it
        )

    @property
    def is_dead(self) -> bool:
        """Whether the keeper was killed, or has ended."""
        return self._process.poll() is not None

    async def release(self) -> None:
        """Release one hold of the keeper; with the last one released, the keeper is ended."""
        self._holders -= 1
        if self._holders > 0:
            return
        with trio.CancelScope(shield=True):
            with suppress(OSError), trio.move_on_after(KEEPER_TIMEOUT):
                self._socket.shutdown(socket.SHUT_WR)
                await trio.lowlevel.wait_readable(self._socket)  # noqa: ASYNC102
            self._socket.close()
            self._process.kill()  # which does nothing to one that has ended
            await trio.to_thread.run_sync(self._process.wait, limiter=trio.CapacityLimiter(1))

    async def start(self, order: keeper.Order, descriptors: Sequence[int]) -> KeptProgram:
        """Start a program.

        Args:
            order: What is to be started.
            descriptors: Those whose numbers in the program are the order's `targets`; they may be
                closed on return.

        Raises:
            StepFailedError: If it cannot be started.
            KeeperLostError: If the keeper has died.
            OSError: If this process has no descriptor left.
        """
        ours, theirs = _socketpair()
        program = KeptProgram(self, ours)
        try:
            with theirs:
                await _send(self._socket, b"\0", [theirs.fileno()])
            await program.start(order, descriptors)
        except BaseException as error:
            self._is_lost = self._is_lost or isinstance(error, KeeperLostError)
            await program.end()  # noqa: ASYNC102  (shielded in itself; nothing else may go on)
            raise
        return program

    def wake(self) -> None:
        """Wake the keeper, in case it was suspended."""
        self._process.send_signal(signal.SIGCONT)

    async def reap(self, pids: Sequence[int], *, is_lost: bool) -> None:
        """Reap what a keeper that was killed has left to this process, where it is process 1.

        Args:
            pids: The run keeper and its program.
            is_lost: Whether one of the keepers is known to be dead or dying.
        """
        if not (is_lost or self.is_dead):
            return
        with trio.move_on_after(KEEPER_TIMEOUT, shield=True), suppress(ChildProcessError):
            for pid in pids:
                while os.waitpid(pid, os.WNOHANG) == (0, 0):  # noqa: ASYNC110, ASYNC222
                    await trio.sleep(0.01)


@final
class KeptProgram:
    """A program that the keeper runs.

    Args:
        keeping: The keeper.
        channel: The socket of the run.
    """

    def __init__(self, keeping: Keeping, channel: socket.socket) -> None:
        self._keeping = keeping
        self._socket = channel
        self._received = b""
        self._keeper_pid = 0
        self.pid = 0
        self.status: int | None = None
        """The exit status, once it has ended; where a signal ended it, the negative of its
        number."""
        self.is_lost = False
        """Whether its keeper was killed, and it with that."""
        self.not_permitted: tuple[int, ...] = ()
        """Processes of other users that it left behind, which may not be killed."""

    async def start(self, order: keeper.Order, descriptors: Sequence[int]) -> None:
        """See `Keeping.start`."""
        await _send(self._socket, order.to_bytes(), descriptors)
        while not self.pid:
            answer = await self._receive()
            if answer is None:
                raise KeeperLostError(None, "its keeper has ended")
            if answer[0] == keeper.FAILED:
                raise StepFailedError(*answer[1:])

    def send_signal(self, number: int, *, to_group: bool = False) -> None:
        """Send a signal to the process or to its group; one that has ended gets none."""
        scope = keeper.TO_GROUP if to_group else keeper.TO_PROCESS
        with suppress(OSError):  # the keeper is dead, or suspended and full of them
            self._socket.send(bytes((scope, number)))

    async def wait(self) -> int:
        """Wait until the program has ended, and all that it left behind; return its status."""
        while self.status is None:
            if await self._receive() is None:
                self._lose()
        return self.status

    async def end(self) -> None:
        """Kill the program if it still runs, and wait until nothing is left of it."""
        if self._socket.fileno() == -1:
            return
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        with trio.CancelScope(shield=True):  # only the kernel can delay it now
            while not await self._is_over():  # noqa: ASYNC102
                self._keeping.wake()
                if self._keeper_pid:
                    with suppress(ProcessLookupError):
                        os.kill(self._keeper_pid, signal.SIGCONT)
            self._socket.close()
            if self.pid and self.status is None:
                self._lose()
            pids = [pid for pid in (self._keeper_pid, self.pid) if pid]
            await self._keeping.reap(pids, is_lost=self.is_lost)  # noqa: ASYNC102

    async def _is_over(self) -> bool:
        """Wait until the keeper closes the socket, for a while."""
        with trio.move_on_after(KEEPER_TIMEOUT):
            while await self._receive() is not None:
                pass
            return True
        return False

    def _lose(self) -> None:
        self.is_lost = True
        self.status = -signal.SIGKILL
        if sys.platform != "linux" or self._keeping.is_dead:  # else the keeper has ended them
            with suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

    async def _receive(self) -> tuple[Any, ...] | None:
        """Return the keeper's next answer; None when there is none any more."""
        while True:
            size = 4 + int.from_bytes(self._received[:4], "big")
            if len(self._received) >= max(size, 5):
                answer: tuple[Any, ...] = marshal.loads(self._received[4:size])  # noqa: S302
                self._received = self._received[size:]
                self._note(answer)
                return answer
            try:
                data = self._socket.recv(4096)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                continue
            except ConnectionError:
                data = b""
            if not data:
                return None
            self._received += data

    def _note(self, answer: tuple[Any, ...]) -> None:
        match answer:
            case (keeper.KEPT, int(pid)):
                self._keeper_pid = pid
            case (keeper.STARTED, int(pid)):
                self.pid = pid
            case (keeper.EXITED, int() | None as status, list(not_permitted), bool(is_lost)):
                self.status, self.is_lost = status, is_lost
                self.not_permitted = tuple(not_permitted)
            case _:  # FAILED, which is for `start`
                pass


_of_this_run: Final = trio.lowlevel.RunVar[Keeping | None]("actp_supervise_keeping", None)


def _socketpair() -> tuple[socket.socket, socket.socket]:
    """Return our end, which does not block, and the keeper's."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)  # noqa: FBT003
    return ours, theirs


async def _send(to: socket.socket, message: bytes, descriptors: Sequence[int]) -> None:
    rest = memoryview(message)
    while rest:
        try:
            sent = socket.send_fds(to, [rest], list(descriptors))
        except BlockingIOError:
            await trio.lowlevel.wait_writable(to)
        except ConnectionError as error:
            raise KeeperLostError(error.errno, error.strerror) from error
        else:
            rest, descriptors = rest[sent:], ()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block signals in this thread, and so in a process that it starts, until that handles them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _privileges() -> tuple[object, ...]:
    return os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getgroups()
