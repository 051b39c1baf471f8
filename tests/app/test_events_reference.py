"""The reference of events and metrics, and the how-to about Prometheus, say what is so."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import trio
import trio.testing
from http_daemon import make_daemon, served, status
from prometheus_client.parser import text_string_to_metric_families
from store_calls import LONG, SHORT, add, ask, claim, cost, decide, lapse, tool_call, turn

from actp_supervise import cron
from actp_supervise import events as ev
from app.event_kinds import EventKind
from app.happenings import tell_of_changes, tell_of_tree
from app.status import HealthState
from app.store.protocol import DomainTable, NewReview, TaskStatus, Verdict

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/reference/events-and-metrics.md").read_text()
HOW_TO = (ROOT / "docs/how-to/watch-with-prometheus.md").read_text()
EVENTS, METRICS = REFERENCE.split("## GET /metrics")

LIBRARY = {
    kind.action: kind
    for module in (ev, cron)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, ev.Event) and kind is not ev.Event
}
UNTOLD = {"child_ready", "stop_requested", "supervisor_stopped"}
IN_COMMON = {"path", "time", "sequence", "traceback"}


def rows(text):
    """Return the rows of all tables, as lists of cells."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def named(cell):
    """Return the names at the beginning of each part of a cell."""
    return {name for part in re.split(r", |; ", cell) for name in re.findall(r"^\W*`(\w+)`", part)}


@pytest.fixture(scope="module")
def fields():
    """Kind of event -> the fields that it has by the reference."""
    cells = rows(EVENTS.split("## Kinds of events")[1])
    return {cell[0].strip("`"): named(cell[2]) if len(cell) > 2 else set() for cell in cells}


def test_every_kind_of_event_is_in_the_reference_as_it_is_described():
    tables = rows(EVENTS.split("## Kinds of events")[1])
    told = {cells[0].strip("`"): cells[1] for cells in tables}
    assert told == {kind.value: kind.description for kind in EventKind}


def test_every_event_of_the_library_is_a_kind_or_says_nothing_new():
    of_runs = {kind for kind in LIBRARY if kind.startswith("run_")}
    assert set(LIBRARY) - of_runs - UNTOLD <= set(EventKind)


@pytest.mark.parametrize("kind", sorted(set(LIBRARY) - UNTOLD))
def test_the_fields_of_what_happens_in_the_tree_are_in_the_reference(fields, kind):
    if not kind.startswith("run_"):
        of_class = {field.name for field in dataclasses.fields(LIBRARY[kind])}
        assert fields[kind] == of_class - IN_COMMON


@pytest.fixture
def daemon(store):
    return make_daemon(store)


SOON = 0.2


async def do_everything(daemon):
    """Have most kinds of events that are not the tree's happen."""
    store = daemon.store
    on_event = tell_of_tree(daemon.events, ["social"])
    await add(store, "t0")
    await claim(store, "k0")
    await ask(store, task_id="t0")
    await store.park_task("t0", "k0")
    await decide(store)
    await store.cancel_task("t0")
    await store.insert(DomainTable.DEAL_LOG, "d1", {"name": "Ada"})
    said = NewReview(
        id="v1",
        table_name=DomainTable.DEAL_LOG,
        row_id="d1",
        verdict=Verdict.APPROVED,
        comment=None,
        reviewed_by="Grace",
    )
    await store.review_row(said, shown={}, changes={})
    await add(store)
    await claim(store)
    await store.release_task("t1", "k1")
    await claim(store, "k2", lease=SHORT)
    await lapse()
    await claim(store, "k3")
    await store.renew_task("t1", "k2", lease=LONG)
    await store.cancel_task("t1")
    await store.finish_task("t1", "k3", TaskStatus.SUCCEEDED)
    await store.record_tool_call(tool_call("c1", error="no"))
    await store.record_cost(cost("e1", duration=1.0))
    await store.record_turn(turn("turn-1"))
    moment = daemon.events.recent()[0].time
    run = cron.Run(scheduled_at=moment, started_at=moment)
    place = {"path": ("routines", "social.run"), "time": 0.0, "sequence": 1}
    on_event(cron.RunStarted(run=run, **place))
    run = dataclasses.replace(run, finished_at=moment, outcome=cron.Outcome.SUCCEEDED)
    on_event(cron.RunFinished(run=run, **place))
    async with trio.open_nursery() as nursery:

        async def tell():
            await tell_of_changes(
                daemon.events,
                health=daemon.health,
                states=lambda: {
                    agent_id: status.status
                    for agent_id, status in daemon.supervisor.statuses.items()
                },
                every=SOON,
                health_every=SOON,
            )

        nursery.start_soon(tell)
        await trio.testing.wait_all_tasks_blocked(0.01)
        daemon.state = dataclasses.replace(daemon.state, status=HealthState.DEGRADED)
        daemon.supervisor.statuses["social"] = status("social", status="backing_off")
        await trio.sleep(3 * SOON)
        nursery.cancel_scope.cancel()


async def test_the_fields_of_all_else_are_in_the_reference(daemon, fields):
    await do_everything(daemon)
    told = {event.kind: set(event.fields) for event in daemon.events.recent()}
    by_others = {
        "store_away",
        "store_back",
        "loop_blocked",
        "settings_reloaded",
        "daemon_stopping",
    } | {"tokens_wrong"}
    assert set(told) == set(fields) - set(LIBRARY) - by_others
    assert {kind: fields[kind] for kind in told} == told


async def test_every_metric_is_in_the_reference_with_its_type_and_labels(daemon):
    async with served(daemon) as client:
        await do_everything(daemon)
        await add(daemon.store, "t2")
        text = (await client.get("/metrics")).text
    exposed = {}
    for family in text_string_to_metric_families(text):
        if family.name.startswith("actp_"):
            name = family.name + "_total" * (family.type == "counter")
            labels = {label for sample in family.samples for label in sample.labels}
            exposed[name] = (family.type, labels - {"le"})
    documented = {
        cells[0].strip("`"): (cells[1], set(re.findall(r"`(\w+)`", cells[2])))
        for cells in rows(METRICS)
    }
    assert documented == exposed


def test_the_queries_name_metrics_that_there_are():
    known = {cells[0].strip("`") for cells in rows(METRICS)}
    known |= {f"{name}_{part}" for name in known for part in ("bucket", "count", "sum")}
    assert set(re.findall(r"\bactp_\w+", HOW_TO)) - known == set()


@pytest.fixture
def promtool():
    found = shutil.which("promtool")
    if found is None:
        missing = "no promtool: apt-get install prometheus"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


async def check(promtool, what, path):
    """Have promtool check a file; return what it says."""
    checked = await trio.run_process(
        [promtool, "check", what, path], capture_stdout=True, capture_stderr=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return checked.stdout.decode()


async def test_the_configuration_and_the_alerts_pass_promtool(promtool, tmp_path):
    config, rules = re.findall(r"```yaml\n(.*?)```", HOW_TO, re.DOTALL)
    (tmp_path / "prometheus.yml").write_text(config)
    (tmp_path / "actp-alerts.yml").write_text(rules)
    assert "3 rules found" in await check(promtool, "config", tmp_path / "prometheus.yml")


async def test_the_queries_pass_promtool(promtool, tmp_path):
    queries = re.findall(r"\? \| `(.*)` \|$", HOW_TO, re.MULTILINE)
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    assert "7 rules found" in await check(promtool, "rules", path)
