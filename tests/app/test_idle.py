"""What agents cost for which there is nothing to do."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import trio
from agents_stage import INSTANCE, WORKER, staged

from app.agents.activity import SignsOfLife
from app.launcher import AgentLauncher
from app.settings import load_settings
from app.store.protocol import Before

SETTLED = 100.0
"""Seconds after which the starts are over."""

WATCHED = 900.0
MOST_STEPS = 500
"""Steps of Trio tasks that a worker may cost in that time: it has looked for work 30 times."""


class Counted(Before):
    """A store that counts what it is asked."""

    def __init__(self, store):
        super().__init__(store)
        self.asked = Counter()

    async def perform(self, verb, arguments):
        self.asked[verb.name] += 1
        return await super().perform(verb, arguments)


class Steps(trio.abc.Instrument):
    """How many steps Trio's tasks take."""

    taken = 0

    def before_task_step(self, task):
        self.taken += 1


async def idle(store, workers):
    """Return what is asked of the store, and how many steps are taken, while nothing happens."""
    environ = {
        "ANTHROPIC_API_KEY": "k",
        "SOCIAL_MEDIA_AGENT_CLASS": "several_workers:Slow",
        "SOCIAL_MEDIA_AGENT_SINGLE": "no",
        "SOCIAL_MEDIA_AGENT_WORKERS": str(workers),
    }
    settings = load_settings(environ, env_file=None).with_agents(["social"])
    signs, steps, counted = SignsOfLife(), Steps(), Counted(store)

    async def launch(config, run):
        launcher = AgentLauncher(replace(settings, worker_id=WORKER), stage.desk, INSTANCE)
        await launcher.run(config, run)

    async with staged(counted, launch, environ=environ, signs=signs) as stage:
        stage.nursery.start_soon(signs.give, settings.stale_threshold)
        await stage.supervisor.start_all()
        stage.nursery.start_soon(stage.supervisor.watch_loop)
        await trio.sleep(SETTLED)
        counted.asked.clear()
        trio.lowlevel.add_instrument(steps)
        await trio.sleep(WATCHED)
        trio.lowlevel.remove_instrument(steps)
        assert stage.supervisor.get_status()["social"].workers_running == workers
        return dict(counted.asked), steps.taken


async def test_workers_that_have_nothing_to_do_ask_nothing_and_hardly_wake(clock, store):
    asked_by_one, steps_of_one = await idle(store, 1)
    asked_by_many, steps_of_many = await idle(store, 11)
    assert set(asked_by_one) == set(asked_by_many) == {"beat"}
    assert abs(asked_by_one["beat"] - asked_by_many["beat"]) <= 2
    assert (steps_of_many - steps_of_one) / 10 <= MOST_STEPS
