"""The contract of the Store, kept by every kind of it: what holds for all its verbs.

What they do is in the other files named test_store.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

import pytest
import trio
import trio.lowlevel
from store_calls import (
    EPOCH,
    LONG,
    NOON,
    add,
    ask,
    begin,
    claim,
    cost,
    decide,
    register,
    reserve,
    tool_call,
    turn,
)

from app.store.protocol import (
    REQUIRED_TABLES,
    DomainTable,
    Query,
    RunOutcome,
    Store,
    StoreError,
    TaskStatus,
)
from app.store.schema import MIGRATION_COMMAND, check_required_tables
from app.store.verbs import verbs_of


def test_a_verb_is_given_its_arguments_by_name_with_its_defaults():
    verb = verbs_of(Store)["finish_task"]
    given = {"task_id": "t", "token": "k", "status": "failed", "result": None, "error": "so"}
    assert verb.bind("t", "k", status="failed", error="so") == given


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("t", "k"), {}),
        (("t", "k", "failed", None), {}),
        (("t", "k", "failed"), {"token": "k"}),
        (("t", "k", "failed"), {"why": "so"}),
        (("t", "k"), {"why": "so"}),
    ],
    ids=["too few", "too many", "twice", "one too many", "another in its place"],
)
def test_a_verb_refuses_what_it_does_not_take(args, kwargs):
    with pytest.raises(TypeError):
        verbs_of(Store)["finish_task"].bind(*args, **kwargs)


async def test_database_time_is_aware_and_in_utc(store):
    moment = await store.ping()
    assert moment.utcoffset() == timedelta(0)


async def test_database_time_goes_on_by_less_than_a_second(store):
    before = await store.ping()
    await trio.sleep(0.01)
    assert timedelta(0) < await store.ping() - before < timedelta(seconds=1)


async def test_where_names_the_database(store):
    assert len(store.where) > 5


async def test_a_closed_store_says_so(open_store):
    store = await open_store()
    await store.aclose()
    with pytest.raises(StoreError, match="closed"):
        await store.ping()


async def test_closing_twice_is_harmless(open_store):
    store = await open_store()
    await store.aclose()
    await store.aclose()


async def test_all_required_tables_are_there_in_a_new_database(store):
    report = await check_required_tables(store)
    assert report.complete
    assert report.warning is None
    assert report.lacking(REQUIRED_TABLES) is None


async def test_what_one_store_writes_another_reads_at_once(open_store):
    one, other = await open_store(), await open_store()
    await add(one)
    assert (await other.task("t1")).goal == "do it"


class Lacking:
    """As much of a store as the check of the tables asks."""

    where = "a project"

    def __init__(self, missing):
        self.missing = missing

    async def check_tables(self):
        return self.missing


async def test_a_missing_table_is_warned_of_with_the_command_that_makes_it():
    report = await check_required_tables(Lacking({"actp_deal_log": ()}))
    assert not report.complete
    assert report.warning == (
        "a project: table actp_deal_log is missing. "
        f"To make what is missing, run: {MIGRATION_COMMAND}"
    )


async def test_missing_columns_are_named():
    report = await check_required_tables(
        Lacking({"actp_agent_tasks": ("lease_token", "instance"), "actp_deal_log": ("stage",)})
    )
    assert report.lacking(["actp_agent_tasks", "actp_effects"]) == (
        "table actp_agent_tasks lacks columns lease_token, instance"
    )
    assert report.lacking(["actp_deal_log"]) == "table actp_deal_log lacks column stage"
    assert report.lacking(["actp_effects"]) is None


VERBS = {
    "register_agents": lambda s: register(s, "social", "content"),
    "set_status": lambda s: s.set_status("social", "running", worker_id="w1"),
    "set_needs_restart": lambda s: s.set_needs_restart("social", value=True),
    "take_restart_requests": lambda s: s.take_restart_requests(["asked"], token="one"),
    "record_heartbeat": lambda s: s.record_heartbeat("social", {"a": 1}),
    "touch_worker": lambda s: s.touch_worker("w9", "w9-run", {}, silent_after=1000.0),
    "forget_worker": lambda s: s.forget_worker("w1-run"),
    "hold_lease": lambda s: s.hold_lease("social", "w1-run", lease=LONG),
    "drop_lease": lambda s: s.drop_lease("held", "w1-run"),
    "record_turn": lambda s: s.record_turn(turn("new")),
    "record_turn, under a claim": lambda s: s.record_turn(
        turn("new", task_id="held"), token="held-token"
    ),
    "record_answer": lambda s: s.record_answer(
        turn("new", role="tool"), call=tool_call("answered"), effect="begun"
    ),
    "set_routine_time": lambda s: s.set_routine_time("daily", "0 7 * * *", instead_of="0 6 * * *"),
    "set_routine_paused": lambda s: s.set_routine_paused("daily", "anna"),
    "set_routine_paused, resumed": lambda s: s.set_routine_paused("paused", None),
    "note_restart": lambda s: s.note_restart("social", "anna"),
    "answer_restart": lambda s: s.answer_restart("asked", "w1", "obeyed"),
    "start_run": lambda s: s.start_run("new", "social", "w1-run"),
    "finish_run": lambda s: s.finish_run("open", RunOutcome.CRASHED, error="e"),
    "add_task": lambda s: add(s, "new"),
    "begin_task": lambda s: begin(s, "new"),
    "claim_task": lambda s: claim(s, "fresh"),
    "renew_task": lambda s: s.renew_task("held", "held-token", lease=LONG),
    "finish_task": lambda s: s.finish_task("held", "held-token", TaskStatus.FAILED, error="e"),
    "release_task": lambda s: s.release_task("held", "held-token", error="e"),
    "release_task, counted": lambda s: s.release_task("held", "held-token", count_attempt=True),
    "cancel_task, queued": lambda s: s.cancel_task("queued"),
    "cancel_task, running": lambda s: s.cancel_task("held"),
    "retry_task": lambda s: s.retry_task("failed"),
    "record_tool_call": lambda s: s.record_tool_call(tool_call("new")),
    "record_cost": lambda s: s.record_cost(cost("new"), reservation="kept"),
    "reserve": lambda s: reserve(s, "new", amount=6),
    "settle_task": lambda s: s.settle_task("held"),
    "release_budget": lambda s: s.release_budget("kept"),
    "begin_effect": lambda s: s.begin_effect("new", agent_id="a", task_id=None, token="one"),
    "finish_effect": lambda s: s.finish_effect("begun", {"x": 1}),
    "drop_effect": lambda s: s.drop_effect("begun"),
    "remember": lambda s: s.remember("social", "new", "v"),
    "claim_fire": lambda s: s.claim_fire("daily", NOON + timedelta(days=1), "w1-run"),
    "finish_fire": lambda s: s.finish_fire("daily", NOON, "failed", "e"),
    "ask_approval": lambda s: ask(s, "new", about="new"),
    "park_task": lambda s: s.park_task("held", "held-token"),
    "decide_approval": lambda s: decide(s, "asked"),
    "expire_approvals": lambda s: s.expire_approvals(),
    "told_approval": lambda s: s.told_approval("asked"),
    "insert": lambda s: s.insert(DomainTable.DEAL_LOG, "new", {"name": "n"}),
    "update": lambda s: s.update(DomainTable.DEAL_LOG, "known", {"name": "n"}),
}

CHANGING = {"last_seen", "seen_age", "last_heartbeat", "heartbeat_age", "lease_until", "updated_at"}
"""What a repeated call may move on."""


async def populate(store):
    await store.record_turn(turn("said"))
    await store.touch_worker("w1", "w1-run", {}, silent_after=1000.0)
    await register(store, "social", "asked")
    await store.set_needs_restart("asked", value=True)
    await store.set_routine_paused("paused", "anna")
    await store.start_run("open", "social", "w1-run")
    await add(store, "held")
    await claim(store, "held-token")
    await add(store, "failed")
    await claim(store, "failed-token")
    await store.finish_task("failed", "failed-token", TaskStatus.FAILED, error="no")
    await add(store, "queued")
    await add(store, "queued too")
    await reserve(store, "kept", amount=3)
    await reserve(store, "in the air", amount=0.5, task_id="held")
    await store.begin_effect("begun", agent_id="social", task_id=None, token="one")
    await store.claim_fire("daily", NOON, "w1-run")
    await store.hold_lease("held", "w1-run", lease=LONG)
    await store.insert(DomainTable.DEAL_LOG, "known", {"name": "known"})
    await ask(store, "asked", task_id="held")


async def picture(store):
    """Everything that can be seen through the store, but for what repeating may move on."""
    seen = {
        "agents": [asdict(row) for row in await store.agents()],
        "workers": [asdict(row) for row in await store.live_workers()],
        "turns": [asdict(row) for task in ("t1", "held") for row in await store.turns(task)],
        "runs": [asdict(row) for row in await store.runs("social")],
        "tasks": [asdict(row) for row in await store.tasks()],
        "calls": [asdict(row) for row in await store.tool_calls()],
        "costs": [asdict(row) for row in await store.costs(since=EPOCH)],
        "memory": [asdict(row) for row in await store.recall("social")],
        "fires": [asdict(row) for row in await store.fires("daily")],
        "times": [asdict(row) for row in await store.routine_times()],
        "pauses": [asdict(row) for row in await store.routine_pauses()],
        "approvals": [asdict(row) for row in await store.approvals()],
        "deals": await store.select(DomainTable.DEAL_LOG, Query()),
    }
    return {
        name: [
            {k: v for k, v in row.items() if k not in CHANGING} if isinstance(row, dict) else row
            for row in rows
        ]
        for name, rows in seen.items()
    }


def lasting(answer):
    if hasattr(answer, "__dataclass_fields__"):
        answer = asdict(answer)
    if isinstance(answer, dict):
        return {k: v for k, v in answer.items() if k not in CHANGING}
    return answer


UNSEEN = {
    "renew_task",
    "reserve",
    "release_budget",
    "begin_effect",
    "finish_effect",
    "drop_effect",
    "hold_lease",
    "drop_lease",
    "expire_approvals",
}
"""What a picture does not show: leases, reservations, effects, and that nothing was overdue."""


@pytest.mark.parametrize("verb", VERBS)
async def test_repeating_a_verb_gives_the_same_answer_and_changes_nothing(store, verb):
    await populate(store)
    untouched = await picture(store)
    first = await VERBS[verb](store)
    after_one = await picture(store)
    second = await VERBS[verb](store)
    assert lasting(second) == lasting(first)
    assert await picture(store) == after_one
    if verb not in UNSEEN:
        assert after_one != untouched


async def test_a_cancelled_call_has_happened_whole_or_not_at_all(store):
    """Cancelled at many points, each call leaves a whole task or none, and the store goes on."""
    for number in range(60):
        with trio.move_on_after(number * 0.0001):
            await add(store, f"t{number}")
            await claim(store, f"k{number}")
    for task in await store.tasks(limit=100):
        assert (task.status is TaskStatus.RUNNING) == (task.worker_id is not None)
    await add(store, "last", priority=9)
    assert (await claim(store, "fresh")).id == "last"


async def test_many_callers_cancelled_together_leave_the_store_working(store):
    with trio.move_on_after(0.01):
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(add, store, f"t{number}")
    with trio.fail_after(60):
        count_before = len(await store.tasks(limit=200))
        await add(store, "last")
        assert len(await store.tasks(limit=200)) == count_before + 1


async def test_a_claim_whose_caller_was_cancelled_is_repeated_with_its_token(store):
    await add(store)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(claim, store, "k1")
            await trio.lowlevel.checkpoint()
            scope.cancel()
    task = await claim(store, "k1")
    assert (task.id, task.attempts) == ("t1", 1)
