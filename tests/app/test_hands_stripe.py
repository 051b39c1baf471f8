"""The hand `stripe`: the kept package, against a server that speaks as Stripe does."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from hands_server import Reply, as_reply, serving

from app.hands import HandError, OutcomeUnknownError, Wanted, open_hands

# The package hands httpx what it posts as `data`, of which httpx warns; it works all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

KEY = "rk_test_a-key-of-the-test"


def at(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def transaction(number, when, kind, amount, fee=0, currency="usd"):
    return {
        "id": f"txn_{number}",
        "object": "balance_transaction",
        "created": at(when),
        "type": kind,
        "amount": amount,
        "fee": fee,
        "net": amount - fee,
        "currency": currency,
    }


class Stripe:
    """What Stripe does: pages of lists, and refunds that are made once for each key."""

    def __init__(self):
        self.transactions = []
        self.subscriptions = []
        self.refunds = {}
        self.requests = []
        self.errors = []

    async def answer(self, request):
        self.requests.append(request)
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return failure(401, "invalid_request_error", "Invalid API Key provided: rk_test_****")
        if self.errors:
            return self.errors.pop(0)
        match request.path:
            case "/v1/balance_transactions":
                begin, end = (int(request.query[f"created[{edge}]"]) for edge in ("gte", "lt"))
                rows = [row for row in self.transactions if begin <= row["created"] < end]
                return as_reply(self.page(rows, request.query))
            case "/v1/subscriptions":
                return as_reply(self.page(self.subscriptions, request.query))
            case "/v1/refunds":
                key = request.headers["idempotency-key"]
                made = self.refunds.setdefault(key, {**request.form, "id": f"re_{key}"})
                amount = int(made.get("amount", 500))
                return as_reply(
                    {
                        "id": made["id"],
                        "object": "refund",
                        "status": "succeeded",
                        "amount": amount,
                        "currency": "usd",
                    }
                )
        return failure(404, "invalid_request_error", "Unrecognized request URL")

    @staticmethod
    def page(rows, query):
        ids = [row["id"] for row in rows]
        begin = ids.index(query["starting_after"]) + 1 if "starting_after" in query else 0
        end = begin + int(query["limit"])
        return {"object": "list", "data": rows[begin:end], "has_more": end < len(rows)}


def failure(status, kind, message):
    return as_reply({"error": {"type": kind, "message": message}}, status)


@asynccontextmanager
async def stripe(key=KEY, **options):
    service = Stripe()
    async with serving(service.answer) as url:
        wanted = [Wanted(name="stripe", options={**options, "api": url})]
        async with open_hands(wanted, {"STRIPE_SECRET_KEY": key}) as hands:
            yield service, hands


async def test_revenue_is_added_up_by_day_and_currency():
    async with stripe() as (service, hands):
        service.transactions = [
            transaction(1, "2026-11-01T00:00:00", "charge", 1999, 88),
            transaction(2, "2026-11-01T23:59:59", "payment", 1, 0),
            transaction(3, "2026-11-01T12:00:00", "refund", -500, 0),
            transaction(4, "2026-11-01T12:00:00", "charge", 700, 30, "jpy"),
            transaction(5, "2026-11-02T12:00:00", "adjustment", -1000, 1500),
            transaction(6, "2026-11-02T12:00:00", "payout", -99999),
            transaction(7, "2026-11-03T00:00:00", "charge", 99999),
        ]
        asked = {"since": "2026-11-01", "until": "2026-11-02"}
        answer = await hands.call("stripe_revenue", asked, key="k")
        none = {"gross": "0.00", "refunded": "0.00", "disputed": "0.00"}
        usd = {"currency": "usd", **none}
        assert answer["days"] == [
            {
                "day": "2026-11-01",
                "currency": "jpy",
                "gross": "700",
                "refunded": "0",
                "disputed": "0",
                "fees": "30",
                "net": "670",
            },
            usd
            | {"day": "2026-11-01", "gross": "20.00", "refunded": "-5.00"}
            | {"fees": "0.88", "net": "14.12"},
            usd | {"day": "2026-11-02", "disputed": "-10.00"} | {"fees": "15.00", "net": "-25.00"},
        ]


async def test_days_are_those_of_the_zone_that_is_configured():
    async with stripe(timezone="America/New_York") as (service, hands):
        service.transactions = [
            transaction(1, "2026-11-02T04:59:59", "charge", 100),  # 23:59:59 of the first
            transaction(2, "2026-11-02T05:00:00", "charge", 200),
        ]
        asked = {"since": "2026-11-01", "until": "2026-11-01"}
        answer = await hands.call("stripe_revenue", asked, key="k")
        assert [(day["day"], day["gross"]) for day in answer["days"]] == [("2026-11-01", "1.00")]
        assert answer["timezone"] == "America/New_York"


async def test_all_pages_of_transactions_are_read():
    async with stripe() as (service, hands):
        service.transactions = [
            transaction(number, "2026-11-01T12:00:00", "charge", 1) for number in range(250)
        ]
        asked = {"since": "2026-11-01", "until": "2026-11-01"}
        answer = await hands.call("stripe_revenue", asked, key="k")
        assert answer["days"][0]["gross"] == "2.50"
        assert len(service.requests) == 3


@pytest.mark.parametrize(("since", "until"), [("2026-11-02", "2026-11-01"), ("2026-01-01",) * 2])
async def test_too_many_days_are_refused_before_stripe_is_asked(since, until):
    until = "2026-12-31" if since == until else until
    async with stripe() as (service, hands):
        with pytest.raises(HandError, match="Ask for 1 to 92 days"):
            await hands.call("stripe_revenue", {"since": since, "until": until}, key="k")
        assert service.requests == []


def subscription(number, *, interval="month", count=1, amount=1200, quantity=1):
    price = {
        "unit_amount": amount,
        "recurring": {"interval": interval, "interval_count": count},
    }
    return {
        "id": f"sub_{number}",
        "object": "subscription",
        "customer": f"cus_{number}",
        "status": "active",
        "currency": "usd",
        "cancel_at_period_end": False,
        "items": {
            "object": "list",
            "data": [
                {
                    "id": "si",
                    "price": price,
                    "quantity": quantity,
                    "current_period_end": at("2026-12-01"),
                }
            ],
        },
    }


async def test_subscriptions_are_listed_with_what_each_brings_in_a_month():
    async with stripe() as (service, hands):
        service.subscriptions = [
            subscription(1, quantity=3),
            subscription(2, interval="year"),
            subscription(3, count=3),
        ]
        first = await hands.call("stripe_subscriptions", {"limit": 2}, key="k")
        assert [(row["id"], row["a_month"]) for row in first["subscriptions"]] == [
            ("sub_1", "36.00"),
            ("sub_2", "1.00"),
        ]
        cursor = {"limit": 2, "cursor": first["next_cursor"]}
        second = await hands.call("stripe_subscriptions", cursor, key="k")
        assert [(row["id"], row["a_month"]) for row in second["subscriptions"]] == [
            ("sub_3", "4.00")
        ]
        assert "next_cursor" not in second
        assert service.requests[0].query["status"] == "active"


async def test_a_refund_needs_approval_and_is_made_once_for_its_key():
    async with stripe() as (service, hands):
        tool = {tool.name: tool for tool in hands.tools()}["stripe_refund"]
        assert (tool.effect, tool.approve, tool.acts) == ("keyed", True, True)
        asked = {"payment_intent": "pi_1", "amount": 250}
        first = await hands.call("stripe_refund", asked, key="the-key")
        again = await hands.call("stripe_refund", asked, key="the-key")
        assert first == again
        assert first == {
            "refund": "re_the-key",
            "status": "succeeded",
            "amount": "2.50",
            "currency": "usd",
        }
        assert len(service.refunds) == 1


async def test_what_only_reads_says_so():
    async with stripe() as (_, hands):
        effects = {tool.name: (tool.effect, tool.approve) for tool in hands.tools()}
        assert effects["stripe_revenue"] == effects["stripe_subscriptions"] == ("read", False)


async def test_a_refund_that_stripe_refuses_has_not_happened():
    async with stripe() as (service, hands):
        service.errors = [failure(400, "invalid_request_error", "Charge has been refunded.")]
        with pytest.raises(HandError, match=r"Stripe: Charge has been refunded\.") as caught:
            await hands.call("stripe_refund", {"payment_intent": "pi_1"}, key="k")
        assert type(caught.value) is HandError


async def test_a_refund_whose_answer_is_lost_may_have_happened():
    async with stripe() as (service, hands):
        service.errors = [failure(500, "api_error", "Something went wrong.")] * 2
        with pytest.raises(OutcomeUnknownError, match="the same call again is safe"):
            await hands.call("stripe_refund", {"payment_intent": "pi_1"}, key="k")


async def test_a_key_that_is_refused_is_named_and_not_shown():
    async with stripe(key="rk_test_another-key-than-that") as (_, hands):
        with pytest.raises(HandError, match="refuses the key in STRIPE_SECRET_KEY") as caught:
            await hands.call(
                "stripe_revenue", {"since": "2026-11-01", "until": "2026-11-01"}, key="k"
            )
        assert "rk_test" not in str(caught.value)


async def test_stripe_away_is_the_tool_s_error():
    wanted = [Wanted(name="stripe", options={"api": "http://127.0.0.1:9"})]
    async with open_hands(wanted, {"STRIPE_SECRET_KEY": KEY}) as hands:
        with pytest.raises(HandError, match="Stripe could not be reached"):
            await hands.call("stripe_subscriptions", {}, key="k")


async def test_an_answer_that_is_no_json_is_the_tool_s_error():
    async with stripe() as (service, hands):
        service.errors = [Reply(status=200, body=b"<html>")]
        with pytest.raises(HandError):
            await hands.call("stripe_subscriptions", {}, key="k")
