"""The keeper: a small process that runs programs for ours, so that none of them outlives it.

::

    our program ── keeper ─┬─ run keeper ── program ── its helpers
                           └─ run keeper ── program ── its helpers

It is a Python of its own, which imports little and has one thread; so it may fork, and what a
program is to have (limits, groups, signals) is set between fork and exec. A run keeper is the
parent of one program: a signal that it sends can reach no other process, it is told the exit
status whatever our program does with SIGCHLD, and on Linux what the program leaves behind becomes
its child, so that it can end all of it.

A run keeper ends everything when our program closes the run's socket or dies, and when the keeper
dies. `keeping` is the other side: it starts this module's code, and imports its names.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import marshal
import os
import resource
import select
import sys
from array import array

TYPE_CHECKING = False  # typing, and what signal and socket import, would double the time to start
if TYPE_CHECKING:
    import signal
    import socket
    from collections.abc import Callable
    from typing import Any, NoReturn
else:
    import _signal as signal
    import _socket as socket

TO_PROCESS = 0
"""A signal for the program alone: the first of the two bytes of a command; the second is its
number."""
TO_GROUP = 1
"""A signal for the program's process group."""

KEPT = 0
"""An answer: the run keeper exists. It comes with the process id of the run keeper. Both
keepers send it: the other may be suspended or killed before it can."""
STARTED = 1
"""An answer: the program runs. It comes with the process id of the program."""
FAILED = 2
"""An answer: the program does not run. It comes with the failed step and the error's number."""
EXITED = 3
"""An answer: all processes have ended. It comes with the exit status (None if the program itself
may not be killed), the ids of processes that may not be killed, and whether the keeper was lost."""

DIRECTORY = -1
"""The target of the descriptor of our program's working directory; other targets are numbers."""
MOST_DESCRIPTORS = 240
"""How many descriptors fit into a message; Linux takes 253."""

_LOOK_AGAIN = 50  # milliseconds, while processes are being killed
_LOOK_FOR_OWNER = 1000  # milliseconds, where no descriptor tells that our program has died
_CAN_PEEK = hasattr(os, "waitid")  # macOS has it from Python 3.13 on
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Order:
    """What is to be started, and how."""

    __slots__ = (
        "argv",
        "environment",
        "groups",
        "leftover",
        "limits",
        "nice",
        "programs",
        "targets",
        "umask",
        "user",
        "working_directory",
    )

    def __init__(
        self,
        argv: list[bytes],
        environment: dict[bytes, bytes],
        groups: tuple[int | None, list[int] | None],
        leftover: bytes | None,
        limits: list[tuple[int, int, int]],
        nice: int | None,
        programs: list[bytes],
        targets: list[int],
        umask: int | None,
        user: int | None,
        working_directory: bytes | None,
    ) -> None:
        self.argv = argv
        self.environment = environment
        self.groups = groups
        """The group and the supplementary groups; None leaves them as they are."""
        self.leftover = leftover
        """A directory with a socket in it, which is removed when the run is over."""
        self.limits = limits
        """Each with its soft and its hard value."""
        self.nice = nice
        self.programs = programs
        """Where to look for the program, in order."""
        self.targets = targets
        """The numbers that the program is to see for the descriptors that are sent with the
        order."""
        self.umask = umask
        self.user = user
        self.working_directory = working_directory

    def to_bytes(self) -> bytes:
        """Return the order as the bytes that are sent."""
        return packed(tuple(getattr(self, name) for name in self.__slots__))


def packed(value: Any) -> bytes:  # noqa: ANN401  (what marshal can hold)
    """Return a message: the length in four bytes, and the value."""
    body = marshal.dumps(value)
    return len(body).to_bytes(4, "big") + body


# One run.


