"""The completion of the command line, in real shells on a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest
import trio
from daemons import PATIENCE

from app.command_line import FLAGS

SHELLS = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
}

START = {
    "bash": "source completion.sh",
    "zsh": "autoload -U compinit; compinit -u -d ./zcompdump; source ./completion.sh",
}


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, ours: int) -> None:
        self._ours = ours
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    async def completes(self, typed: str, given: str) -> None:
        """Type a line and a tab: with that, the command is given what is expected.

        A line that comes together with its end is not completed by all shells, so there is a pause
        before that, and a longer one where the shell has not been done by then.
        """
        for pause in (0.2, 1.0, 5.0, 20.0):
            self.type(f"{typed}\t")
            await trio.sleep(pause)
            self.type("\n")
            got = self.until(r"GOT<([^$]*?)>")[1].strip()
            if got == given:
                return
        assert got == given

    def until(self, pattern: str) -> re.Match[str]:
        """Read until what is shown has a pattern; what is shown behind it is kept."""
        give_up_at = time.perf_counter() + PATIENCE
        while True:
            found = re.search(pattern, self.shown)
            if found:
                self.shown = self.shown[found.end() :]
                return found
            left = give_up_at - time.perf_counter()
            assert left > 0, f"no {pattern!r} in {self.shown!r}"
            if select.select([self._ours], [], [], min(left, 1.0))[0]:
                self.shown += os.read(self._ours, 65536).decode(errors="replace")


@pytest.fixture(params=sorted(SHELLS))
def shell(request, idle_place):
    """A shell that has read the completion, and whose commands say what they were given."""
    name = request.param
    if shutil.which(name) is None:
        pytest.skip(f"no {name}")
    return name, idle_place


@contextmanager
def opened(name, place, script):
    (place.folder / "completion.sh").write_text(script)
    ours, theirs = pty.openpty()
    environ = {**place.environment(), "TERM": "dumb", "PS1": "$ ", "INPUTRC": "/dev/null"}
    process = subprocess.Popen(
        SHELLS[name],
        cwd=place.folder,
        env=environ,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    terminal = Terminal(ours)
    try:
        terminal.type(f"{START[name]}; actp-worker() {{ echo \"GOT<$*>\"; }}; echo re''ady\n")
        terminal.until("ready")
        yield terminal
    finally:
        process.kill()
        process.wait()
        os.close(ours)


async def test_flags_agents_routines_and_lists_are_completed(shell):
    name, place = shell
    made = await place.run("--completion", name)
    assert (made.code, made.err) == (0, "")
    with opened(name, place, made.out) as terminal:
        for typed, given in (
            ("--list-a", "--list-agents"),
            ("--stop soc", "--stop social"),
            ("--tail acq", "--tail acquisition"),
            ("--pause rev\t.run_c", "--pause revenue.run_cost_audit"),
            ("--run content.", "--run content.run_daily_pipeline"),
            ("--show rout", "--show routines"),
            ("--completion z", "--completion zsh"),
            ("--retry --status fai", "--retry --status failed"),
            ("--cancel one two --ag", "--cancel one two --agent"),
            ("--task Hello --agent rev", "--task Hello --agent revenue"),
        ):
            await terminal.completes(f"actp-worker {typed}", given)


async def test_the_program_as_the_readme_calls_it_is_completed_too(shell):
    name, place = shell
    made = await place.run("--completion", name)
    with opened(name, place, made.out) as terminal:
        terminal.type('python3() { echo "GOT<$*>"; }\n')
        command = "python3 -m app.main --restart-agent"
        await terminal.completes(f"{command} soc", "-m app.main --restart-agent social")
        # Without it, python is completed as before: by files.
        (place.folder / "a_program_of_mine.py").touch()
        await terminal.completes("python3 a_prog", "a_program_of_mine.py")


@pytest.mark.parametrize("name", sorted(SHELLS))
async def test_each_flag_is_offered(idle_place, name):
    script = (await idle_place.run("--completion", name)).out
    for flag in FLAGS:
        assert re.search(rf"['( ]{flag.name}[\[)' ]", script), flag.name


async def test_agents_of_a_file_are_offered(idle_place):
    (idle_place.folder / "agents.toml").write_text(
        '[agents.support]\nprompt = "Help."\n[agents.support.routines]\n'
        'morning = {cron = "0 8 * * *", goal = "Look."}\n'
    )
    script = (await idle_place.run("--completion", "bash")).out
    assert "'support support.morning'" in script
