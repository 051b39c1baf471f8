"""The command line as a user has it: flags, exit codes, what is said when something is wrong."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys

import pytest
import trio
from daemons import ROOT, until

import actp_supervise
from app.command_line import _parser

AGENT_IDS = ["acquisition", "content", "revenue", "social"]


def one_line(ended):
    """Return the only line of stderr."""
    (line,) = ended.err.splitlines()
    return line


async def test_without_standard_streams_it_works_as_with_them(idle_place):
    command = 'exec "$0" -m app.main --dry-run <&- >&- 2>&-'
    ended = await trio.run_process(
        ["/bin/sh", "-c", command, sys.executable],
        cwd=ROOT,
        env=idle_place.environment(),
        check=False,
    )
    assert ended.returncode == 0


# What goes wrong.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--agents", "scoial"], "there is no agent 'scoial'; known are social, content, acq"),
        (["--agents", "social,,nobody"], "there is no agent 'nobody'"),
        (["--agents", ""], "name one or more of social, content, acquisition, revenue"),
        (["--agents"], "expected one argument"),
        (["--restart-agent"], "expected one argument"),
        (["--json"], "--json goes with --list-agents"),
        (["--list-agents", "--dry-run"], "not allowed with argument"),
        (["--demo", "--restart-agent", "social"], "not allowed with argument"),
        (["--verbose"], "unrecognized arguments: --verbose"),
        (["--list"], "unrecognized arguments: --list"),
        (["social"], "unrecognized arguments: social"),
        (["--task", "caf\udce9"], "argument --task: that is not UTF-8"),
        (["--task", "g", "--context", '{"a": NaN}'], "NaN is no number"),
        (["--task", "g", "--context", '{"a": "\\ud800"}'], "surrogates not allowed"),
    ],
)
async def test_wrong_use_is_exit_code_2_and_says_what_is_allowed(idle_place, arguments, says):
    ended = await idle_place.run(*arguments)
    assert ended.code == 2
    assert says in ended.err
    assert "Traceback" not in ended.err
    assert not idle_place.database.exists()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"ANTHROPIC_API_KEY": ""}, "ANTHROPIC_API_KEY is not set"),
        ({"WORKER_HEALTH_PORT": "many"}, "WORKER_HEALTH_PORT=many: must be a port"),
        ({"WORKER_TIMEZONE": "Mars"}, "WORKER_TIMEZONE=Mars: must be an IANA time zone"),
        ({"WORKER_HEALTH_HOST": "0.0.0.0"}, "WORKER_API_TOKEN must be set"),
        ({"ENABLE_CONTENT_AGENT": "perhaps"}, "ENABLE_CONTENT_AGENT=perhaps: must be one of"),
        ({"SOCIAL_MEDIA_AGENT_ISOLATION": "container"}, "must be one of loop, thread, process"),
        ({"SUPABASE_URL": "https://x.supabase.co"}, "SUPABASE_SERVICE_ROLE_KEY is not set"),
        ({"WORKER_PRICES": __file__}, "WORKER_PRICES: price table"),
        ({"TZ": "Mars", "WORKER_TIMEZONE": ""}, "WORKER_TIMEZONE"),
    ],
)
async def test_a_wrong_variable_is_one_line_and_exit_code_2(idle_place, variables, says):
    ended = await idle_place.run(**variables)
    assert ended.code == 2
    line = one_line(ended)
    assert line.startswith("error: ")
    assert says in line


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = 1", "has no class 'Agent'"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("class Agent: pass", "has no 'async def run_as_daemon(self, poll_interval)'"),
        ("class Agent:\n def run_as_daemon(self, poll_interval): pass", "has no 'async def"),
        (
            "class Agent:\n"
            " def __init__(self, context, budget): pass\n"
            " async def run_as_daemon(self, poll_interval): pass",
            "'budget', which nobody can give",
        ),
    ],
)
async def test_a_class_that_cannot_be_an_agent_is_refused_at_start(idle_place, source, says):
    idle_place.use_class(source, "Agent")
    ended = await idle_place.run()
    assert ended.code == 2
    line = one_line(ended)
    assert line.startswith("error: SOCIAL_MEDIA_AGENT_CLASS: ")
    assert says in line


async def test_a_port_in_use_is_one_line_and_exit_code_1(idle_place):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = await idle_place.run(WORKER_HEALTH_PORT=str(port))
    assert ended.code == 1
    *_, line = ended.err.splitlines()
    assert line.startswith(f"error: cannot listen on 127.0.0.1:{port}")
    assert "WORKER_HEALTH_PORT" in line
    assert "Traceback" not in ended.err
    assert not idle_place.database.exists()  # nothing was started


async def test_a_database_that_cannot_be_used_is_one_line_and_exit_code_1(idle_place):
    idle_place.database.parent.mkdir()
    idle_place.database.write_text("this is not a database, but it is long enough to be one")
    for arguments in ([], ["--dry-run"], ["--list-agents"], ["--restart-agent", "social"]):
        ended = await idle_place.run(*arguments)
        assert ended.code == 1
        assert "is not a SQLite database" in one_line(ended)


async def test_no_secret_is_in_what_a_daemon_writes(idle_place):
    idle_place.use_class(
        """
