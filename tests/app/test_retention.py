"""Conversations that are old are deleted, whatever happens to the store meanwhile."""

from __future__ import annotations

import trio

from app.retention import AT_ONCE, forget_old_turns
from app.store.protocol import StoreError, StoreUnavailable

DAY = 86_400.0


class Forgetful:
    """A store that is asked to forget, and fails at some of the times."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def forget_turns(self, *, older_than, limit):
        self.asked.append((trio.current_time(), older_than, limit))
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer


async def test_it_is_done_at_the_start_and_every_hour(nursery, autojump_clock):
    store = Forgetful()
    began = trio.current_time()
    nursery.start_soon(forget_old_turns, store, 30 * DAY)
    await trio.sleep(7_201)
    assert store.asked == [(began + 3_600 * n, 30 * DAY, AT_ONCE) for n in range(3)]


async def test_a_store_that_is_away_or_refuses_is_asked_again(nursery, caplog, autojump_clock):
    store = Forgetful(StoreUnavailable("gone fishing"), StoreError("not you"))
    nursery.start_soon(forget_old_turns, store, 30 * DAY)
    await trio.sleep(7_201)
    assert len(store.asked) == 3
    (record,) = caplog.records
    assert record.getMessage() == "Old conversations could not be deleted: not you"
