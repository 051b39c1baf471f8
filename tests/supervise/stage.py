"""A real tree whose children do as they are told, for the state machine."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from functools import partial

import trio

from actp_supervise import (
    AutoShutdown,
    Backoff,
    DoNotRestart,
    Restart,
    RestartLimit,
    ShutdownOrder,
    Strategy,
    SupervisionError,
    current_child,
    open_supervisor,
)
from actp_supervise.policies import Decision


class Crash(Exception):
    pass


class BodyError(Exception):
    pass


# Errors that refuse what one may do with an error.


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """It cannot be written to, and is what hangs on it (minio's S3Error is one)."""

    code: int = 1


class Unreadable(Exception):
    """It has no text, no truth, no length, no equal, no hash, and cannot be copied."""

    def fail(self, *_):
        raise RuntimeError("hostile")

    __str__ = __repr__ = __bool__ = __len__ = __eq__ = __hash__ = __copy__ = __reduce__ = fail
    __notes__ = property(fail)


class Absurd(BaseExceptionGroup):
    """A group with a length of nothing, of errors that are hostile themselves."""

    def __len__(self):
        return 0


class FromFrozen(Exception):
    """An ordinary error whose cause is frozen and whose context has no truth."""

    def __init__(self):
        self.__cause__ = Frozen()
        self.__context__ = Unreadable()


def asyncio_cancelled():
    """The way in which asyncio cancels, that nobody sent: out of a thread, say."""
    import asyncio

    return asyncio.CancelledError()


ERRORS = {
    "Crash": Crash,
    "Frozen": Frozen,
    "Unreadable": Unreadable,
    "CancelledError": asyncio_cancelled,
    "Frozen+Unreadable": lambda: Absurd("absurd", [Frozen(), Unreadable()]),
    "FromFrozen": FromFrozen,
}
ENDS = {"give_up": DoNotRestart, "exit": SystemExit}


class Actor:
    """The code inside one child, which plays its `script.Puppet`."""

    def __init__(self, stage, puppet):
        self.stage = stage
        self.puppet = puppet
        self.runs = 0
        self.inbox = None  # while it listens

    async def __call__(self, *, task_status=trio.TASK_STATUS_IGNORED):
        self.runs += 1
        self.stage.actors[current_child().path] = self
        if self.puppet.subtree is not None:
            await self.open_subtree(self.puppet.subtree)
            return
        is_ready, end = self.puppet.opening(self.runs)
        tell_ready = partial(task_status.started, self.runs)
        if is_ready:
            tell_ready()
        if end:
            self.end(end)
            return
        try:
            await self.obey(tell_ready, is_ready=is_ready)
        except trio.Cancelled:
            if self.puppet.cleanup:
                with trio.CancelScope(shield=True):
                    await trio.sleep(self.puppet.cleanup)
            if self.puppet.after_cleanup == "cancelled":
                raise
            self.end(self.puppet.after_cleanup)

    async def obey(self, tell_ready, *, is_ready):
        self.inbox, told = trio.open_memory_channel(math.inf)
        asked = contextlib.nullcontext()
        if self.puppet.when_asked != "ignore":
            asked = current_child().cancel_on_stop()
        try:
            with asked:
                async for what in told:
                    if what == "beat":
                        current_child().beat()
                    elif what in ("stop_me", "shutdown"):
                        await self.call_supervisor(what)
                    elif what != "ready":
                        self.end(what)
                        return
                    elif not is_ready:
                        is_ready = True
                        tell_ready()
        finally:
            self.inbox = None
        if self.puppet.when_asked == "crash":
            self.end("crash")

    async def call_supervisor(self, what):
        *path, name = current_child().path
        supervisor = self.stage.supervisors[tuple(path)]
        if what == "stop_me":
            await supervisor.stop(name)
        else:
            await supervisor.shutdown()

    def end(self, how):
        if how == "crash":
            raise ERRORS[self.puppet.error]()
        if how in ENDS:
            raise ENDS[how]

    async def open_subtree(self, subtree):
        async with open_supervisor(name="sub", **for_supervisor(subtree.options)) as supervisor:
            self.stage.supervisors[supervisor.path] = supervisor
            if subtree.puppet is None:
                with current_child().cancel_on_stop():
                    await trio.sleep_forever()
            else:
                actor = Actor(self.stage, subtree.puppet)
                supervisor.start_soon(actor, **for_child(subtree.puppet))


class Stage:
    """The real root supervisor, and those who call it and those below."""

    def __init__(self, callers, *, hostile):
        self.callers = callers
        self.hostile = hostile
        self.events = []
        self.supervisors = {}  # by path, as are the actors
        self.actors = {}
        self.outcomes = {}
        self.scopes = {}
        self.left_by = None

    async def run_block(self, options, *, task_status):
        told, self.inbox = trio.open_memory_channel(math.inf)
        self.tell_body = told.send_nowait
        try:
            with trio.CancelScope() as self.outside:
                await self.open_root(options, task_status)
        except BaseException as error:  # noqa: BLE001
            self.left_by = names_of(error)
        else:
            self.left_by = ""

    async def open_root(self, options, task_status):
        async with open_supervisor(
            name="root", on_event=self.note, **for_supervisor(options)
        ) as self.supervisors["root",]:
            task_status.started()
            if await self.inbox.receive() == "fail":
                raise BodyError

    def note(self, event):
        self.events.append((event.time, event.path, event.action, detail_of(event)))
        if self.hostile:
            raise Unreadable

    def block(self, how):
        if how == "cancel":
            self.outside.cancel()
        else:
            self.tell_body(how)

    def start(self, caller, path, puppet):
        actor = Actor(self, puppet)
        if puppet.reports_ready:
            self.call(caller, path, "start", actor, **for_child(puppet))
            return
        try:
            self.supervisors[path].start_soon(actor, **for_child(puppet))
        except SupervisionError as error:
            self.outcomes[caller] = type(error).__name__
        else:
            self.outcomes[caller] = ("ok", None)

    def call(self, caller, path, method, *args, **options):
        async_fn = partial(getattr(self.supervisors[path], method), *args, **options)
        self.callers.start_soon(self._call, caller, async_fn)

    async def _call(self, caller, async_fn):
        with trio.CancelScope() as self.scopes[caller]:
            try:
                value = await async_fn()
            except trio.Cancelled:
                raise
            except BaseException as error:  # noqa: BLE001
                self.outcomes[caller] = names_of(error)
            else:
                self.outcomes[caller] = ("ok", value)

    def cancel_caller(self, caller):
        self.scopes[caller].cancel()

    def tell(self, path, what):
        actor = self.actors.get(path)
        if actor is not None and actor.inbox is not None:
            actor.inbox.send_nowait(what)

    def view(self, path):
        """What is to be seen of the children of one supervisor."""
        return [
            {
                "name": child.name,
                "state": str(child.state),
                "restarts": child.restarts,
                "crashes": child.crashes,
                "last_error": child.last_error and last_error_name(child.last_error),
                "started_at": child.started_at,
                "restart_at": child.restart_at,
                "overdue": child.overdue,
            }
            for child in self.supervisors[path].children
        ]

    async def end(self):
        """End it all, whatever state it is in."""
        self.outside.cancel()
        for _ in range(20):
            for path in self.actors:
                self.tell(path, "return")
            await trio.sleep(50)
        if self.left_by is None:
            # It hangs, and so would `trio.run`: end that as an error, which can be shrunk.
            trio.lowlevel.current_trio_token().run_sync_soon(_hangs)
            await trio.sleep_forever()


def _hangs():
    raise AssertionError("the block is never left")


def for_supervisor(options):
    limit = options.max_restarts
    return {
        "strategy": Strategy(options.strategy),
        "limit": None if limit is None else RestartLimit(limit, options.within),
        "shutdown_order": ShutdownOrder(options.shutdown_order),
        "auto_shutdown": AutoShutdown(options.auto_shutdown),
    }


def for_child(puppet):
    backoff = puppet.backoff
    return {
        "name": puppet.name,
        "restart": policy_of(puppet),
        "backoff": Backoff(
            initial=backoff.initial,
            maximum=backoff.maximum,
            free_restarts=backoff.free_restarts,
            window=backoff.window,
        ),
        "shutdown_timeout": puppet.timeout,
        "watchdog": puppet.watchdog,
        "significant": puppet.significant,
        "crash_ages": puppet.crash_ages,
        **({} if puppet.autostart else {"autostart": False}),
    }


def policy_of(puppet):
    if puppet.restart == "own":
        return lambda exit_: Decision(restart=not exit_.returned, delay=puppet.own_delay)
    return Restart(puppet.restart)


def detail_of(event):
    """The one thing of an event that the model predicts, beside its time, path and kind."""
    error = getattr(event, "error", None)
    name = None if error is None else names_of(error)
    match event.action:
        case "child_started":
            return event.restarts
        case "child_crashed":
            return name, event.crashes
        case "restart_scheduled":
            return event.delay
        case "child_stalled":
            return event.watchdog
        case "stop_requested":
            return event.timeout
        case "stop_overdue":
            return event.overdue
        case "restart_limit_reached":
            return event.max_restarts
        case _:
            return name


def names_of(error):
    if issubclass(type(error), BaseExceptionGroup):
        return "+".join(sorted(names_of(member) for member in error.exceptions))
    return type(error).__name__


def last_error_name(text):
    """The name of the error whose formatted traceback this is."""
    last_line = text.strip().rpartition("\n")[2]
    if last_line.strip().startswith("+---"):  # of a group
        return "Frozen+Unreadable"
    return last_line.partition(":")[0].rpartition(".")[2]