class RunKeeper:
    """The parent of one program.

    Args:
        channel: The socket of the run. When its other end is closed, everything is to end.
        life: A pipe whose other end is the keeper's alone, so it is closed when the keeper dies.
        adopts: Whether processes whose parent has ended become this one's children.
    """

    def __init__(self, channel: socket.socket, life: int, *, adopts: bool) -> None:
        self._channel = channel
        self._life = life
        self._adopts = adopts
        self._wakeup = _wakeup_by_sigchld()
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._pid = 0
        self._status: int | None = None  # of the program, once it has ended
        self._verdict = -1  # a pipe by which the program's process says why it could not start
        self._commands = b""
        self._is_ending = False
        self._is_childless = False
        self._is_orphan = False
        self._not_permitted: list[int] = []

    def serve(self) -> None:
        """Run a program to its end, and leave nothing of it behind."""
        self._send(KEPT, os.getpid())
        order, descriptors = self._receive_order()
        if order is None:
            return
        if len(descriptors) != len(order.targets):  # the kernel drops those that find no room
            self._send(FAILED, "descriptors", errno.EMFILE)
        elif self._start(order, descriptors):
            self._watch(self._channel.fileno(), self._take_commands)
            self._watch(self._life, self._keeper_is_lost)
            self._watch(self._wakeup, self._wake)
            self._watch(self._verdict, self._take_verdict)
            self._until_all_is_ended()
        if order.leftover is not None:
            _remove(order.leftover)
        if self._pid:
            self._send(EXITED, self._status, self._not_permitted, self._is_orphan)

    def _receive_order(self) -> tuple[Order | None, list[int]]:
        data, descriptors = _receive(self._channel, 65_536)
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            more = self._channel.recv(1_048_576)
            if not more:
                return None, descriptors
            data += more
        return Order(*marshal.loads(data[4:])), descriptors  # noqa: S302  (from our own program)

    def _start(self, order: Order, descriptors: list[int]) -> bool:
        keeper = os.getpid()
        try:
            self._verdict, failure = os.pipe()
            self._pid = os.fork()
        except OSError as error:
            self._send(FAILED, "fork", error.errno)
            return False
        if self._pid == 0:
            become_program(order, descriptors, failure, keeper)
        for descriptor in (failure, *descriptors):
            os.close(descriptor)
        return True

    def _watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, select.POLLIN)

    def _until_all_is_ended(self) -> None:
        while True:
            self._reap()
            if self._is_ending and not self._kill_the_rest():
                return
            for descriptor, _ in self._poll.poll(_LOOK_AGAIN if self._is_ending else None):
                if descriptor in self._handlers:  # else one handled before it has unregistered it
                    self._handlers[descriptor]()

    def _forget(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def _wake(self) -> None:
        os.read(self._wakeup, 4096)

    def _keeper_is_lost(self) -> None:
        self._forget(self._life)
        self._is_orphan = self._is_ending = True

    def _take_verdict(self) -> None:
        """Send whether the program started; if not, the pipe holds the step that failed."""
        if self._verdict not in self._handlers:
            return
        self._forget(self._verdict)
        failure = os.read(self._verdict, 4096)
        os.close(self._verdict)
        if failure:
            step, number = marshal.loads(failure)  # noqa: S302  (from the process forked above)
            self._send(FAILED, step, number)
        else:
            self._send(STARTED, self._pid)

    def _take_commands(self) -> None:
        try:
            data = self._channel.recv(4096)
        except ConnectionError:
            data = b""
        if not data:
            self._forget(self._channel.fileno())
            self._is_ending = True
        self._commands += data
        while len(self._commands) >= 2:
            scope, number = self._commands[:2]
            self._commands = self._commands[2:]
            if self._status is None:  # not reaped, so the process id is still the program's
                _kill_quietly(os.killpg if scope == TO_GROUP else os.kill, self._pid, number)

    def _reap(self) -> None:
        while True:
            if self._status is None and _has_ended(self._pid):
                # While the program is not reaped, no other process can get its process id.
                _kill_quietly(os.killpg, self._pid, signal.SIGKILL)
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._is_childless = True
                return
            if pid == 0:
                return
            if pid == self._pid:
                if not _CAN_PEEK:  # the next best: the number became free just now
                    _kill_quietly(os.killpg, pid, signal.SIGKILL)
                self._take_verdict()
                self._status = os.waitstatus_to_exitcode(status)
                self._is_ending = True

    def _kill_the_rest(self) -> bool:
        """Kill the processes that are left; return whether the end of any has to be waited for."""
        if self._is_childless:
            return False
        if self._status is None:
            _kill_quietly(os.killpg, self._pid, signal.SIGKILL)
        children = _children() if self._adopts else None
        if children is None:
            children = [] if self._status is not None else [self._pid]
            is_to_be_waited_for = False
        else:
            is_to_be_waited_for = not children  # the list may lack some while others end
        self._not_permitted = []
        for pid in children:
            if _kill_quietly(os.kill, pid, signal.SIGKILL):
                is_to_be_waited_for = True
            else:
                self._not_permitted.append(pid)
        return is_to_be_waited_for

    def _send(self, *answer: object) -> None:
        _send(self._channel.fileno(), *answer)


# The program, between fork and exec.


def become_program(order: Order, descriptors: list[int], failure: int, keeper: int) -> NoReturn:
    """Turn this process into the program, or send the step that failed, and its error."""
    step, number = "descriptors", errno.EINVAL
    try:
        failure, *sources = _above(order.targets, [failure, *descriptors])
        places = dict(zip(order.targets, sources, strict=True))
        for step, action in _steps(order, places, keeper):  # noqa: B007  (used below)
            action()
    except OSError as error:
        number = error.errno or number
    except MemoryError:  # one of the limits is too small
        number = errno.ENOMEM
    finally:
        try:
            os.write(failure, marshal.dumps((step, number)))
        finally:  # or it would go on as a second keeper
            os._exit(127)


def _steps(
    order: Order, places: dict[int, int], keeper: int
) -> list[tuple[str, Callable[[], object]]]:
    """Return what is to be done, in order, each with the name that `keeping` knows it by."""
    steps: list[tuple[str, Callable[[], object]]] = [
        ("session", os.setsid),
        ("descriptors", lambda: _place(places)),
        ("nice", lambda: _set_nice(order.nice)),
    ]
    steps += [(f"limit {limit[0]}", _setting_of(*limit)) for limit in order.limits]
    steps += [
        ("group", lambda: _set_groups(*order.groups)),
        ("user", lambda: _set_user(order.user)),
        ("cwd", lambda: _change_directory(places[DIRECTORY], order.working_directory)),
        ("umask", lambda: order.umask is not None and os.umask(order.umask)),
        ("keeper", lambda: _die_with(keeper)),  # after the user: a change of it undoes this
        ("exec", lambda: _execute(order)),
    ]
    return steps


def _above(targets: list[int], descriptors: list[int]) -> list[int]:
    """Duplicate descriptors to numbers above all numbers that the program is to have."""
    lowest = max(3, *targets) + 1
    return [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest) for fd in descriptors]


