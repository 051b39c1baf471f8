"""One life of a simulated daemon, from its start to its exit or its kill: the real `run_daemon`.

What is left of a killed one goes on for some seconds, as its tasks cannot be dropped like a
process's; but it can have no effect any more: the store, Claude and the log do not hear of it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import traceback
from collections import deque
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from typing_extensions import override

from actp_supervise import current_child
from actp_supervise.service import Block, LoopWatch, fields_of
from app.alerts.channels import Channel
from app.edges import Edges
from app.health_server import HealthServer
from app.startup import run_daemon
from app.store.protocol import Before, StoreError, StoreUnavailable
from app.web.commands import open_commands
from app.worker import take_lock

from .pace import looks
from .store import MemoryDatabase, MemoryStore

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from anthropic import AsyncAnthropic
    from quart_trio import QuartTrio

    from app.alerts.plan import Message
    from app.daemon import Daemon
    from app.event_log import LoggedEvent
    from app.settings import Settings
    from app.store.protocol import Store
    from app.store.verbs import Arguments, R, Verb
    from app.web.listening import Address

    from .machine import Machine
    from .plan import What
    from .world import World

current_life: ContextVar[Life] = ContextVar("simulation_life")
"""The life in whose tasks something runs."""

current_verb: ContextVar[str] = ContextVar("simulation_verb", default="")
"""The verb of the store that is under way in a task."""

PAGE: Final = "http://localhost:8090"

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Life:
    """One start of a daemon.

    Args:
        world: Where it lives.
        machine: What it runs on.
        number: Which start of its daemon this is.
    """

    def __init__(self, world: World, machine: Machine, number: int) -> None:
        self.world = world
        self.machine = machine
        self.name = f"{machine.name}.{number}"
        self.rng: random.Random = world.rng
        self.is_dead = False
        self.gone = trio.Event()
        """Set when it has exited, or was killed."""
        self.daemon: Daemon | None = None
        """Once its web server is up."""
        self.app: QuartTrio | None = None
        self.asked_to_stop: list[float] = []
        self.started_at = trio.current_time()
        self.leaked: object = None
        """The last task that an agent has left behind."""
        self.restarted: dict[str, float] = {}
        """When people had an agent restarted, by Trio's time."""
        self.faults: dict[str, deque[tuple[What, float]]] = {}
        self._handlers: dict[int, Callable[[int, Any], object]] = {}
        self._scope = trio.CancelScope()
        self._locks: list[int] = []
        self._watch: VirtualLoopWatch | None = None

    @property
    def edges(self) -> Edges:
        """The outer world, as this daemon is given it."""
        return Edges(
            open_store=self._open_store,
            wall_clock=self.machine.clock,
            make_client=self._make_client,
            make_channels=lambda _settings: (Phone(self),),
            catch=self._handlers.__setitem__,
            make_loop_watch=self._make_loop_watch,
            make_server=lambda daemon, _address: partial(self._serve, daemon),
            open_waiting_room=_no_waiting_room,
            configure_logs=lambda _settings, _redact: None,
            take_lock=self._take_lock,
            looks=looks(self.world.plan.pace),
        )

    async def run(self) -> None:
        """Live."""
        current_life.set(self)
        self.note("starts")
        self.world.work["starts of a daemon"] += 1
        rules = self.world.rules
        try:
            with self._scope:
                await run_daemon(
                    self.machine.settings(),
                    cast("Address", None),  # nobody but our own server would look at it
                    reread=self.machine.settings,
                    edges=self.edges,
                )
        except Exception as error:  # noqa: BLE001  (a rule judges it)
            if not self.is_dead:
                rules.exited(self, "".join(traceback.format_exception(error)))
        else:
            if not self.is_dead:
                rules.exited(self, None)
        finally:
            self.note("is gone")
            self.is_dead = True
            self.gone.set()
            self._forget()

    def note(self, text: str) -> None:
        """Write something into the log of the run, unless this life is over."""
        if not self.is_dead:
            self.world.note(self.name, text)

    # What is done to it.

    def send(self, number: int) -> None:
        """Send it a signal."""
        handler = self._handlers.get(number)
        if handler is None:
            self.note(f"{signal.Signals(number).name} ends it before it is up")
            self.kill()
            return
        if number != signal.SIGHUP:
            self.asked_to_stop.append(trio.current_time())
        self.note(signal.Signals(number).name)
        handler(number, None)

    def kill(self) -> None:
        """End it as by kill -9: from now on nothing that it does has any effect."""
        if self.is_dead:
            return
        self.note("is killed")
        self.is_dead = True
        for lock in self._locks:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_UN)
        self.gone.set()
        self._scope.cancel(reason="it is killed")

    def has(self, task: trio.lowlevel.Task) -> bool:
        """Return whether a task is one of its tasks."""
        return task.context.get(current_life) is self

    def count_tasks(self) -> int:
        """Return how many tasks of Trio's it has."""
        waiting, number = [trio.lowlevel.current_root_task()], 0
        while waiting:
            task = waiting.pop()
            if task is not None:
                number += self.has(task)
                waiting += [child for each in task.child_nurseries for child in each.child_tasks]
        return number

    def block(self, seconds: float) -> None:
        """Advance the clock while nothing runs, as code does that blocks the loop."""
        self.world.clock.jump(seconds)
        self.world.rules.blocked(seconds)
        if self._watch is not None:
            self._watch.blocked(seconds)

    def faults_of(self, agent_id: str) -> deque[tuple[What, float]]:
        """Return what is to go wrong in an agent's code, in order."""
        return self.faults.setdefault(agent_id, deque())

    # Its edges.

    @asynccontextmanager
    async def _open_store(self, _settings: Settings) -> AsyncIterator[Store]:
        store = LifeStore(self)
        await store.ping()
        yield store

    def _make_client(self, _key: str | None, _url: str | None) -> AsyncAnthropic:
        import contextvars

        agent_id = str(fields_of(contextvars.copy_context()).get("agent_id"))
        return self.world.claude.client(agent_id, self.machine.troubles_of(agent_id), self)

    def asks(self, body: dict[str, Any]) -> None:
        """See that one of its agents asks Claude."""
        self.world.work["calls of Claude"] += 1
        self.world.rules.asked(self, body)

    def gets(
        self, agent_id: str, body: dict[str, Any], usage: dict[str, Any], *, whole: bool
    ) -> None:
        """See a reply of Claude to one of its agents."""
        self.world.rules.replied(self, agent_id, body, usage, whole=whole)

    def _make_loop_watch(self, on_block: Callable[[Block], object]) -> LoopWatch:
        self._watch = VirtualLoopWatch(on_block)
        return self._watch

    async def _serve(
        self, daemon: Daemon, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None:
        daemon.events.listeners.append(self._hear)
        async with open_commands() as commands:
            self.app = HealthServer(daemon).make_app(commands)
            self.daemon = daemon
            task_status.started(PAGE)
            await current_child().stopping.wait()
            self.app = None

    def _hear(self, event: LoggedEvent) -> None:
        if not self.is_dead:
            self.note(f"{event.kind}: {event.text}")
            self.world.rules.heard(self, event)

    def _take_lock(self, folder: Path, instance: str) -> int:
        lock = take_lock(folder, instance)
        self._locks.append(os.dup(lock))  # the same lock, whatever becomes of the other
        return lock

    def _forget(self) -> None:
        """Let go of its daemon: the rules remember each life, and in a year there are hundreds."""
        self.daemon = self.app = self._watch = None
        self._handlers.clear()
        self.faults.clear()
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()


class LifeStore(Before):
    """The store as one life reaches it, with all that may go wrong on the way."""

    def __init__(self, life: Life) -> None:
        super().__init__(MemoryStore(MemoryDatabase(life.world.memory)))
        self._life = life

    @override
    async def perform(self, verb: Verb[R], arguments: Arguments) -> R:
        life, machine = self._life, self._life.machine
        if (seconds := machine.torn.pop(verb.name, 0.0)) and not life.is_dead:
            machine.keep_away(seconds)
            life.note(f"the store goes away at {verb.name}")
            life.world.rules.disturbed(seconds)
        self._check()
        if machine.is_slow:
            await trio.sleep(life.rng.uniform(0.2, 6.0))
            self._check()
        current_verb.set(verb.name)
        current_life.set(life)
        answer = await verb.ask(self.store, arguments)
        if not life.is_dead:
            life.world.rules.did(life, verb.name, arguments, answer)
            life.world.work["tasks that ended"] += verb.name == "finish_task" and answer is True
        await trio.lowlevel.checkpoint()
        self._check()
        if machine.answers_to_lose > 0:
            machine.answers_to_lose -= 1
            life.note(f"the answer to {verb.name} is lost")
            raise StoreUnavailable("simulated: the answer is lost")
        return answer

    def _check(self) -> None:
        if self._life.is_dead:
            raise StoreError("this process is dead")
        if self._life.machine.store_is_away:
            raise StoreUnavailable("simulated: the store is away")


class Phone(Channel):
    """By which people are told; what they are told is in the log."""

    name = "phone"

    def __init__(self, life: Life) -> None:
        self._life = life

    @override
    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        self._life.note(f"tells people: {message.title}")


class VirtualLoopWatch(LoopWatch):
    """Is told of blocks, in place of the thread that looks for them in real time."""

    def __init__(self, on_block: Callable[[Block], object]) -> None:
        super().__init__(on_block)
        self._told = on_block
        self._latest: tuple[float, Block] | None = None

    @override
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    @override
    def problem(self) -> str | None:
        if self._latest is None or trio.current_time() > self._latest[0] + 300.0:
            return None
        return self._latest[1].text

    def blocked(self, seconds: float) -> None:
        """Take note of a block that is over."""
        if seconds >= 2.0:
            block = Block(who=None, where="simulated", seconds=seconds)
            self._latest = (trio.current_time(), block)
            self._told(block)


@asynccontextmanager
async def _no_waiting_room(
    _settings: Settings, _address: Address, _redact: Callable[[str], str]
) -> AsyncIterator[Callable[[StoreUnavailable], None]]:
    yield lambda _error: None
