"""What `process_child` raises of its own."""

from __future__ import annotations

import signal

from actp_supervise.errors import SupervisionError


class ProcessNotStarted(SupervisionError):
    """The program could not be started, or did not say in time that it is ready."""


class ProcessExited(SupervisionError):
    """A process ended unasked by a signal, or with a status that is not in `exit_codes`.

    The message shows the program but none of its arguments, which may hold secrets.

    Args:
        program: Its first argument.
        returncode: See below.
        output: See below.
        because: What else is known about its end.
    """

    def __init__(
        self, program: str, returncode: int, output: tuple[str, ...], because: str = ""
    ) -> None:
        super().__init__(program, returncode, output, because)  # all of them, so that it pickles
        self.program = program
        self.returncode = returncode
        """The exit status; where a signal ended it, the negative of its number."""
        self.output = output
        """The last lines that it wrote."""
        self.because = because

    def __str__(self) -> str:
        how = f"exited with status {self.returncode}"
        if self.returncode < 0:
            how = f"was killed by {_signal_name(-self.returncode)}"
        if self.because:
            how += f" ({self.because})"
        return "\n  ".join([f"{self.program!r} {how}", *self.output])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
