"""Where an agent's code runs: its instance, and the sign of life that its own loop gives."""

from __future__ import annotations

import asyncio
import inspect
import logging
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from actp_supervise import current_child
from actp_supervise.service import clean_json
from app.store.protocol import StoreError, TaskStatus

from .activity import ALONE
from .contract import make_agent, takes_context
from .handle import end, finish_anyway

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .activity import Activity
    from .contract import Agent, AgentContext

T = TypeVar("T")

GOAL_METHOD: Final = "routine"
"""The method that an agent has for routines with a goal; it takes their name and the goal."""

logger = logging.getLogger(__name__)

LOOK_INTERVAL: Final = 0.1
"""Seconds between two looks whether an agent that is to stop has come to its idle wait."""


async def run_agent(cls: type[Agent], context: AgentContext, poll_interval: float) -> None:
    """Make an instance of an agent and run it until it ends; in asyncio.

    Args:
        cls: Its class.
        context: What it is given.
        poll_interval: Seconds between two looks for work.
    """
    agent = make_agent(cls, context)
    if not takes_context(cls):
        context.activity.doing = ALONE
    work = agent.run_as_daemon(poll_interval)
    activity = context.activity
    try:
        await _alive(_until_idle_when_asked(work, poll_interval, activity), activity)
    finally:
        await finish_anyway(context.aclose())


async def run_routine(
    cls: type[Agent], context: AgentContext, method: str, goal: str | None = None
) -> Any:  # noqa: ANN401  (the routine's)
    """Make an instance of an agent, and have it do one routine; in asyncio.

    Args:
        cls: Its class.
        context: What it is given.
        method: The routine's name; without a goal it is a method, which has to be there.
        goal: What is to be reached, by the agent's method `routine`.

    Returns:
        What the routine returned.
    """
    agent = make_agent(cls, context)
    routine = getattr(agent, method) if goal is None else partial(_routine_of(agent), method, goal)
    try:
        result = await _alive(routine(), context.activity)
    finally:
        await finish_anyway(context.aclose())
    if not (isinstance(result, dict) and "task_id" in result):  # else it has a task of its own
        await _keep(context, method, result)
    return result


def _routine_of(agent: Agent) -> Callable[[str, str], Coroutine[Any, Any, Any]]:
    """Return the method of an agent that does a routine by its goal."""
    method: Callable[[str, str], Coroutine[Any, Any, Any]] = getattr(agent, GOAL_METHOD)
    return method


async def _keep(context: AgentContext, method: str, result: object) -> None:
    """Keep what a routine returned that needed no conversation, where the results of tasks are."""
    if not result:
        return
    kept = result if isinstance(result, dict) else {"text": str(result)}
    token, store = uuid.uuid4().hex, context.store
    day = (await store.ping()).astimezone(context.timezone).date()
    try:
        task = await store.begin_task(
            uuid.uuid4().hex,
            context.agent_id,
            f"{method}, which needed no conversation",
            routine=f"{context.agent_id}.{method}/{day}",
            worker_id=context.worker_id,
            instance=context.instance,
            token=token,
            lease=context.task_lease,
        )
        if task is not None:
            kept = clean_json(kept, context.redact)
            await store.finish_task(task.id, token, TaskStatus.SUCCEEDED, result=kept)
    except StoreError:
        logger.exception("What %s returned is not kept", method)


async def _until_idle_when_asked(
    work: Coroutine[Any, Any, None], poll_interval: float, activity: Activity
) -> None:
    """Run an agent; once it is asked to stop, end it when it only waits.

    It waits for its next poll, or for a budget or Claude to be there again. A class that knows
    nothing of us never looks whether it is asked, and would sleep on until its time to drain is
    over. Work in flight is not touched: see `_waits_for_next_poll`.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  (a coroutine of asyncio runs in one)
    ending = asyncio.ensure_future(_end_when_idle(task, work, poll_interval, activity))
    try:
        await work
    except asyncio.CancelledError:  # noqa: ASYNC103  (ours, which ends here)
        was_idle = ending.done() and not ending.cancelled() and ending.result()
        if not was_idle or task.uncancel() > 0:  # then it is cancelled by another, too
            raise
    finally:
        await end(ending)


async def _end_when_idle(
    task: asyncio.Task[Any],
    work: Coroutine[Any, Any, None],
    poll_interval: float,
    activity: Activity,
) -> bool:
    try:
        child = current_child()
    except RuntimeError:  # in a bare nursery nobody asks
        return False
    await child.stopping.wait()
    while not (activity.is_resting or _waits_for_next_poll(work, poll_interval)):  # noqa: ASYNC110  (no event tells)
        await asyncio.sleep(LOOK_INTERVAL)
    return task.cancel("asked to stop, between two polls")


def _waits_for_next_poll(work: Coroutine[Any, Any, None], poll_interval: float) -> bool:
    """Return whether an agent does nothing but sleep for its poll interval.

    That is so where `run_as_daemon` itself, and none of the functions that it calls, stands in
    ``await asyncio.sleep(poll_interval)``. What sleeps for another time, or further down (a pause
    between two calls of an API), is at work.
    """
    sleep = work.cr_await  # type: ignore[attr-defined]
    if not (inspect.iscoroutine(sleep) and sleep.cr_code is asyncio.sleep.__code__):
        return False
    return sleep.cr_frame is not None and sleep.cr_frame.f_locals.get("delay") == poll_interval


async def _alive(work: Coroutine[Any, Any, T], activity: Activity) -> T:
    """Do the work, and vouch beside it for the loop in which it runs."""
    if activity.signs is not None:
        with activity.signs.given(activity):
            return await work
    beating = asyncio.ensure_future(_beat(activity))
    try:
        return await work
    finally:
        if inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
            work.close()
        await end(beating)


async def _beat(activity: Activity) -> None:
    while True:
        activity.beat()
        await asyncio.sleep(activity.beat_interval)
