"""What a program starts outlives neither its run nor the program, whoever dies, and however."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress

import pytest
import trio
from processes import is_alive
from programs import (
    OTHERS,
    Lines,
    children,
    children_of,
    command_of,
    descendants_of,
    is_there,
    keeper,
    sh,
    until,
    until_gone,
)

from actp_supervise import Restart, open_supervisor
from actp_supervise.process import process_child

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere only the process group is ended"
)


@pytest.fixture(autouse=True)
def others_first():
    """Leave alone what other tests of this process have started: servers, a browser."""
    OTHERS.clear()
    OTHERS.update(children_of(os.getpid()))


LEAVES_THE_GROUP = "setsid sleep 1000 & echo $!"
DAEMONIZES = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(1, f"{os.getpid()}\\n".encode())
        os.execlp("sleep", "sleep", "1000")
    os._exit(0)
os.wait()
"""


def program(body: str) -> list[str]:
    """Return the command of a program of its own, whose end this one survives."""
    head = """
        import os, signal, sys, threading, time, trio
        from actp_supervise import open_supervisor, Restart
        from actp_supervise.process import process_child, ProcessExited
        def sh(script, **options):
            return process_child(["/bin/sh", "-c", script], **options)
        def children_of(pid):
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                return [*map(int, file.read().split())]
    """
    return [sys.executable, "-u", "-c", textwrap.dedent(head) + textwrap.dedent(body)]


async def output_of(command: list[str], **options) -> str:
    """Run a command, which must end well, and return what it wrote."""
    done = await trio.run_process(command, capture_stdout=True, **options)
    return done.stdout.decode()


