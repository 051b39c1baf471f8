"""The hand `stripe`: revenue by day, subscriptions, and refunds, which need approval.

It uses the kept package `stripe`, natively under Trio.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, available_timezones

import pydantic
from pydantic import Field

from .contract import (
    Address,
    Arguments,
    Hand,
    HandError,
    Json,
    Kind,
    Options,
    OutcomeUnknownError,
    SetUp,
    Use,
    Variable,
    options_of,
    tool_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from stripe import StripeClient, StripeError
    from stripe.params import (
        BalanceTransactionListParams,
        RefundCreateParams,
        SubscriptionListParams,
    )

API: Final = "https://api.stripe.com"

TIMEOUT: Final = 90.0
"""Seconds that a tool may take: a month's revenue is many requests."""

REQUEST_TIMEOUT: Final = 20.0
"""Seconds that one request may take."""

MOST_DAYS: Final = 92
"""Days of one answer."""

MOST_PAGES: Final = 100
"""Pages of 100 transactions that one answer may be made of."""

NO_CENTS: Final = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv"}
    | {"xaf", "xof", "xpf"}
)
"""Currencies whose smallest unit is the whole."""

THOUSANDTHS: Final = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})
"""Currencies whose smallest unit is a thousandth."""

_KINDS: Final = {
    "charge": "gross",
    "payment": "gross",
    "refund": "refunded",
    "payment_refund": "refunded",
    "payment_failure_refund": "refunded",
    "adjustment": "disputed",
}
"""What a balance transaction is to a day's revenue; payouts and the like are none of it."""

_A_YEAR: Final = {"day": 365.0, "week": 52.0, "month": 12.0, "year": 1.0}


class StripeOptions(Options):
    """How days are counted, and where Stripe is."""

    timezone: str = "UTC"
    """By whose days revenue is counted."""
    api: Address = API
    """For stripe-mock."""
    refunds: bool = True
    """Whether there is a tool that refunds."""

    @pydantic.field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(f"there is no time zone {value!r}")
        return value


class StripeRevenue(Arguments):
    """Return the revenue by day from Stripe: gross, refunded, disputed, fees and net.

    The amounts are those of the account's balance, by currency, in whole units such as dollars.
    """

    since: Annotated[date, Field(description="The first day.")]
    until: Annotated[date, Field(description="The last day; at most 92 days.")]


class StripeSubscriptions(Arguments):
    """List subscriptions in Stripe, the newest first, with what each brings in a month."""

    status: Literal["active", "trialing", "past_due", "unpaid", "canceled", "all"] = "active"
    limit: Annotated[int, Field(ge=1, le=100)] = 50
    cursor: Annotated[
        str | None, Field(description="Where to go on, from next_cursor of the answer before.")
    ] = None


class StripeRefund(Arguments):
    """Refund a payment through Stripe, wholly or in part. It cannot be undone."""

    payment_intent: Annotated[str, Field(pattern=r"^pi_\w+$", max_length=200)]
    amount: Annotated[
        int | None,
        Field(ge=1, description="In the smallest unit, such as cents; without it, all of it."),
    ] = None
    reason: Literal["duplicate", "fraudulent", "requested_by_customer"] = "requested_by_customer"


class StripeAccount:
    """A Stripe account, as the tools use it.

    Args:
        client: The client of the package.
        zone: By whose days revenue is counted.
    """

    def __init__(self, client: StripeClient, zone: ZoneInfo) -> None:
        self._client = client
        self._zone = zone

    async def revenue(self, given: StripeRevenue, use: Use) -> Json:
        """Add up the balance transactions of each day."""
        days = (given.until - given.since).days + 1
        if not 1 <= days <= MOST_DAYS:
            raise HandError(f"Ask for 1 to {MOST_DAYS} days, since before until.")
        begin = datetime.combine(given.since, datetime.min.time(), self._zone)
        end = datetime.combine(given.until + timedelta(days=1), datetime.min.time(), self._zone)
        sums: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
        async for row in self._transactions(int(begin.timestamp()), int(end.timestamp())):
            kind = _KINDS.get(row["type"])
            if kind is not None:
                day = datetime.fromtimestamp(row["created"], self._zone).date().isoformat()
                of_the_day = sums[day, row["currency"]]
                of_the_day[kind] += row["amount"]
                of_the_day["fees"] += row["fee"]
                of_the_day["net"] += row["net"]
        return {
            "timezone": self._zone.key,
            "days": [
                {
                    "day": day,
                    "currency": currency,
                    **{
                        name: in_units(of_the_day[name], currency)
                        for name in ("gross", "refunded", "disputed", "fees", "net")
                    },
                }
                for (day, currency), of_the_day in sorted(sums.items())
            ],
            "without_a_transaction": "days that are not listed",
        }

    async def _transactions(self, begin: int, end: int) -> AsyncIterator[Mapping[str, Any]]:
        asked: BalanceTransactionListParams = {
            "created": {"gte": begin, "lt": end},
            "limit": 100,
        }
        for _ in range(MOST_PAGES):
            with _told():
                page = await self._client.v1.balance_transactions.list_async(asked)
            for row in page.data:
                yield row.to_dict()
            if not page.has_more or not page.data:
                return
            asked["starting_after"] = page.data[-1].id
        raise HandError("There are more than 10,000 transactions: ask for fewer days.")

    async def subscriptions(self, given: StripeSubscriptions, use: Use) -> Json:
        """List subscriptions."""
        asked: SubscriptionListParams = {"status": given.status, "limit": given.limit}
        if given.cursor is not None:
            asked["starting_after"] = given.cursor
        with _told():
            page = await self._client.v1.subscriptions.list_async(asked)
        more = {"next_cursor": page.data[-1].id} if page.has_more and page.data else {}
        return {"subscriptions": [_subscription(row.to_dict()) for row in page.data], **more}

    async def refund(self, given: StripeRefund, use: Use) -> Json:
        """Refund a payment; under the same key Stripe does it once."""
        asked: RefundCreateParams = {
            "payment_intent": given.payment_intent,
            "reason": given.reason,
        }
        if given.amount is not None:
            asked["amount"] = given.amount
        with _told(changes=True):
            refund = await self._client.v1.refunds.create_async(asked, {"idempotency_key": use.key})
        return {
            "refund": refund.id,
            "status": refund.status,
            "amount": in_units(refund.amount, refund.currency),
            "currency": refund.currency,
        }


