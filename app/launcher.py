"""What an agent is run with: its class, its context, a way into its own asyncio loop."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import logging
import sys
import uuid
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING
from zoneinfo import available_timezones

import trio

from actp_supervise.bridge import asyncio_child
from actp_supervise.service import fields_of, log_context, shorten
from app.agent_file import variables_in
from app.agents.activity import Activity
from app.agents.claims import open_claims
from app.agents.client import make_client
from app.agents.contract import (
    Agent,
    AgentClassError,
    has_routine,
    load_agent_class,
    takes_context,
)
from app.agents.host import GOAL_METHOD, run_agent, run_routine
from app.agents.own_hands import open_own_hands, wanted_of
from app.agents.prices import PriceTable, PriceTableError, load_prices
from app.agents.process import run_in_process
from app.agents.setup import AgentSetup, make_context
from app.agents.spec import SHARED_TABLES, AgentOptions, Routine, WantedHand
from app.agents.tool_list import listed_tools
from app.agents.wire import HandsAre, Work
from app.routine import RoutineJob
from app.settings import AgentSettings, Settings, SettingsError, Source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anthropic import AsyncAnthropic

    from app.hands import Hands
    from app.store.protocol import Store
    from app.store.schema import TableReport
    from app.supervised import AgentRun

logger = logging.getLogger(__name__)


class AgentLauncher:
    """Runs the enabled agents, and their routines, with all that they need.

    Args:
        settings: What is configured.
        store: The daemon's store.
        instance: This start of the daemon.
        make_client: Makes a client of Claude's API from a key and an address.

    Raises:
        SettingsError: If a class cannot be an agent, a tool cannot be set up, or the price table
            cannot be used.
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
        self._shared: dict[str, Hands] = {}
        """Those that several workers of an agent share, while they are open."""
        for agent in settings.agents:
            _check_hands(agent, settings)

    @property
    def prices(self) -> PriceTable:
        """What calls of models cost."""
        return self._prices

    def with_classes_without_queue(self, settings: Settings) -> Settings:
        """Return the settings with a warning for each class that cannot do tasks of the queue."""
        warnings = tuple(
            f"{agent.class_path} of {agent.agent_id} takes no context, so it does none of the "
            "tasks that are posted to it, and nobody sees what it costs"
            for agent in self._agents.values()
            if not takes_context(self._classes[agent.agent_id])
        )
        return dataclasses.replace(settings, warnings=(*settings.warnings, *warnings))

    @asynccontextmanager
    async def hold(self, config: AgentSettings) -> AsyncIterator[None]:
        """Hold the tools of the file open that all workers of an agent share.

        Those of a process of its own are each worker's own.
        """
        if config.isolation == "process":
            yield
            return
        wanted = wanted_of(hands_of(config, self._settings))
        variables = self._settings.for_hands
        async with open_own_hands(wanted, variables, lambda _: None) as hands:
            if hands is not None:
                self._shared[config.agent_id] = hands
            try:
                yield
            finally:
                self._shared.pop(config.agent_id, None)

    @asynccontextmanager
    async def _hands_of_run(
        self, config: AgentSettings, opened: Callable[[Hands], object], *, is_routine: bool
    ) -> AsyncIterator[Hands | None]:
        """Give a run the hands that the agent's workers share, or its own."""
        shared = None if is_routine else self._shared.get(config.agent_id)
        if shared is not None:
            opened(shared)
            yield shared
            return
        wanted = wanted_of(hands_of(config, self._settings))
        variables = self._settings.for_hands
        async with open_own_hands(wanted, variables, opened) as hands:
            yield hands

    async def run(self, config: AgentSettings, run: AgentRun) -> None:
        """Run a new instance of an agent to its end."""

        def opened(hands: Hands) -> None:
            run.problems = lambda: hands.problems
            run.tools = partial(listed_tools, cls, hands, config.spec.approve)

        def on_hands(told: HandsAre) -> None:
            run.problems = lambda: told.problems
            run.tools = lambda: told.tools

        cls = self._classes[config.agent_id]
        run.tools = partial(listed_tools, cls, None, config.spec.approve)
        await self._run(
            config,
            run.activity,
            run.run_id,
            run.wait_for_work,
            opened=opened,
            on_hands=on_hands,
        )

    async def run_routine(self, agent_id: str, method: str) -> None:
        """Run a routine to its end, on an instance of its own beside the agent that does tasks."""
        run_id = uuid.uuid4().hex
        activity = Activity(trio.lowlevel.current_clock().current_time)
        with log_context(agent_id=agent_id, run=run_id, routine=method):
            config = self._agents[agent_id]
            goals = {routine.method: routine.goal for routine in config.spec.routines}
            await self._run(
                config, activity, run_id, trio.sleep, method=method, goal=goals.get(method)
            )

    def take_agents(self, settings: Settings) -> None:
        """Run the agents of these settings, and no others.

        Raises:
            SettingsError: If a class cannot be an agent, or a tool cannot be set up; then nothing
                has changed.
        """
        for agent in settings.agents:
            _check_hands(agent, settings)
        agents = {agent.agent_id: agent for agent in settings.agents if agent.enabled}
        new = {agent_id: agents[agent_id] for agent_id in agents.keys() - self._agents.keys()}
        classes = {agent_id: _load_class(agent) for agent_id, agent in new.items()}
        self._classes |= classes
        self._agents = agents
        self._settings = settings

    def routines(self) -> list[RoutineJob]:
        """Return the routines of all agents; those that cannot be run say why."""
        return [
            RoutineJob(
                agent_id=agent.agent_id,
                method=routine.method,
                cron=routine.cron,
                goal=routine.goal,
                disabled=self._why_not(agent, routine),
            )
            for agent in self._settings.agents
            for routine in agent.spec.routines
        ]

    def _why_not(self, agent: AgentSettings, routine: Routine) -> str | None:
        if not agent.enabled:
            return agent.why_disabled
        cls = self._classes[agent.agent_id]
        if routine.goal is not None:
            fits = has_routine(cls, GOAL_METHOD)
            return None if fits else f"{agent.class_path} has no 'async def {GOAL_METHOD}'"
        if not has_routine(cls, routine.method):
            return f"{agent.class_path} has no 'async def {routine.method}(self)'"
        return None

    async def _run(
        self,
        config: AgentSettings,
        activity: Activity,
        run_id: str,
        wait_for_work: Callable[[float], Awaitable[None]],
        *,
        method: str | None = None,
        goal: str | None = None,
        opened: Callable[[Hands], object] = lambda _: None,
        on_hands: Callable[[HandsAre], object] = lambda _: None,
    ) -> None:
        """Run an agent, or one of its routines, isolated as it is configured."""
        setup = self._setup(config, run_id)
        if config.isolation == "process":
            work = Work(
                setup=setup,
                method=method,
                goal=goal,
                where=self._store.where,
                log_fields=dict(fields_of(contextvars.copy_context())),
                modules=sys.path,
                hands=hands_of(config, self._settings),
                variables=self.variables_for(config),
            )
            await run_in_process(
                work,
                store=self._store,
                activity=activity,
                wait_for_work=wait_for_work,
                on_hands=on_hands,
            )
            return
        cls = self._classes[config.agent_id]
        async with (
            self._hands_of_run(config, opened, is_routine=method is not None) as hands,
            open_claims(self._store, activity) as store,
        ):
            context = make_context(
                setup,
                store=store,
                activity=activity,
                wait_for_work=wait_for_work,
                make_client=self._make_client,
                hands=hands,
                is_routine=method is not None,
            )
            if method is None:
                in_its_loop = asyncio_child(run_agent, isolation=config.isolation)
                await in_its_loop(cls, context, config.poll_interval)
            else:
                routine_in_its_loop = asyncio_child(run_routine, isolation=config.isolation)
                await routine_in_its_loop(cls, context, method, goal)

    def variables_for(self, config: AgentSettings) -> dict[str, str]:
        """Return what the tools of an agent may use of the environment, and no more of it."""
        hands = hands_of(config, self._settings)
        if not hands:
            return {}
        from app.hands import variables_of

        names = {variable.name for variable in variables_of(hand.name for hand in hands)}
        names |= set(variables_in([config.spec]))
        given = self._settings.for_hands
        return {name: given[name] for name in names if name in given}

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
                prompt=config.spec.prompt,
                about=config.spec.about,
                release=config.spec.release,
                approve=config.spec.approve,
                approval_timeout=config.approval_timeout,
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