def _place(places: dict[int, int]) -> None:
    if 0 not in places:
        places[0] = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for target, source in places.items():
        if target != DIRECTORY:
            os.dup2(source, target)  # and the program inherits it


def _set_nice(nice: int | None) -> None:
    if nice is not None:
        os.setpriority(os.PRIO_PROCESS, 0, nice)


def _setting_of(limit: int, soft: int, hard: int) -> Callable[[], None]:
    def set_limit() -> None:
        try:
            resource.setrlimit(limit, (soft, hard))
        except ValueError:  # what Python makes of EPERM; `options` has refused what is EINVAL
            raise PermissionError(errno.EPERM, "") from None

    return set_limit


def _set_groups(group: int | None, others: list[int] | None) -> None:
    # A process that has these groups already needs no privilege to have them.
    if others is not None and set(others) != set(os.getgroups()):
        os.setgroups(others)
    if group is not None and (os.getgid(), os.getegid()) != (group, group):
        os.setregid(group, group)


def _set_user(user: int | None) -> None:
    if user is not None and (os.getuid(), os.geteuid()) != (user, user):
        os.setreuid(user, user)


def _change_directory(ours: int, directory: bytes | None) -> None:
    # Our directory is entered only if it is needed: the program's user may have no right to enter.
    if directory is None or not directory.startswith(b"/"):
        os.fchdir(ours)
    if directory is not None:
        os.chdir(directory)


