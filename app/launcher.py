"""What an agent is run with: its class, its context, a way into its own asyncio loop."""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import sys
import uuid
from typing import TYPE_CHECKING

import trio

from actp_supervise.bridge import asyncio_child
from actp_supervise.service import fields_of, log_context, shorten
from app.agents.activity import Activity
from app.agents.client import make_client
from app.agents.contract import Agent, AgentClassError, has_routine, load_agent_class
from app.agents.host import run_agent, run_routine
from app.agents.prices import PriceTable, PriceTableError, load_prices
from app.agents.process import run_in_process
from app.agents.setup import AgentSetup, make_context
from app.agents.spec import SHARED_TABLES, AgentOptions
from app.agents.wire import Work
from app.routine import RoutineJob
from app.settings import AgentSettings, Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anthropic import AsyncAnthropic

    from app.store.protocol import Store
    from app.store.schema import TableReport
    from app.supervisor import AgentRun

logger = logging.getLogger(__name__)


class AgentLauncher:
    """Runs the enabled agents, and their routines, with all that they need.

    Args:
        settings: What is configured.
        store: The daemon's store.
        instance: This start of the daemon.
        make_client: Makes a client of Claude's API from a key and an address.

    Raises:
        SettingsError: If a class cannot be an agent, or the price table cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        instance: str,
        *,
        make_client: Callable[[str | None, str | None], AsyncAnthropic] = make_client,
    ) -> None:
        self._settings = settings
        self._store = store
        self._instance = instance
        self._make_client = make_client
        self._prices = _load_prices(settings)
        self._agents = {agent.agent_id: agent for agent in settings.agents if agent.enabled}
        self._classes = {agent_id: _load_class(agent) for agent_id, agent in self._agents.items()}

    async def run(self, config: AgentSettings, run: AgentRun) -> None:
        """Run a new instance of an agent to its end."""
        await self._run(config, run.activity, run.run_id, run.wait_for_work)

    async def run_routine(self, agent_id: str, method: str) -> None:
        """Run a routine to its end, on an instance of its own beside the agent that does tasks."""
        run_id = uuid.uuid4().hex
        activity = Activity(trio.lowlevel.current_clock().current_time)
        with log_context(agent_id=agent_id, run=run_id, routine=method):
            await self._run(self._agents[agent_id], activity, run_id, trio.sleep, method=method)

    def reconfigure(self, config: AgentSettings) -> None:
        """Give an agent's routines other settings, from their next run on."""
        if config.agent_id in self._agents:
            self._agents[config.agent_id] = config

    def routines(self) -> list[RoutineJob]:
        """Return the routines of all agents; those that cannot be run say why."""
        return [
            RoutineJob(
                agent_id=agent.agent_id,
                method=routine.method,
                cron=routine.cron,
                disabled=self._why_not(agent, routine.method),
            )
            for agent in self._settings.agents
            for routine in agent.spec.routines
        ]

    def _why_not(self, agent: AgentSettings, method: str) -> str | None:
        if not agent.enabled:
            return agent.why_disabled
        if not has_routine(self._classes[agent.agent_id], method):
            return f"{agent.class_path} has no 'async def {method}(self)'"
        return None

    async def _run(
        self,
        config: AgentSettings,
        activity: Activity,
        run_id: str,
        wait_for_work: Callable[[float], Awaitable[None]],
        *,
        method: str | None = None,
    ) -> None:
        """Run an agent, or one of its routines, isolated as it is configured."""
        setup = self._setup(config, run_id)
        if config.isolation == "process":
            work = Work(
                setup=setup,
                method=method,
                where=self._store.where,
                log_fields=dict(fields_of(contextvars.copy_context())),
                modules=sys.path,
            )
            await run_in_process(
                work, store=self._store, activity=activity, wait_for_work=wait_for_work
            )
            return
        context = make_context(
            setup,
            store=self._store,
            activity=activity,
            wait_for_work=wait_for_work,
            make_client=self._make_client,
        )
        cls = self._classes[config.agent_id]
        if method is None:
            in_its_loop = asyncio_child(run_agent, isolation=config.isolation)
            await in_its_loop(cls, context, config.poll_interval)
        else:
            await asyncio_child(run_routine, isolation=config.isolation)(cls, context, method)

    def _setup(self, config: AgentSettings, run_id: str) -> AgentSetup:
        settings = self._settings
        return AgentSetup(
            agent_id=config.agent_id,
            class_path=config.class_path,
            model=config.model,
            poll_interval=config.poll_interval,
            worker_id=settings.worker_id,
            instance=self._instance,
            run_id=run_id,
            prices=self._prices,
            daily_budget_usd=config.daily_budget_usd,
            options=AgentOptions(
                effort=config.effort,
                max_tokens=config.max_tokens,
                max_turns=config.max_turns,
                fallback_model=config.fallback_model,
                tool_timeout=config.tool_timeout,
                task_budget_usd=config.task_budget_usd,
                total_budget_usd=self._settings.daily_budget_usd,
            ),
            timezone=str(settings.timezone),
            task_lease=settings.task_lease,
            api_key=settings.anthropic_api_key,
            base_url=settings.anthropic_base_url,
            secrets=settings.secrets,
        )


def without_tables(settings: Settings, report: TableReport) -> Settings:
    """Return the settings with those agents disabled whose tables are not there (R40)."""
    agents = []
    for agent in settings.agents:
        lacking = report.lacking((*SHARED_TABLES, *agent.spec.tables))
        if agent.enabled and lacking is not None:
            agent = dataclasses.replace(agent, enabled=False, why_disabled=lacking)
        agents.append(agent)
    return dataclasses.replace(settings, agents=tuple(agents))


def _load_class(agent: AgentSettings) -> type[Agent]:
    try:
        return load_agent_class(agent.class_path)
    except AgentClassError as error:
        raise SettingsError(f"{agent.spec.env_prefix}CLASS: {shorten(str(error))}") from error


def _load_prices(settings: Settings) -> PriceTable:
    try:
        return load_prices(settings.prices_path)
    except PriceTableError as error:
        raise SettingsError(f"WORKER_PRICES: {shorten(str(error))}") from error
