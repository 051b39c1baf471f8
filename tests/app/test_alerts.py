"""Who is told, when, how often, and by which way."""

from __future__ import annotations

import dataclasses
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
import trio

from actp_supervise import open_supervisor
from actp_supervise.service import make_redactor
from actp_supervise.testing import TrioWallClock
from app.alerts.channels import ByApprise, DeliveryError, Telegram, make_channels
from app.alerts.plan import Message, News, Over, Plan
from app.alerts.service import LEASE, MOST_WAITING, Alerts
from app.alerts.summary import Day, look_back, summary
from app.alerts.trial import NotDeliveredError, try_alerts
from app.demo.http1 import Response, serve_connection
from app.reasons import ReasonKind, reason
from app.settings import SettingsError, load_settings
from app.status import Health, HealthState
from app.store.protocol import CostEntry, StoreUnavailable, TaskStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from app.demo.http1 import Request

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
TOKEN = "123456:AAE-a-bot-token-of-telegram"
MESSAGE = Message(title="mac-1: 1 new", body="the store is away")

AWAY = reason(ReasonKind.STORE_AWAY, "the store is away: locked", since=NOW)
FAILING = reason(ReasonKind.TASKS_FAILING, "content: 3 failed", agent_id="content", since=NOW)
PAUSED = reason(ReasonKind.AGENT_PAUSED, "social is paused", agent_id="social", since=NOW)


def at(seconds):
    return NOW + timedelta(seconds=seconds)


# -- when


def test_a_reason_is_told_once_when_it_has_lasted_a_minute_and_once_when_it_is_over():
    plan = Plan()
    assert not plan.look([AWAY], at(0))
    assert not plan.look([AWAY], at(59))
    assert plan.look([AWAY], at(60)) == News(begun=(AWAY,))
    assert not plan.look([AWAY], at(120))
    assert not plan.look([], at(130))
    assert plan.look([], at(190)) == News(over=(Over(AWAY, at(130)),))
    assert not plan.look([], at(300))