async def output_as_process_1(command: list[str]) -> str:
    """Run a command as process 1 of its own PID namespace, and return what it wrote."""
    namespace = ["unshare", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None:
        pytest.skip("makes a PID namespace")
    if (await trio.run_process([*namespace, "true"], check=False, capture_stderr=True)).returncode:
        pytest.skip("it may not make one here")
    return await output_of([*namespace, *command])


# At the end of a run.


@pytest.mark.parametrize("end", ["exits", "is stopped", "is cancelled"])
@pytest.mark.parametrize(
    "script",
    [
        LEAVES_THE_GROUP,
        f"{sys.executable} -c '{DAEMONIZES}'",
        f"nohup sh -c '{LEAVES_THE_GROUP}; wait' & wait",
    ],
    ids=["leaves the group", "daemonizes", "deep"],
)
async def test_helpers_that_left_the_process_group_are_ended_with_the_run(script, end):
    lines = Lines()
    script += "; exit 0" if end == "exits" else "; sleep 1000"
    if end == "exits":
        script = f"({script.removesuffix('; exit 0')}) & sleep 0.3"
    async with open_supervisor(shutdown_timeout=20.0) as supervisor:
        supervisor.start_soon(
            sh(script, on_output=lines),
            name="c",
            restart=Restart.TEMPORARY,
            shutdown_timeout=0.0 if end == "is cancelled" else None,
        )
        await lines.until(1)
        if end != "exits":
            await supervisor.shutdown()

    assert not any(is_there(int(line)) for line in lines)


async def test_what_helpers_leave_behind_while_it_runs_is_reaped():
    lines = Lines()
    async with open_supervisor() as supervisor:
        script = "sh -c 'sleep 0.05 & sleep 0.05 & exit 0'; echo done; sleep 1000"
        program = await supervisor.start(sh(script, on_output=lines))
        await lines.until(1)
        (run_keeper,) = children_of(keeper())
        await until(lambda: children_of(run_keeper) == [program])
        await supervisor.shutdown()


async def test_a_run_leaves_no_process_behind_not_even_its_keeper():
    for _ in range(3):
        await sh("sleep 1000 & exit 0")()
        assert children() == []


async def test_many_restarts_leave_neither_files_nor_processes():
    async with open_supervisor(limit=None) as supervisor:
        await supervisor.start(sh("sleep 1000"), name="other")
        files = len(os.listdir("/dev/fd"))  # noqa: PTH208
        child = supervisor.start_soon(
            sh("sleep 1000 & exit 1", notify=True), name="c", restart=Restart.TRANSIENT
        )
        with trio.fail_after(250):
            while child.restarts < 200:  # noqa: ASYNC110
                await trio.sleep(0.05)
        await supervisor.remove("c")
        assert len(os.listdir("/dev/fd")) == files  # noqa: PTH208
        assert len(children_of(keeper())) == 1
        await supervisor.shutdown()
    assert children() == []


async def test_fifty_processes_may_be_started_and_stopped_at_once():
    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        pids = []

        async def start(name):
            pids.append(await supervisor.start(process_child(["/bin/sleep", "1000"]), name=name))

        for n in range(50):
            nursery.start_soon(start, str(n))
        await until(lambda: len(pids) == 50)
        assert sorted(pids) == sorted(child.pid for child in supervisor.children)
        await supervisor.shutdown()
    assert not any(is_there(pid) for pid in pids)


async def test_a_cancellation_at_any_moment_leaves_nothing_behind(tmp_path):
    """Also while the keeper is being started or ended."""
    chance = random.Random(1)
    pids = tmp_path / "pids"
    program = sh(f"echo $$ >> {pids}; {LEAVES_THE_GROUP} >> {pids}; sleep 0.02")
    began = trio.current_time()
    await program()
    whole = trio.current_time() - began
    for _ in range(40):
        with trio.move_on_after(chance.uniform(0.0, whole)):
            await program()
        assert children() == []
    started = pids.read_text().split()
    assert started
    assert not any(is_there(int(pid)) for pid in started)


# When this program dies.


DIES = {
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "SIGHUP": "os.kill(os.getpid(), signal.SIGHUP)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "an exit": "os._exit(0)",
    "a crash": "import ctypes; ctypes.string_at(0)",
    "a thread's exit": "threading.Thread(target=os._exit, args=(1,)).start(); time.sleep(10)",
    "SIGKILL, its run keepers suspended": (
        "[os.kill(pid, signal.SIGSTOP) for keeper in children_of(os.getpid())"
        " for pid in children_of(keeper)]; os.kill(os.getpid(), signal.SIGKILL)"
    ),
    "a fork that lives on": "os.fork() or time.sleep(3); os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.parametrize("death", DIES.values(), ids=DIES)
async def test_nothing_outlives_the_program_that_started_it(tmp_path, death):
    pids = tmp_path / "pids"
    command = program(f"""
        async def main():
            async with open_supervisor() as supervisor:
                await supervisor.start(sh("trap '' TERM HUP; echo $$ >> {pids}; sleep 1000"))
                supervisor.start_soon(sh("({LEAVES_THE_GROUP} >> {pids}); sleep 1000", notify=True))
                while len(open("{pids}").read().split()) < 2:
                    await trio.sleep(0.01)
                {death}
        open("{pids}", "w")
        trio.run(main)
    """)

    await trio.run_process(
        command, check=False, stderr=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(tmp_path)}
    )

    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 2
    await until_gone(*started)
    await until(lambda: [*tmp_path.iterdir()] == [pids])  # and no socket for notifications is left


async def test_nothing_outlives_a_program_that_is_killed_at_any_moment(tmp_path):
    chance = random.Random(2)
    pids = tmp_path / "pids"
    pids.touch()
    command = program(f"""
        async def main():
            async with open_supervisor(limit=None) as supervisor:
                for n in range(4):
                    script = "echo $$ >> {pids}; {LEAVES_THE_GROUP} >> {pids}; sleep 0.02"
                    supervisor.start_soon(sh(script), name=str(n))
        trio.run(main)
    """)
    for _ in range(10):
        before = pids.stat().st_size
        process = await trio.lowlevel.open_process(command, stderr=subprocess.DEVNULL)
        await until(lambda: pids.stat().st_size > before)  # noqa: B023
        await trio.sleep(chance.uniform(0.0, 0.3))
        process.kill()
        await process.wait()

    await until_gone(*map(int, pids.read_text().split()))


# When a keeper dies.


async def test_a_program_that_is_killed_while_it_starts_its_keeper_leaves_no_traceback():
    killed = program("""
        from actp_supervise.process.keeping import Keeping

        class Killed(Keeping):
            def _send_code(self):
                os.kill(os.getpid(), signal.SIGKILL)

        Killed()
    """)
    done = await trio.run_process(killed, capture_stdout=True, capture_stderr=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, b"")


@pytest.mark.parametrize("which", ["the keeper", "the run keeper"])
async def test_a_keeper_that_is_killed_takes_the_program_and_its_helpers_with_it(which):
    lines = Lines()
    async with open_supervisor(shutdown_timeout=0.0) as supervisor:
        script = f"trap '' TERM; {LEAVES_THE_GROUP}; echo $$; sleep 1000"
        child = supervisor.start_soon(sh(script, on_output=lines), name="c")
        await lines.until(2)
        (run_keeper,) = children_of(keeper())
        os.kill(keeper() if which == "the keeper" else run_keeper, signal.SIGKILL)
        await lines.until(4)  # it is started again

        assert "was killed by SIGKILL (its keeper was killed)" in child.last_error
        assert not any(is_there(int(line)) for line in lines[:2])
        await supervisor.shutdown()

    assert not any(is_there(int(line)) for line in lines)
    assert children() == []


async def test_whatever_is_killed_by_chance_nothing_is_left(silent):
    """Keepers one at a time: helpers of a program whose two keepers die at once may be left."""
    chance = random.Random(3)
    script = f"({LEAVES_THE_GROUP}) & sh -c '{LEAVES_THE_GROUP}; wait' & wait"
    seen, keeper_until = set(), 0.0
    async with open_supervisor(limit=None, shutdown_timeout=0.1) as supervisor:
        for n in range(6):
            run = sh(script, notify=n % 2 == 0, on_output=lambda line: None)
            supervisor.start_soon(run, name=str(n))
        for _ in range(100):
            await trio.sleep(chance.uniform(0.0, 0.04))
            below = [pid for child in children() for pid in (child, *descendants_of(child))]
            keepers = children()
            keepers += [pid for keeper in keepers for pid in children_of(keeper)]
            seen |= {*below}
            pid = chance.choice(below or [0])
            if pid in keepers:
                if trio.current_time() < keeper_until:
                    continue
                keeper_until = trio.current_time() + 1.0
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP]))
        await supervisor.shutdown()

    assert children() == []
    assert not [pid for pid in seen if "sleep 1000" in command_of(pid)]


