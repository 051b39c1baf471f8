"""How soon the daemon answers, what its commands take, and what it costs while nothing happens.

    python benchmarks/daemon.py           about two minutes
    python benchmarks/daemon.py --quick   some seconds, for a look

Beside it, in the same run: a Python that does nothing, as the floor, and supervisord with four
programs that sleep, which has neither a page nor a store nor agents.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
QUICK = "--quick" in sys.argv
TIMES = 2 if QUICK else 7
IDLE = 5.0 if QUICK else 60.0
SETTLE = 3.0 if QUICK else 15.0
PORT = 18_090
SUPERVISORD = """
[supervisord]
nodaemon=true
logfile=/dev/null
logfile_maxbytes=0
pidfile={folder}/pid
[inet_http_server]
port=127.0.0.1:{port}
"""


def show(what: str, value: float, unit: str, floor: float | None = None) -> None:
    """Print one line of a table."""
    ratio = "" if not floor else f"{value / floor:10.2f} x"
    print(f"{what:<52}{value:9.2f} {unit:<8}{ratio}", flush=True)


def goal(text: str, *, is_met: bool) -> None:
    """Print what was aimed at."""
    print(f"  goal: {text}: {'met' if is_met else 'MISSED'}\n", flush=True)


def answer(path: str) -> str | None:
    """Return what the daemon says there; None where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=5) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return None


def wait_until(is_so: Callable[[], object], *, every: float = 0.005) -> float:
    """Return the seconds until something is so.

    Args:
        is_so: Whether it is.
        every: Seconds between two looks; a look at fifty agents costs the daemon what it measures.
    """
    begin = time.perf_counter()
    while not is_so():
        if time.perf_counter() - begin > 60:
            sys.exit("it does not start")
        time.sleep(every)
    return time.perf_counter() - begin


@contextmanager
def running(command: list[str], environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the time of the block."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def environ_of(folder: str) -> dict[str, str]:
    """Return the environment of a daemon that has never been used and whose model is away."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": folder,
        "ANTHROPIC_API_KEY": "sk-ant-none",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
        "WORKER_DB_PATH": f"{folder}/worker.db",
        "WORKER_HEALTH_PORT": str(PORT),
    }


DAEMON = [sys.executable, "-m", "app.main"]


def is_up() -> bool:
    """Whether all of the daemon is there."""
    health = answer("/health")
    return health is not None and json.loads(health)["status"] != "starting"


def starts() -> None:
    """Show how soon something answers, and how soon all is there."""
    alive, up = [], []
    for _ in range(TIMES):
        with tempfile.TemporaryDirectory() as folder, running(DAEMON, environ_of(folder)):
            begin = time.perf_counter()
            wait_until(lambda: answer("/livez"))
            alive.append(time.perf_counter() - begin)
            wait_until(is_up)
            up.append(time.perf_counter() - begin)
    print("\nfrom the start of the process, median")
    show("until /livez answers", statistics.median(alive), "s")
    show("until all is up", statistics.median(up), "s")
    goal("/livez within 1 s", is_met=max(alive) <= 1.0)


def commands() -> None:
    """Show what a command takes that looks at the agents."""
    with tempfile.TemporaryDirectory() as folder, running(DAEMON, environ_of(folder)):
        wait_until(is_up)
        floor = statistics.median(seconds_of([sys.executable, "-c", "pass"], folder))
        listing = statistics.median(seconds_of([*DAEMON, "--list-agents"], folder))
    print("a command, from its start to its end, median")
    show("a Python that does nothing", floor, "s", floor)
    show("--list-agents", listing, "s", floor)
    goal("below 0.6 s", is_met=listing < 0.6)


def seconds_of(command: list[str], folder: str) -> list[float]:
    """Return how long a command took each time."""
    taken = []
    for _ in range(TIMES):
        begin = time.perf_counter()
        subprocess.run(command, cwd=ROOT, env=environ_of(folder), check=True, capture_output=True)
        taken.append(time.perf_counter() - begin)
    return taken


def cpu_of(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> float:
    """Return the MB of memory that a process has for itself."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def idle_of(pid: int) -> tuple[float, float]:
    """Return the percentage of a core, and the MB, that a process takes."""
    time.sleep(SETTLE)
    before = cpu_of(pid)
    time.sleep(IDLE)
    return (cpu_of(pid) - before) / IDLE * 100, memory_of(pid)


def idle_peer(programs: int) -> tuple[float, float] | None:
    """Return what supervisord takes with as many programs that sleep; None if it is not there."""
    program = Path(sys.executable).with_name("supervisord")
    if not program.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "supervisord.conf")
        sections = [f"[program:p{n}]\ncommand=sleep 100000\n" for n in range(programs)]
        config.write_text(SUPERVISORD.format(folder=folder, port=PORT) + "".join(sections))
        with running([str(program), "-c", str(config)], environ_of(folder)) as process:
            wait_until(lambda: answer("/"))
            return idle_of(process.pid)


def show_idle(ours: tuple[float, float], agents: int) -> None:
    """Show what nothing costs, beside the peer.

    Where little happens, what wakes finds its memory cold: on a virtual machine that nobody uses
    both may cost ten times what they cost on one that is busy. So it is the ratio that counts.
    """
    peer = idle_peer(agents)
    print(f"idle, over {IDLE:.0f} s")
    for number, unit in enumerate(("% core", "MB")):
        floor = None if peer is None else peer[number]
        show(f"the daemon with {agents} agents", ours[number], unit, floor)
        if peer is not None:
            show(f"supervisord with {agents} programs", peer[number], unit, floor)
    if peer is None:
        print("(supervisord is not installed: make benchmark)")


def idle() -> None:
    """Show what nothing costs."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(DAEMON, environ_of(folder)) as process,
    ):
        wait_until(is_up)
        ours = idle_of(process.pid)
    show_idle(ours, 4)
    goal("at most 0.3 % of a core", is_met=ours[0] <= 0.3)


MANY = 50


def many_agents() -> None:
    """Show how soon fifty agents of a file are up, and what they cost while nothing happens."""
    agents = "".join(
        f'[agents.a{n}]\nprompt = "You do what agent {n} does."\n'
        f'[agents.a{n}.routines]\nmorning = {{cron = "0 6 * * *", goal = "Look around."}}\n'
        for n in range(MANY)
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "agents.toml").write_text(agents)
        environ = environ_of(folder) | {"WORKER_AGENTS": f"{folder}/agents.toml"}
        begin = time.perf_counter()
        with running(DAEMON, environ) as process:
            wait_until(lambda: all_run(MANY), every=0.1)
            up, took = time.perf_counter() - begin, cpu_of(process.pid)
            cost = idle_of(process.pid)
    print(f"\n{MANY} agents of a file, each with a routine")
    show("until all of them run", up, "s")
    show("until all of them run, of the processor", took, "s")
    show_idle(cost, MANY)
    goal("up in less than 5 s", is_met=up < 5.0)
    goal("below 1 % of a core", is_met=cost[0] < 1.0)


def all_run(number: int) -> bool:
    """Whether that many agents are there, and all of them run."""
    agents = answer("/agents") if is_up() else None
    states = [] if agents is None else [agent["status"] for agent in json.loads(agents)]
    return len(states) == number and set(states) == {"running"}


if __name__ == "__main__":
    starts()
    commands()
    idle()
    many_agents()