def in_units(amount: int, currency: str) -> str:
    """Return an amount of smallest units in whole ones, exactly.

    >>> in_units(1999, "usd"), in_units(-5, "eur"), in_units(500, "jpy"), in_units(1234, "kwd")
    ('19.99', '-0.05', '500', '1.234')
    """
    places = 0 if currency in NO_CENTS else 3 if currency in THOUSANDTHS else 2
    digits = str(abs(amount)).rjust(places + 1, "0")
    sign = "-" if amount < 0 else ""
    whole, part = digits[: len(digits) - places], digits[len(digits) - places :]
    return f"{sign}{whole}.{part}" if places else f"{sign}{whole}"


def _subscription(row: Mapping[str, Any]) -> dict[str, Any]:
    items = (row.get("items") or {}).get("data") or []
    ends = [item.get("current_period_end") for item in items if item.get("current_period_end")]
    return {
        "id": row["id"],
        "customer": row["customer"] if isinstance(row["customer"], str) else row["customer"]["id"],
        "status": row["status"],
        "currency": row.get("currency"),
        "a_month": in_units(round(sum(map(_a_month, items))), str(row.get("currency"))),
        "cancels_at_its_end": bool(row.get("cancel_at_period_end")),
        "period_ends": datetime.fromtimestamp(min(ends), ZoneInfo("UTC")) if ends else None,
    }


def _a_month(item: Mapping[str, Any]) -> float:
    price = item.get("price") or {}
    every = price.get("recurring") or {}
    times = _A_YEAR.get(str(every.get("interval")), 0.0) / int(every.get("interval_count") or 1)
    return float(price.get("unit_amount") or 0) * int(item.get("quantity") or 1) * times / 12


class _told:  # noqa: N801  (used as a verb: with _told())
    """Turns the package's errors into what the model is told."""

    def __init__(self, *, changes: bool = False) -> None:
        self._changes = changes

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        import stripe

        if not isinstance(error, stripe.StripeError):
            return
        unsure = isinstance(error, stripe.APIConnectionError) or (error.http_status or 0) >= 500
        if self._changes and unsure:
            raise OutcomeUnknownError(
                f"{_why(error)} It may have been done all the same; the same call again is safe."
            ) from None
        raise HandError(_why(error)) from None


def _why(error: StripeError) -> str:
    """Return the reason, without what stands in it of the key."""
    import stripe

    if isinstance(error, stripe.AuthenticationError):
        return "Stripe refuses the key in STRIPE_SECRET_KEY."
    if isinstance(error, stripe.PermissionError):
        return "The key in STRIPE_SECRET_KEY may not do that."
    if isinstance(error, stripe.APIConnectionError):
        return "Stripe could not be reached."
    return f"Stripe: {error.user_message or 'it could not do that'}"


@asynccontextmanager
async def open_stripe(setup: SetUp) -> AsyncIterator[Hand]:
    """Open the hand."""
    import stripe

    options = options_of(StripeOptions, setup.options, "stripe")
    http = stripe.HTTPXClient(timeout=REQUEST_TIMEOUT)
    client = stripe.StripeClient(
        setup.variables["STRIPE_SECRET_KEY"],
        http_client=http,
        base_addresses={"api": options.api},
        max_network_retries=1,
    )
    account = StripeAccount(client, ZoneInfo(options.timezone))
    tools = (
        tool_of("stripe_revenue", StripeRevenue, account.revenue, effect="read", timeout=TIMEOUT),
        tool_of(
            "stripe_subscriptions",
            StripeSubscriptions,
            account.subscriptions,
            effect="read",
            timeout=TIMEOUT,
        ),
        tool_of(
            "stripe_refund",
            StripeRefund,
            account.refund,
            effect="keyed",
            timeout=TIMEOUT,
            approve=True,
            acts=True,
        ),
    )
    try:
        yield Hand(name="stripe", tools=lambda: tools if options.refunds else tools[:-1])
    finally:
        # It closes sockets and waits for nobody.
        await http.close_async()  # type: ignore[no-untyped-call]  # noqa: ASYNC102


STRIPE: Final = Kind(
    name="stripe",
    summary="Revenue by day, subscriptions, refunds",
    options=StripeOptions,
    open=open_stripe,
    variables=(
        Variable(name="STRIPE_SECRET_KEY", purpose="A (restricted) key of Stripe", secret=True),
    ),
    package="stripe",
)
