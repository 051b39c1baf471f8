"""A fork of the process that has imported everything is what a real start would have been."""

from __future__ import annotations

import dataclasses
import json
import signal

import pytest

TELLS = """
import os, signal, sys, threading, time, zoneinfo
from pathlib import Path

DIGITS = "0123456789 (deleted)"  # of a file without a name

def tell():
    return {
        "arguments": sys.argv,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "imports from": sys.path,
        "streams": [os.readlink(f"/proc/self/fd/{number}").strip(DIGITS) for number in (0, 1, 2)],
        "open": len(os.listdir("/proc/self/fd")),
        "written at once": [stream.line_buffering for stream in (sys.stdout, sys.stderr)],
        "encoding": sys.stdout.encoding,
        "parent": os.getppid(),
        "group": [os.getpgid(0), os.getsid(0)],
        "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "limits": Path("/proc/self/limits").read_text(),
        "threads": threading.active_count(),
        "main": [sys.modules["__main__"].__spec__.name, threading.current_thread().name],
        "time": time.tzname,
        "zones": zoneinfo.TZPATH,
    }
"""
OWN = """
import atexit, json, os, sys, threading, time
import tells

print(json.dumps(tells.tell(), default=str))
atexit.register(print, "at the end", flush=True)
threading.Thread(target=lambda: (time.sleep(0.05), print("of a thread"))).start()
END
"""


@pytest.fixture
def ways(idle_place):
    """Runs a program of the test to its end, really and as a fork; gives what came of each."""

    async def run(end, **changes):
        (idle_place.folder / "tells.py").write_text(TELLS)
        (idle_place.folder / "own_main.py").write_text(OWN.replace("END", end))
        found = []
        for forks in (False, True):
            place = dataclasses.replace(idle_place, forks=forks, module="own_main")
            found.append(await place.run("--flag", "caf\udce9", **changes))
        return found

    return run


async def test_a_fork_is_started_with_all_that_a_real_start_gets(ways):
    real, forked = await ways("", TZ="Asia/Tokyo", PYTHONTZPATH="/no/such/folder", LATE="1")
    told, *rest = (line for line in real.out.splitlines())
    assert json.loads(told)["environment"]["LATE"] == "1"
    told_by_fork, *rest_of_fork = forked.out.splitlines()
    assert json.loads(told_by_fork) == json.loads(told)
    assert rest_of_fork == rest == ["of a thread", "at the end"]
    assert (forked.code, forked.err) == (real.code, real.err) == (0, "")


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("sys.exit(3)", 3),
        ("sys.exit('a reason')", 1),
        ("raise ValueError('of the program')", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("os._exit(7)", 7),
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL),
    ],
)
async def test_a_fork_ends_as_a_real_start_does(ways, end, code):
    real, forked = await ways(end)
    assert forked.code == real.code == code
    assert forked.out.splitlines()[1:] == real.out.splitlines()[1:]
    assert forked.err.splitlines()[-1:] == real.err.splitlines()[-1:]


async def test_each_fork_has_chance_of_its_own(idle_place):
    (idle_place.folder / "own_main.py").write_text("import random\nprint(random.random())")
    place = dataclasses.replace(idle_place, module="own_main")
    assert (await place.run()).out != (await place.run()).out


async def test_what_python_reads_at_its_very_start_is_left_to_a_real_start(idle_place):
    program = "import sys\nprint(sys.flags.optimize, sys.flags.dev_mode)"
    (idle_place.folder / "own_main.py").write_text(program)
    place = dataclasses.replace(idle_place, module="own_main")
    assert (await place.run(PYTHONOPTIMIZE="1", PYTHONDEVMODE="1")).out == "1 True\n"