def test_what_comes_and_goes_within_a_minute_is_not_told():
    plan = Plan()
    for second in range(0, 600, 40):  # never a minute in one piece
        assert not plan.look([AWAY] if second // 40 % 2 else [], at(second))
    plan.look([AWAY], at(600))
    assert plan.look([AWAY], at(660))
    for second in range(700, 1300, 40):
        assert not plan.look([] if second // 40 % 2 else [AWAY], at(second))


def test_other_words_for_the_same_reason_are_no_news():
    plan = Plan([AWAY])
    assert not plan.look([dataclasses.replace(AWAY, text="the store is away: gone")], at(90))


def test_what_is_ripe_at_the_same_look_is_one_message_that_says_what_to_do():
    plan = Plan()
    plan.look([AWAY, FAILING], at(0))
    news = plan.look([AWAY, FAILING], at(60)) + News(over=(Over(PAUSED, at(720)),))
    assert news.message("mac-1", ZoneInfo("Europe/Berlin")) == Message(
        title="mac-1: 2 new, 1 over",
        body=(
            "the store is away: locked (since 13:00 CET)\n"
            f"  What to do: {AWAY.advice}\n"
            "content: 3 failed (since 13:00 CET)\n"
            f"  What to do: {FAILING.advice}\n"
            "Over: social is paused (it lasted 12 min)"
        ),
    )


def test_in_quiet_hours_nothing_is_told_and_after_them_only_what_is_still_so():
    plan = Plan([PAUSED])
    for second in range(0, 600, 10):
        begun_and_over = [FAILING] if second < 300 else []
        assert not plan.look([AWAY, *begun_and_over], at(second), quiet=True)
    news = plan.look([AWAY], at(600))
    assert news == News(begun=(AWAY,), over=(Over(PAUSED, at(0)),))


def test_a_channel_is_not_told_by_itself_that_it_does_not_work():
    broken = reason(ReasonKind.ALERTS_FAILING, "alerts by Telegram ...", what="Telegram")
    news = News(begun=(broken,), over=(Over(broken, NOW),))
    assert not news.for_channel("Telegram")
    assert news.for_channel("slack") == news


# -- by which way


class Phone:
    """A server of the test's own machine that takes what is sent as Telegram does, or a webhook."""

    def __init__(self):
        self.requests: list[Request] = []
        self.answers: list[Response] = []
        self.news = trio.Event()
        self.address = ""

    async def answer(self, request):
        self.requests.append(request)
        self.news.set()
        if self.answers:
            return self.answers.pop(0)
        return Response(200, [b'{"ok": true, "result": {}}'])

    @property
    def texts(self):
        return [json.loads(request.body)["text"] for request in self.requests]


def refused(status, **facts):
    return Response(status, [json.dumps({"ok": False, **facts}).encode()])


@asynccontextmanager
async def listening() -> AsyncIterator[Phone]:
    phone = Phone()
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, partial(serve_connection, handle=phone.answer), 0)
        (listener,) = await nursery.start(partial(serve, host="127.0.0.1"))
        phone.address = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        yield phone
        nursery.cancel_scope.cancel()


@pytest.fixture
async def phone():
    async with listening() as phone:
        yield phone


async def test_telegram_gets_the_text_in_its_chat(phone):
    await Telegram(TOKEN, "-100123", phone.address).send(MESSAGE)
    (request,) = phone.requests
    assert (request.method, request.target) == ("POST", f"/bot{TOKEN}/sendMessage")
    assert json.loads(request.body) == {
        "chat_id": "-100123",
        "text": "mac-1: 1 new\nthe store is away",
        "disable_web_page_preview": True,
    }


async def test_a_message_longer_than_telegram_takes_is_cut(phone):
    await Telegram(TOKEN, "1", phone.address).send(Message(title="t", body="x" * 9000))
    (text,) = phone.texts
    assert len(text) == 4096
    assert text.endswith("x...")


async def test_why_telegram_refuses_is_told_without_the_token(phone):
    telegram = Telegram(TOKEN, "1", phone.address)
    phone.answers = [
        refused(401, description="Unauthorized"),
        refused(429, description="Too Many Requests: retry after 7", parameters={"retry_after": 7}),
        Response(502, [b"<html>"]),
    ]
    for told, seconds in (
        ("it answers 401 Unauthorized", 0.0),
        ("it answers 429 Too Many Requests: retry after 7", 7.0),
        ("it answers 502", 0.0),
    ):
        with pytest.raises(DeliveryError) as caught:
            await telegram.send(MESSAGE)
        assert (str(caught.value), caught.value.retry_after) == (told, seconds)
    with pytest.raises(DeliveryError) as caught:
        await Telegram(TOKEN, "1", "http://127.0.0.1:1").send(MESSAGE)
    assert str(caught.value) == "it cannot be reached (ConnectError)"


async def test_a_webhook_is_told_by_apprise_in_a_thread(phone):
    url = phone.address.replace("http://", "json://") + "/hook"
    await ByApprise("json", url).send(MESSAGE)
    (request,) = phone.requests
    sent = json.loads(request.body)
    assert (request.target, sent["title"], sent["message"]) == (
        "/hook",
        *dataclasses.astuple(MESSAGE),
    )
    phone.answers = [Response(500, [b"no"])]
    with pytest.raises(DeliveryError, match="it was not taken"):
        await ByApprise("json", url).send(MESSAGE)


async def test_the_channels_are_those_that_are_configured_and_are_named_without_a_secret():
    def channels(**environ):
        return make_channels(load_settings(environ, env_file=None))

    assert channels() == []
    assert channels(TELEGRAM_BOT_TOKEN=TOKEN) == []
    both = channels(
        TELEGRAM_BOT_TOKEN=TOKEN,
        TELEGRAM_CHAT_ID="1",
        WORKER_ALERT_URLS="json://me:hunter2@localhost/x ntfy://topic",
    )
    assert [channel.name for channel in both] == [
        "Telegram",
        "json address, number 1 of WORKER_ALERT_URLS",
        "ntfy address, number 2 of WORKER_ALERT_URLS",
    ]
    with pytest.raises(SettingsError, match="apprise does not understand the nonsense address"):
        channels(WORKER_ALERT_URLS="nonsense://x")


# -- the service


class Way:
    """A channel into a list, which can be closed."""

    def __init__(self, name="way"):
        self.name = name
        self.sent: list[Message] = []
        self.closed: str | None = None
        self.tries = 0

    async def send(self, message):
        self.tries += 1
        if self.closed is not None:
            raise DeliveryError(self.closed)
        self.sent.append(message)

    @property
    def titles(self):
        return [message.title for message in self.sent]


class Ill:
    """A daemon with whatever is wrong with it."""

    def __init__(self, store, *reasons, **environ):
        environ = {"WORKER_ID": "mac-1", "WORKER_TIMEZONE": "UTC", **environ}
        self.settings = load_settings(environ, env_file=None)
        self.store = store
        self.stopping = False
        self.redact: Callable[[str], str] = make_redactor(["hunter2"])
        self.reasons = list(reasons)

    def health(self):
        return Health(
            status=HealthState.DEGRADED,
            agents=1,
            uptime=1.0,
            reasons=tuple(each.text for each in self.reasons),
            problems=tuple(self.reasons),
        )


@asynccontextmanager
async def telling(daemon, *channels, instance="here"):
    alerts = Alerts(channels, instance=instance, wall_clock=TrioWallClock(NOW))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alerts.run, daemon)
        yield alerts
        nursery.cancel_scope.cancel()


