"""Where it is night: so that no daily routine is due while a test runs, whenever that is."""

from __future__ import annotations

from datetime import UTC

from actp_supervise.clock import SystemWallClock


def night_zone() -> str:
    """Return the name of a time zone in which it is between one and two in the morning."""
    hour = SystemWallClock().now().astimezone(UTC).hour
    ahead = (1 - hour + 12) % 24 - 12
    return f"Etc/GMT{-ahead:+d}"  # these names have the sign the other way round
