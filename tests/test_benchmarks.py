"""The benchmarks run; what they find depends on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "supervision.py"


def test_the_figure_of_a_growing_window_needs_no_large_numbers():
    command = [sys.executable, BENCHMARK, "--quick", "--only", "window"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "by the restarts in the window" in done.stdout
