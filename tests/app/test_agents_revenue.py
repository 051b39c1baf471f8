"""The revenue agent's jobs: actuals that are looked up, reports to the operator, the cost audit."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest
from agents_at_work import QUICK
from hands_server import serving
from store_calls import cost
from test_hands_app_store import Connect, report
from test_hands_app_store import variables as of_apple
from test_hands_stripe import KEY, Stripe
from test_hands_telegram import CHAT, TOKEN, BotApi, refusal

from app.agents.outcomes import RoutineFailedError
from app.agents.revenue import RevenueAnalyticsDomainAgent
from app.demo.claude import Failure, Reply
from app.hands import Wanted, open_hands
from app.items import KINDS, Said, decide, item_of
from app.store.protocol import DomainTable, Query, TaskStatus, Verdict

# The package hands httpx what it posts as `data`, of which httpx warns; it works all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

GOALS = DomainTable.REVENUE_GOALS
REPORTS = DomainTable.REPORTS


class Revenue(RevenueAnalyticsDomainAgent):
    patience = QUICK


class Services:
    """Stripe, the App Store and Telegram as local servers, of which some are set up."""

    def __init__(self, place, folder):
        self.place = place
        self.folder = folder
        self.stripe = Stripe()
        self.telegram = BotApi()
        self.apple = None
        self.days = {}

    @asynccontextmanager
    async def hands(self, *names):
        """Open the hands of the revenue agent, as the launcher does, with keys for some of them."""
        async with AsyncExitStack() as stack:
            variables, options = {}, {"stripe": {"refunds": False}}
            if "stripe" in names:
                url = await stack.enter_async_context(serving(self.stripe.answer))
                variables["STRIPE_SECRET_KEY"] = KEY
                options["stripe"] |= {"api": url, "timezone": "Europe/Berlin"}
            if "app_store" in names:
                url = await stack.enter_async_context(self._apple(variables))
                options["app_store"] = {"api": url}
            if "telegram" in names:
                url = await stack.enter_async_context(serving(self.telegram.answer))
                variables |= {"TELEGRAM_BOT_TOKEN": TOKEN, "TELEGRAM_CHAT_ID": CHAT}
                options["telegram"] = {"api": url}
            wanted = [
                Wanted(
                    name=name,
                    options=options.get(name, {}),
                    optional=True,
                    for_model=name != "telegram",
                )
                for name in ("stripe", "app_store", "telegram")
            ]
            yield await stack.enter_async_context(open_hands(wanted, variables))

    @asynccontextmanager
    async def _apple(self, variables):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        (self.folder / "key.p8").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        self.apple = Connect(key.public_key())
        self.apple.reports = self.days
        variables.update(of_apple(self.folder / "key.p8"))
        async with serving(self.apple.answer) as url:
            yield url

    async def run(self, method, *names):
        async with self.hands(*names) as hands:
            return await self.place.routine(Revenue, method, agent_id="revenue", hands=hands)

    async def today(self):
        now = await self.place.store.ping()
        return now.astimezone(self.place.context().timezone).date()

    async def charge(self, number, cents, days=0, **changes):
        """Have Stripe know of a charge so many days ago, at noon in Berlin."""
        day = await self.today() - timedelta(days=days)
        moment = int((await self.place.store.ping()).timestamp())
        noon = moment - moment % 86_400 + 11 * 3_600 - (await self._today_utc() - day).days * 86_400
        self.stripe.transactions.append(
            {
                "id": f"txn_{number}",
                "object": "balance_transaction",
                "created": noon,
                "type": "charge",
                "amount": cents,
                "fee": 30,
                "net": cents - 30,
                "currency": "usd",
                **changes,
            }
        )

    async def _today_utc(self):
        return (await self.place.store.ping()).date()

    @property
    def sent(self):
        """What the operator got by Telegram."""
        return [body["text"] for method, body in self.telegram.calls if method == "sendMessage"]


@pytest.fixture
def services(at_work, tmp_path):
    return Services(at_work, tmp_path)


async def set_goal(store, services, metric="revenue_usd", **changes):
    today = await services.today()
    values = {"period": f"{today:%Y-%m}", "metric": metric, "target": 100.0, **changes}
    return await store.insert(GOALS, metric, values)


async def actual_of(store, metric="revenue_usd"):
    (row,) = await store.select(GOALS, Query(equal={"id": metric}))
    return row["actual"]


async def reports(store):
    return await store.select(REPORTS, Query())


def told(place):
    return place.claude.requests[-1]["messages"][0]["content"][0]["text"]


# Actuals.


async def test_actuals_are_taken_from_stripe_and_the_app_store(at_work, store, services):
    for metric in ("revenue_usd", "stripe_revenue_usd", "app_store_revenue_usd", "new customers"):
        await set_goal(store, services, metric)
    await services.charge(1, 1_999)
    await services.charge(2, -500, type="refund", fee=0)
    yesterday = await services.today() - timedelta(days=1)
    in_month = yesterday.month == (await services.today()).month
    services.days[yesterday.isoformat()] = report("Notes\t3\t0.70\tUSD\t0.99")

    await services.run("run_daily_check", "stripe", "app_store", "telegram")

    apple = 2.1 if in_month else 0.0
    assert await actual_of(store, "stripe_revenue_usd") == pytest.approx(14.99)
    assert await actual_of(store, "app_store_revenue_usd") == pytest.approx(apple)
    assert await actual_of(store, "revenue_usd") == pytest.approx(14.99 + apple)
    assert await actual_of(store, "new customers") is None
    assert '"looked_up": true' in told(at_work)
    assert '"app_store_revenue_usd": 2.1' in told(at_work)  # of yesterday
    tools = [tool["name"] for tool in at_work.claude.requests[-1]["tools"]]
    assert {"stripe_revenue", "app_store_sales"} <= set(tools)
    assert not {"stripe_refund", "telegram_send"} & set(tools)


async def test_without_keys_actuals_are_unknown_and_it_is_said_what_is_lacking(
    at_work, store, services
):
    await set_goal(store, services)

    await services.run("run_daily_check")

    assert await actual_of(store) is None
    assert "stripe: STRIPE_SECRET_KEY must be set" in told(at_work)
    assert "app_store: APPLE_KEY_ID, APPLE_ISSUER_ID" in told(at_work)
    assert '"looked_up"' not in told(at_work)


async def test_with_one_source_revenue_is_that_one_s_and_the_other_is_named_as_lacking(
    at_work, store, services
):
    await set_goal(store, services)
    await services.charge(1, 5_000)

    await services.run("run_daily_check", "stripe")

    assert await actual_of(store) == 50.0
    assert "app_store: APPLE_KEY_ID" in told(at_work)


async def test_a_source_that_does_not_answer_changes_no_actual(at_work, store, services):
    await set_goal(store, services, actual=12.0)
    services.stripe.errors = [refused()] * 2

    await services.run("run_daily_check", "stripe", "app_store")

    assert await actual_of(store) == 12.0
    assert "stripe: Stripe refuses the key" in told(at_work)


def refused():
    from test_hands_stripe import failure

    return failure(401, "invalid_request_error", "Invalid API Key provided")


async def test_other_currencies_are_not_counted_and_are_named(at_work, store, services):
    await set_goal(store, services)
    await services.charge(1, 5_000)
    await services.charge(2, 700, currency="eur")

    await services.run("run_daily_check", "stripe")

    assert await actual_of(store) == 50.0
    assert "stripe: 7.00 EUR came in besides, which is not counted" in told(at_work)


async def test_a_goal_that_a_person_rejected_is_neither_compared_nor_set_again(
    at_work, store, services
):
    today = await services.today()
    goal = {"period": f"{today:%Y-%m}", "metric": "leads", "target": 5}
    first = await at_work.call(Revenue, "set_revenue_goal", **goal)
    found = await item_of(store, KINDS["goals"], first["goal"]["id"])
    said = Said(verdict=Verdict.REJECTED, by="Grace")
    await decide(store, KINDS["goals"], *found, said)

    again = await at_work.call(Revenue, "set_revenue_goal", **goal)
    compared = await at_work.call(Revenue, "compare_goals")

    assert "a person has rejected this goal" in again
    assert compared["goals"] == []


# Reports.


async def test_the_daily_check_goes_to_the_operator_by_telegram_and_is_kept(
    at_work, store, services
):
    await set_goal(store, services)
    at_work.claude.plan(Reply(text="All goals are on their way."))

    await services.run("run_daily_check", "telegram")

    day = (await services.today()).isoformat()
    assert services.sent == [f"Daily check of {day}\n\nAll goals are on their way."]
    (row,) = await reports(store)
    assert (row["kind"], row["period"], row["text"]) == (
        "daily_check",
        day,
        "All goals are on their way.",
    )
    assert (row["sent_by"], row["not_sent"], row["agent_id"]) == ("telegram", None, "revenue")
    assert row["sent_at"] >= row["created_at"]


async def test_without_telegram_a_report_is_kept_and_says_why_it_was_not_sent(
    at_work, store, services
):
    await set_goal(store, services)
    at_work.claude.plan(Reply(text="All is well."))

    await services.run("run_daily_check")

    (row,) = await reports(store)
    assert (row["text"], row["sent_at"]) == ("All is well.", None)
    assert row["not_sent"] == "telegram: TELEGRAM_BOT_TOKEN, TELEGRAM_CHAT_ID must be set"


async def test_a_report_that_telegram_refuses_is_kept_and_sent_with_the_next_try(
    at_work, store, services
):
    await set_goal(store, services)
    services.telegram.refusals = [refusal(400, "Bad Request: chat not found")]
    at_work.claude.plan(Reply(text="All is well."))
    await services.run("run_daily_check", "telegram")
    (row,) = await reports(store)
    assert (row["sent_at"], "chat not found" in row["not_sent"]) == (None, True)

    at_work.claude.plan(Reply(text="All is well."))
    await services.run("run_daily_check", "telegram")
    (row,) = await reports(store)
    assert (row["sent_by"], row["not_sent"]) == ("telegram", None)


async def test_the_same_report_is_sent_once(at_work, store, services):
    await set_goal(store, services)
    sent_at = []
    for text in ("All is well.", "All is well.", "One is in danger."):
        at_work.claude.plan(Reply(text=text))
        await services.run("run_daily_check", "telegram")
        sent_at += [row["sent_at"] for row in await reports(store)]

    first, again, another = sent_at
    assert first == again < another
    assert [text.rpartition("\n")[2] for text in services.sent] == [
        "All is well.",
        "One is in danger.",
    ]
    assert len(await reports(store)) == 1


async def test_the_weekly_report_goes_to_the_operator_too(at_work, store, services):
    await services.charge(1, 5_000)
    today = await services.today()
    year, number, _ = today.isocalendar()
    week = f"{year}-W{number:02}"
    summary = {"week": week, "summary": "A good week."}
    at_work.claude.plan(Reply(tools=(("save_weekly_snapshot", summary),)), Reply(text="Good!"))

    await services.run("run_weekly_report", "telegram", "stripe")

    assert services.sent == [f"Weekly report of {week}\n\nGood!"]
    (row,) = await reports(store)
    assert (row["kind"], row["period"]) == ("weekly_report", week)
    assert row["metrics"]["stripe_revenue_usd"] == 50.0
    (snapshot,) = await store.select(DomainTable.WEEKLY_SNAPSHOTS, Query())
    assert snapshot["metrics"]["stripe_revenue_usd"] == 50.0


async def test_a_check_that_was_put_off_is_reported_when_the_agent_has_gone_on_with_it(
    at_work, store, services
):
    await set_goal(store, services)
    at_work.claude.plan(Failure(status=529, headers={"retry-after": "90"}))
    async with services.hands("telegram") as hands:
        with pytest.raises(RoutineFailedError, match="put off"):
            await at_work.routine(Revenue, "run_daily_check", agent_id="revenue", hands=hands)
        assert await reports(store) == []
        (task,) = await store.tasks()
        await store.cancel_task(task.id)
        await store.retry_task(task.id)
        at_work.claude.plan(Reply(text="All is well."))
        child, _ = at_work.start(Revenue, agent_id="revenue", hands=hands)
        done = await at_work.finished(task.id)
        await at_work.tree.stop(child.name)

    assert done.status is TaskStatus.SUCCEEDED
    assert [text.rpartition("\n")[2] for text in services.sent] == ["All is well."]
    assert len(await reports(store)) == 1


async def test_without_goals_what_was_taken_in_is_reported_without_asking_the_model(
    at_work, store, services
):
    await services.charge(1, 5_000, days=1)

    result = await services.run("run_daily_check", "stripe", "telegram")

    assert not at_work.claude.requests
    assert "No goal is set" in result["text"]
    assert "Yesterday: stripe_revenue_usd 50.00." in result["text"]
    assert "Lacking: app_store: APPLE_KEY_ID" in result["text"]
    assert services.sent[0].endswith(result["text"])


async def test_without_goals_and_keys_nothing_is_sent_and_the_record_says_what_is_lacking(
    at_work, store, services
):
    result = await services.run("run_daily_check", "telegram")

    assert not at_work.claude.requests
    assert services.sent == []
    assert await reports(store) == []
    assert "Lacking: stripe: STRIPE_SECRET_KEY must be set." in result["text"]


# The cost audit.


async def test_the_cost_audit_flags_50_dollars_after_a_week_of_none(at_work, store, services):
    await store.record_cost(cost("c1", 50.0))

    result = await services.run("run_cost_audit", "telegram")

    flag = "the agents cost $50.00 today; $0.00 a day in the week before. That is unusual"
    assert result["flag"] == flag
    (row,) = await reports(store)
    assert (row["kind"], row["flag"], row["status"]) == ("cost_audit", flag, None)
    assert row["metrics"] == {"usd": 50.0, "usd_a_day_before": 0.0}
    assert services.sent == [], "the health tells of it"


@pytest.mark.parametrize("usd", [0.0, 0.9])
async def test_little_is_never_flagged(at_work, store, services, usd):
    await store.record_cost(cost("c1", usd))

    assert (await services.run("run_cost_audit"))["flag"] is None


async def test_a_flag_that_a_person_has_seen_stays_seen_until_the_audit_says_something_else(
    at_work, store, services
):
    await store.record_cost(cost("c1", 50.0))
    await services.run("run_cost_audit")
    (row,) = await reports(store)
    found = await item_of(store, KINDS["reports"], row["id"])
    await decide(store, KINDS["reports"], *found, Said(verdict=Verdict.APPROVED, by="Grace"))

    await services.run("run_cost_audit")
    assert [row["status"] for row in await reports(store)] == ["approved"]

    await store.record_cost(cost("c2", 30.0))
    await services.run("run_cost_audit")
    (row,) = await reports(store)
    assert (row["status"], "$80.00" in row["flag"]) == (None, True)
