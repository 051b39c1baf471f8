"""Settings read anew on SIGHUP: what the running daemon takes up, and what has to wait."""

from __future__ import annotations

import dataclasses
import logging
import signal
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from actp_supervise import SupervisionError
from actp_supervise.service.signals import CatchSignal, tell_trio
from app.event_kinds import EventKind
from app.settings import AgentSettings, Settings, SettingsError, settings_of
from app.store.protocol import AgentRegistration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from actp_supervise.service import ServiceManager
    from app.daemon import Daemon
    from app.launcher import AgentLauncher

logger = logging.getLogger(__name__)


FILE_ONLY: Final = {
    "prompt": "prompt",
    "about": "about",
    "tools": "all_hands",
    "approve": "approve",
    "release": "release",
    "routines": "routines",
}
"""What only the file says of an agent -> the field of its `AgentSpec`."""


OF_ALERTS: Final = frozenset({"alert_urls", "alert_quiet", "daily_summary", "heartbeat_url"})
"""The settings by which people are told."""


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
    before = {agent.agent_id: agent for agent in old.agents}
    for agent in new.agents:
        if agent.agent_id in before:
            found += _changes_of_agent(before.pop(agent.agent_id), agent)
        else:
            found.append(_whole_agent(agent.agent_id, agent))
    return [*found, *(_whole_agent(agent_id, None) for agent_id in before)]


def _whole_agent(agent_id: str, agent: AgentSettings | None) -> Change:
    """Return that an agent is new, or gone."""
    return Change(f"agents.{agent_id}", "agents", agent, taken_up=True, agent_id=agent_id)


def _changes_of_agent(before: AgentSettings, after: AgentSettings) -> list[Change]:
    found = [
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
    # Of another class, which waits for a restart, the rest waits as well.
    same_class = before.class_path == after.class_path
    return found + [
        Change(f"agents.{after.agent_id}.{key}", "spec", after.spec, same_class, after.agent_id)
        for key, field in FILE_ONLY.items()
        if getattr(before.spec, field) != getattr(after.spec, field)
    ]


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
        take_alerts: Has people told as other settings say.
    """

    def __init__(
        self,
        daemon: Daemon,
        launcher: AgentLauncher,
        service: ServiceManager,
        reread: Callable[[], Settings],
        *,
        take_alerts: Callable[[Settings], Awaitable[object]] | None = None,
    ) -> None:
        self._take_alerts = take_alerts
        self._alerts_changed = False
        self._daemon = daemon
        self._launcher = launcher
        self._service = service
        self._reread = reread
        self._gone: list[str] = []
        """Agents that the file no longer has, to be stopped."""

    async def run(self, hangups: AsyncIterator[int]) -> None:
        """Follow each SIGHUP, until cancelled."""
        async with trio.open_nursery() as restarts:
            async for _ in hangups:
                self._service.reloading()
                for agent_id in self.reload():
                    restarts.start_soon(self._restart, agent_id)
                if self._alerts_changed:
                    self._alerts_changed = False
                    await self._tell_otherwise()
                while self._gone:
                    restarts.start_soon(self._remove, self._gone.pop())
                self._service.ready()

    def reload(self) -> list[str]:
        """Read the settings and take up what can be; if one is wrong, nothing.

        Returns:
            The agents that need a new run for it.
        """
        known_warnings = self._daemon.settings.warnings
        try:
            new = self._reread()
            found = changes(self._daemon.settings, new)
            restarts = self._take_up(new, [change for change in found if change.taken_up])
        except SettingsError as error:
            extra = {"action": "settings_wrong"}
            logger.error("Settings not reloaded, all stays as it is: %s", error, extra=extra)
            return []
        for warning in new.warnings:
            if warning not in known_warnings:
                logger.warning(warning, extra={"action": "settings_warning"})
        self._daemon.settings = dataclasses.replace(self._daemon.settings, warnings=new.warnings)
        self._alerts_changed = any(each.field in OF_ALERTS for each in found if each.taken_up)
        self._tell(found, restarts)
        return restarts

    def _take_up(self, new: Settings, taken_up: list[Change]) -> list[str]:
        """Take up what can be; return the agents that need a new run for it.

        Raises:
            SettingsError: If the class of a new agent cannot be one; then nothing has changed.
        """
        of_daemon: dict[str, Any] = {c.field: c.value for c in taken_up if c.agent_id is None}
        old = {agent.agent_id: agent for agent in self._daemon.settings.agents}
        own = {
            agent_id: [change for change in taken_up if change.agent_id == agent_id]
            for agent_id in old
        }
        agents = tuple(
            _changed(old[agent.agent_id], own[agent.agent_id]) if agent.agent_id in old else agent
            for agent in new.agents
        )
        settings = dataclasses.replace(self._daemon.settings, agents=agents, **of_daemon)
        self._launcher.take_agents(settings)
        self._daemon.routines.set_routines(self._launcher.routines())
        supervisor = self._daemon.supervisor
        restarts = []
        for agent in agents:
            if agent.agent_id not in old:
                supervisor.add_agent(agent)
            elif agent is not old[agent.agent_id]:
                runs = supervisor.reconfigure(agent)
                if runs and not all(c.variable.endswith(".routines") for c in own[agent.agent_id]):
                    restarts.append(agent.agent_id)
                    self._register(agent)
        self._gone += old.keys() - {agent.agent_id for agent in agents}
        self._daemon.settings = settings
        supervisor.watch_interval = settings.watch_interval
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

    async def _remove(self, agent_id: str) -> None:
        with suppress(SupervisionError):  # the daemon stops
            await self._daemon.supervisor.remove_agent(agent_id)

    async def _tell_otherwise(self) -> None:
        if self._take_alerts is None:
            return
        try:
            await self._take_alerts(self._daemon.settings)
        except SettingsError as error:  # as an address that apprise does not understand
            extra = {"action": "settings_wrong"}
            logger.error("People are told as before: %s", error, extra=extra)

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


def _changed(agent: AgentSettings, taken_up: list[Change]) -> AgentSettings:
    """Return an agent with what has changed of it; the same one if nothing has."""
    changed: dict[str, Any] = {change.field: change.value for change in taken_up}
    return dataclasses.replace(agent, **changed) if changed else agent
