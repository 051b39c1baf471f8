"""The hand `telegram`, against a server that speaks as the Bot API does."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from hands_server import Reply, as_reply, serving

from app.hands import HandError, OutcomeUnknownError, Wanted, open_hands
from app.hands.telegram import AnotherReader, TelegramAway, TooMany, open_bot

TOKEN = "4711:AAsecret-of-the-bot"
CHAT = "1234"


class BotApi:
    """What the Bot API does for one bot: messages are numbered, updates stay until acknowledged."""

    def __init__(self):
        self.calls = []
        self.updates = []
        self.refusals = []

    async def answer(self, request):
        path, _, method = request.path.rpartition("/")
        if path != f"/bot{TOKEN}":
            return as_reply({"ok": False, "error_code": 401, "description": "Unauthorized"}, 401)
        self.calls.append((method, request.json))
        if self.refusals:
            return self.refusals.pop(0)
        return as_reply({"ok": True, "result": getattr(self, method)(request.json)})

    def sendMessage(self, body):  # noqa: N802
        return {"message_id": len(self.calls), "chat": {"id": int(body["chat_id"])}}

    def getUpdates(self, body):  # noqa: N802
        self.updates = [up for up in self.updates if up["update_id"] >= body["offset"]]
        return self.updates

    def answerCallbackQuery(self, body):  # noqa: N802
        return True

    def editMessageReplyMarkup(self, body):  # noqa: N802
        return {"message_id": body["message_id"]}

    def press(self, number, data, *, chat=CHAT):
        self.updates.append(
            {
                "update_id": number,
                "callback_query": {
                    "id": f"cb{number}",
                    "from": {"id": 99, "username": "ada"},
                    "message": {"message_id": 7, "chat": {"id": int(chat)}},
                    "data": data,
                },
            }
        )


def refusal(status, description, **parameters):
    return as_reply(
        {
            "ok": False,
            "error_code": status,
            "description": description,
            "parameters": parameters,
        },
        status,
    )


@asynccontextmanager
async def bot_api():
    api = BotApi()
    async with serving(api.answer) as url, open_bot(TOKEN, CHAT, api=url) as bot:
        yield api, bot


@asynccontextmanager
async def the_hand(token=TOKEN):
    api = BotApi()
    async with serving(api.answer) as url:
        variables = {
            "TELEGRAM_BOT_TOKEN": token,
            "TELEGRAM_CHAT_ID": CHAT,
        }
        wanted = [Wanted(name="telegram", options={"api": url})]
        async with open_hands(wanted, variables) as hands:
            yield api, hands


async def test_a_message_goes_to_the_operator_and_to_nobody_else():
    async with the_hand() as (api, hands):
        assert await hands.call("telegram_send", {"text": "All is well"}, key="k") == {"sent": 1}
        assert api.calls == [("sendMessage", {"chat_id": CHAT, "text": "All is well"})]
        with pytest.raises(HandError, match="chat_id: Extra inputs"):
            await hands.call("telegram_send", {"text": "x", "chat_id": "666"}, key="k")


async def test_sending_to_the_operator_needs_no_approval_and_is_done_once():
    async with the_hand() as (_, hands):
        (tool,) = hands.tools()
        assert (tool.effect, tool.approve, tool.acts) == ("once", False, False)


async def test_a_message_that_is_too_long_is_not_sent():
    async with the_hand() as (api, hands):
        with pytest.raises(HandError, match="at most 4096 characters"):
            await hands.call("telegram_send", {"text": "x" * 4097}, key="k")
        assert api.calls == []


async def test_a_refusal_is_told_without_the_token():
    async with the_hand(token="4711:AAanother-token-of-a-bot") as (_, hands):
        with pytest.raises(HandError, match=r"^Not sent. Telegram: Unauthorized.$"):
            await hands.call("telegram_send", {"text": "x"}, key="k")


@pytest.mark.parametrize("reply", [Reply(status=502, body=b"<html>"), refusal(500, "Oops")])
async def test_a_message_whose_fate_is_unknown_is_told_as_such(reply):
    async with the_hand() as (api, hands):
        api.refusals = [reply]
        with pytest.raises(OutcomeUnknownError, match="may have been sent, or not"):
            await hands.call("telegram_send", {"text": "x"}, key="k")


async def test_telegram_away_is_told_without_the_address_which_has_the_token(caplog):
    caplog.set_level("WARNING")
    async with open_bot(TOKEN, CHAT, api="http://127.0.0.1:9") as bot:
        with pytest.raises(TelegramAway) as caught:
            await bot.send("x")
    assert "secret" not in str(caught.value)
    assert "secret" not in caplog.text


# Questions.


async def test_a_question_has_two_buttons_that_name_it():
    async with bot_api() as (api, bot):
        await bot.ask("approval-1", "Refund $5?")
        ((method, body),) = api.calls
        assert (method, body["chat_id"], body["text"]) == ("sendMessage", CHAT, "Refund $5?")
        assert body["reply_markup"]["inline_keyboard"] == [
            [
                {"text": "Approve", "callback_data": "a:approval-1"},
                {"text": "Deny", "callback_data": "d:approval-1"},
            ]
        ]


async def test_an_id_that_does_not_fit_a_button_is_refused():
    async with bot_api() as (api, bot):
        with pytest.raises(ValueError, match="at most 62 bytes"):
            await bot.ask("ä" * 32, "?")
        assert api.calls == []


async def test_a_press_says_what_was_decided_and_by_whom():
    async with bot_api() as (api, bot):
        api.press(10, "a:approval-1")
        api.press(11, "d:approval-2")
        told = await bot.presses(0, wait=0)
        assert [(press.question, press.approve, press.by) for press in told.presses] == [
            ("approval-1", True, "ada (99)"),
            ("approval-2", False, "ada (99)"),
        ]
        assert told.offset == 12


async def test_a_press_comes_again_until_it_is_acknowledged():
    async with bot_api() as (api, bot):
        api.press(10, "a:approval-1")
        first = await bot.presses(0, wait=0)
        assert await bot.presses(0, wait=0) == first  # as after a crash
        assert (await bot.presses(first.offset, wait=0)).presses == ()


@pytest.mark.parametrize(
    ("data", "chat"), [("a:approval-1", "666"), ("x:approval-1", CHAT), ("a:", CHAT), ("", CHAT)]
)
async def test_a_press_from_elsewhere_or_of_another_button_does_not_count(data, chat):
    async with bot_api() as (api, bot):
        api.press(10, data, chat=chat)
        told = await bot.presses(0, wait=0)
        assert (told.presses, told.offset) == ((), 11)


async def test_a_look_asks_for_presses_alone_and_for_the_wait():
    async with bot_api() as (api, bot):
        await bot.presses(5, wait=50)
        assert api.calls == [
            ("getUpdates", {"offset": 5, "timeout": 50, "allowed_updates": ["callback_query"]})
        ]


async def test_what_came_of_a_press_is_shown_and_the_buttons_go():
    async with bot_api() as (api, bot):
        api.press(10, "a:approval-1")
        (press,) = (await bot.presses(0, wait=0)).presses
        await bot.settle(press, "Approved")
        assert api.calls[1:] == [
            ("answerCallbackQuery", {"callback_query_id": "cb10", "text": "Approved"}),
            ("editMessageReplyMarkup", {"chat_id": CHAT, "message_id": 7}),
        ]


async def test_telegram_s_wish_to_be_left_alone_says_for_how_long():
    async with bot_api() as (api, bot):
        api.refusals = [refusal(429, "Too Many Requests", retry_after=17)]
        with pytest.raises(TooMany) as caught:
            await bot.send("x")
        assert caught.value.seconds == 17.0


async def test_another_reader_of_the_same_bot_is_named_as_such():
    async with bot_api() as (api, bot):
        api.refusals = [refusal(409, "Conflict: terminated by other getUpdates request")]
        with pytest.raises(AnotherReader, match="terminated by other"):
            await bot.presses(0, wait=0)
