"""An agent that is only a prompt: it does tasks, and goals at their times."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import pytest
import trio
from agents_at_work import QUICK
from agents_stage import INSTANCE, WORKER, staged

from actp_supervise.bridge import asyncio_child
from app.agents.host import run_routine
from app.agents.prompted import PromptedAgent
from app.agents.spec import AgentOptions
from app.demo.claude import Reply, SimulatedClaude, serve_claude
from app.health import overall
from app.launcher import AgentLauncher
from app.settings import SettingsError, load_settings
from app.store.protocol import TaskStatus

OPTIONS = AgentOptions(prompt="You answer questions of customers.")


class Quick(PromptedAgent):
    patience = QUICK


async def test_an_agent_of_a_prompt_does_its_tasks_by_it(at_work, store):
    at_work.changes = {"options": OPTIONS, "agent_id": "support"}
    at_work.claude.plan(
        Reply(tools=(("remember", {"key": "shop", "value": "closed"}),)), Reply(text="Closed.")
    )
    task_id = await at_work.add("Is the shop open?", agent_id="support")
    at_work.start(Quick, name="support")
    task = await at_work.finished(task_id)
    assert (task.status, task.result["text"]) == (TaskStatus.SUCCEEDED, "Closed.")
    system = at_work.claude.requests[0]["system"][0]["text"]
    assert system.startswith("You answer questions of customers.\n\nYou work alone")
    assert [memory.value for memory in await store.recall("support")] == ["closed"]


async def test_a_routine_with_a_goal_is_a_conversation_about_it(at_work, store):
    at_work.claude.plan(Reply(text="Nothing was asked."))
    context = at_work.context(options=OPTIONS, agent_id="support")
    result = await run_in_loop(run_routine, Quick, context, "morning", "Sum up yesterday.")
    assert result["text"] == "Nothing was asked."
    (task,) = await store.tasks(agent_type="support")
    assert (task.goal, task.status) == ("Sum up yesterday.", TaskStatus.SUCCEEDED)
    assert task.routine.startswith("support.morning/")


async def run_in_loop(function, *args):
    results = []

    async def code():
        results.append(await function(*args))

    await asyncio_child(code)()
    return results[0]


def launcher_of(tmp_path, text, **environ):
    path = tmp_path / "agents.toml"
    path.write_text(text)
    settings = load_settings({"WORKER_AGENTS": str(path), **environ}, env_file=None)
    return AgentLauncher(settings, store=None, instance="i")


def test_a_goal_needs_a_class_that_has_conversations(tmp_path):
    text = """