def with_unknown_models(settings: Settings, prices: PriceTable) -> Settings:
    """Return the settings with a warning for each model that the price table does not name."""
    unknown: dict[str, list[str]] = {}
    for agent in settings.agents:
        for model in filter(None, (agent.model, agent.fallback_model)):
            if agent.enabled and not prices.knows(model):
                unknown.setdefault(model, []).append(agent.agent_id)
    warnings = tuple(
        f"the model {model} of {', '.join(agent_ids)} is not in the price table"
        f"{prices.hint(model)}; it is priced as the dearest that is"
        for model, agent_ids in unknown.items()
    )
    return dataclasses.replace(settings, warnings=(*settings.warnings, *warnings))


def hands_of(config: AgentSettings, settings: Settings) -> tuple[WantedHand, ...]:
    """Return the hands that an agent is run with: those of the file, or what is offered to it."""
    return (*config.spec.hands, *offered_hands(config, settings))


def offered_hands(config: AgentSettings, settings: Settings) -> list[WantedHand]:
    """Return the hands that an agent has where it can; none where another class has its place."""
    if config.class_path != config.spec.class_path or not config.spec.offered:
        return []
    zone = str(settings.timezone)
    of_the_worker = {"stripe": {"timezone": zone}} if _is_listed(zone) else {}
    return [
        dataclasses.replace(
            hand, optional=True, options={**hand.options, **of_the_worker.get(hand.name, {})}
        )
        for hand in config.spec.offered
    ]


@functools.cache  # for it looks through the files of all zones
def _is_listed(zone: str) -> bool:
    return zone in available_timezones()


def _check_hands(config: AgentSettings, settings: Settings) -> None:
    """Check the tools that the file gives an agent, and open none.

    Raises:
        SettingsError: If one cannot be set up.
    """
    if not (config.enabled and config.spec.hands):
        return
    from app.hands import check_hands

    where = config.spec.place
    for problem in check_hands(wanted_of(config.spec.hands), settings.for_hands):
        raise SettingsError(f"{where}: {shorten(problem)}")


def _load_class(agent: AgentSettings) -> type[Agent]:
    try:
        return load_agent_class(agent.class_path)
    except AgentClassError as error:
        place = f"{agent.spec.env_prefix}CLASS"
        if agent.sources.get("class_path") is Source.FILE:
            place = str(agent.spec.given["class"].place)
        raise SettingsError(f"{place}: {shorten(str(error))}") from error


def _load_prices(settings: Settings) -> PriceTable:
    try:
        return load_prices(settings.prices_path)
    except PriceTableError as error:
        raise SettingsError(f"WORKER_PRICES: {shorten(str(error))}") from error