async def test_a_daemon_tells_once_and_says_when_it_is_over(store, clock):
    daemon, way = Ill(store, PAUSED, AWAY), Way()
    async with telling(daemon, way):
        await trio.sleep(300)
        assert way.titles == ["mac-1: 2 new"]
        daemon.reasons.clear()
        await trio.sleep(300)
        assert way.titles == ["mac-1: 2 new", "mac-1: 2 over"]


async def test_a_secret_in_a_reason_is_not_sent(store, clock):
    way = Way()
    async with telling(Ill(store, reason(ReasonKind.LOOP_BLOCKED, "by hunter2")), way):
        await trio.sleep(100)
    assert "[redacted]" in way.sent[0].body
    assert "hunter2" not in way.sent[0].body


async def test_of_two_daemons_one_tells_what_both_see_and_each_what_it_alone_sees(store, clock):
    one, other = Way(), Way()
    crashed = reason(ReasonKind.AGENT_TROUBLE, "social is crashed", agent_id="social")
    async with (
        telling(Ill(store, AWAY), one, instance="a"),
        telling(Ill(store, AWAY, crashed, WORKER_ID="mac-2"), other, instance="b"),
    ):
        await trio.sleep(200)
    told = "\n".join(message.body for message in (*one.sent, *other.sent))
    assert told.count("the store is away") == told.count("social is crashed") == 1
    assert "social is crashed" in other.sent[0].body


async def test_who_speaks_next_does_not_tell_again_what_was_told_and_says_when_it_is_over(
    store, clock
):
    first, second = Way(), Way()
    near = reason(ReasonKind.BUDGET_NEAR, "content has spent 4", agent_id="content", since=NOW)
    async with telling(Ill(store, near), first, instance="a"):
        await trio.sleep(200)
    assert first.titles == ["mac-1: 1 new"]
    await store.drop_lease("alerts", "a")  # which is what ends with a daemon
    daemon = Ill(store, near)
    async with telling(daemon, second, instance="b") as alerts:
        await trio.sleep(200)
        assert alerts.speaks
        assert second.titles == []
        daemon.reasons.clear()
        await trio.sleep(100)
        assert second.titles == ["mac-1: 1 over"]


async def test_who_speaks_goes_on_while_the_store_is_away(store, clock):
    class MayBeAway:
        away = False

        def __getattr__(self, name):
            async def verb(*args, **kwargs):
                if self.away:
                    raise StoreUnavailable("locked")
                return await getattr(store, name)(*args, **kwargs)

            return verb

    fault, way = MayBeAway(), Way()
    daemon = Ill(fault)
    async with telling(daemon, way):
        await trio.sleep(30)
        fault.away = True
        daemon.reasons.append(AWAY)
        await trio.sleep(10 * LEASE)
    assert way.titles == ["mac-1: 1 new"]


async def test_in_the_quiet_hours_of_its_zone_a_daemon_is_silent(store, clock):
    way = Way()
    daemon = Ill(
        store, PAUSED, WORKER_ALERT_QUIET="07:00-07:30", WORKER_TIMEZONE="America/New_York"
    )
    async with telling(daemon, way):
        await trio.sleep(29 * 60)
        assert way.titles == []
        await trio.sleep(2 * 60)
        assert way.titles == ["mac-1: 1 new"]


async def test_a_channel_that_fails_is_a_reason_until_it_works_and_holds_up_no_other(store, clock):
    broken, way = Way("broken"), Way()
    broken.closed = "it answers 401 Unauthorized"
    async with telling(Ill(store, PAUSED), broken, way) as alerts:
        await trio.sleep(120)
        assert way.titles == ["mac-1: 1 new"]
        (found,) = alerts.reasons()
        assert found.text == "alerts by broken do not leave: it answers 401 Unauthorized"
        assert found.since is not None
        await trio.sleep(3600)
        assert broken.tries < 30
        broken.closed = None
        await trio.sleep(300)
        assert broken.titles == ["mac-1: 1 new"]
        assert alerts.reasons() == ()


async def test_what_waits_for_a_channel_outlives_a_restart_of_the_service_and_is_bounded(
    store, clock
):
    way = Way()
    way.closed = "away"
    daemon = Ill(store)
    alerts = Alerts([way], instance="here", wall_clock=TrioWallClock(NOW))
    with trio.move_on_after(200 * (MOST_WAITING + 20)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alerts.run, daemon)
            for number in range(MOST_WAITING + 10):
                daemon.reasons = [reason(ReasonKind.LOOP_BLOCKED, f"{number}", what=str(number))]
                await trio.sleep(100)
            nursery.cancel_scope.cancel()
    way.closed = None
    with trio.move_on_after(60):
        await alerts.run(daemon)
    assert len(way.sent) == MOST_WAITING
    assert way.sent[-1].body.startswith("59") or way.sent[-1].body.startswith("Over")


