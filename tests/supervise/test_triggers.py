"""Named cases of the triggers: clocks that are set, calendars, zones, moments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest

from actp_supervise.triggers import (
    AnyOf,
    At,
    Cron,
    Every,
    Trigger,
    as_timezone,
    latest_until,
)

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001  (to be refused)


def upcoming(expression: str, zone: str, after: str, n: int) -> list[str]:
    """Return the next `n` moments as the clocks of a zone show them, with their offset."""
    start = datetime.fromisoformat(after)
    start = start if start.tzinfo else start.replace(tzinfo=ZoneInfo(zone))
    return [moment.isoformat() for moment in Cron(expression, zone).upcoming(n, after=start)]


# New York: 02:00 to 03:00 on 2026-03-08, and 02:00 back to 01:00 on 2026-11-01.


def test_a_fixed_time_that_clocks_skip_runs_when_they_have_skipped_it() -> None:
    assert upcoming("30 2 * * *", "America/New_York", "2026-03-07T12:00", 2) == [
        "2026-03-08T03:00:00-04:00",
        "2026-03-09T02:30:00-04:00",
    ]


def test_several_fixed_times_that_clocks_skip_run_once() -> None:
    assert upcoming("0,15,30 2 * * *", "America/New_York", "2026-03-08T00:00", 2) == [
        "2026-03-08T03:00:00-04:00",
        "2026-03-09T02:00:00-04:00",
    ]


def test_a_fixed_time_that_comes_twice_runs_the_first_time_only() -> None:
    assert upcoming("30 1 * * *", "America/New_York", "2026-10-31T12:00", 2) == [
        "2026-11-01T01:30:00-04:00",
        "2026-11-02T01:30:00-05:00",
    ]


def test_a_fixed_time_does_not_run_for_one_who_asks_in_its_second_pass() -> None:
    second_pass = "2026-11-01T01:10:00-05:00"
    assert upcoming("30 1 * * *", "America/New_York", second_pass, 1) == [
        "2026-11-02T01:30:00-05:00"
    ]


def test_an_hourly_schedule_runs_in_both_passes_of_the_hour_that_comes_twice() -> None:
    assert upcoming("0 * * * *", "America/New_York", "2026-11-01T00:30", 4) == [
        "2026-11-01T01:00:00-04:00",
        "2026-11-01T01:00:00-05:00",
        "2026-11-01T02:00:00-05:00",
        "2026-11-01T03:00:00-05:00",
    ]


def test_an_hourly_schedule_leaves_out_the_hour_that_clocks_skip() -> None:
    assert upcoming("0 * * * *", "America/New_York", "2026-03-08T00:30", 3) == [
        "2026-03-08T01:00:00-05:00",
        "2026-03-08T03:00:00-04:00",
        "2026-03-08T04:00:00-04:00",
    ]


def test_a_wildcard_minute_in_a_skipped_hour_does_not_run_that_day() -> None:
    assert upcoming("*/30 2 * * *", "America/New_York", "2026-03-07T12:00", 2) == [
        "2026-03-09T02:00:00-04:00",
        "2026-03-09T02:30:00-04:00",
    ]


def test_a_rare_schedule_in_an_hour_that_comes_twice_runs_in_both_passes() -> None:
    assert upcoming("*/30 1 1 11 *", "America/New_York", "2026-11-01T01:45", 3) == [
        "2026-11-01T01:00:00-05:00",
        "2026-11-01T01:30:00-05:00",
        "2027-11-01T01:00:00-04:00",
    ]


def test_a_rare_schedule_on_the_far_side_of_a_change_of_clocks_is_on_time() -> None:
    assert upcoming("*/30 2 9 3 *", "America/New_York", "2026-01-01T00:00", 1) == [
        "2026-03-09T02:00:00-04:00"
    ]
    assert upcoming("*/30 0 2 11 *", "America/New_York", "2026-07-01T00:00", 1) == [
        "2026-11-02T00:00:00-05:00"
    ]


def test_six_fields_keep_the_rules_of_five() -> None:
    assert upcoming("0 30 2 * * *", "America/New_York", "2026-03-07T12:00", 1) == [
        "2026-03-08T03:00:00-04:00"
    ]
    assert upcoming("0 30 1 * * *", "America/New_York", "2026-10-31T12:00", 2) == [
        "2026-11-01T01:30:00-04:00",
        "2026-11-02T01:30:00-05:00",
    ]


def test_london_sets_its_clocks_at_one() -> None:
    assert upcoming("30 1 * * *", "Europe/London", "2026-03-28T12:00", 2) == [
        "2026-03-29T02:00:00+01:00",
        "2026-03-30T01:30:00+01:00",
    ]
    assert upcoming("30 1 * * *", "Europe/London", "2026-10-24T12:00", 2) == [
        "2026-10-25T01:30:00+01:00",
        "2026-10-26T01:30:00+00:00",
    ]


def test_lord_howe_sets_its_clocks_by_half_an_hour() -> None:
    # 02:00 to 02:30 on 2026-10-04, and 02:00 back to 01:30 on 2026-04-05.
    assert upcoming("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", 2) == [
        "2026-10-04T02:30:00+11:00",
        "2026-10-05T02:15:00+11:00",
    ]
    assert upcoming("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00", 2) == [
        "2026-04-05T01:45:00+11:00",
        "2026-04-06T01:45:00+10:30",
    ]
    assert upcoming("*/15 1,2 * * *", "Australia/Lord_Howe", "2026-04-05T01:20", 5) == [
        "2026-04-05T01:30:00+11:00",
        "2026-04-05T01:45:00+11:00",
        "2026-04-05T01:30:00+10:30",
        "2026-04-05T01:45:00+10:30",
        "2026-04-05T02:00:00+10:30",
    ]


def test_the_first_minutes_after_a_half_hour_step_are_not_lost() -> None:
    assert upcoming("* 3 * * *", "Australia/Lord_Howe", "2026-04-05T01:45", 1) == [
        "2026-04-05T03:00:00+10:30"
    ]


@pytest.mark.parametrize(
    ("zone", "day_before", "midnight"),
    [
        ("Africa/Cairo", "2026-04-23T12:00", "2026-04-24T01:00:00+03:00"),
        ("America/Santiago", "2026-09-05T12:00", "2026-09-06T01:00:00-03:00"),
    ],
)
def test_a_midnight_that_clocks_skip_is_an_hour_late(zone, day_before, midnight) -> None:
    assert upcoming("@daily", zone, day_before, 1) == [midnight]


def test_a_midnight_hour_that_comes_twice_gives_one_day_more_no_midnight() -> None:
    # Santiago: midnight back to 23:00 on 2026-04-05, so the 4th has two hours from 23:00.
    assert upcoming("0 0 * * *", "America/Santiago", "2026-04-04T12:00", 2) == [
        "2026-04-05T00:00:00-04:00",
        "2026-04-06T00:00:00-04:00",
    ]
    assert upcoming("30 23 * * *", "America/Santiago", "2026-04-04T12:00", 2) == [
        "2026-04-04T23:30:00-03:00",
        "2026-04-05T23:30:00-04:00",
    ]


def test_a_whole_day_that_a_country_leaves_out_runs_when_it_is_over() -> None:
    # Samoa went from 2011-12-29 straight to the 31st.
    assert upcoming("0 12 * * *", "Pacific/Apia", "2011-12-29T11:00", 3) == [
        "2011-12-29T12:00:00-10:00",
        "2011-12-31T00:00:00+14:00",
        "2011-12-31T12:00:00+14:00",
    ]


# Calendars.


def test_leap_day() -> None:
    assert upcoming("0 0 29 2 *", "UTC", "2026-01-01T00:00", 2) == [
        "2028-02-29T00:00:00+00:00",
        "2032-02-29T00:00:00+00:00",
    ]


def test_the_century_that_is_no_leap_year_is_passed_by() -> None:
    assert upcoming("0 0 29 2 *", "UTC", "2096-03-01T00:00", 1) == ["2104-02-29T00:00:00+00:00"]


def test_months_without_a_31st_are_passed_by() -> None:
    assert upcoming("0 0 31 * *", "UTC", "2026-02-01T00:00", 3) == [
        "2026-03-31T00:00:00+00:00",
        "2026-05-31T00:00:00+00:00",
        "2026-07-31T00:00:00+00:00",
    ]


def test_l_is_the_last_day_of_the_month() -> None:
    assert upcoming("0 0 L * *", "UTC", "2028-02-01T00:00", 2) == [
        "2028-02-29T00:00:00+00:00",
        "2028-03-31T00:00:00+00:00",
    ]


def test_lw_is_the_last_working_day_of_the_month() -> None:
    assert upcoming("0 0 LW * *", "UTC", "2026-05-01T00:00", 2) == [
        "2026-05-29T00:00:00+00:00",
        "2026-06-30T00:00:00+00:00",
    ]


def test_5l_is_the_last_friday_of_the_month() -> None:
    assert upcoming("0 0 * * 5L", "UTC", "2026-02-01T00:00", 2) == [
        "2026-02-27T00:00:00+00:00",
        "2026-03-27T00:00:00+00:00",
    ]


def test_hash_is_the_nth_weekday_of_the_month() -> None:
    assert upcoming("0 9 * * MON#2", "UTC", "2026-02-01T00:00", 2) == [
        "2026-02-09T09:00:00+00:00",
        "2026-03-09T09:00:00+00:00",
    ]
    assert upcoming("0 9 * * 1#5", "UTC", "2026-02-01T00:00", 1) == ["2026-03-30T09:00:00+00:00"]


def test_sunday_is_0_and_7_and_has_a_name() -> None:
    sundays = ["2026-02-01T20:00:00+00:00", "2026-02-08T20:00:00+00:00"]
    for name in ("0", "7", "SUN", "sun"):
        assert upcoming(f"0 20 * * {name}", "UTC", "2026-01-31T00:00", 2) == sundays


def test_day_of_month_and_day_of_week_are_alternatives() -> None:
    assert upcoming("0 0 13 * FRI", "UTC", "2026-03-10T00:00", 4) == [
        "2026-03-13T00:00:00+00:00",
        "2026-03-20T00:00:00+00:00",
        "2026-03-27T00:00:00+00:00",
        "2026-04-03T00:00:00+00:00",
    ]


def test_day_of_month_and_day_of_week_must_both_match_if_one_starts_with_a_star() -> None:
    assert upcoming("0 0 */13 * FRI", "UTC", "2026-02-01T00:00", 2) == [
        "2026-02-27T00:00:00+00:00",
        "2026-03-27T00:00:00+00:00",
    ]


def test_a_range_of_one_with_a_step_is_that_one() -> None:
    assert upcoming("5-5/2 0 * * *", "UTC", "2026-02-01T00:00", 2) == [
        "2026-02-01T00:05:00+00:00",
        "2026-02-02T00:05:00+00:00",
    ]


def test_a_step_from_a_number_goes_on_to_the_end() -> None:
    assert upcoming("50/5 0 * * *", "UTC", "2026-02-01T00:00", 3) == [
        "2026-02-01T00:50:00+00:00",
        "2026-02-01T00:55:00+00:00",
        "2026-02-02T00:50:00+00:00",
    ]


def test_seconds_come_first_of_six_fields() -> None:
    assert upcoming("*/20 59 23 * * *", "UTC", "2026-02-01T00:00", 4) == [
        "2026-02-01T23:59:00+00:00",
        "2026-02-01T23:59:20+00:00",
        "2026-02-01T23:59:40+00:00",
        "2026-02-02T23:59:00+00:00",
    ]


@pytest.mark.parametrize(
    ("nickname", "expression"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@Daily", "0 0 * * *"),
    ],
)
def test_nicknames_stand_for_expressions(nickname, expression) -> None:
    assert Cron(nickname) == Cron(expression)


def test_a_day_that_never_comes_has_no_next_moment() -> None:
    # The 1st and the 17th are never the last Friday.
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert Cron("0 0 */16 * 5L").next_after(start) is None


def test_february_with_five_mondays_is_found_a_generation_ahead() -> None:
    assert upcoming("0 0 * 2 MON#5", "UTC", "2026-01-01T00:00", 1) == ["2044-02-29T00:00:00+00:00"]


EDGES = [
    ("UTC", "0001-01-01T00:00+00:00", ["0001-01-01T06:00:00+00:00", "0001-01-02T06:00:00+00:00"]),
    # UTC's year 1 begins in what the clocks of New York show as the year 0.
    ("America/New_York", "0001-01-01T00:00+00:00", ["0001-01-01T06:00:00-04:56:02"]),
    ("Asia/Tokyo", "0001-01-01T00:00+00:00", ["0001-01-02T06:00:00+09:18:59"]),
    ("America/New_York", "9999-12-30T11:00+00:00", ["9999-12-31T06:00:00-05:00"]),
    ("Asia/Tokyo", "9999-12-29T23:00+00:00", ["9999-12-31T06:00:00+09:00"]),
]


@pytest.mark.parametrize(("zone", "after", "expected"), EDGES)
def test_the_first_and_the_last_year_have_moments_in_any_zone(zone, after, expected) -> None:
    assert upcoming("0 6 * * *", zone, after, len(expected)) == expected
    every_minute = Cron("* * * * *", zone).next_after(datetime.fromisoformat(after))
    assert every_minute.second == 0


def test_a_clock_that_is_set_in_the_last_year_is_followed() -> None:
    # New York's clocks go back on the first Sunday of November, in 9999 the 7th.
    assert upcoming("0 * * * *", "America/New_York", "9999-11-07T00:30-04:00", 3) == [
        "9999-11-07T01:00:00-04:00",
        "9999-11-07T01:00:00-05:00",
        "9999-11-07T02:00:00-05:00",
    ]


@pytest.mark.parametrize(
    "moment",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(hours=12))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
    ],
)
def test_a_moment_beyond_the_calendar_is_refused(moment) -> None:
    for call in (At, lambda m: Every(60.0, m), Cron("* * * * *").next_after, Every(1).next_after):
        with pytest.raises(ValueError, match="must be within the years 1 to 9999 in UTC too"):
            call(moment)


def test_the_end_of_the_calendar_has_no_next_moment() -> None:
    last = datetime(9999, 12, 31, 23, 59, 30, tzinfo=UTC)
    assert Cron("0 6 * * *").next_after(last) is None
    assert Cron("0 6 * * *", "Asia/Tokyo").next_after(last) is None
    assert Cron("* * * * *", "America/New_York").next_after(last) is None
    assert Every(3600.0).next_after(last) is None


# Zones and moments.


def test_the_next_moment_is_strictly_later() -> None:
    due = datetime(2026, 2, 1, 6, 0, tzinfo=UTC)
    assert Cron("0 6 * * *").next_after(due) == due + timedelta(days=1)
    assert Cron("0 6 * * *").next_after(due - timedelta(microseconds=1)) == due
    assert At(due).next_after(due) is None
    assert At(due).next_after(due - timedelta(microseconds=1)) == due


def test_cron_without_a_zone_is_read_in_that_of_the_moment() -> None:
    berlin = datetime(2026, 2, 1, 12, 0, tzinfo=ZoneInfo("Europe/Berlin"))
    found = Cron("0 6 * * *").next_after(berlin)
    assert found.isoformat() == "2026-02-02T06:00:00+01:00"


def test_a_fixed_offset_serves_as_a_zone() -> None:
    moment = datetime(2026, 2, 1, 12, 0, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert Cron("0 6 * * *").next_after(moment).isoformat() == "2026-02-02T06:00:00+05:30"


@pytest.mark.parametrize(
    "trigger",
    [
        Cron("0 6 * * *"),
        Every(60.0),
        At(datetime(2026, 1, 1, tzinfo=UTC)),
        AnyOf(Every(60.0), Cron("* * * * *")),
    ],
)
def test_a_naive_moment_is_refused(trigger) -> None:
    with pytest.raises(ValueError, match="moment must be aware"):
        trigger.next_after(NAIVE)
    with pytest.raises(TypeError, match="moment must be a datetime"):
        trigger.next_after("2026-01-01")


def test_naive_anchors_and_moments_are_refused() -> None:
    with pytest.raises(ValueError, match="anchor must be aware"):
        Every(60.0, NAIVE)
    with pytest.raises(ValueError, match="moment must be aware"):
        At(NAIVE)


class _Pytz(tzinfo):
    def localize(self, moment: datetime) -> datetime:
        return moment

    def __str__(self) -> str:
        return "Europe/Berlin"


def test_an_unknown_zone_is_an_error_that_names_it() -> None:
    for name in ("Mars/Olympus", "../etc/passwd", "America", ""):
        with pytest.raises(ValueError, match="unknown timezone"):
            Cron("0 6 * * *", name)
    with pytest.raises(TypeError, match="timezone must be an IANA name"):
        as_timezone(5)
    with pytest.raises(ValueError, match="pytz's: give its name, 'Europe/Berlin'"):
        as_timezone(_Pytz())
    with pytest.raises(ValueError, match=r"timezone .* does not tell its offset"):
        Cron("0 6 * * *", tzinfo())


# Every, At, AnyOf.


def test_every_counts_from_its_anchor_in_both_directions() -> None:
    anchor = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
    every = Every(3600.0, anchor)
    assert every.next_after(anchor + timedelta(minutes=90)) == anchor + timedelta(hours=2)
    assert every.next_after(anchor - timedelta(minutes=90)) == anchor - timedelta(hours=1)


def test_every_without_an_anchor_counts_from_the_moment() -> None:
    moment = datetime(2026, 1, 1, 12, 0, 7, tzinfo=UTC)
    assert Every(90.0).next_after(moment) == moment + timedelta(seconds=90)


def test_every_is_elapsed_time_across_a_change_of_clocks() -> None:
    before = datetime(2026, 3, 7, 12, 0, tzinfo=ZoneInfo("America/New_York"))
    assert Every(86400.0).next_after(before).isoformat() == "2026-03-08T13:00:00-04:00"


@pytest.mark.parametrize(
    "seconds",
    [0, -1, float("nan"), float("inf"), 1e-9, 1e300, 10**400, timedelta.max.total_seconds()],
)
def test_every_needs_a_positive_number_of_seconds(seconds) -> None:
    with pytest.raises(ValueError, match="seconds must be a positive number"):
        Every(seconds)


@pytest.mark.parametrize(
    ("option", "kind", "arguments"),
    [
        ("seconds", Every, ["60"]),
        ("seconds", Every, [True]),
        ("seconds", Every, [None]),
        ("seconds", Every, [timedelta(minutes=1)]),
        ("anchor", Every, [60.0, "noon"]),
        ("anchor", Every, [60.0, 0]),
        ("moment", At, ["2026-01-01"]),
        ("moment", At, [1767225600]),
        ("expression", Cron, [b"0 6 * * *"]),
        ("expression", Cron, [None]),
        ("timezone", Cron, ["0 6 * * *", 5]),
        ("timezone", Cron, ["0 6 * * *", ZoneInfo]),
        ("trigger", AnyOf, [[Every(60.0)]]),
        ("trigger", AnyOf, [Every(60.0), Cron]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_trigger_of_the_wrong_type_is_an_error_that_names_the_option(
    option, kind, arguments
) -> None:
    with pytest.raises(TypeError, match=option):
        kind(*arguments)


@pytest.mark.parametrize("n", ["3", True, -1, 2.5])
def test_how_many_moments_are_upcoming_is_a_count(n) -> None:
    with pytest.raises((TypeError, ValueError), match="n must be a count from 0"):
        Every(60.0).upcoming(n, after=datetime(2026, 1, 1, tzinfo=UTC))


def test_the_longest_and_the_shortest_period_have_a_next_moment() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert Every(1e-6).next_after(start) == start + timedelta.resolution
    assert Every(86_400 * 999_999_999).next_after(start) is None


def test_any_of_merges_and_counts_a_shared_moment_once() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    both = AnyOf(
        Cron("0 11 * * *"), Cron("0 11,15 * * *"), At(datetime(2026, 1, 1, 13, tzinfo=UTC))
    )
    assert [moment.hour for moment in both.upcoming(4, after=start)] == [11, 13, 15, 11]


def test_any_of_compares_points_in_time_not_faces_of_clocks() -> None:
    new_york = ZoneInfo("America/New_York")
    second_pass = datetime(2026, 11, 1, 1, 10, fold=1, tzinfo=new_york)
    first_pass = datetime(2026, 11, 1, 1, 50, fold=0, tzinfo=new_york)
    start = datetime(2026, 11, 1, 0, 0, tzinfo=new_york)
    assert AnyOf(At(second_pass), At(first_pass)).next_after(start) is first_pass


def test_any_of_needs_triggers() -> None:
    with pytest.raises(ValueError, match="at least one trigger"):
        AnyOf()
    with pytest.raises(TypeError, match="a trigger is a Cron, Every, At or AnyOf"):
        AnyOf("0 6 * * *")


def test_upcoming_ends_where_the_schedule_does() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert At(moment).upcoming(3, after=moment - timedelta(days=1)) == (moment,)
    assert At(moment).upcoming(3, after=moment) == ()
    assert Every(60.0).upcoming(0, after=moment) == ()


def test_a_schedule_of_ones_own_needs_next_after_alone() -> None:
    class FullHours(Trigger):
        def next_after(self, moment: datetime) -> datetime:
            return moment.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)

    start = datetime(2026, 1, 1, 10, 30, tzinfo=UTC)
    assert [moment.hour for moment in FullHours().upcoming(2, after=start)] == [11, 12]
    assert AnyOf(FullHours(), At(start)).next_after(start).hour == 11


def test_the_latest_moment_of_a_week_of_seconds_is_found_without_a_walk() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    asked = 0

    class Counting(Trigger):
        def next_after(self, moment: datetime) -> datetime | None:
            nonlocal asked
            asked += 1
            return Every(1.0, start).next_after(moment)

    latest = latest_until(Counting(), start + timedelta(days=7.00001), after=start)

    assert latest == start + timedelta(days=7)
    assert asked < 100