class Telling:
    def __init__(self, context):
        self.context = context

    async def run_as_daemon(self, poll_interval):
        key = self.context.claude().api_key
        raise ValueError(f"the key is {key}")
""",
        "Telling",
    )
    async with idle_place.daemon() as daemon:
        agent = await daemon.until_agent("social", "backing_off")
        assert "the key is [redacted]" in agent["last_error"]
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
        assert "e2e-secret-key" not in daemon.log.read_text()
    assert b"e2e-secret-key" not in idle_place.database.read_bytes()
    errors = idle_place.rows("select error from actp_agent_runs where outcome = 'crashed'")
    assert "the key is [redacted]" in errors[0]["error"]


# What is asked for.


async def test_the_version_is_the_librarys(idle_place):
    ended = await idle_place.run("--version")
    assert (ended.code, ended.out) == (0, f"{actp_supervise.__version__}\n")


async def test_help_names_every_flag(idle_place):
    ended = await idle_place.run("--help")
    assert ended.code == 0
    for flag in (
        "--agents",
        "--dry-run",
        "--list-agents",
        "--json",
        "--restart-agent",
        "--demo",
        "--version",
    ):
        assert flag in ended.out


async def test_looking_loads_nothing_heavy(idle_place):
    program = (
        "import sys\n"
        "from app.main import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'anthropic', 'quart', 'hypercorn', 'trio_asyncio', 'asyncio', 'supabase'}\n"
        "sys.exit(f'loaded: {sorted(heavy & set(sys.modules))}')\n"
    )
    async with idle_place.daemon():
        for argument in ("--help", "--version", "--list-agents"):
            ended = await trio.run_process(
                [sys.executable, "-c", program, argument],
                env=idle_place.environment(),
                cwd=idle_place.folder,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
            assert ended.stderr.decode() == "loaded: []\n"


async def test_dry_run_checks_and_starts_nothing(idle_place):
    ended = await idle_place.run("--dry-run")
    assert ended.code == 0
    assert "Configuration and database are fine. No agent was started." in ended.out
    assert "enabled    social" in ended.out
    assert "disabled   content      ENABLE_CONTENT_AGENT is false" in ended.out
    assert "warning: STRIPE_SECRET_KEY is not set" in ended.out
    assert "warning: own:Idler of social takes no context, so it does none of" in ended.out
    assert "The key: 127.0.0.1 takes it" in ended.out
    assert idle_place.statuses() == {}


async def test_dry_run_tells_that_the_key_is_refused_after_all_else(idle_place):
    ended = await idle_place.run("--dry-run", ANTHROPIC_API_KEY="sk-ant-wrong-key")
    assert ended.code == 2
    assert one_line(ended) == "error: ANTHROPIC_API_KEY: 127.0.0.1 refuses it: invalid x-api-key"
    assert "enabled    social" in ended.out
    assert "are fine" not in ended.out


async def test_dry_run_without_a_network_says_that_the_key_was_not_tried(idle_place):
    ended = await idle_place.run("--dry-run", ANTHROPIC_BASE_URL="http://127.0.0.1:9")
    assert ended.code == 0
    assert "The key: not tried, 127.0.0.1 cannot be reached: " in ended.out


async def test_dry_run_refuses_what_a_start_would_refuse(idle_place):
    idle_place.use_class("x = 1", "Agent")
    ended = await idle_place.run("--dry-run")
    assert ended.code == 2
    assert "SOCIAL_MEDIA_AGENT_CLASS" in one_line(ended)


async def test_an_agent_of_ones_own_takes_the_place_of_one_that_ships(idle_place):
    idle_place.use_class(
        """
from actp_supervise import current_child

class Own:
    def __init__(self, model, context):
        self.model, self.context = model, context

    async def run_as_daemon(self, poll_interval):
        await self.context.store.remember("social", "own", f"{self.model} every {poll_interval}")
        await current_child().stopping.wait()
