"""Settings read anew: which differ, which are taken up, and that a wrong one changes nothing."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from actp_supervise import SupervisionError
from actp_supervise.service import Outbox, ServiceManager
from app.agents.spec import PROMPTED_CLASS
from app.event_log import EventLog
from app.reload import Reloader, changes
from app.routine import RoutineJob
from app.settings import AgentSettings, Settings, SettingsError, load_settings
from app.store.outbox import store_outbox

ROOT = Path(__file__).parents[2]

KEY = "sk-ant-api03-" + "k" * 60

OTHER = {
    "ANTHROPIC_API_KEY": KEY,
    "WORKER_DRAIN_TIMEOUT": "31",
    "SUPERVISOR_WATCH_INTERVAL": "3",
    "STRIPE_SECRET_KEY": "stripe-two",
    "CONTENT_AGENT_MODEL": "claude-opus-5-5",
    "CONTENT_AGENT_SINGLE": "yes",
    "ENABLE_REVENUE_AGENT": "no",
}


def settings(**environ):
    return load_settings(environ, env_file=None)


def test_equal_settings_have_no_changes_however_they_are_written():
    assert changes(settings(), settings(WORKER_DRAIN_TIMEOUT="30.0")) == []


def test_each_change_is_named_as_it_is_set():
    found = changes(settings(), settings(**OTHER))
    assert [change.variable for change in found] == [
        "ANTHROPIC_API_KEY",
        "WORKER_DRAIN_TIMEOUT",
        "SUPERVISOR_WATCH_INTERVAL",
        "STRIPE_SECRET_KEY",
        "CONTENT_AGENT_MODEL",
        "CONTENT_AGENT_SINGLE",
        "ENABLE_REVENUE_AGENT",
    ]
    taken_up = [change.variable for change in found if change.taken_up]
    assert taken_up == ["SUPERVISOR_WATCH_INTERVAL", "CONTENT_AGENT_MODEL"]


@dataclass
class Agents:
    """Stands in for AgentSupervisor: what it is given."""

    at_work: tuple[str, ...] = ("content",)
    watch_interval: float = 10.0
    given: list[AgentSettings] = field(default_factory=list)
    added: list[AgentSettings] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def add_agent(self, config):
        self.added.append(config)

    async def remove_agent(self, agent_id):
        self.removed.append(agent_id)

    def statuses(self):
        return dict.fromkeys(self.at_work, "running")

    def reconfigure(self, config):
        self.given.append(config)
        return config.agent_id in self.at_work

    async def restart_agent(self, agent_id):
        raise SupervisionError(f"child {agent_id!r} was stopped before it was ready")


class Launcher:
    """Stands in for AgentLauncher: the settings that it has, and routines made of them."""

    def __init__(self):
        self.has = None

    def take_agents(self, settings):
        self.has = settings

    def routines(self):
        return [
            RoutineJob(agent_id=a.agent_id, method=r.method, cron=r.cron, disabled=None)
            for a in self.has.agents
            for r in a.spec.routines
        ]


class Routines:
    """Stands in for the scheduler of routines."""

    def __init__(self):
        self.has = []

    def set_routines(self, routines):
        self.has = routines


class Registry:
    """Stands in for the store: what is registered."""

    def __init__(self):
        self.registered = []

    async def register_agents(self, worker_id, agents):
        self.registered += agents


@dataclass
class Daemon:
    settings: Settings
    supervisor: Agents = field(default_factory=Agents)
    events: EventLog = field(default_factory=EventLog)
    records: Outbox = field(default_factory=store_outbox)
    store: Any = field(default_factory=Registry)
    routines: Routines = field(default_factory=Routines)


class Stage:
    """A daemon whose settings can be changed."""

    def __init__(self):
        self.environ = {"STRIPE_SECRET_KEY": "stripe-one"}
        self.daemon = Daemon(self.read())
        self.launcher = Launcher()
        self.reloader = Reloader(self.daemon, self.launcher, ServiceManager({}), self.read)
        self.reload = self.reloader.reload

    def read(self):
        return settings(**self.environ)


@pytest.fixture
async def stage(caplog):  # an event tells when, by Trio's clock
    caplog.set_level(logging.INFO)
    return Stage()


async def test_what_can_be_taken_up_is_and_the_rest_is_named(stage, caplog):
    before = stage.daemon.settings
    stage.environ |= OTHER
    assert stage.reload() == ["content"]
    content = next(a for a in stage.daemon.settings.agents if a.agent_id == "content")
    assert (content.model, content.single) == ("claude-opus-5-5", False)
    assert stage.daemon.supervisor.given == [content]
    assert stage.launcher.has == stage.daemon.settings
    assert stage.daemon.supervisor.watch_interval == 3.0
    now = stage.daemon.settings
    assert (now.watch_interval, now.drain_timeout) == (3.0, before.drain_timeout)
    assert now.anthropic_api_key == before.anthropic_api_key
    (line,) = caplog.records
    assert line.getMessage() == (
        "Settings reloaded: changed SUPERVISOR_WATCH_INTERVAL, CONTENT_AGENT_MODEL (content: with "
        "a new run, when work in flight is finished); to change ANTHROPIC_API_KEY, "
        "WORKER_DRAIN_TIMEOUT, STRIPE_SECRET_KEY, "
        "CONTENT_AGENT_SINGLE, ENABLE_REVENUE_AGENT, restart the daemon"
    )
    (event,) = stage.daemon.events.recent()
    assert (event.kind, event.text) == ("settings_reloaded", line.getMessage())
    assert event.fields["applied"] == ["SUPERVISOR_WATCH_INTERVAL", "CONTENT_AGENT_MODEL"]
    assert KEY not in line.getMessage() + repr(event)


async def test_the_registry_has_the_model_of_an_agents_new_run(stage, nursery):
    stage.environ |= {"CONTENT_AGENT_MODEL": "claude-opus-5-5", "SOCIAL_MEDIA_AGENT_MODEL": "other"}
    assert stage.reload() == ["content"]
    nursery.start_soon(stage.daemon.records.run)
    await stage.daemon.records.flush()
    (content,) = stage.daemon.store.registered
    assert (content.agent_id, content.model) == ("content", "claude-opus-5-5")
    assert content.status == "running"


async def test_what_waits_for_a_restart_is_named_again_and_what_was_taken_up_is_not(stage, caplog):
    stage.environ |= {"WORKER_DRAIN_TIMEOUT": "31", "SUPERVISOR_WATCH_INTERVAL": "3"}
    stage.reload()
    assert stage.reload() == []
    assert caplog.messages[-1] == (
        "Settings reloaded: no change; to change WORKER_DRAIN_TIMEOUT, restart the daemon"
    )


async def test_an_agent_that_does_not_run_needs_no_new_run(stage, caplog):
    stage.environ["REVENUE_AGENT_POLL_INTERVAL"] = "7"
    assert stage.reload() == []
    (revenue,) = stage.daemon.supervisor.given
    assert revenue.poll_interval == 7.0
    assert caplog.messages == ["Settings reloaded: changed REVENUE_AGENT_POLL_INTERVAL"]


async def test_a_wrong_setting_changes_nothing_and_is_told_in_one_line(stage, caplog):
    before = stage.daemon.settings
    stage.environ |= {"CONTENT_AGENT_MODEL": "other", "CONTENT_AGENT_POLL_INTERVAL": "often"}
    assert stage.reload() == []
    assert stage.daemon.settings is before
    assert stage.daemon.supervisor.given == []
    (line,) = caplog.records
    assert (line.levelname, line.action, line.exc_info) == ("ERROR", "settings_wrong", None)
    assert line.getMessage().startswith(
        "Settings not reloaded, all stays as it is: CONTENT_AGENT_POLL_INTERVAL=often: must be"
    )


async def test_a_slip_of_the_pen_gets_its_warning_once(stage, caplog):
    stage.environ["CONTENT_AGENT_MODLE"] = "other"
    stage.reload()
    stage.reload()
    warnings = [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]
    assert warnings == [
        "CONTENT_AGENT_MODLE is no setting of this program; did you mean CONTENT_AGENT_MODEL?"
    ]


async def test_an_agent_that_is_stopped_meanwhile_does_not_end_the_reloader(stage):
    hang_up, hangups = trio.open_memory_channel(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.reloader.run, hangups)
        for model in ("one", "other"):
            stage.environ["CONTENT_AGENT_MODEL"] = model
            await hang_up.send(1)
            await trio.testing.wait_all_tasks_blocked()
        hang_up.close()
    assert [agent.model for agent in stage.daemon.supervisor.given] == ["one", "other"]


# The file of agents.

FILE = """
[agents.content]
[agents.support]
prompt = "You answer."
[agents.support.routines]
morning = {cron = "0 8 * * *", goal = "Sum up."}
"""


@pytest.fixture
async def filed(caplog, tmp_path):
    """A daemon whose agents stand in a file: content runs, and support."""
    caplog.set_level(logging.INFO)
    path = tmp_path / "agents.toml"
    path.write_text(FILE)

    class Filed(Stage):
        def read(self):
            return settings(WORKER_AGENTS=str(path), **self.environ)

        def write(self, *changes):
            text = FILE
            for old, new in changes:
                assert old in text
                text = text.replace(old, new)
            path.write_text(text)

    stage = Filed()
    stage.daemon.supervisor.at_work = ("content", "support")
    return stage


async def test_a_new_prompt_needs_a_new_run(filed, caplog):
    filed.write(("You answer.", "You answer kindly."))
    assert filed.reload() == ["support"]
    (support,) = filed.daemon.supervisor.given
    assert support.spec.prompt == "You answer kindly."
    assert "changed agents.support.prompt (support: with a new run" in caplog.messages[-1]


async def test_a_new_time_of_a_routine_disturbs_no_work(filed, caplog):
    filed.write(("0 8 * * *", "30 7 * * *"))
    assert filed.reload() == []
    crons = {job.name: job.cron for job in filed.daemon.routines.has}
    assert crons["support.morning"] == "30 7 * * *"
    assert caplog.messages == ["Settings reloaded: changed agents.support.routines"]


async def test_more_workers_need_a_new_run(filed):
    filed.write(("[agents.support]", "[agents.support]\nworkers = 3"))
    assert filed.reload() == ["support"]
    assert filed.daemon.supervisor.given[0].workers == 3


async def test_an_agent_that_is_new_in_the_file_starts_and_one_that_is_gone_stops(filed, caplog):
    filed.write(("[agents.content]\n", "[agents.shop]\nprompt = 'You sell.'\n"))
    hang_up, hangups = trio.open_memory_channel(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(filed.reloader.run, hangups)
        await hang_up.send(1)
        await trio.testing.wait_all_tasks_blocked()
        hang_up.close()
    assert [agent.agent_id for agent in filed.daemon.supervisor.added] == ["shop"]
    assert filed.daemon.supervisor.removed == ["content"]
    assert [agent.agent_id for agent in filed.daemon.settings.agents] == ["shop", "support"]
    assert "changed agents.shop, agents.content" in caplog.messages[-1]


async def test_a_wrong_file_changes_nothing(filed, caplog):
    before = filed.daemon.settings
    filed.write(("prompt", "promt"))
    assert filed.reload() == []
    assert filed.daemon.settings is before
    assert "line 4: agents.support.promt: is no key here" in caplog.messages[-1]


async def test_a_new_agent_whose_class_cannot_be_one_changes_nothing(filed, caplog):
    class Refuses(Launcher):
        def take_agents(self, settings):
            raise SettingsError("agents.toml, line 8: agents.own.class: cannot import 'no'")

    filed.launcher = Refuses()
    filed.reloader = Reloader(filed.daemon, filed.launcher, ServiceManager({}), filed.read)
    before = filed.daemon.settings
    filed.write(("You answer.", "You answer kindly."))
    assert filed.reloader.reload() == []
    assert filed.daemon.settings is before
    assert filed.daemon.supervisor.given == []
    assert "all stays as it is: agents.toml, line 8" in caplog.messages[-1]


async def test_another_class_waits_for_a_restart_of_the_daemon_with_all_that_belongs_to_it(
    filed, caplog
):
    filed.write(('prompt = "You answer."', "class = 'package.module:Class'"))
    assert filed.reload() == []
    support = filed.daemon.settings.agents[1]
    assert (support.class_path, support.spec.prompt) == (PROMPTED_CLASS, "You answer.")
    assert "to change SUPPORT_AGENT_CLASS, agents.support.prompt, restart" in caplog.messages[-1]


HANGS_UP_AT_THE_END = """
import signal, trio
from app.reload import catch_hangups

async def main():
    hangups = catch_hangups()
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGHUP)
    print(await anext(hangups) == signal.SIGHUP)
    signal.raise_signal(signal.SIGHUP)
    await trio.lowlevel.checkpoint()

trio.run(main)
signal.raise_signal(signal.SIGHUP)
print("ended well")
"""


def test_a_sighup_that_nobody_follows_any_more_does_not_end_the_process():
    """It comes with the terminal that is closed while the daemon stops."""
    command = [sys.executable, "-c", HANGS_UP_AT_THE_END]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "True\nended well\n"
