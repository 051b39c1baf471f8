"""Agents at work for tests: a real store, a simulated Claude over HTTP, children of a real tree."""

from __future__ import annotations

import itertools
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import trio

from actp_supervise import Backoff, Child, Restart, Supervisor, open_supervisor
from actp_supervise.bridge import asyncio_child
from app.agents.activity import Activity
from app.agents.host import run_agent, run_routine
from app.agents.patience import Patience
from app.agents.prices import load_prices
from app.agents.setup import AgentSetup, make_context
from app.agents.social import SocialMediaDomainAgent
from app.demo.claude import Reply, SimulatedClaude, serve_claude
from app.store.protocol import Store, TaskStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from app.agents.contract import AgentContext
    from app.store.protocol import TaskRow

FINAL = {TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED}
QUICK = Patience(backoff=Backoff(initial=0.01, maximum=0.05), total=1.0)

_numbers = itertools.count(1)


class QuickAgent(SocialMediaDomainAgent):
    """The social agent, who waits only briefly when calls fail."""

    patience = QUICK
    max_tokens = 8_192


@dataclass
class Office:
    """Where agents work in a test."""

    store: Store
    claude: SimulatedClaude
    url: str
    tree: Supervisor
    isolation: str = "loop"
    changes: dict[str, Any] = field(default_factory=dict)
    """Of every context."""
    activities: dict[str, Activity] = field(default_factory=dict)

    def context(self, store: Store | None = None, **changes: Any) -> AgentContext:
        setup = AgentSetup(
            agent_id=changes.get("agent_id", "social"),
            class_path="",
            model="claude-sonnet-5-5",
            poll_interval=30.0,
            worker_id="w1",
            instance="w1-run",
            run_id=f"run-{next(_numbers)}",
            prices=load_prices(),
            daily_budget_usd=None,
            timezone="Europe/Berlin",
            task_lease=60.0,
            api_key="sk-ant-test",
            base_url=self.url,
            secrets=(),
        )
        context = make_context(
            setup,
            store=store or self.store,
            activity=Activity(trio.lowlevel.current_clock().current_time),
            wait_for_work=_look_soon,
            patience=Backoff(initial=0.01, maximum=0.05),
        )
        return replace(context, **{**self.changes, **changes})

    def start(
        self, cls: type = QuickAgent, *, name: str = "social", **changes: Any
    ) -> tuple[Child, Activity]:
        """Start an agent as a child that is not restarted."""
        context = self.context(**changes)
        child = self.tree.start_soon(
            asyncio_child(run_agent, isolation=self.isolation),
            cls,
            context,
            30.0,
            name=name,
            restart=Restart.TEMPORARY,
            shutdown_timeout=10.0,
        )
        return child, context.activity

    async def cancellable(
        self,
        cls: type = QuickAgent,
        *,
        store: Store | None = None,
        watchdog: float | None = None,
        task_status: trio.TaskStatus[Activity] = trio.TASK_STATUS_IGNORED,
        **changes: Any,
    ) -> None:
        """Run an agent outside of the tree, so that it can be cancelled without being asked."""
        context = self.context(store, **changes)
        task_status.started(context.activity)
        async with open_supervisor(name="cancelled", limit=None, shutdown_timeout=0.0) as tree:
            tree.start_soon(
                asyncio_child(run_agent, isolation=self.isolation),
                cls,
                context,
                30.0,
                name="a",
                restart=Restart.TEMPORARY,
                watchdog=watchdog,
            )

    async def routine(self, cls: type, method: str, **changes: Any) -> Any:
        """Run a routine to its end, and return what it returned."""
        results = []

        async def code() -> None:
            results.append(await run_routine(cls, self.context(**changes), method))

        await asyncio_child(code)()
        return results[0]

    async def add(self, goal: str = "Do it.", task_id: str | None = None, **options: Any) -> str:
        task_id = task_id or f"task-{next(_numbers)}"
        await self.store.add_task(task_id, options.pop("agent_id", "social"), goal, **options)
        return task_id

    async def call(self, cls: type, tool: str, /, **arguments: Any) -> Any:
        """Have the model call a tool; what it was told: JSON, or the text of an error."""
        self.claude.plan(Reply(tools=((tool, arguments),)), Reply(text="Done."))
        await self.do("Do it.", cls)
        (result,) = self.claude.requests[-1]["messages"][-1]["content"]
        return result["content"] if result.get("is_error") else json.loads(result["content"])

    async def when(
        self, task_id: str, is_so: Callable[[TaskRow], bool], *, within: float = 60.0
    ) -> TaskRow:
        """Wait until something is so of a task; in real time, for others work in it."""
        with trio.fail_after(within):
            while True:
                task = await self.store.task(task_id)
                if is_so(task):
                    return task
                await trio.sleep(0.01)

    async def finished(self, task_id: str) -> TaskRow:
        return await self.when(task_id, lambda task: task.status in FINAL)

    async def do(self, goal: str = "Do it.", cls: type = QuickAgent, **changes: Any) -> TaskRow:
        """Have an agent do one task."""
        task_id = await self.add(goal, agent_id=changes.get("agent_id", "social"))
        child, _ = self.start(cls, **changes)
        task = await self.finished(task_id)
        await self.tree.stop(child.name)
        return task


async def _look_soon(_seconds: float) -> None:
    await trio.sleep(0.02)


async def until(is_so: Callable[[], Any], *, within: float = 60.0) -> None:
    """Wait until something is so, in real time."""
    with trio.fail_after(within):
        while not is_so():  # noqa: ASYNC110  (what others do sets no event)
            await trio.sleep(0.01)


@asynccontextmanager
async def office(store: Store, **changes: Any) -> AsyncIterator[Office]:
    """Open an office; all who work there end with the block, asked nicely."""
    claude = SimulatedClaude()
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_claude, claude)
        async with open_supervisor(name="agents", limit=None) as tree:
            yield Office(store, claude, url, tree, changes=changes)
            await tree.shutdown()
        nursery.cancel_scope.cancel()
