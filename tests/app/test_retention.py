"""What is old is deleted, whatever happens to the store meanwhile."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import trio

from app.retention import (
    REQUESTS_KEPT,
    SMALLEST_STEP,
    STEP,
    forget_old,
    forget_old_turns,
    kept_for,
)
from app.settings import load_settings
from app.store.protocol import Kept, StoreError, StoreUnavailable
from app.store.sqlite import open_sqlite_store

DAY = 86_400.0


class Forgetful:
    """A store that is asked to forget: what it answers or raises, in turn; then nothing is left."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def forget_old(self, what, *, older_than, limit):
        self.asked.append((round(trio.current_time()), what, older_than, limit))
        answer = self.answers.pop(0) if self.answers else 0
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_it_is_done_at_the_start_and_every_hour(nursery, autojump_clock):
    store = Forgetful()
    began = round(trio.current_time())
    nursery.start_soon(forget_old_turns, store, 30 * DAY)
    await trio.sleep(7_201)
    assert store.asked == [(began + 3_600 * n, Kept.TURNS, 30 * DAY, STEP) for n in range(3)]


async def test_how_often_may_be_said(nursery, autojump_clock):
    store = Forgetful()
    nursery.start_soon(forget_old, store, {Kept.TURNS: DAY}, 600.0)
    await trio.sleep(1_201)
    assert len(store.asked) == 3


async def test_it_goes_on_in_small_steps_until_nothing_is_left(nursery, autojump_clock):
    store = Forgetful(STEP, STEP, 7)
    nursery.start_soon(forget_old, store, {Kept.RUNS: DAY, Kept.COSTS: 2 * DAY})
    await trio.sleep(100)
    assert [(what, age) for _, what, age, _ in store.asked] == [
        (Kept.RUNS, DAY),
        (Kept.RUNS, DAY),
        (Kept.RUNS, DAY),
        (Kept.COSTS, 2 * DAY),
    ]


async def test_what_takes_the_store_too_long_is_tried_in_smaller_steps(nursery, autojump_clock):
    store = Forgetful(StoreUnavailable("timed out"), STEP // 4, 0)
    nursery.start_soon(forget_old_turns, store, DAY)
    await trio.sleep(100)
    assert [limit for *_, limit in store.asked] == [STEP, STEP // 4, STEP // 4]


async def test_a_store_that_cannot_is_told_of_and_asked_again_in_an_hour(
    nursery, caplog, autojump_clock
):
    store = Forgetful(*[StoreUnavailable("timed out")] * 3, StoreError("not you"))
    nursery.start_soon(forget_old_turns, store, DAY)
    await trio.sleep(3_601)
    assert [limit for *_, limit in store.asked][:3] == [STEP, STEP // 4, STEP // 16]
    assert STEP // 64 < SMALLEST_STEP
    assert [record.getMessage() for record in caplog.records] == [
        "Old conversations could not be deleted: timed out",
        "Old conversations could not be deleted: not you",
    ]


async def test_more_than_fifty_busy_agents_say_in_an_hour_is_deleted_in_one_pass(tmp_path):
    path = tmp_path / "store.db"
    async with open_sqlite_store(path) as store, trio.open_nursery() as nursery:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(
                "with recursive n (i) as (select 1 union all select i + 1 from n where i < 40000)"
                " insert into actp_task_turns"
                " (id, task_id, agent_id, step, role, content, created_at)"
                " select 't' || i, 'x', 'social', 1, 'user', '[]', '2026-01-01T00:00:00.000000Z'"
                " from n"
            )
        nursery.start_soon(forget_old_turns, store, 30 * DAY)
        with trio.fail_after(60):
            while await store.turns("x", limit=1):  # noqa: ASYNC110  (no event tells)
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


def test_what_a_chart_shows_is_kept_however_short_the_rest_is():
    settings = load_settings(
        {"WORKER_RETENTION_DAYS": "1", "WORKER_TRANSCRIPT_DAYS": "2"}, env_file=None
    )
    ages = kept_for(settings)
    assert ages.pop(Kept.HISTORY) == 15 * DAY
    assert ages.pop(Kept.TURNS) == 2 * DAY
    assert ages.pop(Kept.REQUESTS) == REQUESTS_KEPT
    assert set(ages.values()) == {DAY}


def test_all_records_but_conversations_are_kept_for_ever_on_request():
    settings = load_settings({"WORKER_RETENTION_DAYS": "0"}, env_file=None)
    assert kept_for(settings).keys() == {Kept.TURNS, Kept.REQUESTS}
