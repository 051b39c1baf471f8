"""A lease for what must be single: who has it, who waits, who takes over."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio

from actp_supervise.service import LeaderLease

OURS, OTHER = "our instance", "instance of another"


@dataclass
class Holder:
    instance: str
    worker_id: str = "worker-2"


class Place:
    """Where leases are kept: in memory, by Trio's time; and what may be wrong with it."""

    def __init__(self):
        self.held = {}
        self.wrong = None
        self.asked = 0

    async def hold_lease(self, name, instance, *, lease):
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if self.wrong is not None:
            raise self.wrong
        holder, until = self.held.get(name, (None, 0.0))
        if holder is None or holder.instance == instance or trio.current_time() >= until:
            holder = Holder(instance)
            self.held[name] = (holder, trio.current_time() + lease)
        return holder

    async def drop_lease(self, name, instance):
        await trio.lowlevel.checkpoint()
        if self.held[name][0].instance == instance:
            del self.held[name]


def leased(place, instance=OURS, **options):
    return LeaderLease(
        place, "thing", instance, 3.0, away=ConnectionError, refused=ValueError, **options
    )


@pytest.fixture
def place():
    return Place()


async def test_one_of_two_has_the_lease_and_the_other_takes_over_when_it_is_handed_back(
    place, autojump_clock
):
    ours, others, elsewhere = leased(place), leased(place, OTHER), []
    await others.acquire(elsewhere.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.acquire, elsewhere.append)
        async with others.renewing(lambda: None):
            await trio.sleep(20)
        assert set(elsewhere) == {"worker-2"}
        await others.release()
    assert place.held["thing"][0].instance == OURS


async def test_a_holder_that_died_is_followed_when_its_lease_is_over(place, autojump_clock):
    await leased(place, OTHER).acquire(lambda _: None)
    await leased(place).acquire(lambda _: None)
    assert 3.0 <= trio.current_time() <= 4.0


async def test_a_lease_that_is_still_ours_need_not_be_asked_for(place, autojump_clock):
    lease = leased(place)
    await lease.acquire(lambda _: None)
    place.wrong = ConnectionError()
    with trio.fail_after(0.5):
        await lease.acquire(lambda _: None)
    assert place.asked == 1


async def test_while_the_place_is_away_a_lease_is_waited_for_and_none_is_lost(
    place, autojump_clock
):
    place.wrong = ConnectionError("no route")
    lost, lease = [], leased(place)
    with trio.move_on_after(10):
        await lease.acquire(lambda _: None)
        raise AssertionError("it cannot have it")
    place.wrong = None
    await lease.acquire(lambda _: None)
    async with lease.renewing(lambda: lost.append(True)):
        place.wrong = ConnectionError("no route")
        await trio.sleep(100)
    assert lost == []


async def test_a_place_that_cannot_keep_leases_is_an_error(place):
    place.wrong = ValueError("no such table")
    with pytest.raises(ValueError, match="no such table"):
        await leased(place).acquire(lambda _: None)


async def test_losing_the_lease_is_told_once(place, autojump_clock):
    lost, lease = [], leased(place)
    await lease.acquire(lambda _: None)
    async with lease.renewing(lambda: lost.append(trio.current_time())):
        place.held["thing"] = (Holder(OTHER), 1000.0)
        await trio.sleep(10)
    assert lost == [1.0]


async def test_a_place_that_refuses_to_renew_a_lease_is_asked_again(place, autojump_clock, caplog):
    lost, lease = [], leased(place)
    await lease.acquire(lambda _: None)
    async with lease.renewing(lambda: lost.append(trio.current_time())):
        place.wrong = ValueError("out of memory")
        await trio.sleep(1.5)
        assert "out of memory" in caplog.text
        place.wrong = None
        place.held["thing"] = (Holder(OTHER), 1000.0)
        await trio.sleep(2)
    assert lost == [2.0]


async def test_an_error_leaves_the_block_in_which_a_lease_is_renewed_bare(place):
    lease = leased(place)
    with pytest.raises(ValueError, match="as it is"):
        async with lease.renewing(lambda: None):
            raise ValueError("as it is")


async def test_a_lease_that_takes_too_long_to_hand_back_is_told_in_words(autojump_clock, caplog):
    class Silent(Place):
        async def drop_lease(self, name, instance):
            await trio.sleep_forever()

    await leased(Silent()).release()
    assert caplog.messages == ["The lease of thing will run out: it took too long"]
