"""Cron expressions against a second, brute-force reading of them, in many zones."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import cron_model
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actp_supervise.triggers import AnyOf, Cron, Every, latest_until

# Whole-hour, half-hour and two-hour steps, at midnight and at one past, backwards in summer, a
# month of Ramadan, a whole day left out; and odd offsets that never change.
ZONES = [
    "America/New_York", "Europe/London", "Europe/Dublin", "Australia/Lord_Howe", "Africa/Cairo",
    "America/Santiago", "America/Havana", "America/Sao_Paulo", "America/St_Johns", "Asia/Beirut",
    "Africa/Casablanca", "Antarctica/Troll", "Pacific/Chatham", "Pacific/Apia",
    "Pacific/Kwajalein", "America/Caracas", "Asia/Pyongyang", "Asia/Kathmandu", "UTC",
]  # fmt: skip


@cache
def turns(zone: str) -> list[datetime]:
    """Return the days from 1975 to 2037 in which a zone's clocks were or will be set."""
    days = [datetime(1975, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(63 * 365)]
    offsets = [day.astimezone(ZoneInfo(zone)).utcoffset() for day in days]
    return [day for day, a, b in zip(days, offsets, offsets[1:], strict=False) if a != b]


@st.composite
def starts(draw: st.DrawFn) -> tuple[ZoneInfo, datetime]:
    zone = draw(st.sampled_from(ZONES))
    near = draw(st.sampled_from(turns(zone) or [datetime(2026, 2, 27, tzinfo=UTC)]))
    offset = draw(st.integers(-36 * 3600, 36 * 3600))
    return ZoneInfo(zone), near + timedelta(seconds=offset, microseconds=draw(st.integers(0, 1)))


def number_field(low: int, high: int, *, names: list[str] | None = None) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    word = number.map(str) if names is None else st.one_of(number.map(str), st.sampled_from(names))
    pair = st.tuples(number, number).map(sorted)
    step = st.integers(1, high)
    term = st.one_of(
        word,
        pair.map(lambda ab: f"{ab[0]}-{ab[1]}"),
        st.tuples(pair, step).map(lambda p: f"{p[0][0]}-{p[0][1]}/{p[1]}"),
        st.tuples(number, step).map(lambda p: f"{p[0]}/{p[1]}"),
    )
    star = st.one_of(st.just("*"), step.map(lambda n: f"*/{n}"))
    return st.one_of(star, term, st.lists(term, min_size=2, max_size=3).map(",".join))


DAY_OF_MONTH = st.one_of(st.just("*"), number_field(1, 28), st.sampled_from(["L", "LW", "1,L"]))
DAY_OF_WEEK = st.one_of(
    st.just("*"),
    number_field(0, 7, names=["MON", "tue", "Sun"]),
    st.sampled_from(["5L", "0L", "7L", "MON#2", "0#1", "7#5", "MON#1,3L"]),
)
MONTH = st.one_of(st.just("*"), number_field(1, 12, names=["JAN", "mar", "Oct"]))


def expressions(*, month: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    fields = (number_field(0, 59), number_field(0, 23), DAY_OF_MONTH, month, DAY_OF_WEEK)
    return st.tuples(*fields).map(" ".join)


def walk(trigger: Cron, after: datetime, until: datetime) -> list[datetime]:
    found = []
    moment = trigger.next_after(after)
    while moment is not None and moment.astimezone(UTC) <= until:
        found.append(moment.astimezone(UTC))
        moment = trigger.next_after(moment)
    return found


@given(expression=expressions(month=st.just("*")), start=starts(), hours=st.integers(1, 60))
@settings(max_examples=400, deadline=None)
@example("* 3 * * *", (ZoneInfo("Australia/Lord_Howe"), datetime(2026, 4, 4, 14, tzinfo=UTC)), 5)
@example("30 1 * * *", (ZoneInfo("America/New_York"), datetime(2026, 11, 1, 6, 10, tzinfo=UTC)), 30)
@example("*/30 0 * * *", (ZoneInfo("America/Santiago"), datetime(2026, 9, 5, 20, tzinfo=UTC)), 30)
@example("0 0 * * *", (ZoneInfo("Pacific/Apia"), datetime(2011, 12, 28, 20, tzinfo=UTC)), 60)
@example(  # a day was left out, and what was sought began with the very turn of the clocks
    "* * * * Sun",
    (ZoneInfo("Pacific/Kwajalein"), datetime(1993, 8, 20, 11, 59, 59, tzinfo=UTC)),
    25,
)
def test_cron_agrees_with_a_minute_by_minute_reading_in_any_zone(expression, start, hours) -> None:
    zone, after = start
    until = after + timedelta(hours=hours)

    found = walk(Cron(expression, zone), after, until)

    assert found == cron_model.moments(expression, zone, after, until)


@given(
    expression=expressions(month=MONTH),
    day=st.dates(date(1999, 1, 1), date(2030, 1, 1)),
    days=st.integers(30, 800),
)
@settings(max_examples=200, deadline=None)
def test_cron_agrees_with_a_day_by_day_reading_over_years(expression, day, days) -> None:
    dates = [day + timedelta(days=n) for n in range(days)]
    last = max(cron_model.times(expression))
    expected = [d for d in dates if cron_model.day_matches(expression, d)]
    # On each day, the last of its times: to walk through all would take too long.
    trigger = Cron(f"{last[1]} {last[0]} {expression.partition(' ')[2].partition(' ')[2]}", UTC)

    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(seconds=1)
    found = walk(trigger, start, start + timedelta(days=days))

    assert [moment.date() for moment in found] == expected


@given(
    seconds=number_field(0, 59),
    minutes=number_field(0, 59),
    hours=number_field(0, 23),
    start=starts(),
)
@settings(max_examples=100, deadline=None)
def test_six_fields_agree_with_a_second_by_second_reading(seconds, minutes, hours, start) -> None:
    zone, after = start
    after = after.replace(microsecond=0)
    until = after + timedelta(hours=1)
    rest = f"{minutes} {hours} * * *"
    in_minute = cron_model.numbers(seconds, 0, 59, [], 0)
    on_the_minute = set(cron_model.moments(rest, zone, after - timedelta(minutes=1), until))

    found = walk(Cron(f"{seconds} {rest}", zone), after, until)

    if not cron_model.is_fixed(rest):
        expected = [
            minute + timedelta(seconds=second)
            for minute in sorted(on_the_minute)
            for second in sorted(in_minute)
        ]
        assert found == [moment for moment in expected if after < moment <= until]
    else:  # a minute that the clocks skip has only its first second
        assert {moment.replace(second=0) for moment in found} <= on_the_minute
        assert found == sorted(set(found))


@given(start=starts(), expression=expressions(month=st.just("*")), other=st.sampled_from(ZONES))
@settings(max_examples=100, deadline=None)
def test_the_zone_of_the_moment_asked_about_changes_nothing(start, expression, other) -> None:
    zone, after = start

    here = Cron(expression, zone).next_after(after)
    there = Cron(expression, zone).next_after(after.astimezone(ZoneInfo(other)))

    assert there == here  # both are in `zone`
    if here is not None:  # some days never come
        assert here.tzinfo is zone
        assert here.astimezone(UTC) > after


@given(
    start=starts(),
    seconds=st.one_of(st.integers(1, 200_000), st.floats(0.1, 1000.0)),
    count=st.integers(1, 20),
)
def test_every_keeps_its_distance_whatever_the_clocks_do(start, seconds, count) -> None:
    zone, anchor = start
    anchor = anchor.astimezone(zone)

    found = Every(seconds, anchor).upcoming(count, after=anchor)

    period = timedelta(seconds=seconds)
    expected = [anchor.astimezone(UTC) + n * period for n in range(1, count + 1)]
    assert [moment.astimezone(UTC) for moment in found] == expected


@given(start=starts(), expression=expressions(month=st.just("*")), hours=st.integers(1, 48))
@settings(max_examples=100, deadline=None)
@example((ZoneInfo("UTC"), datetime(1975, 2, 23, 0, 0, 0, 1, tzinfo=UTC)), "* * * * *", 2)
def test_the_latest_moment_until_now_is_the_last_of_a_walk(start, expression, hours) -> None:
    zone, after = start
    trigger = AnyOf(Cron(expression, zone), Every(7200.0, after))
    until = after + timedelta(hours=hours)

    latest = latest_until(trigger, until, after=after)

    found = walk(trigger, after, until)
    # In UTC: a time that comes twice is equal to none in another zone (PEP 495).
    assert (latest and latest.astimezone(UTC)) == (found[-1] if found else None)


@given(expression=expressions(month=MONTH))
def test_every_expression_has_words(expression) -> None:
    assert str(Cron(expression))
