"""Wall clocks, and the machine's zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import TZPATH, ZoneInfo

import pytest
import trio

from actp_supervise.clock import SteppedWallClock, SystemWallClock, WallClock, local_timezone
from actp_supervise.testing import TrioWallClock

START = datetime(2026, 3, 1, 6, 0, tzinfo=ZoneInfo("America/New_York"))


async def test_the_trio_wall_clock_follows_trios_clock(autojump_clock) -> None:
    wall = TrioWallClock(START)
    assert wall.now() == START

    await trio.sleep(90.5)

    assert wall.now() == START + timedelta(seconds=90.5)


async def test_the_trio_wall_clock_starts_when_it_is_made(autojump_clock) -> None:
    await trio.sleep(1000)
    wall = TrioWallClock(START)
    await trio.sleep(1)
    assert wall.now() == START + timedelta(seconds=1)


async def test_the_trio_wall_clock_is_exact_after_a_year(autojump_clock) -> None:
    wall = TrioWallClock(START)
    await trio.sleep(365 * 86400 + 0.000001)
    elapsed = wall.now().astimezone(UTC) - START.astimezone(UTC)
    assert elapsed == timedelta(days=365, microseconds=1)


async def test_a_step_sets_the_clock_and_is_told(autojump_clock) -> None:
    wall = TrioWallClock(START)
    told = []
    end = wall.on_step(lambda: told.append(wall.now()))

    wall.step(3600)
    wall.step(-7200)
    end()
    wall.step(5)

    assert told == [START + timedelta(hours=1), START - timedelta(hours=1)]
    assert wall.now() == START - timedelta(hours=1) + timedelta(seconds=5)


def test_a_clock_made_outside_of_trio_starts_when_it_is_first_looked_at() -> None:
    wall = TrioWallClock(START)

    async def main() -> datetime:
        return wall.now()

    assert trio.run(main) == START


def test_a_clock_shows_a_year_in_its_own_zone_across_a_change_of_clocks() -> None:
    wall = TrioWallClock(START)

    async def main() -> str:
        wall.now()
        wall.step(timedelta(days=8).total_seconds())
        return wall.now().strftime("%H:%M %Z")

    assert trio.run(main) == "07:00 EDT"


def test_a_naive_start_is_refused() -> None:
    with pytest.raises(ValueError, match="start must be aware"):
        TrioWallClock(START.replace(tzinfo=None))


def test_the_systems_clock_is_aware_and_goes_on() -> None:
    wall: WallClock = SystemWallClock()
    first = wall.now()
    assert first.tzinfo is UTC
    assert wall.now() >= first


def test_only_a_clock_that_says_when_it_is_set_need_not_be_looked_at() -> None:
    assert isinstance(TrioWallClock(START), SteppedWallClock)
    assert not isinstance(SystemWallClock(), SteppedWallClock)


# The machine's zone.


def zone_file(name: str) -> Path:
    return next(path for root in TZPATH if (path := Path(root) / name).exists())


@pytest.mark.parametrize(
    "value", ["Europe/Berlin", ":Europe/Berlin", "/usr/share/zoneinfo/Europe/Berlin"]
)
def test_the_variable_tz_names_the_zone(value, tmp_path) -> None:
    link = tmp_path / "localtime"
    link.symlink_to(zone_file("Asia/Tokyo"))
    assert local_timezone({"TZ": value}, link) is ZoneInfo("Europe/Berlin")


def test_an_empty_tz_is_utc() -> None:
    assert local_timezone({"TZ": ""}) is UTC


def test_a_tz_that_is_no_name_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"'EST5EDT,.* in the variable TZ: set it to"):
        local_timezone({"TZ": "EST5EDT,M3.2.0,M11.1.0"})


def test_without_tz_the_link_of_the_system_names_the_zone(tmp_path) -> None:
    link = tmp_path / "localtime"
    link.symlink_to(zone_file("Asia/Kathmandu"))
    assert local_timezone({}, link) is ZoneInfo("Asia/Kathmandu")


def test_a_copied_zone_file_keeps_its_rules_for_daylight_saving_time(tmp_path) -> None:
    copy = tmp_path / "localtime"
    copy.write_bytes(zone_file("Europe/Berlin").read_bytes())
    zone = local_timezone({}, copy)
    assert datetime(2026, 1, 1, tzinfo=zone).utcoffset() == timedelta(hours=1)
    assert datetime(2026, 7, 1, tzinfo=zone).utcoffset() == timedelta(hours=2)


def test_a_machine_without_a_zone_is_in_utc(tmp_path) -> None:
    assert local_timezone({}, tmp_path / "missing") is UTC
