"""What tests ask of processes that are not theirs."""

from __future__ import annotations

import os
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # gone meanwhile, but for macOS, which has no such files
        return not Path("/proc/self").exists()
    return status.rpartition(")")[2].split()[0] not in "ZX"


def processes_of(worker_id: str) -> list[int]:
    """Return the processes that have that name of a daemon in their environment."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if worker_id.encode() in environ.read_bytes():
                found.append(int(environ.parent.name))
        except OSError:  # it has ended, or is not ours
            pass
    return found
