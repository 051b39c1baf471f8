"""Out of files, out of threads, out of disk: at the start of a daemon, and under it while it works.

What a machine lacks for a while costs time and nothing else. At the start it is told in one line.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import trio
from daemons import IDLER, until

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not hasattr(resource, "prlimit"), reason="only Linux sets limits of another process"
    ),
]

GOAL = "List the engagement actions and queue a like for the post 'No {}' [simulate: slow 0.3]"
SLOW = GOAL.replace("0.3", "3")
EFFECTS = "select target from actp_engagement_actions"
HOST = "127.0.0.1"
LACK = 15.0
"""Seconds that something is lacking for."""


async def until_done(place, tasks):
    for task_id in tasks:
        await until(lambda task_id=task_id: place.task(task_id)["status"] == "succeeded")


async def nothing_came_of_it(place, daemon, tasks):
    """Check that all is done once, nobody is accused, and the daemon ends as it should."""
    await until_done(place, tasks)
    assert len(place.rows(EFFECTS)) == len(tasks)
    assert (await daemon.get("/agents/social"))["error_count"] == 0
    await daemon.until("/health", lambda health: "the store is away" not in str(health))
    daemon.signal(signal.SIGTERM)
    assert await daemon.wait() == 0
    assert {row["outcome"] for row in place.rows("select outcome from actp_agent_runs")} == {
        "stopped"
    }
    attempts = [place.task(task_id)["attempts"] for task_id in tasks]
    assert attempts == [1] * len(tasks), daemon.log.read_text()


# -- files


def open_files(pid):
    return len([*Path(f"/proc/{pid}/fd").iterdir()])


async def take_files(port):
    """Hold connections to a daemon, and open others in place of those that it closes."""
    async with AsyncExitStack() as held:
        while True:
            with suppress(OSError):
                stream = await held.enter_async_context(await trio.open_tcp_stream(HOST, port))
                await stream.send_all(b"GET / HTTP/1.1\r\n")
            await trio.sleep(0.2)


async def test_out_of_files_for_a_while_costs_time_alone(place, figures):
    began = trio.current_time()
    async with place.daemon("--agents", "social") as daemon:
        tasks = [await daemon.post("social", GOAL.format(n)) for n in range(4)]
        pid = daemon.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        most = open_files(pid) + 4
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, before[1]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_files, int(daemon.page.rpartition(":")[2]))
            await until(lambda: open_files(pid) >= most)
            await trio.sleep(LACK)
            nursery.cancel_scope.cancel()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        tasks += [await daemon.post("social", GOAL.format(n)) for n in range(4, 6)]
        await nothing_came_of_it(place, daemon, tasks)
        lines = len(daemon.lines)
    figures(
        "Out of files",
        tasks=len(tasks),
        lines_in_the_log=lines,
        seconds=trio.current_time() - began,
    )


LIMITED = """
import os, resource, sys
kind, most = sys.argv[1].split("=")
resource.setrlimit(getattr(resource, kind), (int(most), int(most)))
os.execv(sys.argv[2], sys.argv[2:])
"""


def limited(kind, most):
    """Return the program that runs another with a limit."""
    return (sys.executable, "-c", LIMITED, f"{kind}={most}")


def with_class(place):
    place.use_class(IDLER, "Idler")


async def start_within(place, kind, most):
    """Start a daemon with a limit; return what became of it."""
    place.wrapper = limited(kind, most)
    async with place.starting_daemon("--agents", "social") as daemon:
        await until(lambda: daemon.process.poll() is not None or actions(daemon) & OUTCOMES)
        code = daemon.process.poll()
        if code is None:
            is_up = "starting" in actions(daemon)
            daemon.signal(signal.SIGTERM)
            assert await daemon.wait() in ({0, 1} if is_up else {130}), daemon.log.read_text()
            return "up" if is_up else "waiting"
        text = daemon.log.read_text()
        assert code == 1, (most, code, text)
        assert text.splitlines()[-1].startswith("error: "), (most, text)
        return "told"


OUTCOMES = {"starting", "store_awaited"}


def actions(daemon):
    return {line.get("action") for line in daemon.lines}


async def test_with_too_few_files_a_start_works_or_is_refused_in_a_line(place, figures):
    began = trio.current_time()
    with_class(place)
    ends = Counter()
    for most in range(8, 40, 3):
        ends[await start_within(place, "RLIMIT_NOFILE", most)] += 1
    assert ends["up"] > 0
    assert ends["told"] > 0
    figures("Starts with 8 to 38 files", **ends, seconds=trio.current_time() - began)


# -- threads

STARVING = f"""
import asyncio, pathlib, threading
{IDLER}
class Starving:
    async def run_as_daemon(self, poll_interval):
        starve = pathlib.Path(__file__).with_name("starve")
        released, taken = threading.Event(), []
        while not current_child().stopping:
            if starve.exists():
                # Those threads that the daemon keeps for later are taken.
                taken.append(asyncio.ensure_future(asyncio.to_thread(released.wait)))
                await asyncio.sleep(0.05)
                # A stack for which there is no room: the next thread cannot be started.
                threading.stack_size(1 << 46)
            else:
                threading.stack_size(0)
                released.set()
                await asyncio.gather(*taken, return_exceptions=True)
                with current_child().cancel_on_stop():
                    await asyncio.sleep(0.1)