async def test_a_keeper_that_is_killed_is_replaced_for_the_next_run():
    async with open_supervisor() as supervisor:
        await supervisor.start(sh("sleep 1000"), name="one", restart=Restart.TEMPORARY)
        first = keeper()
        os.kill(first, signal.SIGKILL)
        await supervisor.start(sh("sleep 1000"), name="two")
        await until(lambda: "one" not in supervisor)
        assert keeper() != first
        await supervisor.shutdown()


async def test_a_suspended_keeper_delays_the_end_and_does_not_prevent_it(monkeypatch):
    monkeypatch.setattr("actp_supervise.process.keeping.KEEPER_TIMEOUT", 0.2)
    async with open_supervisor(shutdown_timeout=0.0) as supervisor:
        pid = await supervisor.start(sh("sleep 1000"))
        suspended = [keeper(), *children_of(keeper())]
        for keeper_pid in suspended:
            os.kill(keeper_pid, signal.SIGSTOP)
        with trio.fail_after(30):
            await supervisor.shutdown()
    assert not any(is_there(number) for number in (pid, *suspended))


async def test_signals_for_all_processes_of_a_service_do_not_reach_the_keepers():
    """systemd sends SIGTERM to all of them; the programs are to be stopped in order nonetheless."""
    async with open_supervisor() as supervisor:
        pid = await supervisor.start(sh("sleep 1000"), name="c")
        keepers = [keeper(), *children_of(keeper())]
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            for keeper_pid in keepers:
                os.kill(keeper_pid, number)
        await trio.sleep(0.2)
        assert supervisor["c"].pid == pid
        assert is_alive(pid)
        await supervisor.shutdown()


# Whatever this program does with its children's signals.


@pytest.mark.parametrize(
    "what",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})",
        "threading.Thread(target=reap, daemon=True).start()",
    ],
    ids=["ignored", "blocked", "reaped elsewhere"],
)
async def test_a_status_is_not_lost_whatever_this_program_does_with_its_children(what):
    written = await output_of(
        program(f"""
        def reap():
            while True:
                try: os.waitpid(-1, 0)
                except ChildProcessError: time.sleep(0.001)
        async def main():
            for status in (3, 0, 7):
                try: await sh(f"sleep 0.05; exit {{status}}")()
                except ProcessExited as error: print(error)
                else: print("well")
        {what}
        trio.run(main)
    """)
    )

    assert written == "'/bin/sh' exited with status 3\nwell\n'/bin/sh' exited with status 7\n"


