"""What triggers say of themselves: errors, words, equality."""

from __future__ import annotations

import pickle
import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from actp_supervise.triggers import (
    AnyOf,
    At,
    Cron,
    Every,
    Trigger,
    moment_near,
)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("61 * * * *", "bad minute '61' in cron expression '61 * * * *'"),
        ("* 24 * * *", "bad hour '24' in cron expression '* 24 * * *'"),
        ("* * 0 * *", "bad day-of-month '0' in cron expression '* * 0 * *'"),
        ("* * * 13 *", "bad month '13' in cron expression '* * * 13 *'"),
        ("* * * * 8", "bad day-of-week '8' in cron expression '* * * * 8'"),
        ("60 * * * * *", "bad second '60' in cron expression '60 * * * * *'"),
        ("0 0 * * fri-mon", "bad day-of-week 'fri-mon' in cron expression '0 0 * * fri-mon'"),
        ("*/0 * * * *", "bad minute '*/0' in cron expression '*/0 * * * *'"),
        ("1,,2 * * * *", "bad minute '1,,2' in cron expression '1,,2 * * * *'"),
        ("* * * * 1#6", "bad day-of-week '1#6' in cron expression '* * * * 1#6'"),
        (
            "*/61 * * * *",
            "bad minute '*/61' in cron expression '*/61 * * * *': its step is above 59",
        ),
        (
            "0-59/60 * * * *",
            "bad minute '0-59/60' in cron expression '0-59/60 * * * *': its step is above 59",
        ),
        (
            "0 1,*/24 * * *",
            "bad hour '1,*/24' in cron expression '0 1,*/24 * * *': its step is above 23",
        ),
        (
            "0 0 1/32 * *",
            "bad day-of-month '1/32' in cron expression '0 0 1/32 * *': its step is above 31",
        ),
        (
            "0 0 1 */13 *",
            "bad month '*/13' in cron expression '0 0 1 */13 *': its step is above 12",
        ),
        (
            "0 0 * * */8",
            "bad day-of-week '*/8' in cron expression '0 0 * * */8': its step is above 7",
        ),
        (
            "*/60 * * * * *",
            "bad second '*/60' in cron expression '*/60 * * * * *': its step is above 59",
        ),
        ("٣ * * * *", "bad minute '٣' in cron expression '٣ * * * *'"),
        (
            "0 0 31 4,6 *",
            "bad day-of-month '31' in cron expression '0 0 31 4,6 *': its months have no such day",
        ),
        ("* * * *", "cron expression '* * * *' has 4 fields; it needs 5, or 6 with seconds first"),
        ("", "cron expression '' has 0 fields; it needs 5, or 6 with seconds first"),
    ],
)
def test_a_bad_expression_names_the_field_and_the_value(expression, message) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Cron(expression)


def test_a_number_of_thousands_of_digits_is_an_error_like_any_other() -> None:
    with pytest.raises(ValueError, match="bad minute"):
        Cron(f"{'9' * 5000} * * * *")


def test_an_unknown_nickname_is_an_error_that_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"bad nickname '@reboot'.*@daily, @hourly"):
        Cron("@reboot")


def test_an_expression_is_text() -> None:
    with pytest.raises(TypeError, match="expression must be a str"):
        Cron(5)


@pytest.mark.parametrize(
    ("trigger", "words"),
    [
        (Cron("0 6 * * *"), "At 06:00 every day"),
        (Cron("0 20 * * SUN", "Europe/London"), "At 20:00 on Sunday (Europe/London)"),
        (Cron("*/15 * * * *", UTC), "Every 15th minute of every hour (UTC)"),
        (Every(1.0), "Every second"),
        (Every(90.0), "Every 90 seconds"),
        (Every(0.5), "Every 0.5 seconds"),
        (Every(60.0), "Every minute"),
        (Every(7200.0), "Every 2 hours"),
        (At(datetime(2026, 1, 1, 6, tzinfo=UTC)), "Once at 2026-01-01 06:00:00+00:00"),
        (AnyOf(Cron("0 6 * * *"), Every(3600.0)), "At 06:00 every day; Every hour"),
    ],
)
def test_a_trigger_says_in_words_when_it_runs(trigger, words) -> None:
    assert str(trigger) == words