"""


async def posted_at_last(daemon, goal):
    """Post a task again until it is taken: the store was away, and may be for a moment yet."""
    while True:
        answer = await daemon.http.post("/agents/task", json={"agent_type": "social", "goal": goal})
        if answer.status_code == 201:
            return answer.json()["id"]
        assert answer.status_code == 503, answer.text
        await trio.sleep(0.2)


async def test_out_of_threads_for_a_while_costs_time_alone(place, figures):
    began = trio.current_time()
    (place.folder / "own.py").write_text(STARVING)
    place.environ["CONTENT_AGENT_CLASS"] = "own:Starving"
    async with place.daemon("--agents", "social,content") as daemon:
        await daemon.until_agent("content", "running")
        tasks = [await daemon.post("social", SLOW.format(n)) for n in range(3)]
        (place.folder / "starve").touch()
        await daemon.until("/health", lambda health: "no thread can be started" in str(health))
        body = {"agent_type": "social", "goal": GOAL.format(9)}
        answer = await daemon.http.post("/agents/task", json=body)
        assert answer.status_code in {201, 503}, answer.text  # a thread may have come free
        tasks += [answer.json()["id"]] if answer.status_code == 201 else []
        await trio.sleep(LACK)
        (place.folder / "starve").unlink()
        await daemon.until("/health", lambda health: "the store is away" not in str(health))
        tasks += [await posted_at_last(daemon, GOAL.format(n)) for n in range(3, 5)]
        await nothing_came_of_it(place, daemon, tasks)
    figures("Out of threads", tasks=len(tasks), seconds=trio.current_time() - began)


async def test_a_start_without_threads_is_refused_in_a_line(place):
    with_class(place)
    # The stack of each new thread would be as large.
    assert await start_within(place, "RLIMIT_STACK", 1 << 45) == "told"


# -- disk


@contextmanager
def small_disk(folder, size):
    """Mount a disk of so many bytes on a folder; skips where only a privileged user could."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder):
    """Take all the room that a disk has left."""
    with (folder / "filler").open("ab", buffering=0) as filler:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    filler.write(b"x" * size)
            except OSError:
                pass


async def test_a_disk_that_is_full_for_a_while_costs_time_alone(place, figures):
    began = trio.current_time()
    with small_disk(place.folder / "data", 4 << 20) as disk:
        async with place.daemon("--agents", "social") as daemon:
            tasks = [await daemon.post("social", GOAL.format(n)) for n in range(4)]
            await until(lambda: place.rows(EFFECTS))
            fill(disk)
            await daemon.until("/health", lambda health: "the store is away" in str(health))
            body = {"agent_type": "social", "goal": GOAL.format(9)}
            refused = await daemon.http.post("/agents/task", json=body)
            assert refused.status_code == 503, refused.text
            await trio.sleep(LACK)
            assert (await daemon.http.get("/livez")).status_code == 200
            (disk / "filler").unlink()
            await nothing_came_of_it(place, daemon, tasks)
    figures("Full disk", tasks=len(tasks), seconds=trio.current_time() - began)


@pytest.mark.parametrize("room", [0, 8192, 65536])
async def test_a_start_on_a_full_disk_waits_for_room_and_says_so(place, room):
    with_class(place)
    with small_disk(place.folder / "data", 4 << 20) as disk:
        fill(disk)
        if room:
            os.truncate(disk / "filler", (disk / "filler").stat().st_size - room)
        async with place.starting_daemon("--agents", "social") as daemon:
            awaited = await until(lambda: daemon.logged("store_awaited"))
            assert "disk" in awaited["message"]
            daemon.signal(signal.SIGTERM)
            assert await daemon.wait() == 130
        async with place.starting_daemon("--agents", "social") as daemon:
            await until(lambda: daemon.logged("store_awaited"))
            (disk / "filler").unlink()
            await daemon.until_up()
            await daemon.until_agent("social", "running")
            daemon.signal(signal.SIGTERM)
            assert await daemon.wait() == 0
            assert "Traceback" not in daemon.log.read_text()


async def test_a_limit_on_the_size_of_files_is_as_a_full_disk(place, figures):
    began = trio.current_time()
    async with place.daemon("--agents", "social") as daemon:
        tasks = [await daemon.post("social", GOAL.format(n)) for n in range(4)]
        pid = daemon.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        size = max(path.stat().st_size for path in (place.folder / "data").glob("worker.db*"))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
        await daemon.until("/health", lambda health: "the store is away" in str(health))
        await trio.sleep(LACK)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        await nothing_came_of_it(place, daemon, tasks)
    figures("Files that may not grow", tasks=len(tasks), seconds=trio.current_time() - began)
