"""Approvals by Telegram, against a server that speaks as the Bot API does."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
from hands_server import as_reply, serving
from store_calls import MAIL, add, ask, claim, decide
from test_hands_telegram import CHAT, TOKEN, BotApi, refusal

from actp_supervise import Backoff
from app.hands.telegram import MOST_TEXT, open_bot
from app.store.protocol import ApprovalStatus, Before, StoreUnavailable, TaskStatus
from app.telegram_approvals import Pace, TelegramApprovals

QUICK = Pace(
    look_every=0.05,
    wait=1.0,
    least_between=0.02,
    after_another_reader=0.1,
    after_failures=Backoff(initial=0.02, maximum=0.1),
)


class PatientBotApi(BotApi):
    """Holds a request for updates until there is one, as the real one does."""

    async def answer(self, request):
        if request.path.endswith("/getUpdates") and not self.refusals:
            self.updates = [
                update for update in self.updates if update["update_id"] >= request.json["offset"]
            ]
            with trio.move_on_after(request.json["timeout"]):
                while not self.updates:  # noqa: ASYNC110  (a test adds one, which sets no event)
                    await trio.sleep(0.01)
        return await super().answer(request)

    def of(self, method):
        return calls_of(self, method)


def calls_of(api, method):
    return [body for name, body in api.calls if name == method]


@asynccontextmanager
async def telegram(store, *, instance="w1-run", api=None):
    """A bot's server, and a daemon's service that asks by it."""
    api = api or PatientBotApi()
    async with serving(api.answer) as url, trio.open_nursery() as nursery:
        service = TelegramApprovals(store, TOKEN, CHAT, instance=instance, api=url, pace=QUICK)
        nursery.start_soon(service.run)
        yield api
        nursery.cancel_scope.cancel()


async def until(is_so):
    with trio.fail_after(60):
        while not is_so():  # noqa: ASYNC110  (what others do sets no event)
            await trio.sleep(0.01)


async def decided(store, approval_id="a1"):
    with trio.fail_after(60):
        while True:
            row = await store.approval(approval_id)
            if row.status is not ApprovalStatus.WAITING:
                return row
            await trio.sleep(0.01)


async def told(store):
    with trio.fail_after(60):
        while True:
            if (await store.approval("a1")).told_at is not None:
                return
            await trio.sleep(0.01)


@pytest.fixture
async def parked(store):
    await add(store)
    await claim(store)
    await ask(store)
    await store.park_task("t1", "k1")
    return store


async def test_a_question_is_sent_once_with_all_that_will_be_done_and_two_buttons(parked):
    async with telegram(parked) as api:
        await until(lambda: api.of("sendMessage"))
        await told(parked)
    async with telegram(parked, instance="w1-again") as again:
        await until(lambda: again.of("getUpdates"))
        await trio.sleep(0.1)
        assert again.of("sendMessage") == [], "also not after a restart"
    (sent,) = api.of("sendMessage")
    assert sent["chat_id"] == CHAT
    for part in ("social wants to call send_mail", *MAIL.values(), "Ada asked for it.", "do it"):
        assert part in sent["text"]
    (buttons,) = sent["reply_markup"]["inline_keyboard"]
    assert [button["callback_data"] for button in buttons] == ["a:a1", "d:a1"]


@pytest.mark.parametrize(
    ("letter", "status"), [("a", ApprovalStatus.APPROVED), ("d", ApprovalStatus.DENIED)]
)
async def test_a_press_decides_and_is_answered(parked, letter, status):
    async with telegram(parked) as api:
        api.press(10, f"{letter}:a1")
        row = await decided(parked)
        await until(lambda: api.of("editMessageReplyMarkup"))
    assert (row.status, row.decided_by) == (status, "ada (99) by Telegram")
    assert (await parked.task("t1")).status is TaskStatus.QUEUED
    (answered,) = api.of("answerCallbackQuery")
    assert answered["text"] == f"{status.capitalize()}: send_mail of social"


async def test_a_press_from_another_chat_decides_nothing(parked):
    async with telegram(parked) as api:
        api.press(10, "a:a1", chat="666")
        api.press(11, "a:unknown")
        await until(lambda: api.of("answerCallbackQuery"))
    assert (await parked.approval("a1")).status is ApprovalStatus.WAITING
    (answered,) = api.of("answerCallbackQuery")
    assert answered["text"] == "There is no such approval any more."


async def test_a_press_after_another_decision_says_who_decided(parked):
    await decide(parked, approve=False)
    async with telegram(parked) as api:
        api.press(10, "a:a1")
        await until(lambda: api.of("answerCallbackQuery"))
    (answered,) = api.of("answerCallbackQuery")
    assert answered["text"] == "It was decided before: denied by Grace by the page."


async def test_a_press_whose_decision_could_not_be_kept_comes_again(parked):
    class AwayOnce(Before):
        failures = 0

        async def perform(self, verb, arguments):
            if verb.name == "decide_approval" and not self.failures:
                self.failures += 1
                raise StoreUnavailable("away")
            return await super().perform(verb, arguments)

    store = AwayOnce(parked)
    api = BotApi()

    async with serving(api.answer) as url, trio.open_nursery() as nursery:
        service = TelegramApprovals(store, TOKEN, CHAT, instance="w1-run", api=url, pace=QUICK)
        nursery.start_soon(service.run)
        api.press(10, "a:a1")
        await decided(parked)
        nursery.cancel_scope.cancel()
    assert store.failures == 1
    assert [body["offset"] for body in calls_of(api, "getUpdates")][:2] == [0, 0]


async def test_what_is_too_long_to_be_shown_cannot_be_approved_there(store):
    await add(store)
    await ask(store, arguments={"text": "x" * MOST_TEXT})
    async with telegram(store) as api:
        await until(lambda: api.of("sendMessage"))
    (sent,) = api.of("sendMessage")
    assert "reply_markup" not in sent
    assert "nobody may approve what is not shown" in sent["text"]
    assert len(sent["text"]) <= MOST_TEXT


async def test_of_two_daemons_one_reads_the_bots_updates(open_store):
    one, other = await open_store(), await open_store()
    await add(one)
    await ask(one)
    async with telegram(one) as api:
        await until(lambda: api.of("getUpdates"))
        async with telegram(other, instance="w2-run") as idle:
            api.press(10, "a:a1")
            await decided(one)
            assert idle.calls == []


async def test_a_daemon_that_ends_lets_the_next_one_read(open_store):
    one, other = await open_store(), await open_store()
    async with telegram(one) as api:
        await until(lambda: api.of("getUpdates"))
    async with telegram(other, instance="w2-run") as api:
        await until(lambda: api.of("getUpdates"))


@pytest.mark.parametrize(
    "trouble",
    [
        refusal(429, "Too Many Requests", retry_after=0.1),
        refusal(409, "Conflict: terminated by other getUpdates request"),
        refusal(401, "Unauthorized"),
        as_reply("what?", 502),
    ],
)
async def test_it_goes_on_after_trouble_with_telegram(parked, trouble):
    api = BotApi()
    api.refusals = [trouble] * 3
    async with serving(api.answer) as url, trio.open_nursery() as nursery:
        service = TelegramApprovals(parked, TOKEN, CHAT, instance="w1-run", api=url, pace=QUICK)
        nursery.start_soon(service.run)
        api.press(10, "a:a1")
        assert (await decided(parked)).status is ApprovalStatus.APPROVED
        nursery.cancel_scope.cancel()


async def test_secrets_do_not_leave_by_it(store):
    await add(store)
    await ask(store, arguments={"text": "hunter2-secret"})
    api = PatientBotApi()
    async with serving(api.answer) as url, open_bot(TOKEN, CHAT, api=url) as bot:
        service = TelegramApprovals(
            store,
            TOKEN,
            CHAT,
            instance="w1-run",
            redact=lambda text: text.replace("hunter2-secret", "***"),
        )
        await service.tell_new(bot)
    (sent,) = api.of("sendMessage")
    assert "hunter2-secret" not in sent["text"]
