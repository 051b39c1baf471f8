"""What a run of an agent leaves claimed goes back to the queue as it ends."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from agents_stage import INSTANCE, WORKER, staged

from actp_supervise import Restart, open_supervisor
from app.launcher import AgentLauncher
from app.settings import load_settings
from app.store.protocol import Before, TaskStatus

ENVIRON = {
    "ANTHROPIC_API_KEY": "k",
    "SOCIAL_MEDIA_AGENT_CLASS": "clumsy_agents:Clumsy",
    "SOCIAL_MEDIA_AGENT_SINGLE": "no",
}


def launcher_of(store, isolation="loop"):
    environ = {**ENVIRON, "SOCIAL_MEDIA_AGENT_ISOLATION": isolation}
    settings = load_settings(environ, env_file=None).with_agents(["social"])
    return AgentLauncher(replace(settings, worker_id=WORKER), store, INSTANCE)


@asynccontextmanager
async def at_work(store, **options):
    launcher = launcher_of(store)
    async with staged(store, launcher.run, environ=ENVIRON, **options) as stage:
        await stage.supervisor.start_all()
        yield stage


async def test_the_next_run_has_a_task_at_once_whose_agent_crashed_as_it_had_claimed_it(
    clock, store
):
    await store.add_task("t1", "social", "crash")
    async with at_work(store):
        await trio.sleep(1.0)
        task = await store.task("t1")
        assert (task.status, task.attempts) == (TaskStatus.RUNNING, 2)  # by the next run
        assert task.error == "the agent crashed while it did this"


async def test_an_attempt_does_not_count_that_was_left_by_an_agent_that_was_stopped(clock, store):
    await store.add_task("t1", "social", "wait")
    async with at_work(store, drain_timeout=2.0) as stage:
        await trio.sleep(1.0)
        assert (await store.task("t1")).status is TaskStatus.RUNNING
        await stage.supervisor.stop_agent("social")
        task = await store.task("t1")
        assert (task.status, task.attempts) == (TaskStatus.QUEUED, 0)


@pytest.mark.parametrize("isolation", ["loop", "process"])
async def test_the_task_of_a_routine_is_queued_that_crashed_as_it_had_begun_it(store, isolation):
    launcher = launcher_of(store, isolation)
    async with open_supervisor(name="routines") as tree:
        tree.start_soon(launcher.run_routine, "social", "daily", restart=Restart.TEMPORARY)
    task = await store.task("routine")
    assert (task.status, task.attempts) == (TaskStatus.QUEUED, 1)


class Away(Before):
    """A store that can claim tasks and do nothing else with them."""

    async def perform(self, verb, arguments):
        if verb.name == "release_task":
            await trio.sleep_forever()
        return await super().perform(verb, arguments)


async def test_a_store_that_is_away_does_not_keep_a_run_from_ending(clock, store):
    launcher = launcher_of(Away(store))
    began = trio.current_time()
    async with open_supervisor(name="routines") as tree:
        tree.start_soon(launcher.run_routine, "social", "daily", restart=Restart.TEMPORARY)
    assert trio.current_time() - began < 5.0
    assert (await store.task("routine")).status is TaskStatus.RUNNING