[agents.own]
class = "several_workers:Slow"
[agents.own.routines]
morning = {cron = "0 8 * * *", goal = "Sum up."}
evening = "0 20 * * *"
"""
    morning, evening = launcher_of(tmp_path, text).routines()
    assert "has no 'async def routine'" in morning.disabled
    assert "has no 'async def evening(self)'" in evening.disabled
    (goal,) = launcher_of(
        tmp_path,
        "[agents.own]\nprompt = 'x'\nroutines.morning = {cron = '0 8 * * *', goal = 'Sum up.'}\n",
    ).routines()
    assert (goal.name, goal.goal, goal.disabled) == ("own.morning", "Sum up.", None)


def test_the_launcher_takes_agents_that_are_new_and_forgets_those_that_are_gone(tmp_path):
    launcher = launcher_of(tmp_path, "[agents.one]\nprompt = 'x'\n")
    (tmp_path / "agents.toml").write_text(
        "[agents.two]\nprompt = 'x'\nroutines.r = {cron = '@daily', goal = 'g'}\n"
    )
    environ = {"WORKER_AGENTS": str(tmp_path / "agents.toml")}
    settings = load_settings(environ, env_file=None)
    launcher.take_agents(settings)
    assert [job.name for job in launcher.routines()] == ["two.r"]
    off = replace(settings.agents[0], enabled=False, why_disabled="so")
    launcher.take_agents(replace(settings, agents=(off,)))
    assert [job.disabled for job in launcher.routines()] == ["so"]


# Tools of the file.

WITH_TIME = f"""
[agents.social]
prompt = "You tell the time."
single = false
[agents.social.mcp.time]
command = {sys.executable!r}
args = ["-m", "mcp_server_time"]
env = {{ZONE = "${{ZONE}}"}}
"""


@pytest.mark.parametrize("isolation", ["loop", "process"])
async def test_the_tools_that_the_file_gives_an_agent_are_open_where_it_runs(
    store, tmp_path, isolation
):
    claude = SimulatedClaude()
    claude.plan(
        Reply(tools=(("mcp__time__get_current_time", {"timezone": "UTC"}),)), Reply(text="Noon.")
    )
    path = tmp_path / "agents.toml"
    path.write_text(WITH_TIME)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_claude, claude)
        environ = {
            "ANTHROPIC_API_KEY": "k",
            "ANTHROPIC_BASE_URL": url,
            "WORKER_AGENTS": str(path),
            "ZONE": "UTC",
            "SOCIAL_MEDIA_AGENT_ISOLATION": isolation,
        }
        settings = load_settings(environ, env_file=None)
        launcher = AgentLauncher(replace(settings, worker_id=WORKER), store, INSTANCE)
        async with staged(store, launcher.run, environ=environ) as stage:
            await stage.supervisor.start_all()
            await store.add_task("t", "social", "What time is it?")
            stage.supervisor.notify_task("social")
            with trio.fail_after(60):
                while not (task := await store.task("t")).finished_at:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            tools = [tool.name for tool in stage.supervisor.tools("social")]
            assert "mcp__time__get_current_time" in tools
            assert stage.supervisor.get_status()["social"].problems == ()
        nursery.cancel_scope.cancel()
    assert (task.status, task.result["text"]) == (TaskStatus.SUCCEEDED, "Noon.")
    (call,) = await store.tool_calls(task_id="t")
    assert (call.tool, call.error) == ("mcp__time__get_current_time", None)


def test_a_tool_that_cannot_be_set_up_is_told_at_the_start_with_its_agent(tmp_path):
    text = "[agents.shop]\nprompt = 'x'\ntools = ['stripe']\n"
    with pytest.raises(SettingsError, match=r"line 1: agents\.shop: stripe: STRIPE_SECRET_KEY"):
        launcher_of(tmp_path, text)
    launcher_of(tmp_path, text, ENABLE_SHOP_AGENT="no")


async def test_the_workers_of_an_agent_share_one_server_of_tools(store, tmp_path):
    """A program is started once for three workers, and is gone with them."""
    server = tmp_path / "server"
    begun = tmp_path / "begun"
    server.write_text(f"#!/bin/sh\necho $$ >> {begun}\nexec {sys.executable} -m mcp_server_time\n")
    server.chmod(0o755)
    path = tmp_path / "agents.toml"
    path.write_text(
        f'[agents.social]\nprompt = "x"\nsingle = false\nworkers = 3\n'
        f"[agents.social.mcp.time]\ncommand = {str(server)!r}\n"
    )
    environ = {"ANTHROPIC_API_KEY": "k", "WORKER_AGENTS": str(path)}
    settings = load_settings(environ, env_file=None)
    launcher = AgentLauncher(replace(settings, worker_id=WORKER), store, INSTANCE)
    async with staged(store, launcher.run, environ=environ, hold=launcher.hold) as stage:
        await stage.supervisor.start_all()
        with trio.fail_after(60):
            while stage.supervisor.get_status()["social"].workers_running < 3:  # noqa: ASYNC110
                await trio.sleep(0.05)
        tools = [tool.name for tool in stage.supervisor.tools("social")]
        assert "mcp__time__get_current_time" in tools
        (pid,) = begun.read_text().split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


async def test_a_server_of_tools_that_is_away_from_an_agent_s_process_is_a_reason_of_the_agent(
    store, tmp_path
):
    path = tmp_path / "agents.toml"
    path.write_text(WITH_TIME.replace("mcp_server_time", "no_such_server"))
    environ = {
        "ANTHROPIC_API_KEY": "k",
        "WORKER_AGENTS": str(path),
        "ZONE": "UTC",
        "SOCIAL_MEDIA_AGENT_ISOLATION": "process",
    }
    settings = load_settings(environ, env_file=None)
    launcher = AgentLauncher(replace(settings, worker_id=WORKER), store, INSTANCE)
    async with staged(store, launcher.run, environ=environ) as stage:
        await stage.supervisor.start_all()
        with trio.fail_after(60):
            while not stage.supervisor.get_status()["social"].problems:  # noqa: ASYNC110
                await trio.sleep(0.05)
        (problem,) = stage.supervisor.get_status()["social"].problems
    assert "time" in problem


def test_an_agent_s_process_is_given_the_variables_of_its_own_tools_alone(tmp_path):
    path = tmp_path / "agents.toml"
    path.write_text(WITH_TIME + "[agents.shop]\nprompt = 'x'\ntools = ['telegram']\n")
    environ = {
        "WORKER_AGENTS": str(path),
        "ZONE": "UTC",
        "STRIPE_SECRET_KEY": "sk_1",
        "TELEGRAM_BOT_TOKEN": "123:abc",
        "TELEGRAM_CHAT_ID": "1",
    }
    settings = load_settings(environ, env_file=None)
    launcher = AgentLauncher(settings, store=None, instance="i")
    social, shop = settings.agents
    assert launcher.variables_for(social) == {"ZONE": "UTC"}
    assert launcher.variables_for(shop) == {
        "TELEGRAM_BOT_TOKEN": "123:abc",
        "TELEGRAM_CHAT_ID": "1",
    }


def test_variables_that_the_file_refers_to_are_for_its_tools_and_no_others(tmp_path):
    path = tmp_path / "agents.toml"
    path.write_text(WITH_TIME)
    environ = {"WORKER_AGENTS": str(path), "ZONE": "UTC", "OTHER": "x"}
    settings = load_settings(environ, env_file=None)
    assert settings.for_hands == {"ZONE": "UTC"}
    assert "referred" not in repr(settings)


async def test_a_server_that_is_away_is_a_reason_for_health_and_no_crash(store, tmp_path, clock):
    path = tmp_path / "agents.toml"
    path.write_text(WITH_TIME.replace(repr(sys.executable), "'/no/such/program'"))
    environ = {"ANTHROPIC_API_KEY": "k", "WORKER_AGENTS": str(path), "ZONE": "UTC"}
    settings = load_settings(environ, env_file=None)
    launcher = AgentLauncher(replace(settings, worker_id=WORKER), store, INSTANCE)
    async with staged(store, launcher.run, environ=environ) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(20)
        status = stage.supervisor.get_status()["social"]
        assert (status.status, status.error_count) == ("running", 0)
        (problem,) = status.problems
        state, reasons = overall({"social": status})
        assert (state, [each.text for each in reasons]) == ("degraded", [f"social: {problem}"])
        assert "time" in problem
