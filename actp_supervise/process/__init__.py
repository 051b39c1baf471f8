"""An operating-system process as a child: `process_child`.

It is started in a session of its own by the keeper, a small process beside this one, so that it and
all that it starts can be ended together, and nothing of it outlives the run or this program. It
talks to its supervisor as a systemd service does (sd_notify).
"""

from .child import process_child
from .errors import ProcessExited, ProcessNotStarted
from .output import LAST_LINES, MAX_LINE, STACK_LINES
from .run import ABORT_TIMEOUT

__all__ = [
    "ABORT_TIMEOUT",
    "LAST_LINES",
    "MAX_LINE",
    "STACK_LINES",
    "ProcessExited",
    "ProcessNotStarted",
    "process_child",
]
