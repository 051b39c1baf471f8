"""The example of a service does what it says: as a process, with a socket of systemd, and HTTP."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "service.py"


def test_the_service_of_the_example_is_alive_and_drains_and_tells_systemd(short_folder):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_folder / "notify"))
        manager.settimeout(120)
        environ = {"NOTIFY_SOCKET": str(short_folder / "notify"), "WATCHDOG_USEC": "500000"}
        with subprocess.Popen(
            [sys.executable, EXAMPLE, "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        ) as process:
            address = process.stdout.readline().split()[-1]
            assert manager.recv(4096).startswith(b"READY=1\n")
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert (answer.status, answer.read()) == (200, b"alive\n")
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{address}x", timeout=60)
            while b"WATCHDOG=1" not in manager.recv(4096):
                pass
            while process.stdout.readline() != "delivering\n":
                pass
            process.send_signal(signal.SIGTERM)
            while b"STOPPING=1" not in manager.recv(4096):
                pass
            out, log = process.communicate(timeout=120)
            assert process.returncode == 0
            assert out.endswith("delivered\n")
            assert "SIGTERM: finishing what is in flight" in log
