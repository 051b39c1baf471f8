"""The desk: between two beats agents ask the database nothing that the last beat has told."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
import trio
from store_calls import add, ask, claim, decide

from actp_supervise.testing import TrioWallClock
from app.desk import TASK_BACKOFF, Desk
from app.looks import USUAL
from app.store.protocol import Before, Lease, StoreUnavailable, TaskFilter, TaskStatus


class Counted(Before):
    """A store that counts what it is asked, and can be taken away."""

    def __init__(self, store):
        super().__init__(store)
        self.asked = []
        self.away = False

    async def perform(self, verb, arguments):
        self.asked.append(verb.name)
        if self.away:
            raise StoreUnavailable("connection refused")
        return await super().perform(verb, arguments)

    def times(self, verb):
        return self.asked.count(verb)


@pytest.fixture
def counted(store):
    return Counted(store)


@pytest.fixture
def desk(counted):
    desk = Desk(counted)
    desk.woken = []
    desk.wake = desk.woken.append
    desk.wake_all = lambda: desk.woken.append("all")
    return desk


async def beat(desk, request="r1", lease=60.0):
    asked, asked_at = desk.ask_for_leases(), trio.current_time()
    try:
        told = await desk.beat(
            "w1-run",
            agents=["social"],
            tokens=desk.tokens(),
            leases=sorted(asked.names),
            lease=lease,
            request=request,
            presence=None,
        )
    except StoreUnavailable as error:
        desk.missed(asked, error)
        return
    desk.heard(told, asked, asked_at=asked_at)


async def test_without_a_beat_each_claim_asks_the_store(desk, counted):
    for number in range(3):
        assert await claim(desk, f"k{number}") is None
    assert counted.times("claim_task") == 3


async def test_after_a_beat_that_found_no_work_claims_ask_nothing(desk, counted):
    await beat(desk)
    for number in range(3):
        assert await claim(desk, f"k{number}") is None
    assert counted.times("claim_task") == 0
    assert desk.woken == []


async def test_a_beat_that_found_work_wakes_the_agent_and_its_claim_gets_it(desk, store):
    await add(store)
    await beat(desk)
    assert desk.woken == ["social"]
    assert (await claim(desk)).id == "t1"


async def test_once_a_claim_finds_nothing_no_other_is_made_before_there_is_news(desk, counted):
    await add(desk)
    await beat(desk)
    assert await claim(desk) is not None
    assert await claim(desk, "k2") is None
    assert await claim(desk, "k3") is None
    assert counted.times("claim_task") == 2


async def test_a_task_that_is_posted_here_is_claimed_at_once(desk):
    await beat(desk)
    await add(desk)
    assert desk.woken == ["social"]
    assert (await claim(desk)).id == "t1"


async def test_a_beat_is_relied_on_for_a_short_while_only(desk, counted, clock):
    await beat(desk)
    await trio.sleep(USUAL.fresh + 1)
    await claim(desk)
    assert counted.times("claim_task") == 1


async def test_a_claim_is_renewed_by_beats_and_not_by_its_worker(desk, counted, store):
    await add(desk)
    await beat(desk)
    task = await claim(desk, lease=1.0)
    assert await desk.renew_task("t1", "k1", lease=60.0) is Lease.HELD
    await beat(desk)
    assert counted.times("renew_task") == 0
    assert (await store.task("t1")).lease_until > task.lease_until


async def test_a_claim_of_a_worker_that_asks_no_more_is_not_renewed(desk, clock):
    await add(desk)
    await beat(desk)
    await claim(desk, lease=60.0)
    assert desk.tokens() == ["k1"]
    await trio.sleep(31)
    assert desk.tokens() == []


async def test_a_task_that_is_cancelled_elsewhere_is_known_by_the_next_beat(desk, store):
    await add(desk)
    await beat(desk)
    await claim(desk)
    desk.woken.clear()
    await store.cancel_task("t1")
    assert await desk.renew_task("t1", "k1", lease=60.0) is Lease.HELD
    await beat(desk)
    assert desk.woken == ["social"]
    assert await desk.renew_task("t1", "k1", lease=60.0) is Lease.CANCEL_REQUESTED


async def test_a_task_that_is_cancelled_here_is_known_at_once(desk):
    await add(desk)
    await beat(desk)
    await claim(desk)
    desk.woken.clear()
    await desk.cancel_task("t1")
    assert desk.woken == ["social"]
    assert await desk.renew_task("t1", "k1", lease=60.0) is Lease.CANCEL_REQUESTED


async def test_tasks_that_are_cancelled_or_retried_in_bulk_are_known_at_once(desk):
    await add(desk)
    await beat(desk)
    await claim(desk)
    assert await desk.cancel_tasks(TaskFilter()) == 1
    assert await desk.renew_task("t1", "k1", lease=60.0) is Lease.CANCEL_REQUESTED
    await desk.finish_task("t1", "k1", TaskStatus.CANCELLED)
    await beat(desk)
    assert await claim(desk, "k2") is None
    assert await desk.retry_tasks(TaskFilter()) == 1
    assert "all" in desk.woken
    assert (await claim(desk, "k3")).id == "t1"


async def test_a_claim_that_was_lost_is_known_by_the_next_beat(desk, store):
    await add(desk)
    await beat(desk)
    await claim(desk)
    await store.forget_worker("w1-run")
    await beat(desk)
    assert await desk.renew_task("t1", "k1", lease=60.0) is Lease.LOST
    assert not await desk.finish_task("t1", "k1", TaskStatus.SUCCEEDED)


async def test_an_attempt_that_failed_is_waited_after_and_one_that_was_handed_back_is_not(
    desk, store
):
    await add(desk)
    await beat(desk)
    await claim(desk)
    await desk.release_task("t1", "k1")
    assert (await store.task("t1")).not_before is None
    await claim(desk, "k2")
    await desk.release_task("t1", "k2", count_attempt=True, error="crashed")
    task = await store.task("t1")
    waits = (task.not_before - await store.ping()).total_seconds()
    assert waits == pytest.approx(TASK_BACKOFF.delay(1), abs=2)
    assert await claim(desk, "k3") is None


async def test_a_named_lease_is_asked_for_at_once_and_then_with_each_beat(desk, counted, nursery):
    assert (await desk.hold_lease("social", "w1-run", lease=60.0)).instance == "w1-run"
    await beat(desk)
    holders = []

    async def ask():
        holders.append(await desk.hold_lease("social", "w1-run", lease=60.0))

    nursery.start_soon(ask)
    await trio.testing.wait_all_tasks_blocked()
    assert holders == []
    await beat(desk)
    await trio.testing.wait_all_tasks_blocked()
    assert [holder.instance for holder in holders] == ["w1-run"]
    assert counted.times("hold_lease") == 1


async def test_a_named_lease_that_a_missed_beat_asked_for_is_away(desk, counted, nursery):
    await desk.hold_lease("social", "w1-run", lease=60.0)
    await beat(desk)
    refused = []

    async def ask():
        with pytest.raises(StoreUnavailable):
            await desk.hold_lease("social", "w1-run", lease=60.0)
        refused.append(True)

    nursery.start_soon(ask)
    await trio.testing.wait_all_tasks_blocked()
    counted.away = True
    await beat(desk)
    await trio.testing.wait_all_tasks_blocked()
    assert refused == [True]


async def test_a_task_that_was_parked_is_no_claim_any_more_and_its_decision_wakes_the_agent(desk):
    await add(desk)
    await beat(desk)
    await claim(desk)
    await ask(desk)
    assert desk.tokens()
    await desk.park_task("t1", "k1")
    assert not desk.tokens()
    assert await claim(desk, "k2") is None
    desk.woken.clear()
    await decide(desk)
    assert desk.woken == ["social"]
    assert (await claim(desk, "k3")).id == "t1"


LEASE = 1.0


@pytest.fixture
async def asleep(store, counted):
    """A desk with a task at work, a beat ago; then the machine sleeps past the task's lease."""
    clock = TrioWallClock(datetime(2026, 11, 29, tzinfo=UTC))
    desk = Desk(counted, wall_clock=clock)
    await add(desk)
    await claim(desk, "at work", lease=LEASE)
    await beat(desk, lease=LEASE)
    # By the store's clock; Trio's stands still.
    await trio.to_thread.run_sync(threading.Event().wait, LEASE + 0.1)
    clock.step(3600.0)
    desk.note_work("social")
    return desk


async def test_after_a_sleep_no_worker_takes_the_task_of_another_in_its_daemon(asleep, mock_clock):
    assert await claim(asleep, "idle", lease=LEASE) is None
    assert await asleep.finish_task("t1", "at work", TaskStatus.SUCCEEDED)


async def test_the_task_of_a_worker_that_has_not_asked_for_long_is_taken_over(asleep, mock_clock):
    mock_clock.jump(2 * LEASE)
    assert (await claim(asleep, "idle", lease=LEASE)).id == "t1"
    assert not await asleep.finish_task("t1", "at work", TaskStatus.SUCCEEDED)
