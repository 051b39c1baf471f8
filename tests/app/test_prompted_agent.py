"""An agent that is only a prompt: it does tasks, and goals at their times."""

from __future__ import annotations

from dataclasses import replace

from agents_at_work import QUICK

from app.agents.host import run_routine
from app.agents.prompted import PromptedAgent
from app.agents.spec import AgentOptions
from app.demo.claude import Reply
from app.launcher import AgentLauncher
from app.settings import load_settings
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
    from actp_supervise.bridge import asyncio_child

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