async def test_a_daemon_that_stops_tells_nothing_more(store, clock):
    daemon, way = Ill(store, PAUSED), Way()
    daemon.stopping = True
    async with telling(daemon, way):
        await trio.sleep(300)
    assert way.titles == []


async def test_the_summary_comes_each_day_at_its_time_from_the_daemon_that_speaks(store, clock):
    one, other = Way(), Way()
    environ = {"WORKER_DAILY_SUMMARY": "13:05", "WORKER_TIMEZONE": "Europe/Berlin"}  # 12:05 UTC
    async with (
        telling(Ill(store, **environ), one, instance="a"),
        telling(Ill(store, **environ), other, instance="b"),
    ):
        await trio.sleep(290)
        assert [*one.titles, *other.titles] == []
        await trio.sleep(3600)
    assert [*one.titles, *other.titles] == ["mac-1, the last 24 hours: all is well"]


async def test_a_summary_says_what_was_done_what_it_cost_and_what_waits(store):
    for task_id, outcome in (("a", TaskStatus.SUCCEEDED), ("b", TaskStatus.FAILED)):
        await store.add_task(task_id, "content", "g")
        await store.claim_task("content", worker_id="w", instance="i", token=task_id, lease=60.0)
        await store.finish_task(task_id, task_id, outcome)
    await store.add_task("c", "social", "g")
    await store.record_cost(
        CostEntry(
            id="1",
            agent_id="content",
            run_id=None,
            task_id="a",
            model="m",
            input_tokens=1,
            output_tokens=1,
            cost_usd=1.25,
        )
    )
    day = await look_back(store, await store.ping())
    assert day == Day(
        done={"content": 1},
        failed={"content": 1},
        spent={"content": 1.25},
        queued=1,
        oldest=day.oldest,
    )
    assert day.oldest is not None
    day = dataclasses.replace(day, oldest=720.0)
    assert summary("mac-1", day, ["social is paused"]) == Message(
        title="mac-1, the last 24 hours: 1 to look at",
        body=(
            "Done: 1 task (content 1)\n"
            "Failed: 1 (content 1)\n"
            "Spent: $1.25 (content $1.25)\n"
            "Waiting: 1, the oldest for 12 min\n"
            "Needs a look: social is paused"
        ),
    )


# -- a dead man's switch


async def test_the_heartbeat_address_is_asked_each_minute_and_missed_ones_are_a_reason(
    phone, fast_clock, store
):
    daemon = Ill(store, WORKER_HEARTBEAT_URL=f"{phone.address}/ping/uuid")
    alerts = Alerts([], instance="here")
    phone.answers = [Response(200, [b"OK"]), *[Response(500, [b""])] * 3]
    async with open_supervisor(name="services") as services:
        alerts.start(services, daemon)
        assert [child.name for child in services.children] == ["heartbeat address"]
        while len(phone.requests) < 6:
            phone.news = trio.Event()
            await phone.news.wait()
            if len(phone.requests) == 5:
                (found,) = alerts.reasons()
                assert found.text == "the heartbeat address is not reached: it answers 500"
        await services.shutdown()
    assert {(each.method, each.target) for each in phone.requests} == {("GET", "/ping/uuid")}
    assert alerts.reasons() == ()


# -- --alert-test


async def test_the_trial_shows_what_would_be_sent_and_sends_it(phone):
    said = []
    settings = load_settings(
        {
            "WORKER_ID": "mac-1",
            "TELEGRAM_BOT_TOKEN": TOKEN,
            "TELEGRAM_CHAT_ID": "1",
            "TELEGRAM_API_URL": phone.address,
        },
        env_file=None,
    )
    await try_alerts(settings, said.append)
    assert phone.texts == [said[0].rstrip("\n")]
    assert "this is a test of the alerts" in said[0]
    assert said[1] == "Telegram: delivered"
    phone.answers = [refused(401, description="Unauthorized")]
    with pytest.raises(NotDeliveredError, match="not delivered by Telegram"):
        await try_alerts(settings, said.append)
    assert said[-1] == "Telegram: not delivered: it answers 401 Unauthorized"


async def test_where_nobody_is_configured_nobody_is_told(capsys):
    with pytest.raises(SettingsError, match="nobody is told: set TELEGRAM_BOT_TOKEN"):
        await try_alerts(load_settings({}, env_file=None), print)