def test_equality_is_by_text_and_zone() -> None:
    assert Cron("0  6 * * sun") == Cron("0 6 * * SUN")
    assert hash(Cron("0 6 * * sun")) == hash(Cron("0 6 * * SUN"))
    assert Cron("0 6 * * *", "Europe/London") == Cron("0 6 * * *", ZoneInfo("Europe/London"))
    assert Cron("0 6 * * *", "Europe/London") != Cron("0 6 * * *", "Europe/Paris")
    assert Cron("0 6 * * *", "Europe/London") != Cron("0 6 * * *")
    assert Cron("0 6 * * *") != Cron("0 7 * * *")
    assert Every(60.0) == Every(60) != Every(61.0)
    assert AnyOf(Every(60.0)) == AnyOf(Every(60.0)) != Every(60.0)


def test_once_triggers_are_equal_as_points_in_time_and_differ_in_the_two_passes_of_an_hour() -> (
    None
):
    berlin = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=0)
    second = first.replace(fold=1)
    for kind in (At, lambda anchor: Every(60.0, anchor), lambda moment: AnyOf(At(moment))):
        assert kind(first) != kind(second)
        assert hash(kind(first)) != hash(kind(second))
        assert repr(kind(first)) != repr(kind(second))
        assert kind(first) == kind(first.astimezone(UTC))
        assert kind(second) == kind(second.astimezone(UTC))
        assert hash(kind(second)) == hash(kind(second.astimezone(UTC)))
        assert kind(first) != 5


def test_an_identity_tells_schedules_apart_and_is_the_same_in_every_process() -> None:
    berlin, new_york = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
    six = Cron("0 6 * * *")
    assert six.identity(berlin) == Cron("0 6 * * *", "Europe/Berlin").identity(new_york)
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    triggers = [six, Cron("30 6 * * *"), Every(60.0), Every(90.0), Every(60.0, noon), At(noon)]
    texts = [trigger.identity(zone) for trigger in triggers for zone in (berlin, new_york)]
    assert len(set(texts)) == 8  # of the two crons there are two, for the zones
    assert AnyOf(six, At(noon)).identity(berlin) != AnyOf(At(noon)).identity(berlin)


def test_a_schedule_of_ones_own_has_the_identity_of_its_repr_if_it_has_one() -> None:
    class Daily(Trigger):
        def next_after(self, moment: datetime) -> datetime:
            return moment + timedelta(days=1)

    class Named(Daily):
        def __repr__(self) -> str:
            return "Named()"

    assert Daily().identity(UTC) is None
    assert AnyOf(Daily(), Every(60.0)).identity(UTC) is None
    assert Named().identity(UTC) == "Named()"


def test_a_moment_that_a_journal_rounded_is_found_again() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    hourly = Cron("0 * * * *")
    assert moment_near(hourly, noon) == noon
    assert moment_near(hourly, noon - timedelta(milliseconds=0.4)) == noon
    assert moment_near(hourly, noon + timedelta(milliseconds=0.4)) == noon
    assert moment_near(hourly, noon + timedelta(minutes=30)) is None
    assert moment_near(hourly, datetime.min.replace(tzinfo=UTC)) is None
    assert moment_near(At(noon), noon + timedelta(seconds=1)) is None


def test_a_trigger_prints_as_what_makes_it() -> None:
    trigger = AnyOf(Cron("0 6 * * *", UTC), Every(60.0))
    assert repr(trigger) == (
        "AnyOf(Cron(expression='0 6 * * *', timezone=datetime.timezone.utc), "
        "Every(seconds=60.0, anchor=None))"
    )


def test_triggers_can_be_pickled() -> None:
    trigger = AnyOf(Cron("0 6 * * *", "Europe/London"), Every(60.0))
    assert pickle.loads(pickle.dumps(trigger)) == trigger


def test_a_trigger_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Cron("0 6 * * *").expression = "0 7 * * *"