""",
        "Own",
    )
    async with idle_place.daemon(SOCIAL_MEDIA_AGENT_MODEL="my-model") as daemon:
        rows = await until(lambda: idle_place.rows("select key, value from actp_agent_memory"))
        assert rows == [{"key": "own", "value": "my-model every 0.2"}]
        assert (await daemon.get("/agents/social"))["class"] == "own:Own"


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_a_task_is_done_in_either_isolation(place, isolation):
    async with place.daemon("--agents", "social", SOCIAL_MEDIA_AGENT_ISOLATION=isolation) as daemon:
        task_id = await daemon.post("social", "Recall what we know")
        await until(lambda: place.task(task_id)["status"] == "succeeded")
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0


async def test_without_trio_asyncio_agents_run_in_threads(place):
    """As on Python 3.14, for which there is none."""
    (place.folder / "sitecustomize.py").write_text("import sys; sys.modules['trio_asyncio'] = None")
    refused = await place.run("--dry-run", SOCIAL_MEDIA_AGENT_ISOLATION="loop")
    assert refused.code == 2
    assert refused.err == (
        "error: SOCIAL_MEDIA_AGENT_ISOLATION=loop: must be thread or process: loop needs "
        "trio-asyncio, for Python 3.13 or older\n"
    )
    async with place.daemon("--agents", "social") as daemon:
        assert (await daemon.get("/agents/social"))["isolation"] == "thread"
        task_id = await daemon.post("social", "Recall what we know")
        await until(lambda: place.task(task_id)["status"] == "succeeded")
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0


async def test_naming_agents_starts_these_and_no_others(idle_place):
    async with idle_place.daemon("--agents", "social") as daemon:
        starting = daemon.logged("starting")
        assert starting["enabled"] == ["social"]
        assert starting["disabled"]["content"] == "not named by --agents"
        agents = {a["agent_id"]: a for a in await daemon.get("/agents")}
        assert agents["content"]["status"] == "disabled"
        jobs = {job["name"]: job["disabled"] for job in await daemon.get("/scheduler/jobs")}
        assert jobs["content.run_daily_pipeline"] == "not named by --agents"


async def test_lines_of_an_agent_carry_its_id_and_run(place):
    async with place.daemon("--agents", "social") as daemon:
        await daemon.post("social", "Recall what we know")
        line = await until(lambda: daemon.logged("task_succeeded"))
    (run,) = place.rows("select id from actp_agent_runs")
    assert (line["agent_id"], line["run"]) == ("social", run["id"])


async def test_what_the_tree_says_of_an_agent_carries_its_id_and_run_too(idle_place):
    idle_place.use_class(
        """
class Crashing:
    async def run_as_daemon(self, poll_interval):
        raise ValueError("the feed is gone")
