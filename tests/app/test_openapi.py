"""The API's description is true: it has every address, and a fuzzer driven by it finds no lie."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from http_daemon import AGENT_IDS, TOKEN, make_daemon, served, status
from whole_daemon import whole_daemon

from actp_supervise import current_child
from app.health_server import HealthServer
from app.status import AgentState, HealthState, JobStatus
from app.store.protocol import ApprovalRow, TaskRow, TaskStatus, ToolCall, Turn
from app.web.openapi import ROUTES, address, document

REFUSED = {"GET /agents/task"}

REFERENCE = Path(__file__).parents[2] / "docs/reference/http.md"


def routes(daemon) -> set[str]:
    """The routes of the server as it is served, as `GET /agents`."""
    return {
        f"{method} {rule.rule}"
        for rule in HealthServer(daemon).make_app(commands=None).url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }


async def test_every_route_is_described_and_nothing_else(store):
    assert routes(make_daemon(store)) - REFUSED == set(map(str, ROUTES))


async def test_every_route_is_in_the_reference(store):
    reference = REFERENCE.read_text()
    described = routes(make_daemon(store)) - REFUSED
    missing = {
        route for route in described if f"`{address(route)}`" not in reference.replace("?", "`")
    }
    assert missing == set()


def test_the_reference_names_no_route_that_is_not_there():
    tables = "\n".join(line for line in REFERENCE.read_text().splitlines() if line.startswith("|"))
    named = re.findall(r"`((?:GET|POST|PUT) /[^`?\s]*)`", tables)
    known = {f"{route.method} {address(route.rule)}" for route in ROUTES}
    assert len(named) > 30
    assert set(named) - known == set()


def test_every_status_and_every_field_of_a_job_is_in_the_reference():
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", REFERENCE.read_text()))))
    states = {*HealthState, *(state for state in AgentState if not state.derived)}
    fields = {field.name for field in dataclasses.fields(JobStatus)}
    assert (states | fields) - words == set()


def test_the_reference_says_which_columns_of_a_task_are_not_answered():
    tables = (REFERENCE.parent / "tables.md").read_text()
    table = tables.partition("### actp_agent_tasks")[2].partition("###")[0]
    columns = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    answered = {field.name for field in dataclasses.fields(TaskRow)}
    assert columns - answered == {"instance", "lease_token", "ready_at", "settled_token"}
    assert answered - columns == {"unreadable"}


def test_the_reference_says_which_column_of_an_approval_is_not_answered():
    tables = (REFERENCE.parent / "tables.md").read_text()
    table = tables.partition("### actp_approvals")[2].partition("###")[0]
    columns = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    assert columns - {field.name for field in dataclasses.fields(ApprovalRow)} == {"about"}


async def test_the_description_is_served_and_valid(store):
    async with served(make_daemon(store)) as client:
        answer = await client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == document(AGENT_IDS, secured=False)
    task = answer.json()["components"]["schemas"]["TaskRequest"]["properties"]
    assert task["agent_type"]["enum"] == list(AGENT_IDS)


async def test_the_description_follows_the_agents_that_come_and_go(store):
    daemon = make_daemon(store)
    async with served(daemon) as client:
        for agents in (AGENT_IDS, (*AGENT_IDS, "support"), ("support",)):
            daemon.supervisor.statuses = {agent_id: status(agent_id) for agent_id in agents}
            shapes = (await client.get("/openapi.json")).json()["components"]["schemas"]
            assert shapes["TaskRequest"]["properties"]["agent_type"]["enum"] == list(agents)


async def test_what_changes_something_is_said_to_need_the_token_where_there_is_one():
    for secured in (False, True):
        paths = document(AGENT_IDS, secured=secured)["paths"]
        needing = {
            f"{method.upper()} {path}"
            for path, methods in paths.items()
            for method, operation in methods.items()
            if "security" in operation
        }
        changing = {
            f"{method.upper()} {path}"
            for path, methods in paths.items()
            for method in {"post", "put"} & methods.keys()
        }
        changing -= {"POST /login"}  # whose body is the token
        assert needing == (changing | {"GET /agents/{agent_id}/restart"} if secured else set())


def test_what_no_body_may_hold_is_described_for_each_of_its_texts_and_objects():
    """The database takes no NUL, in texts and names of fields, however deep."""
    document_of_all = document(AGENT_IDS, secured=False)
    bodies = [
        operation["requestBody"]["content"]["application/json"]["schema"]
        for methods in document_of_all["paths"].values()
        for operation in methods.values()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    ]
    assert len(bodies) > 4
    waiting = [field for body in bodies for field in _resolved(body)["properties"].values()]
    while waiting:
        field = waiting.pop()
        waiting += field.get("anyOf", ())
        if "string" in field.get("type", ()):
            assert field.keys() & {"pattern", "format", "enum"}, field
        assert field.get("additionalProperties") is not True, field


def _resolved(schema):
    """Follow a reference to the description's own schemas."""
    if "$ref" not in schema:
        return schema
    found = document(AGENT_IDS, secured=False)
    for name in schema["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


async def test_the_page_for_people_shows_every_address_without_a_script(store):
    async with served(make_daemon(store)) as client:
        page = (await client.get("/api")).text
    for route in ROUTES:
        assert f"<code>{route.method} {address(route.rule)}</code>" in page
    assert "<script>" not in page
    assert "style=" not in page


class Agents:
    """Agents of which one does its tasks, one keeps them, and one breaks down over them."""

    def __init__(self, store):
        self._store = store

    async def launch(self, config, run):
        child = current_child()
        with child.cancel_on_stop():
            while True:
                run.activity.beat()
                run.activity.progress("looking for a task")
                task = await self._store.claim_task(
                    config.agent_id, worker_id="w", instance="i", token=run.run_id, lease=60
                )
                if task is not None:
                    await self._work(config.agent_id, task, run)
                await run.wait_for_work(0.1)

    async def _work(self, agent_id, task, run):
        if agent_id == "social":
            raise ValueError(f"no idea how: {task.goal}")
        if agent_id == "acquisition":
            run.activity.progress("working", task_id=task.id, step=1)
            await trio.sleep_forever()
        common = {"id": task.id, "task_id": task.id, "agent_id": agent_id, "run_id": None}
        await self._store.record_turn(Turn(**common, step=0, role="user", content=[task.goal]))
        call = ToolCall(**common, tool="look", arguments=task.context, duration=0.1)
        await self._store.record_tool_call(call)
        status = TaskStatus.FAILED if task.priority < 0 else TaskStatus.SUCCEEDED
        await self._store.finish_task(task.id, run.run_id, status, error="bad luck")


async def no_routine(_agent_id, _method):
    pass


@pytest.mark.timeout(120)
@pytest.mark.long
async def test_a_fuzzer_driven_by_the_description_finds_no_lie_and_no_crash(store, tmp_path):
    environ = {"WORKER_API_TOKEN": TOKEN, "ENABLE_REVENUE_AGENT": "false"}
    async with whole_daemon(store, Agents(store).launch, no_routine, environ) as daemon:
        await daemon.supervisor.start_all()
        async with served(daemon) as client:
            description = narrowed((await client.get("/openapi.json")).json(), daemon)
            (tmp_path / "openapi.json").write_text(json.dumps(description))
            found = await fuzz(str(client.base_url), tmp_path)
    assert found.returncode == 0, found.stdout.decode()


def narrowed(description: dict, daemon) -> dict:
    """Name what there is, so that the fuzzer gets past "there is no such agent"."""
    names = {
        "agent_id": list(AGENT_IDS),
        "name": [job.name for job in daemon.routines.jobs()],
    }
    for path, methods in description["paths"].items():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                if (
                    parameter["in"] == "path"
                    and parameter["name"] in names
                    and "static" not in path
                ):
                    parameter["schema"] = {"enum": names[parameter["name"]]}
    return description


CONFIG = """
[checks.not_a_server_error]
# 503 is in the description: an agent that the fuzzer stopped makes the daemon critical.
expected-statuses = ["2xx", "3xx", "4xx", 503]
"""


async def fuzz(url: str, folder: Path) -> subprocess.CompletedProcess:
    (folder / "schemathesis.toml").write_text(CONFIG)
    return await trio.run_process(
        [
            Path(sys.executable).with_name("schemathesis"),
            "run",
            "openapi.json",
            f"--url={url}",
            f"--header=Authorization: Bearer {TOKEN}",
            "--checks=all",
            "--exclude-path=/events",  # it never ends
            "--seed=1",
            "--max-examples=15",
            "--max-time=25",
            "--request-timeout=5",
            "--generation-database=none",
            "--generation-codec=utf-8",
            "--continue-on-failure",
            "--no-color",
        ],
        cwd=folder,
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