def _die_with(keeper: int) -> None:
    """Ask the kernel to kill this process when the run keeper dies (on Linux)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os.kill(os.getpid(), signal.SIGKILL)


def _execute(order: Order) -> None:
    # `_prepare_signals` has set all handlers as the program is to find them; the mask is left.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    problem: OSError | None = None
    for program in order.programs:
        try:
            os.execve(program, order.argv, order.environment)  # noqa: S606
        except OSError as error:
            if problem is None or error.errno not in {errno.ENOENT, errno.ENOTDIR}:
                problem = error
    assert problem is not None  # noqa: S101
    raise problem


# The keeper itself.


class Keeper:
    """The process that forks a run keeper for each run, and sees to what one leaves behind.

    Args:
        channel: Over which our program sends, for each run, the socket of the run.
        owner: The process id of our program.
    """

    def __init__(self, channel: socket.socket, owner: int) -> None:
        self._channel = channel
        self._owner = owner
        self._adopts = _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._wakeup = _wakeup_by_sigchld()
        self._life_of_others, self._life = os.pipe()
        self._runs: dict[int, int] = {}
        """By the process id of its keeper, the socket of each run. Our program takes the run to be
        over when this last copy is closed."""
        self._broken: list[int] = []
        """The sockets of runs whose run keeper was killed; what it ran is being ended."""
        self._is_ending = False
        self._owner_descriptor = _descriptor_of(owner)

    def serve(self) -> None:
        """Keep runs until our program closes its socket or dies, and all of them are over."""
        poll = select.poll()
        for descriptor in (self._channel.fileno(), self._wakeup, self._owner_descriptor):
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN)
        if os.getppid() != self._owner:  # it died before the descriptor was opened
            self._end()
        while not self._is_ending or self._runs or self._broken:
            ready = {descriptor for descriptor, _ in poll.poll(self._poll_timeout())}
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
            self._reap()
            if self._owner_descriptor in ready or os.getppid() != self._owner:
                self._end()
            elif self._channel.fileno() in ready and not self._is_ending:
                self._take_run()
            if self._is_ending:
                for descriptor in ready - {self._wakeup}:
                    poll.unregister(descriptor)

    def _poll_timeout(self) -> int | None:
        if self._broken:
            return _LOOK_AGAIN
        return _LOOK_FOR_OWNER if self._owner_descriptor is None else None

    def _end(self) -> None:
        if not self._is_ending:
            self._is_ending = True
            os.close(self._life)  # which tells the run keepers
            for pid in self._runs:  # and one that is suspended hears of it as well
                _kill_quietly(os.kill, pid, signal.SIGCONT)

    def _take_run(self) -> None:
        data, descriptors = _receive(self._channel, 1)
        if not data:
            self._end()
        for descriptor in descriptors:
            try:
                pid = os.fork()
            except OSError as error:
                _send(descriptor, FAILED, "fork", error.errno)
                os.close(descriptor)
                continue
            if pid == 0:
                self._become_run_keeper(descriptor)
            self._runs[pid] = descriptor
            _send(descriptor, KEPT, pid)

    def _become_run_keeper(self, descriptor: int) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            # An end that stayed open here would keep the other side from seeing that it was closed.
            for other in (self._life, *self._runs.values(), *self._broken):
                os.close(other)
            self._channel.close()
            adopts = _prctl(_PR_SET_CHILD_SUBREAPER, 1)
            channel = socket.socket(fileno=descriptor)
            RunKeeper(channel, self._life_of_others, adopts=adopts).serve()
            status = 0
        except BaseException:  # noqa: BLE001, ASYNC103  (this process ends here)
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in self._runs:
                descriptor = self._runs.pop(pid)
                if status == 0:
                    os.close(descriptor)
                else:
                    self._broken.append(descriptor)
        if self._broken and not self._kill_orphans():
            for descriptor in self._broken:
                os.close(descriptor)
            self._broken = []

    def _kill_orphans(self) -> bool:
        """Kill what run keepers that were killed left behind; return whether there was anything."""
        orphans = [pid for pid in _children() or () if pid not in self._runs]
        killed = [_kill_quietly(os.kill, pid, signal.SIGKILL) for pid in orphans]
        return any(killed)


# Small things.


def _wakeup_by_sigchld() -> int:
    """Return a pipe that can be read after a child has ended."""
    reading, writing = os.pipe()
    for descriptor in (reading, writing):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


def _prepare_signals() -> None:
    """Reset all signal handlers for the programs, and block all signals but SIGCHLD.

    A service manager sends SIGTERM to all processes of a service; the programs are to be stopped in
    order nonetheless.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _prctl(option: int, value: int) -> bool:
    """Set an option of this process; return whether the system has it."""
    if sys.platform != "linux":
        return False
    try:
        import ctypes
    except ImportError:  # a Python without libffi
        return False
    return bool(ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0)


def _descriptor_of(pid: int) -> int | None:
    """Return a descriptor that can be read when a process has died, if the system has them."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _has_ended(pid: int) -> bool:
    """Return whether a child is dead and not yet reaped, where the system can tell."""
    if not _CAN_PEEK:
        return False
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _children() -> list[int] | None:
    """Return the ids of this process's children; None where the system does not tell."""
    # Where /proc is that of another PID namespace, there is no such file.
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:  # noqa: PTH123
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return None


def _kill_quietly(kill: Callable[[int, int], None], pid: int, number: int) -> bool:
    """Send a signal; return False if that is not permitted."""
    try:
        kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:  # also what macOS answers for a group of zombies
        return False
    return True


def _remove(directory: bytes) -> None:
    for remove, path in ((os.unlink, directory + b"/socket"), (os.rmdir, directory)):
        try:
            remove(path)
        except OSError:  # our program has done it
            continue


def _send(descriptor: int, *answer: object) -> None:
    try:
        os.write(descriptor, packed(answer))
    except OSError:  # our program has closed it, or died
        return


def _receive(channel: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Return what is sent next, and the descriptors that come with it."""
    room = socket.CMSG_LEN(MOST_DESCRIPTORS * array("i").itemsize)
    data, messages, _, _ = channel.recvmsg(size, room)
    descriptors = array("i")
    for _, _, content in messages:  # an interrupted number is one for which there was no room
        descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)  # noqa: FBT003
    return data, [*descriptors]


def main() -> None:
    """Run the keeper; the arguments are the socket's number and our program's process id."""
    _prepare_signals()
    channel, owner = (int(argument) for argument in sys.argv[-2:])
    gc.disable()
    gc.freeze()  # so that a collection does not copy the pages that the processes share
    Keeper(socket.socket(fileno=channel), owner).serve()
    os._exit(0)


if __name__ == "__main__":
    main()
