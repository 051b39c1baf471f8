"""The commands on a real terminal, over a daemon's restart, and beside what is no daemon."""

from __future__ import annotations

import http.server
import json
import os
import pty
import signal
import threading
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
from daemons import MAIN, PATIENCE, until

pytestmark = pytest.mark.long

ALTERNATE, NORMAL = b"\x1b[?1049h", b"\x1b[?1049l"


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, process, ours):
        self.process, self.ours, self.shown = process, ours, b""

    async def until(self, text):
        """Wait until a text is shown; gives what was shown by then, which is forgotten."""
        with trio.fail_after(PATIENCE):
            while text not in self.shown:
                assert await self._read(), f"it ended: {self.shown.decode()}"
        before, _, self.shown = self.shown.partition(text)
        return before + text

    async def interrupt(self):
        """Type Ctrl-C; gives the exit code, and what was still shown."""
        os.write(self.ours, b"\x03")
        with trio.fail_after(PATIENCE):
            while await self._read():
                pass
            return await trio.to_thread.run_sync(self.process.wait), self.shown

    async def _read(self):
        await trio.lowlevel.wait_readable(self.ours)
        try:
            read = os.read(self.ours, 65_536)
        except OSError:  # how Linux says that nobody has the terminal any more
            return False
        self.shown += read
        return bool(read)


@asynccontextmanager
async def terminal(place, *arguments, **changes):
    """Run a command on a terminal."""
    pid, ours = pty.fork()
    if pid == 0:
        os.chdir(place.folder)
        environ = {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
        os.execvpe(MAIN[0], [*MAIN, *arguments], place.environment(**{**environ, **changes}))
    process = Forked(pid)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        os.close(ours)


class Forked:
    """The end of a process that the kernel made for its terminal."""

    def __init__(self, pid):
        self.pid, self.code = pid, None

    def wait(self):
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def kill(self):
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


def at(daemon):
    return {"WORKER_HEALTH_PORT": daemon.page.rpartition(":")[2]}


async def test_ctrl_c_leaves_the_last_table_on_the_screen(idle_place):
    async with (
        idle_place.daemon() as daemon,
        terminal(idle_place, "--list-agents", "--watch", **at(daemon)) as screen,
    ):
        assert ALTERNATE in await screen.until(b"running")
        code, shown = await screen.interrupt()
    assert code == 0
    after = shown.partition(NORMAL)[2]
    assert after.count(b"HEARTBEAT") == 1
    assert b"running" in after
    assert b"Traceback" not in shown


async def test_a_table_goes_on_from_the_store_and_back(idle_place):
    async with idle_place.daemon() as daemon:
        port = at(daemon)
        async with terminal(idle_place, "--list-agents", "--watch", **port) as screen:
            await screen.until(b"healthy")
            daemon.signal(signal.SIGTERM)
            assert await daemon.wait() == 0
            await screen.until(b"the store says")
            await screen.until(b"stopped")
            async with idle_place.daemon(**port):
                await screen.until(b"healthy")


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
async def test_events_are_coloured_on_a_terminal_that_wants_it(idle_place, no_color, coloured):
    async with (
        idle_place.daemon() as daemon,
        terminal(idle_place, "--tail", NO_COLOR=no_color, **at(daemon)) as screen,
    ):
        shown = await screen.until(b"social started")
        assert (b"\x1b[32m" in shown) is coloured
        assert (b"\x1b" in shown) is coloured
        assert (await screen.interrupt())[0] == 0


async def test_nothing_in_a_goal_can_steer_the_terminal(idle_place):
    async with (
        idle_place.daemon() as daemon,
        terminal(idle_place, "--tail", NO_COLOR="1", **at(daemon)) as screen,
    ):
        await daemon.post("social", "Clear\x1b[2Jit\x07.")
        assert b"\x1b" not in await screen.until(rb"Clear\x1b[2Jit")


async def test_no_event_is_lost_or_told_twice_over_a_restart(idle_place):
    async with idle_place.daemon() as daemon:
        port = at(daemon)
        await daemon.post("social", "before")
        out, err = idle_place.folder / "tail.out", idle_place.folder / "tail.err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            async with idle_place.start("--tail", "--json", stdout=stdout, stderr=stderr, **port):
                await until(lambda: "queued: before" in out.read_text())
                daemon.signal(signal.SIGKILL)
                await daemon.wait()
                await until(lambda: "has gone" in err.read_text() or "hung up" in err.read_text())
                told = len(out.read_text().splitlines())
                async with idle_place.daemon(**port) as again:
                    await again.post("social", "after")  # likely before the connection is back
                    await until(lambda: "queued: after" in out.read_text())
                    assert "is back" in err.read_text()
                    events = [json.loads(line) for line in out.read_text().splitlines()]
                    numbers = [event["id"] for event in events[told:]]
                    assert numbers == list(range(1, len(numbers) + 1))


class Relay:
    """Stands between a command and a daemon, and can cut their connections."""

    def __init__(self, port, connections):
        self.port, self._connections = port, connections

    def cut(self):
        for scope in tuple(self._connections):
            scope.cancel()


@asynccontextmanager
async def relay(daemon):
    connections = set()
    to = int(at(daemon)["WORKER_HEALTH_PORT"])

    async def pump(source, sink, scope):
        async for data in source:
            await sink.send_all(data)
        scope.cancel()

    async def connect(client):
        async with client, await trio.open_tcp_stream("127.0.0.1", to) as server:
            async with trio.open_nursery() as nursery:
                connections.add(nursery.cancel_scope)
                nursery.start_soon(pump, client, server, nursery.cancel_scope)
                nursery.start_soon(pump, server, client, nursery.cancel_scope)
            connections.discard(nursery.cancel_scope)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, connect, [listener])
        yield Relay(str(listener.socket.getsockname()[1]), connections)
        nursery.cancel_scope.cancel()


