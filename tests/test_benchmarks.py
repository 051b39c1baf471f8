"""The benchmarks run; what they find depends on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "supervision.py"


def test_the_figure_of_a_growing_window_needs_no_large_numbers():
    command = [sys.executable, BENCHMARK, "--quick", "--only", "window"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "by the restarts in the window" in done.stdout


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_no_way_to_die_pays_a_reply_twice_or_repeats_an_effect_outside():
    """Each row of the table: real daemons, real kills, a Messages API with a script."""
    command = [sys.executable, BENCHMARK.with_name("deaths.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1100)
    assert done.returncode == 0, done.stderr
    header, _, *rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()]
    found = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}
    assert len(found) == 9
    for name, row in found.items():
        refused = "429" in name
        lost = "in a call" in name
        assert row["status"] == "succeeded", name
        assert int(row["calls"]) == 8 + refused + lost, name
        assert int(row["booked"]) == 8 + lost, name
        assert int(row["estimated"]) == lost, name
        assert (row["mails"], row["payments made"]) == ("2", "2"), name
