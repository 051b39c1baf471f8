"""How often the daemon looks, beats and measures: rarer than in reality, or a year took days.

In a year there are 31 million seconds, and a daemon does something in each half of them. What is
stretched here are looks that mostly find nothing new; no rule of the daemon depends on them but
through limits that are stretched with them (`Machine.settings`).
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final
from unittest import mock

import actp_supervise.timetable
import app.agents.activity
import app.agents.host
import app.beat
import app.desk
import app.happenings
import app.metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOKS: Final = (
    (app.happenings, "LOOK_EVERY"),
    (app.metrics, "LAG_EVERY"),
    (app.agents.activity, "BEAT_INTERVAL"),
    (app.agents.host, "BEAT_INTERVAL"),
)

BRISK: Final = 15.0
"""Up to this pace no limit has to be stretched: a beat is due several times in a lease."""


def stretch(pace: float) -> float:
    """Return by how much limits are longer at a pace: leases, thresholds, looks at the queue."""
    return max(1.0, pace / BRISK)


@contextmanager
def paced(pace: float) -> Iterator[None]:
    """Stretch the intervals between looks in the block.

    Args:
        pace: How many times as long as in reality they are, from 1.
    """
    with ExitStack() as stack:
        for module, name in _LOOKS:
            stack.enter_context(mock.patch.object(module, name, getattr(module, name) * pace))
        # So often in a lease that one that is missed does no harm, as in reality.
        beat = min(app.beat.BEAT_INTERVAL * pace, 10.0 * stretch(pace))
        stack.enter_context(mock.patch.object(app.beat, "BEAT_INTERVAL", beat))
        stack.enter_context(mock.patch.object(app.desk, "FRESH", 3.0 * beat))
        clock = actp_supervise.timetable
        looks = clock.LOOK_INTERVAL * stretch(pace)
        stack.enter_context(mock.patch.object(clock, "LOOK_INTERVAL", looks))
        yield