async def test_a_status_is_not_lost_where_sigchld_was_ignored_before():
    command = program("""
        try: trio.run(sh("exit 3"))
        except ProcessExited as error: print(error)
    """)

    written = await output_of(["/bin/sh", "-c", 'trap "" CHLD; exec "$@"', "sh", *command])

    assert written == "'/bin/sh' exited with status 3\n"


@pytest.mark.parametrize("killed", ["nothing", "keeper", "children_of(keeper)[0]"])
async def test_process_1_is_left_no_zombie(killed):
    command = program(f"""
        async def main():
            async with open_supervisor() as supervisor:
                for n in range(5):
                    script = "sleep 0.3 & setsid sleep 0.2 & sh -c 'sleep 0.1 & exit' & sleep 0.4"
                    await supervisor.start(sh(script), name=str(n), restart=Restart.TEMPORARY)
                if "{killed}" != "nothing":
                    (keeper,) = children_of(os.getpid())
                    os.kill({killed if killed != "nothing" else 0}, signal.SIGKILL)
            print(os.getpid(), children_of(1), [p for p in os.listdir("/proc") if p.isdigit()])
        trio.run(main)
    """)
    assert await output_as_process_1(command) == "1 [] ['1']\n"


async def test_process_1_reaps_a_run_keeper_of_which_the_killed_keeper_has_not_told(tmp_path):
    """After each fork the keeper rests for longer than the program takes to start."""
    rests = """
        import os, time
        fork, me = os.fork, os.getpid()
        def fork_and_rest():
            child = fork()
            if child and os.getpid() == me: time.sleep(3600)
            return child
        os.fork = fork_and_rest
    """
    python = tmp_path / "python"
    python.write_text(f"""#!{sys.executable}
import os, sys
python, (*options, script, label, channel, owner) = sys.executable, sys.argv[1:]
rests = {textwrap.dedent(rests)!r}
os.execv(python, [python, *options, rests + script, label, channel, owner])
""")
    python.chmod(0o755)
    command = program(f"""
        from actp_supervise.process import keeping
        keeping.PYTHON = {str(python)!r}
        async def main():
            async with open_supervisor() as supervisor:
                await supervisor.start(sh("exec sleep 1000"), restart=Restart.TEMPORARY)
                (keeper,) = children_of(os.getpid())
                os.kill(keeper, signal.SIGKILL)
            print(children_of(1), [p for p in os.listdir("/proc") if p.isdigit()])
        trio.run(main)
    """)
    assert await output_as_process_1(command) == "[] ['1']\n"


# Where there is no descriptor left.


async def test_no_descriptor_left_is_a_clear_error_at_whatever_step():
    """Each time with one more than the last, until there are enough for a run."""
    written = await output_of(
        program("""
        import logging, resource
        from actp_supervise.process import ProcessNotStarted
        async def run(notify):
            try: await sh("exit 0", notify=notify)()
            except ProcessNotStarted as error: return str(error)
        async def main():
            await run(True)
            taken = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
            try:
                while True: taken.append(os.dup(0))
            except OSError: pass
            for notify in (False, True):
                while error := await run(notify):
                    assert error.startswith("cannot start '/bin/sh'"), error
                    assert error.endswith(": Too many open files"), error
                    os.close(taken.pop())
                print("ran")
                taken.append(os.dup(0))
        trio.run(main)
    """)
    )

    assert written == "ran\nran\n"


async def test_a_program_whose_output_is_closed_may_start_processes(tmp_path):
    """New descriptors then get the numbers 0 to 2."""
    written = tmp_path / "written"
    command = program(f"""
        for number in (0, 1, 2): os.close(number)
        lines = []
        try: trio.run(sh("echo hello; exit 3", on_output=lines.append))
        except ProcessExited as error: lines.append(error.returncode)
        with open("{written}", "w") as file: print(*lines, file=file)
    """)

    await trio.run_process(command)

    assert written.read_text() == "hello 3\n"


async def test_programs_are_started_with_the_privileges_that_this_one_has_now():
    """A keeper that was started as root must not start programs for who is no longer root."""
    if os.geteuid() != 0:
        pytest.skip("only root has some to give up")
    written = await output_of(
        program("""
        async def main():
            async with open_supervisor() as supervisor:
                await supervisor.start(sh("sleep 1000"))
                os.setresgid(1, 1, 0)
                await sh("id -g", on_output=print, cwd="/")()
                os.setresgid(0, 0, 0)
                await supervisor.shutdown()
        trio.run(main)
    """)
    )

    assert written == "1\n"
