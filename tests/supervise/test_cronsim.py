"""What we rely on of cronsim, of which it promises none: its insides.

Where one of these fails after an update of cronsim, `actp_supervise/cronfields.py` is the file to
mend; ``pyproject.toml`` says up to which version we know that they hold.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from cronsim import CronSim, CronSimError
from cronsim.cronsim import RANGES, Field

FIRST = datetime(2000, 1, 1, tzinfo=UTC)


def test_cronsim_has_six_kinds_of_field_with_seconds_first() -> None:
    assert [kind.name for kind in Field] == ["SECOND", "MINUTE", "HOUR", "DAY", "MONTH", "DOW"]


def test_cronsim_names_the_field_that_is_bad() -> None:
    assert [kind.msg() for kind in Field] == [
        "Bad second",
        "Bad minute",
        "Bad hour",
        "Bad day-of-month",
        "Bad month",
        "Bad day-of-week",
    ]


def test_cronsim_knows_the_range_of_each_field() -> None:
    assert [RANGES[kind] for kind in Field] == [
        range(60),
        range(60),
        range(24),
        range(1, 32),
        range(1, 13),
        range(8),
    ]


def test_cronsim_reads_a_field_as_a_set_of_numbers() -> None:
    assert Field.MINUTE.parse("*/20,5-7") == {0, 20, 40, 5, 6, 7}
    assert Field.MONTH.parse("JAN,MAR") == {1, 3}
    assert Field.DOW.parse("SUN") == {0}


def test_cronsim_reads_what_is_no_number_as_something_else() -> None:
    found = [*Field.DAY.parse("L"), *Field.DAY.parse("LW"), *Field.DOW.parse("5L")]
    assert len({str(item) for item in found}) == 3
    assert Field.DOW.parse("1#2") == {(1, 2)}


@pytest.mark.parametrize("text", ["60", "", "x", "1-", "5-1", "*/0"])
def test_cronsim_refuses_a_bad_field(text) -> None:
    with pytest.raises(CronSimError):
        Field.MINUTE.parse(text)


def test_cronsim_takes_a_step_from_one_number_to_the_end_also_from_a_range_of_one() -> None:
    # `5-5/2` is 5 alone in Debian's cron: `cronfields` leaves the step away.
    assert Field.MINUTE.parse("5-5/20") == Field.MINUTE.parse("5/20") == {5, 25, 45}


def test_cronsim_says_which_days_match() -> None:
    sim = CronSim("0 0 13 1-3 FRI", FIRST)
    assert sim.months == {1, 2, 3}
    assert [day for day in range(1, 32) if sim.match_day(date(2026, 3, day))] == [6, 13, 20, 27]


def test_cronsim_says_it_in_words() -> None:
    assert CronSim("0 6 * * *", FIRST).explain() == "At 06:00 every day"