async def test_a_connection_that_broke_goes_on_where_it_was(idle_place):
    async with (
        idle_place.daemon() as daemon,
        relay(daemon) as between,
        terminal(idle_place, "--tail", "--json", WORKER_HEALTH_PORT=between.port) as screen,
    ):
        await daemon.post("social", "before")
        await screen.until(b"queued: before")
        between.cut()
        await daemon.post("social", "meanwhile")
        shown = await screen.until(b"queued: meanwhile")
        assert b"is back" in shown
        assert b"queued: before" not in shown, "it is told once"


async def test_a_task_is_waited_for_over_a_restart(place):
    async with place.daemon("--agents", "content") as daemon:
        port = at(daemon)
        arguments = ("--task", "Recall what we know", "--agent", "social", "--wait")
        async with terminal(place, *arguments, **port) as screen:
            await screen.until(b"social is disabled, so the task waits")
            daemon.signal(signal.SIGTERM)
            assert await daemon.wait() == 0
            await screen.until(b"The task is kept")
            async with place.daemon("--agents", "social", **port):
                await screen.until(b"is back")
                await screen.until(b"simulated reply")
                assert await trio.to_thread.run_sync(screen.process.wait) == 0


async def test_a_goal_that_will_not_do_is_wrong_use(idle_place):
    async with idle_place.daemon() as daemon:
        ended = await idle_place.run("--task", "  ", "--agent", "social", **at(daemon))
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert "goal: " in line


async def keep_busy(daemon):
    """Have something to tell: that nobody reads is noticed when something is written."""
    while True:
        await daemon.post("social", "Do it.")
        await trio.sleep(0.2)


async def test_whoever_reads_may_stop_reading(idle_place):
    for arguments in ("--tail", "--list-agents --watch"):
        async with idle_place.daemon() as daemon:
            command = f"{' '.join(MAIN)} {arguments} | head -n 1; exit ${{PIPESTATUS[0]}}"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_busy, daemon)
                with trio.fail_after(PATIENCE):
                    ended = await trio.run_process(
                        ["bash", "-c", command],
                        cwd=idle_place.folder,
                        env=idle_place.environment(**at(daemon)),
                        capture_stdout=True,
                        capture_stderr=True,
                        check=False,
                    )
                nursery.cancel_scope.cancel()
        assert (ended.returncode, ended.stderr) == (0, b"")


class OtherApi(http.server.BaseHTTPRequestHandler):
    """Has JSON for everything, as an API has, and some health."""

    def do_GET(self):
        body = b'{"status": "UP"}'
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  (its name is given)


@contextmanager
def stranger(handler):
    """Serve something else; gives its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield str(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "arguments",
    [("--tail",), ("--list-agents", "--watch"), ("--task", "Do it.", "--agent", "social")],
)
@pytest.mark.parametrize("handler", [http.server.SimpleHTTPRequestHandler, OtherApi])
async def test_what_is_no_daemon_is_told_from_one(idle_place, arguments, handler):
    with stranger(handler) as port:
        ended = await idle_place.run(*arguments, WORKER_HEALTH_PORT=port)
    assert (ended.code, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("error: what answers at http://127.0.0.1:")
    assert "is no worker daemon" in line
