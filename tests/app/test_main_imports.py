"""What the command line loads, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ["anthropic", "asyncio", "trio_asyncio", "quart", "hypercorn", "pydantic", "rich"]


def loaded_by(program: str, folder: Path, *arguments: str) -> str:
    """What a program prints that finds a fresh home and no daemon."""
    environ = {n: value for n, value in os.environ.items() if n == "PATH"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={**environ, "HOME": str(folder), "PYTHONPATH": str(ROOT)},
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "command",
    [("--list-agents",), ("--show", "tasks"), ("--approvals",), ("--completion", "bash")],
)
def test_a_command_loads_neither_the_sdk_nor_a_server_nor_what_draws_in_a_terminal(
    command, tmp_path
):
    program = (
        "import sys, app.main; heavy, command = sys.argv[1].split(), sys.argv[2:]\n"
        "app.main.main(command)\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert loaded_by(program, tmp_path, " ".join(HEAVY), *command) == "[]"


def test_what_the_daemon_loads_is_not_looked_through_for_garbage(tmp_path):
    program = (
        "import gc, app.main; from app.settings import load_settings\n"
        "app.main.load_code(load_settings({}, env_file=None))\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 100_000)"
    )
    assert loaded_by(program, tmp_path) == "True True"
