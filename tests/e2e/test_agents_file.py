"""A daemon whose agents stand in a file: started, changed while it runs, wrong."""

from __future__ import annotations

import shutil
import signal

from daemons import IDLER, ROOT, until

OWN = """
[agents.one]
class = "own:Idler"
[agents.two]
class = "own:Idler"
workers = 3
"""

WITH_ROUTINE = (
    IDLER.replace("Idler", "WithRoutine")
    + """
    async def run_it(self):
        pass
"""
)


def named(agents):
    return {agent["agent_id"] for agent in agents}


async def test_agents_of_a_file_run_and_the_file_is_taken_up_on_sighup(idle_place):
    file = idle_place.folder / "agents.toml"
    file.write_text(OWN)
    async with idle_place.daemon() as daemon:
        await daemon.until_agent("one", "running")
        two = await daemon.until_agent("two", "running")
        assert [worker["number"] for worker in two["workers"]] == [1, 2, 3]
        file.write_text(OWN.replace("one", "three").replace("workers = 3", "workers = 2"))
        daemon.signal(signal.SIGHUP)
        await daemon.until_agent("three", "running")
        await daemon.until(
            "/agents", lambda agents: {a["agent_id"] for a in agents} == {"three", "two"}
        )
        await daemon.until("/agents/two", lambda agent: len(agent["workers"]) == 2)
        assert idle_place.statuses()["one"] == "stopped"
        file.write_text("[agents.three]\nclas = 'x'\n")
        daemon.signal(signal.SIGHUP)
        wrong = await until(lambda: daemon.logged("settings_wrong"))
        assert "agents.toml, line 2: agents.three.clas: is no key here" in wrong["message"]
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
    assert set(idle_place.statuses().values()) == {"stopped"}


async def test_a_wrong_file_is_one_line_and_exit_code_2(idle_place):
    (idle_place.folder / "agents.toml").write_text(
        "[agents.one]\nclass = 'own:Idler'\nworkers = 0\n"
    )
    ended = await idle_place.run("--dry-run")
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ")
    assert "agents.toml, line 3: agents.one.workers: must be a number of tasks" in line


async def test_a_model_without_a_price_is_said_by_the_dry_run(idle_place):
    (idle_place.folder / "agents.toml").write_text("[agents.one]\nprompt = 'x'\nmodel = 'gpt-7'\n")
    ended = await idle_place.run("--dry-run")
    assert ended.code == 0
    assert "warning: the model gpt-7 of one is not in the price table" in ended.out
    assert "UNKNOWN: as the dearest" in ended.out


async def test_the_example_is_a_daemon_that_runs(place):
    shutil.copy(ROOT / "agents.example.toml", place.folder / "agents.toml")
    async with place.daemon() as daemon:
        support = await daemon.until_agent("support", "running")
        assert len(support["workers"]) == 3
        task = await daemon.post("support", "Say hello.")
        done = await daemon.until(f"/tasks/{task}", lambda task: task["finished_at"])
        assert done["status"] == "succeeded"
        jobs = {job["name"]: job["cron"] for job in await daemon.get("/scheduler/jobs")}
        assert jobs["support.morning"] == "30 7 * * 1-5"


async def test_a_time_that_was_put_holds_after_a_restart_until_the_file_says_another(idle_place):
    file = idle_place.folder / "agents.toml"
    text = "[agents.one]\nclass = 'own:WithRoutine'\n[agents.one.routines]\nrun_it = '0 6 * * *'\n"
    file.write_text(text)
    (idle_place.folder / "own.py").write_text(WITH_ROUTINE)

    async def cron(daemon):
        (job,) = await daemon.get("/scheduler/jobs")
        return job["cron"]

    async with idle_place.daemon() as daemon:
        answer = await daemon.http.put("/scheduler/jobs/one.run_it", json={"cron": "30 7 * * *"})
        assert answer.status_code == 200
    async with idle_place.daemon() as daemon:
        assert await cron(daemon) == "30 7 * * *"
        file.write_text(text.replace("0 6", "0 5"))
        daemon.signal(signal.SIGHUP)
        await until(lambda: daemon.logged("settings_reloaded"))
        assert await cron(daemon) == "0 5 * * *"


async def test_only_agents_of_the_file_can_be_named(idle_place):
    (idle_place.folder / "agents.toml").write_text(OWN)
    ended = await idle_place.run("--agents", "social", "--dry-run")
    assert ended.code == 2
    assert ended.err == "error: there is no agent 'social'; known are one, two\n"