""",
        "Crashing",
    )
    async with idle_place.daemon() as daemon:
        line = await until(lambda: daemon.logged("child_crashed"))
        assert line["agent_id"] == "social"
        run = "select 1 from actp_agent_runs where id = ?"
        await until(lambda: idle_place.rows(run, line["run"]))


async def test_settings_come_from_the_file_as_well(idle_place):
    (idle_place.folder / ".env").write_text("WORKER_ID=from-the-file\nWORKER_HEALTH_PORT=1\n")
    async with idle_place.daemon() as daemon:
        assert daemon.logged("starting")["worker_id"] == "from-the-file"


# What is to be seen of a daemon elsewhere.


async def test_agents_are_listed_while_a_daemon_runs(idle_place):
    heartbeats = "select 1 from actp_agent_registry where last_heartbeat is not null"
    async with idle_place.daemon() as daemon:
        await until(lambda: idle_place.rows(heartbeats))
        listed = json.loads((await idle_place.run("--list-agents", "--json")).out)
        assert [agent["agent_id"] for agent in listed] == AGENT_IDS
        social = listed[-1]
        assert social["status"] == "running"
        assert social["why"] is None
        assert social["worker_id"].endswith(str(daemon.process.pid))
        assert social["last_seen"].endswith("+00:00")
        assert social["heartbeat_age"] < 30
        table = (await idle_place.run("--list-agents")).out
    head, *lines = table.splitlines()
    assert head.split("  ")[0] == "AGENT"
    rows, notes = lines[: lines.index("")], lines[lines.index("") + 1 :]
    assert "disabled: ENABLE_CONTENT_AGENT is false" in notes
    assert [row.split()[:2] for row in rows] == [
        ["acquisition", "disabled"],
        ["content", "disabled"],
        ["revenue", "disabled"],
        ["social", "running"],
    ]
    assert max(len(line) for line in table.splitlines()) <= 80


async def test_an_agent_whose_daemon_died_is_not_called_running(idle_place):
    async with idle_place.daemon() as daemon:
        await until(lambda: idle_place.statuses().get("social") == "running")
        daemon.signal(signal.SIGKILL)
        await daemon.wait()
    social = json.loads((await idle_place.run("--list-agents", "--json")).out)[-1]
    assert (social["status"], social["last_status"]) == ("unknown", "running")
    assert social["why"] == "its daemon ended without a word; it last said 'running'"
    assert "unknown: its daemon ended without" in (await idle_place.run("--list-agents")).out


async def test_listing_before_any_daemon_has_run_says_so_and_makes_no_database(idle_place):
    ended = await idle_place.run("--list-agents")
    assert ended.code == 0
    assert "No agent is registered" in ended.out
    assert json.loads((await idle_place.run("--list-agents", "--json")).out) == []
    assert not idle_place.database.exists()


async def test_looking_and_restarting_need_no_api_key(idle_place):
    for arguments in (["--list-agents"], ["--restart-agent", "social"]):
        assert (await idle_place.run(*arguments, ANTHROPIC_API_KEY="")).code == 0


async def test_a_restart_is_obeyed_by_the_daemon_that_runs(idle_place):
    async with idle_place.daemon() as daemon:
        await until(lambda: idle_place.statuses().get("social") == "running")
        ended = await idle_place.run("--restart-agent", "social")
        assert ended.code == 0
        assert "The restart of social is requested" in ended.out
        runs = "select outcome from actp_agent_runs order by started_at"
        await until(lambda: len(idle_place.rows(runs)) == 2)
        assert [run["outcome"] for run in idle_place.rows(runs)] == ["stopped", None]
        await daemon.until_agent("social", "running")
        assert (await daemon.get("/agents/social"))["crashes"] == 0
        ended = await idle_place.run("--restart-agent", "content")
        assert ended.code == 0
        assert "it is disabled in the daemon that runs" in ended.out


async def test_a_restart_that_nobody_will_obey_says_so(idle_place):
    ended = await idle_place.run("--restart-agent", "social")
    assert ended.code == 0
    assert "No daemon has run" in ended.out
    async with idle_place.daemon() as daemon:
        daemon.signal(signal.SIGKILL)
        await daemon.wait()
    ended = await idle_place.run("--restart-agent", "social")
    assert ended.code == 0
    assert "no daemon is running" in ended.out


async def test_restarting_an_unknown_agent_is_wrong_use(idle_place):
    for _ in range(2):  # without a database, and with one
        ended = await idle_place.run("--restart-agent", "scoial")
        assert ended.code == 2
        assert "there is no agent 'scoial'; known are social, content" in one_line(ended)
        await idle_place.run("--dry-run")


# The demonstration.


async def test_the_demonstration_needs_no_key_and_does_its_tasks(place):
    (place.folder / ".env").write_text("SUPABASE_URL=https://x.supabase.co\n")
    nowhere = "http://127.0.0.1:9"
    place.environ |= {"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "ALL_PROXY": nowhere}
    async with place.daemon("--demo", ANTHROPIC_API_KEY="", TMPDIR=str(place.folder)) as daemon:
        await until(lambda: "SIMULATED" in daemon.stdout)  # said just behind the banner
        assert f"{daemon.page}/" in daemon.stdout
        assert set(daemon.logged("starting")["enabled"]) == set(AGENT_IDS)
        await until(lambda: daemon.logged("task_succeeded"))
        assert not place.database.exists()
        daemon.signal(signal.SIGINT)
        assert await daemon.wait() == 0
        assert not list(place.folder.glob("actp-worker-demo-*"))


async def test_the_demonstration_shows_an_approval_and_a_simulated_search_of_the_web(place):
    async with place.daemon(
        "--demo", "--agents", "social,content", ANTHROPIC_API_KEY="", WORKER_DB_PATH=""
    ) as daemon:
        waiting = await daemon.until("/approvals?status=waiting", bool)
        assert {row["tool"] for row in waiting} == {"queue_engagement_action"}
        answer = await daemon.http.post(f"/approvals/{waiting[0]['id']}", json={"approve": True})
        assert answer.status_code == 200
        done = "/tasks?status=succeeded&limit=50"
        await daemon.until(done, lambda tasks: waiting[0]["task_id"] in [t["id"] for t in tasks])
        tasks = await daemon.until(
            done, lambda tasks: any("Search the web" in task["goal"] for task in tasks)
        )
        result = next(task for task in tasks if "Search the web" in task["goal"])["result"]
        assert "simulated search: nothing was looked up" in result["text"]
        assert [cited["url"] for cited in result["sources"]] == [
            "https://example.org/simulated/launches",
            "https://example.com/simulated/first-week",
        ]


def test_every_flag_is_in_the_reference():
    flags = set(re.findall(r"--[a-z][a-z-]+", _parser().format_help()))
    page = (ROOT / "docs/reference/command-line.md").read_text()
    assert {flag for flag in flags if f"`{flag}" not in page} == set()


def test_help_and_the_reference_name_the_same_exit_codes():
    in_help = re.findall(r"\d+", _parser().format_help().partition("Exit codes:")[2])
    page = (ROOT / "docs/reference/command-line.md").read_text()
    assert in_help == re.findall(r"^\| (\d+) \|", page, re.MULTILINE)
