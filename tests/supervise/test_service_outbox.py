"""Records that wait for a place that is away: in order, none lost, none in the way of others."""

from __future__ import annotations

from functools import partial

import trio
import trio.testing

from actp_supervise.service import Outbox


class Away(Exception):
    """The place cannot be reached."""


class Refused(Exception):
    """The place takes a record never."""


def outbox(**options):
    return Outbox(away=Away, refused=Refused, **options)


async def test_records_are_written_in_order_and_replaced_under_their_key():
    records = outbox()
    written = []

    def put(what, key=None):
        async def write():
            written.append(what)

        records.put(what, write, key=key)

    put("a")
    put("old", key="status")
    put("b")
    put("new", key="status")
    assert records.waiting == 3
    async with trio.open_nursery() as nursery:
        nursery.start_soon(records.run)
        await records.flush()
        put("c")
        await records.flush()
        nursery.cancel_scope.cancel()
    assert written == ["a", "b", "new", "c"]


async def test_what_comes_while_its_forerunner_is_being_written_is_written_too():
    records = outbox()
    written = []

    async def write(what):
        await trio.testing.wait_all_tasks_blocked()
        written.append(what)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(records.run)
        records.put("draining", partial(write, "draining"), key="status")
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        records.put("stopped", partial(write, "stopped"), key="status")
        await records.flush()
        nursery.cancel_scope.cancel()
    assert written == ["draining", "stopped"]


async def test_a_record_that_cannot_be_written_does_not_hold_up_the_others(caplog):
    records = outbox()
    written = []

    async def refused():
        raise ValueError("no such column")

    async def fine():
        written.append("fine")

    records.put("refused", refused)
    records.put("fine", fine)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(records.run)
        await records.flush()
        nursery.cancel_scope.cancel()
    assert written == ["fine"]
    assert "Not recorded: refused" in caplog.text


async def test_what_is_refused_is_told_until_it_takes_one_of_the_kind():
    records = outbox()

    async def refused():
        raise Refused("database disk image is malformed")

    records.put("end of run 1", refused, kind="end of run")
    records.put("status of social", trio.lowlevel.checkpoint)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(records.run)
        await records.flush()
        assert records.given_up == ["not recorded: end of run: database disk image is malformed"]
        records.put("end of run 2", trio.lowlevel.checkpoint, kind="end of run")
        await records.flush()
        assert records.given_up == []
        nursery.cancel_scope.cancel()


async def test_more_records_than_may_wait_are_given_up_the_oldest_first(caplog):
    records = outbox(most=3)
    for number in range(5):
        records.put(f"record {number}", trio.lowlevel.checkpoint)
    assert records.waiting == 3
    assert "record 1" in caplog.text
    assert "record 2" not in caplog.text


async def test_while_the_place_is_away_records_wait_and_it_is_told_once(autojump_clock, caplog):
    caplog.set_level("INFO")
    told, written = [], []

    async def write():
        if trio.current_time() < 100:
            raise Away("no route")
        written.append(trio.current_time())

    records = outbox(place="database", on_change=told.append)
    records.put("a", write)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(records.run)
        await trio.sleep(50)
        assert records.away_because == "no route"
        await records.flush()
        nursery.cancel_scope.cancel()
    assert len(written) == 1
    assert 100 <= written[0] <= 110
    assert told == ["no route", None]
    assert [line.action for line in caplog.records] == ["database_away", "database_back"]
    assert records.away_because is None


async def test_a_record_in_hand_when_its_run_is_cancelled_is_written_by_the_next():
    written, may_end = [], trio.Event()

    async def write(what):
        await may_end.wait()
        written.append(what)

    records = outbox()
    records.put("a", partial(write, "a"))
    records.put("b", partial(write, "b"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(records.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    may_end.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(records.run)
        await records.flush()
        nursery.cancel_scope.cancel()
    assert written == ["a", "b"]
