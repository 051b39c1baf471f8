"""Settings read anew on SIGHUP: what the running daemon takes up, and what has to wait."""

from __future__ import annotations

import dataclasses
import logging
import signal
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from actp_supervise import SupervisionError
from actp_supervise.service.signals import CatchSignal, tell_trio
from app.event_kinds import EventKind
from app.settings import AgentSettings, Settings, SettingsError, settings_of
from app.store.protocol import AgentRegistration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from actp_supervise.service import ServiceManager
    from app.daemon import Daemon
    from app.launcher import AgentLauncher

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that is no longer what it was. Its value is not told, since it may be a secret."""

    variable: str
    field: str
    value: object
    """The new value."""
    taken_up: bool
    """Whether a running daemon takes it up."""
    agent_id: str | None = None
    """Whose it is; None if it is the daemon's."""


def changes(old: Settings, new: Settings) -> list[Change]:
    """Return which settings differ."""
    found = [
        Change(setting.name, field, getattr(new, field), setting.reloads)
        for field, setting in settings_of(Settings).items()
        if getattr(old, field) != getattr(new, field)
    ]
    for before, after in zip(old.agents, new.agents, strict=True):
        found += [
            Change(
                setting.variable(after.spec),
                field,
                getattr(after, field),
                setting.reloads,
                after.agent_id,
            )
            for field, setting in settings_of(AgentSettings).items()
            if getattr(before, field) != getattr(after, field)
        ]
    return found


def catch_hangups(catch: CatchSignal = signal.signal) -> trio.MemoryReceiveChannel[int]:
    """Catch SIGHUP from now on, for a `Reloader` to follow.

    It is caught to the end of the process, or the terminal's hang-up would end a daemon that stops.

    Args:
        catch: Has a function called with each signal of a number.
    """
    # Room for one, for whatever changed before it is followed is read then.
    send, hangups = trio.open_memory_channel[int](1)
    token = trio.lowlevel.current_trio_token()

    def hang_up() -> None:
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            send.send_nowait(signal.SIGHUP)

    catch(signal.SIGHUP, lambda *_: tell_trio(token, hang_up))
    return hangups


class Reloader:
    """Has a running daemon take up settings that were changed.

    Args:
        daemon: Which; its `settings` are then those in force.
        launcher: What it runs its agents with.
        service: The service manager, which is told.
        reread: Reads all settings as they are now.
    """

    def __init__(
        self,
        daemon: Daemon,
        launcher: AgentLauncher,
        service: ServiceManager,
        reread: Callable[[], Settings],
    ) -> None:
        self._daemon = daemon
        self._launcher = launcher
        self._service = service
        self._reread = reread

    async def run(self, hangups: AsyncIterator[int]) -> None:
        """Follow each SIGHUP, until cancelled."""
        async with trio.open_nursery() as restarts:
            async for _ in hangups:
                self._service.reloading()
                for agent_id in self.reload():
                    restarts.start_soon(self._restart, agent_id)
                self._service.ready()

    def reload(self) -> list[str]:
        """Read the settings and take up what can be; if one is wrong, nothing.

        Returns:
            The agents that need a new run for it.
        """
        try:
            new = self._reread()
        except SettingsError as error:
            extra = {"action": "settings_wrong"}
            logger.error("Settings not reloaded, all stays as it is: %s", error, extra=extra)
            return []
        for warning in new.warnings:
            if warning not in self._daemon.settings.warnings:
                logger.warning(warning, extra={"action": "settings_warning"})
        found = changes(self._daemon.settings, new)
        restarts = self._take_up([change for change in found if change.taken_up])
        self._daemon.settings = dataclasses.replace(self._daemon.settings, warnings=new.warnings)
        self._tell(found, restarts)
        return restarts

    def _take_up(self, taken_up: list[Change]) -> list[str]:
        of_daemon: dict[str, Any] = {c.field: c.value for c in taken_up if c.agent_id is None}
        settings = dataclasses.replace(self._daemon.settings, **of_daemon)
        restarts = []
        agents = []
        for agent in settings.agents:
            own = [change for change in taken_up if change.agent_id == agent.agent_id]
            changed: dict[str, Any] = {change.field: change.value for change in own}
            if changed:
                agent = dataclasses.replace(agent, **changed)
                self._launcher.reconfigure(agent)
                if self._daemon.supervisor.reconfigure(agent):
                    restarts.append(agent.agent_id)
                    self._register(agent)
            agents.append(agent)
        self._daemon.settings = dataclasses.replace(settings, agents=tuple(agents))
        self._daemon.supervisor.watch_interval = settings.watch_interval
        return restarts

    def _register(self, agent: AgentSettings) -> None:
        daemon = self._daemon
        registration = AgentRegistration(
            agent_id=agent.agent_id,
            class_name=agent.class_path,
            model=agent.model,
            status=daemon.supervisor.statuses()[agent.agent_id],
        )
        daemon.records.put(
            f"settings of {agent.agent_id}",
            partial(daemon.store.register_agents, daemon.settings.worker_id, [registration]),
        )

    async def _restart(self, agent_id: str) -> None:
        with suppress(SupervisionError):  # the daemon stops, or somebody stops the agent meanwhile
            await self._daemon.supervisor.restart_agent(agent_id)

    def _tell(self, found: list[Change], restarts: list[str]) -> None:
        applied = [change.variable for change in found if change.taken_up]
        waiting = [change.variable for change in found if not change.taken_up]
        text = "Settings reloaded: " + (f"changed {', '.join(applied)}" if applied else "no change")
        if restarts:
            text += f" ({', '.join(restarts)}: with a new run, when work in flight is finished)"
        if waiting:
            text += f"; to change {', '.join(waiting)}, restart the daemon"
        extra = {"action": "settings_reloaded", "applied": applied, "needs_restart": waiting}
        logger.info(text, extra=extra)
        self._daemon.events.publish(
            EventKind.SETTINGS_RELOADED, text, applied=applied, needs_restart=waiting
        )
