"""Who sits at this terminal."""

from __future__ import annotations

import getpass
import socket


def person() -> str:
    """Return the user and the machine, as they are kept with a decision."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        name = "somebody"
    return f"{name}@{socket.gethostname()} (terminal)"[:200]
