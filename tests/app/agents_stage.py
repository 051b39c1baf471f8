"""The agents' supervisor with all around it that is real, for agents written in a line or two."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from actp_supervise import current_child
from actp_supervise.service import Outbox
from app.beat import DaemonBeat
from app.desk import Desk
from app.facts import to_json
from app.heartbeat import HealthHeartbeat
from app.registry import AgentRegistry
from app.settings import AgentSettings, load_settings
from app.store.outbox import store_outbox
from app.store.protocol import AgentRegistration, Before, Store, StoreUnavailable
from app.supervised import AgentRun
from app.supervisor import AgentSupervisor
from app.worker import DaemonPresence

WORKER = "worker-1"
INSTANCE = "instance-1"

Launch = Callable[[AgentSettings, AgentRun], Awaitable[object]]


class Flaky(Before):
    """A store that can be taken away and brought back."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.away = False

    async def perform(self, verb: Any, arguments: Any) -> Any:
        if self.away:
            raise StoreUnavailable("connection refused")
        return await super().perform(verb, arguments)


@dataclass
class Stage:
    supervisor: AgentSupervisor
    registry: AgentRegistry
    heartbeat: HealthHeartbeat
    records: Outbox
    nursery: trio.Nursery
    store: Any
    desk: Desk

    async def settle(self) -> None:
        """Wait until everybody waits, and all is written down."""
        await trio.testing.wait_all_tasks_blocked()
        await self.records.flush()

    def status(self, agent_id: str = "social") -> dict[str, Any]:
        """How an agent is, with the facts of its health among the others."""
        known = to_json(self.supervisor.get_status()[agent_id])
        return {**known.pop("health"), **known}


@dataclass
class Recorder:
    """An agent that notes when its runs begin, and ends each as told."""

    ends: Sequence[BaseException | None] = ()
    """What the first runs raise; later ones idle until asked to stop."""
    starts: list[float] = field(default_factory=list)

    async def __call__(self, config: AgentSettings, run: AgentRun) -> None:
        self.starts.append(trio.current_time())
        if len(self.starts) <= len(self.ends):
            error = self.ends[len(self.starts) - 1]
            if error is not None:
                raise error
        else:
            run.activity.vouch(math.inf)
            await current_child().stopping.wait()


async def live_on(config: AgentSettings, run: AgentRun) -> None:
    """Idle until asked to stop, with a heart that beats."""
    child = current_child()
    while not child.stopping:
        run.activity.beat()
        with child.cancel_on_stop():
            await trio.sleep(40)


async def hang(config: AgentSettings, run: AgentRun) -> None:
    """Give no sign of life."""
    await trio.sleep_forever()


def agents(*agent_ids: str, **environ: str) -> list[AgentSettings]:
    environ = {"SOCIAL_MEDIA_AGENT_SINGLE": "no", "ACQUISITION_AGENT_SINGLE": "no", **environ}
    configured = load_settings(environ, env_file=None).agents
    return [config for config in configured if config.agent_id in agent_ids]


@asynccontextmanager
async def staged(
    store: Any,
    launch: Launch,
    *,
    agent_ids: Sequence[str] = ("social",),
    environ: dict[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[Stage]:
    """Set up a supervisor whose agents are still to be started."""
    configs = agents(*agent_ids, **(environ or {}))
    records = store_outbox()
    registry = AgentRegistry(store, WORKER)
    heartbeat = HealthHeartbeat(registry)
    desk = Desk(store)
    presence = DaemonPresence(load_settings({"WORKER_ID": WORKER}, env_file=None), INSTANCE)
    beat = DaemonBeat(
        desk,
        presence=presence,
        heartbeat=heartbeat,
        registry=registry,
        records=records,
        lease=options.get("single_lease", 60.0),
    )
    await store.touch_worker(WORKER, INSTANCE, {}, silent_after=1000.0)
    await registry.register_all(
        [AgentRegistration(agent_id=c.agent_id, class_name="X", model="m") for c in configs]
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(records.run)
        async with AgentSupervisor(
            configs,
            launch=launch,
            store=desk,
            registry=registry,
            heartbeat=heartbeat,
            records=records,
            beat=beat,
            instance=INSTANCE,
            on_status=presence.publish,
            **options,
        ) as supervisor:
            presence.statuses = supervisor.statuses
            desk.wake, desk.wake_all = supervisor.wake, supervisor.wake_all
            yield Stage(supervisor, registry, heartbeat, records, nursery, store, desk)
        await records.flush()
        nursery.cancel_scope.cancel()
