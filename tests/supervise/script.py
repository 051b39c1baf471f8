"""What a script of the state machine says: its supervisors, its puppets, its commands.

A puppet is the child that `model` and `stage` both play. Whom a command is for is a number, looked
up when it is played.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields


class Brief:
    """A dataclass that prints only what is not by default, so that a script is short."""

    def __repr__(self):
        values = [(f.name, getattr(self, f.name)) for f in fields(self) if self._differs(f)]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in values)})"

    def _repr_pretty_(self, printer, cycle):
        printer.text(repr(self))

    def _differs(self, f):
        return f.default is MISSING or getattr(self, f.name) != f.default


@dataclass(frozen=True, repr=False)
class Backoff(Brief):
    """A child's backoff."""

    initial: float = 0.0
    maximum: float = 8.0
    free_restarts: int = 0
    window: float = 16.0


@dataclass(frozen=True, repr=False)
class Options(Brief):
    """A supervisor's options."""

    strategy: str = "one_for_one"
    max_restarts: int | None = 3
    within: float = 5.0
    shutdown_order: str = "reverse"
    auto_shutdown: str = "never"


@dataclass(frozen=True, repr=False)
class Subtree(Brief):
    """A supervisor inside a child, and the puppet that it starts with.

    Its block is left at once, or without a puppet when the child is asked to stop.
    """

    options: Options = Options()
    puppet: Puppet | None = None


@dataclass(frozen=True, repr=False)
class Puppet(Brief):
    """A child's options, and how the code inside it behaves."""

    name: str
    restart: str = "permanent"
    """Or transient, temporary, or a policy of its own: after a crash, with a delay of its own."""
    reports_ready: bool = False
    backoff: Backoff = Backoff()
    timeout: float | None = 4.0
    watchdog: float | None = None
    significant: bool = False
    openings: tuple[str, ...] = ()
    """What its first runs do at once: get ready, not get ready, or end. Later ones get ready."""
    when_asked: str = "obey"
    """Or ignore, or crash."""
    cleanup: float = 0.0
    """Seconds until it ends once it is cancelled, shielded."""
    after_cleanup: str = "cancelled"
    """Or crash, or return (so that it swallows the cancellation)."""
    own_delay: float = 1.5
    error: str = "Crash"
    """What it crashes with: an error that may be hostile."""
    crash_ages: tuple[float, ...] = ()
    autostart: bool = True
    """Whether it is started when it is added; only one that does not report that it is ready."""
    subtree: Subtree | None = None
    """What it opens, in place of waiting to be told what to do."""

    def opening(self, run):
        """Return whether the run gets ready at once, and how it ends at once, if it does."""
        opening = self.openings[run - 1] if run <= len(self.openings) else "ready"
        get_ready, _, end = opening.partition("+")
        return get_ready == "ready", end


@dataclass(frozen=True, repr=False)
class Start(Brief):
    """Start a child: with `start` if it reports that it is ready, else with `start_soon`."""

    puppet: Puppet
    nested: bool = False


@dataclass(frozen=True, repr=False)
class Call(Brief):
    """Call stop, restart or remove."""

    method: str
    target: int


@dataclass(frozen=True, repr=False)
class Shutdown(Brief):
    """Call shutdown."""

    nested: bool = False


@dataclass(frozen=True, repr=False)
class CancelCaller(Brief):
    """Cancel one of those whose call has not returned yet."""

    target: int


@dataclass(frozen=True, repr=False)
class Tell(Brief):
    """Have the code inside a child do something.

    It ends (crash, return, give_up, exit), gets ready, beats, or calls its own supervisor
    (stop_me, shutdown).
    """

    what: str
    target: int


@dataclass(frozen=True, repr=False)
class Block(Brief):
    """Leave the root's block, fail in it, or cancel it from outside."""

    how: str


@dataclass(frozen=True, repr=False)
class Sleep(Brief):
    """Let time pass."""

    seconds: float


@dataclass(frozen=True, repr=False)
class Script(Brief):
    """What is played: a root supervisor with these options, then the commands."""

    options: Options
    commands: tuple[object, ...] = ()
    hostile: bool = False
    """Whether each callback of an event, and each line of the log, raises."""
