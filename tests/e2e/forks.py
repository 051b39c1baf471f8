"""Starts a program of ours as ``python -m MODULE`` does, in a hundredth of the time.

To import the daemon's code takes a second or more of processor time, longer than most tests of a
running daemon take. As a program this file imports all of it once, and then forks for each start.
What is forked gets its arguments, environment, folder and standard streams, and runs its module as
Python would; it is a child of the process that asked for it. `test_forks.py` compares the two ways.
A test that is about the start itself uses the real one (`real_start` in conftest.py).
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import time
import zoneinfo
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]
READ_AT_ONCE: Final = ("PYTHON", "LANG", "LC_", "LD_", "COVERAGE_")
"""Begins the names of variables that Python, or the linker, reads before any module is imported."""
BUT_FOR: Final = ("PYTHONPATH", "PYTHONTZPATH")
"""Of these, the ones that a fork can obey."""
LATE: Final = (
    "actp_supervise.service.connection",
    "anyio._backends._trio",
    "hypercorn.protocol.h11",
    "hypercorn.trio.tcp_server",
    "httpcore._async.http11",
    "httpcore2",
)
"""What a daemon imports while it runs already."""
ORDER_LIMIT: Final = 1 << 16
STREAMS: Final = (0, 1, 2)
PR_SET_CHILD_SUBREAPER: Final = 36  # <linux/prctl.h>


def can_fork(cwd: Path, environ: Mapping[str, str]) -> bool:
    """Whether a program may be started by a fork in that folder and environment."""
    changes_python = any(name.startswith(READ_AT_ONCE) and name not in BUT_FOR for name in environ)
    has_hook = (cwd / "sitecustomize.py").exists()  # which Python runs before any program
    return sys.platform == "linux" and not changes_python and not has_hook


@dataclass
class Fork:
    """A process that was forked for us, with what the tests use of `trio.Process`."""

    pid: int
    returncode: int | None = field(default=None, init=False)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._reap(os.WNOHANG)

    async def wait(self) -> int:
        """Wait for its end, and return the exit code."""
        if self.poll() is None:
            descriptor = os.pidfd_open(self.pid)
            try:
                await trio.lowlevel.wait_readable(descriptor)
            finally:
                os.close(descriptor)
        code = self._reap(0)
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:  # else its number may be another's by now
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def fork(
    module: str,
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str],
    stdout: IO[bytes],
    stderr: IO[bytes],
) -> Fork:
    """Start ``python -m module arguments``, with nothing to read on standard input.

    Args:
        module: What to run, of `app` or from the folders of PYTHONPATH.
        arguments: Its arguments.
        cwd: The folder that it runs in.
        env: Its whole environment; `can_fork` holds for both.
        stdout: Where its output goes.
        stderr: Where its errors and its log go.
    """
    assert can_fork(cwd, env)
    order = {"argv": [module, *arguments], "cwd": str(cwd), "env": dict(env)}
    connection = _template()
    with Path(os.devnull).open("rb") as stdin, _adopting():
        streams = [stream.fileno() for stream in (stdin, stdout, stderr)]
        socket.send_fds(connection, [json.dumps(order).encode()], streams)
        told = connection.recv(16)
    if not told:
        raise RuntimeError("the process that forks has ended; its standard error tells why")
    return Fork(int(told))


@cache
def _template() -> socket.socket:
    """Run this file until this process ends; return the connection to it."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        # Its own folder is not among those to import from.
        [sys.executable, "-P", __file__, str(its.fileno())],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(its.fileno(),),
    )
    its.close()

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours


@contextmanager
def _adopting() -> Iterator[None]:
    """Become the parent of what loses its own parent during the block, if we started that one."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


# In the process that forks.


@dataclass(frozen=True)
class _Order:
    """One start."""

    argv: list[str]
    cwd: str
    env: dict[str, str]
    streams: list[int]


def _import_all() -> None:
    import trio_asyncio  # noqa: F401  (before all others, as in app/main.py)

    sys.path.insert(0, str(ROOT))
    import app

    for module in pkgutil.walk_packages(app.__path__, "app."):
        importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)
    sys.path.remove(str(ROOT))


def _next_start(connection: socket.socket) -> _Order | None:
    """Fork for each order that comes.

    Returns:
        In each process that was forked, its order; in this one, when no more can come, None.
    """
    while True:
        told, streams, _, _ = socket.recv_fds(connection, ORDER_LIMIT, len(STREAMS))
        if not told:
            return None
        pid = _fork_twice()
        if pid == 0:
            connection.close()
            return _Order(**json.loads(told), streams=streams)
        for descriptor in streams:
            os.close(descriptor)
        connection.send(str(pid).encode())


def _fork_twice() -> int:
    """Fork a process whose parent ends, so that it gets another; return as `os.fork` does."""
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "a fork would lose the other threads"
    reads, writes = os.pipe()
    between = os.fork()
    if between == 0:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            os.write(writes, str(pid).encode())
            os._exit(0)
        os.close(reads)
        os.close(writes)
        while os.getppid() == parent:
            time.sleep(0.001)  # noqa: TID251  (nothing tells that another adopts this process)
        return 0
    os.waitpid(between, 0)
    pid = int(os.read(reads, 16))
    os.close(reads)
    os.close(writes)
    return pid


def _become(order: _Order) -> None:
    """Take on what a process gets at its start."""
    for number, descriptor in zip(STREAMS, order.streams, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(order.cwd)
    kept = {name: os.environ[name] for name in os.environ if name.startswith("LC_")}
    os.environ.clear()
    os.environ.update(kept | order.env)
    time.tzset()
    zoneinfo.reset_tzpath()
    folders = [folder for folder in order.env.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:] = [order.cwd, *folders, *(path for path in sys.path if path not in folders)]


def _run(argv: list[str]) -> None:
    """Run a module as ``python -m`` does, and end without taking down all that was imported."""
    sys.argv[:] = argv
    sys.modules.pop(argv[0], None)  # it runs as `__main__`, once
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
        _ENDS.append(0)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _ENDS.append(end.code or 0)
        raise


def _end_at_once() -> None:
    """Leave out the last step of Python's end, which would free each object that was imported.

    As the callback that was registered first this one is called last, when no thread is left.
    """
    if _ENDS:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_ENDS[0] & 0xFF)


_ENDS: list[int] = []
"""The exit code, once it is known."""


def main() -> None:
    """Import everything, then fork for each order; in each fork, run its module."""
    atexit.register(_end_at_once)
    _import_all()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        order = _next_start(connection)
    if order is not None:
        _become(order)
        _run(order.argv)


if __name__ == "__main__":
    main()
