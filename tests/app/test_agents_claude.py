"""Calls of the model: what is waited out, what pauses an agent or fails a task, what it costs."""

from __future__ import annotations

import asyncio
import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
import trio
from agents_at_work import QuickAgent, until
from store_calls import EPOCH, cost, reserve

from actp_supervise import Backoff
from app.agents.patience import Patience
from app.agents.prices import Usage, load_prices
from app.agents.tools import tool
from app.agents.usage import usage_of
from app.agents.verdicts import Consequence, judge, judge_exception
from app.demo.claude import Failure, Garbage, HangUp, Reply
from app.demo.http1 import serve_connection
from app.store.protocol import TaskStatus

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


# What is waited out.


@pytest.mark.parametrize(
    "trouble",
    [
        Failure(status=429),
        Failure(status=529),
        Failure(status=500),
        Failure(status=408),
        HangUp(),
        HangUp(in_the_middle=True),
    ],
    ids=lambda trouble: getattr(trouble, "status", str(trouble)),
)
async def test_trouble_that_passes_is_waited_out_and_is_no_crash(at_work, store, trouble):
    at_work.claude.plan(trouble, trouble, Reply(text="At last."))

    task = await at_work.do()

    assert (task.status, task.attempts) == (TaskStatus.SUCCEEDED, 1)
    assert task.result["text"] == "At last."
    assert len(at_work.claude.requests) == 3
    lost = 2 if isinstance(trouble, HangUp) else 0
    assert sum(row.calls for row in await store.costs(since=EPOCH)) == 1 + lost


NESTED: dict[str, object] = {}
for _ in range(300):
    NESTED = {"search": NESTED}


def message(**changes):
    """Make a message of the API that is not what it should be."""
    plain = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    return Garbage(body=json.dumps({**changes, **plain, **changes}).encode())


@pytest.mark.parametrize(
    "garbage",
    [
        Garbage(body=b"<html>Sign in to the Wi-Fi</html>", content_type="text/html"),
        Garbage(body=b'{"half": '),
        Garbage(body=b"[]"),
        Garbage(body=b'{"usage": {"input_tokens": null}}'),
        message(content=None),
        message(content="plain text"),
        message(content=[5]),
        message(model=None),
        message(usage={"input_tokens": 10**30, "output_tokens": 1}),
        message(usage={"input_tokens": -1, "output_tokens": 1}),
        message(content=[{"type": "tool_use", "id": "t", "name": "recall", "input": NESTED}]),
    ],
    ids=lambda garbage: str(garbage.body[:50]),
)
async def test_an_answer_that_cannot_be_read_is_asked_for_again(at_work, garbage):
    at_work.claude.plan(garbage, Reply(text="Fine."))

    task = await at_work.do()

    assert task.result["text"] == "Fine."


async def test_an_answer_that_cannot_be_read_is_shown(at_work):
    at_work.claude.plan(Garbage(body=b"<html>Sign in</html>", content_type="text/html"))
    await at_work.add()
    _, activity = at_work.start(Unhurried)

    await until(lambda: activity.throttled_until is not None)

    assert "no message (text/html: '<html>Sign in</html>')" in activity.doing


class Unhurried(QuickAgent):
    patience = Patience(total=math.inf)


async def test_while_it_waits_the_agent_says_until_when_and_does_not_count_as_hung(at_work):
    at_work.claude.plan(Failure(status=429, message="slow down", headers={"retry-after": "60"}))
    await at_work.add()
    _, activity = at_work.start(Unhurried)

    await until(lambda: activity.throttled_until is not None)

    assert 50 < activity.snapshot()["throttled_for"] <= 60
    assert "429" in activity.doing
    assert "slow down" in activity.doing
    assert activity.why_stale(0.5) is None


async def test_a_wait_ends_at_once_when_the_agent_is_asked_to_stop(at_work, store):
    at_work.claude.plan(Failure(status=529, headers={"retry-after": "60"}))
    task_id = await at_work.add()
    _, activity = at_work.start(Unhurried)
    await until(lambda: activity.throttled_until is not None)

    with trio.fail_after(20):
        await at_work.tree.stop("social")

    task = await store.task(task_id)
    assert (task.status, task.attempts) == (TaskStatus.QUEUED, 0)


@pytest.mark.parametrize(("status", "attempts"), [(429, 0), (529, 0), (500, 1)])
async def test_trouble_that_stays_hands_the_task_back(at_work, store, status, attempts):
    """A throttled task does not count an attempt; one that may itself be to blame does."""
    at_work.claude.plan(*[Failure(status=status, headers={"retry-after": "0.6"})] * 20)
    task_id = await at_work.add(priority=1)
    other_id = await at_work.add()
    at_work.start()

    task = await at_work.when(
        task_id, lambda task: task.status is TaskStatus.QUEUED and task.not_before is not None
    )

    assert task.attempts == attempts
    await trio.sleep(0.2)
    assert len(at_work.claude.requests) == 2
    assert (await store.task(other_id)).attempts == 0, "it would fare no better"


async def test_an_agent_that_has_nothing_to_ask_is_not_said_to_wait_for_the_model(at_work, store):
    class Impatient(QuickAgent):
        patience = Patience(total=0.0)

    at_work.claude.plan(Failure(status=529, headers={"retry-after": "0.2"}))
    task_id = await at_work.add()
    _, activity = at_work.start(Impatient)
    await until(lambda: activity.snapshot()["throttled_age"] is not None)
    await at_work.when(task_id, lambda task: task.status is TaskStatus.QUEUED)
    await store.cancel_task(task_id)

    await until(lambda: activity.doing == "idle" and activity.throttled_since is None)


async def test_no_answer_has_a_task_wait_for_more_than_an_hour(at_work, store):
    at_work.claude.plan(Failure(status=429, headers={"retry-after": "900000000"}))
    task_id = await at_work.add()
    at_work.start()

    task = await at_work.when(task_id, lambda task: task.not_before is not None)

    assert task.not_before - await store.ping() <= timedelta(hours=1)


async def test_it_says_since_when_no_call_has_succeeded_and_why(at_work):
    at_work.claude.plan(*[Failure(status=529, message="overloaded")] * 3)
    await at_work.add()
    _, activity = at_work.start(Unhurried)
    await until(lambda: activity.snapshot()["throttled_age"] is not None)
    since = activity.throttled_since
    assert "529" in activity.snapshot()["throttled_why"]

    await until(lambda: len(at_work.claude.requests) == 3)
    assert activity.throttled_since == since
    await until(lambda: activity.tasks_done == 1)

    assert activity.snapshot()["throttled_age"] is None


# What pauses the agent.

MONEY = {"message": "spent", "error_code": "enforced_spend_limit_reached"}


@pytest.mark.parametrize(
    "trouble",
    [
        Failure(status=401, message="invalid x-api-key"),
        Failure(status=402, message="no money"),
        Failure(status=403, message="not allowed"),
        Failure(status=404, message="model: claude-sonet-5-5"),
        Failure(status=429, **MONEY),
        Failure(status=400, message="You have reached your specified workspace API usage limits."),
        Failure(status=400, message="Your credit balance is too low to access the API."),
    ],
    ids=lambda trouble: f"{trouble.status} {trouble.message:.20}",
)
async def test_a_wrong_key_and_money_pause_the_agent_and_are_not_tried_again(
    at_work, store, trouble
):
    at_work.claude.plan(trouble)
    task_id = await at_work.add()
    child, activity = at_work.start()

    await until(lambda: activity.paused is not None)

    assert trouble.message in activity.paused
    assert str(trouble.status) in activity.paused
    task = await store.task(task_id)
    assert (task.status, task.attempts) == (TaskStatus.QUEUED, 0)
    await trio.sleep(0.1)
    assert len(at_work.claude.requests) == 1
    assert child.state.value == "running"
    await at_work.tree.stop("social")


async def test_a_pause_that_has_an_end_ends(at_work):
    at_work.claude.plan(
        Failure(status=400, message="usage limits. You will regain access on 2026-01-01 at 00:00")
    )

    task = await at_work.do()

    assert task.status is TaskStatus.SUCCEEDED


async def test_another_refusal_fails_the_task_with_the_reason(at_work):
    at_work.claude.plan(Failure(status=400, message="messages: too many images"))

    task = await at_work.do()

    assert task.status is TaskStatus.FAILED
    assert "messages: too many images" in task.error
    assert len(at_work.claude.requests) == 1


@pytest.mark.parametrize(
    ("message", "code", "until_when"),
    [
        ("spent", "enforced_spend_limit_reached", datetime(2026, 12, 1, tzinfo=UTC)),
        (
            "API usage limits. You will regain access on 2026-12-05 at 00:00 UTC.",
            None,
            datetime(2026, 12, 5, tzinfo=UTC),
        ),
        ("credit balance is too low", None, None),
        ("usage limits. You will regain access on 2026-13-45 at 00:00 UTC.", None, None),
    ],
)
def test_a_pause_for_money_ends_when_the_api_says_or_with_the_month(message, code, until_when):
    error = {"type": "x", "message": message, "details": {"error_code": code}}

    verdict = judge(400 if code is None else 429, {"error": error}, {}, now=NOW)

    assert verdict.consequence is Consequence.PAUSE
    assert verdict.until == until_when


def test_an_error_that_is_no_json_is_judged_by_its_status():
    verdict = judge(502, "<html>Bad gateway</html>", {}, now=NOW)

    assert verdict.consequence is Consequence.WAIT
    assert verdict.reason == "Claude answers 502: <html>Bad gateway</html>"


def test_a_call_that_takes_too_long_is_not_said_to_be_cancelled():
    async def call():
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)
        except TimeoutError as error:
            return judge_exception(error)

    assert asyncio.run(call()).reason == "Claude did not answer in time (TimeoutError)"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "nonsense"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_how_long_the_api_asks_to_wait(headers, seconds):
    assert judge(429, {}, headers, now=NOW).retry_after == seconds


def test_a_call_that_times_out_may_be_to_blame_itself_and_one_that_gets_nowhere_not():
    assert judge_exception(TimeoutError()).counts
    assert not judge_exception(OSError()).counts


async def test_half_a_character_which_could_not_be_sent_again_becomes_a_whole_one(at_work):
    half_a_character = Reply(tools=(("recall", {"search": "\ud800"}),))
    at_work.claude.plan(half_a_character, Reply(text="Nothing is found."))

    task = await at_work.do()

    assert task.status is TaskStatus.SUCCEEDED
    assert "\ufffd" in json.dumps(at_work.claude.requests[-1]["messages"], ensure_ascii=False)


# What it costs.


async def test_every_call_is_in_the_cost_log_with_its_price(at_work, store):
    usage = {
        "input_tokens": 1_000,
        "output_tokens": 2_000,
        "cache_read_input_tokens": 10_000,
        "cache_creation_input_tokens": 5_000,
        "cache_creation": {"ephemeral_5m_input_tokens": 4_000, "ephemeral_1h_input_tokens": 1_000},
    }
    at_work.claude.plan(Reply(text="Done.", usage=usage))

    task = await at_work.do(run_id="the-run")

    (row,) = await store.costs(since=EPOCH)
    assert (row.agent_id, row.model, row.calls) == ("social", "claude-sonnet-5-5", 1)
    assert (row.input_tokens, row.output_tokens) == (1_000, 2_000)
    assert (row.cache_read_tokens, row.cache_write_tokens) == (10_000, 5_000)
    price = (1_000 * 2 + 2_000 * 10 + 10_000 * 0.1 + 4_000 * 2.5 + 1_000 * 4) / 1e6
    assert row.cost_usd == pytest.approx(price)
    assert task.result["usd"] == pytest.approx(price)


def test_what_a_compaction_used_is_counted_though_the_sums_leave_it_out():
    usage = {
        "input_tokens": 10,
        "output_tokens": 1,
        "cache_read_input_tokens": None,
        "iterations": [
            {"type": "message", "input_tokens": 10, "output_tokens": 1},
            {"type": "compaction", "input_tokens": 500, "output_tokens": 50},
        ],
    }

    assert usage_of(usage) == Usage(input_tokens=510, output_tokens=51)


@pytest.mark.parametrize(
    ("extra", "usd"),
    [
        ({}, 0.03),
        ({"inference_geo": "global"}, 0.03),
        ({"inference_geo": "us"}, 0.033),
        ({"service_tier": "batch"}, 0.015),
        ({"server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 9}}, 0.06),
    ],
)
def test_where_and_how_a_call_was_computed_and_searches_have_their_price(extra, usd):
    used = usage_of({"input_tokens": 10_000, "output_tokens": 1_000, **extra})

    price = load_prices().price("claude-sonnet-5-5", used, NOW.date())

    assert price.usd == pytest.approx(usd)


async def test_a_reply_is_streamed(at_work):
    at_work.claude.plan(Reply(text="word by word"))
    assert (await at_work.do()).result["text"] == "word by word"
    assert at_work.claude.requests[-1]["stream"] is True


class Unending(trio.abc.SendStream):
    """Sends all but the chunk by which a body ends."""

    def __init__(self, stream):
        self.stream = stream

    async def send_all(self, data):
        if bytes(data) != b"0\r\n\r\n":
            await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self):
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self):
        await self.stream.aclose()


@pytest.mark.parametrize(("ends", "connections"), [(True, 1), (False, 3)])
async def test_calls_share_a_connection_where_each_reply_is_read_to_its_end(
    at_work, nursery, ends, connections
):
    made = []

    async def relay(stream):
        made.append(stream)
        sender = stream if ends else Unending(stream)
        await serve_connection(trio.StapledStream(sender, stream), at_work.claude.handle)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, relay, [listener])
    at_work.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    at_work.claude.plan(*[Reply(tools=(("recall", {}),))] * 2, Reply(text="Done."))

    task = await at_work.do()

    assert task.result["text"] == "Done."
    assert len(made) == connections


# The budget.


async def test_a_call_through_a_gateway_with_a_path_of_its_own_has_a_price(at_work, store):
    at_work.url += "/gateway"
    at_work.claude.plan(Reply(text="Done."))

    await at_work.do()

    (row,) = await store.costs(since=EPOCH)
    assert row.cost_usd > 0


async def test_a_spent_budget_pauses_the_agent_and_the_task_goes_back(at_work, store):
    await store.record_cost(cost("c1", 0.95))
    task_id = await at_work.add()
    _, activity = at_work.start(daily_budget_usd=1.0)

    await until(lambda: activity.paused is not None)

    assert "may cost $0.09: of $1.00 $0.95 is spent today" in activity.paused
    assert not at_work.claude.requests
    task = await store.task(task_id)
    assert (task.status, task.attempts) == (TaskStatus.QUEUED, 0)


async def test_a_budget_lasts_as_long_as_calls_fit_in_and_is_settled_by_what_they_cost(
    at_work, store
):
    """Each call sets aside 0.1 dollars or so, but costs next to nothing."""
    first = await at_work.do(daily_budget_usd=0.15)
    second = await at_work.do(daily_budget_usd=0.15)

    assert first.status is second.status is TaskStatus.SUCCEEDED
    spent = sum(row.cost_usd for row in await store.costs(since=EPOCH))
    assert await reserve(store, "rest", limit=0.15, amount=0.15 - spent - 1e-9)


async def test_what_was_set_aside_for_a_call_that_failed_is_free_again(at_work, store):
    at_work.claude.plan(*[Failure(status=529)] * 5, Failure(status=400))

    task = await at_work.do(daily_budget_usd=0.15)

    assert task.status is TaskStatus.FAILED
    assert await reserve(store, "all", limit=0.15, amount=0.15)


async def test_several_workers_at_once_do_not_overspend_by_a_cent(at_work, store):
    """Each call may cost 0.09 dollars and costs most of that; four workers want twelve of them."""
    budget = 0.4
    at_work.claude.plan(
        *[Reply(text="Done.", usage={"output_tokens": 4000}, after=0.05) for _ in range(12)]
    )
    ids = [await at_work.add(f"Task {number}.") for number in range(12)]
    at_once = [at_work.start(name=f"worker-{n}", daily_budget_usd=budget) for n in range(4)]
    await until(lambda: all(activity.paused is not None for _, activity in at_once))

    costs = [row.cost_usd for row in await store.costs(since=EPOCH)]
    assert budget / 2 < sum(costs) <= budget
    tasks = [await store.task(task_id) for task_id in ids]
    done = [task for task in tasks if task.status is TaskStatus.SUCCEEDED]
    assert len(done) == len(at_work.claude.requests)  # no call was made that did not fit
    assert 1 < len(done) < 12
    rest = [task for task in tasks if task not in done]
    assert {(task.status, task.attempts) for task in rest} == {(TaskStatus.QUEUED, 0)}


async def test_money_that_other_calls_only_hold_is_waited_for(at_work, store):
    await reserve(store, "other", limit=0.15, amount=0.15)
    task_id = await at_work.add()
    _, activity = at_work.start(daily_budget_usd=0.15)
    await until(lambda: "budget" in activity.doing)
    assert activity.paused is None

    await store.release_budget("other")

    assert (await at_work.finished(task_id)).status is TaskStatus.SUCCEEDED


async def test_a_budget_too_small_for_any_call_pauses_until_somebody_raises_it(at_work, store):
    task_id = await at_work.add()
    _, activity = at_work.start(daily_budget_usd=0.01)

    await until(lambda: activity.paused is not None)

    assert "budget of $0.01 is too small: any call of its model may cost" in activity.paused
    assert "Set a higher DAILY_BUDGET_USD" in activity.paused
    assert activity.paused_until is None
    assert (await store.task(task_id)).status is TaskStatus.QUEUED


async def test_a_task_too_large_for_the_budget_is_put_off_and_keeps_nobody_waiting(at_work):
    large = await at_work.add("Read this: " + "x" * 120_000, priority=1)
    small = await at_work.add()
    at_work.start(daily_budget_usd=0.15)

    task = await at_work.when(large, lambda task: task.not_before is not None)

    assert (task.status, task.attempts) == (TaskStatus.QUEUED, 0)
    assert "more than its daily budget of $0.15" in task.error
    assert "DAILY_BUDGET_USD" in task.error
    assert (await at_work.finished(small)).status is TaskStatus.SUCCEEDED


class Spender(QuickAgent):
    @tool
    async def spend(self) -> str:
        """Spend."""
        await self.store.record_cost(cost("spent", 5.0))
        return "spent"


async def test_a_conversation_that_outlasts_the_budget_goes_on_where_it_is_another_day(
    at_work, store
):
    at_work.claude.plan(Reply(tools=(("spend", {}),)))
    task_id = await at_work.add()
    _, activity = at_work.start(Spender, daily_budget_usd=0.15)

    await until(lambda: activity.paused is not None)

    task = await store.task(task_id)
    assert (task.status, task.attempts) == (TaskStatus.QUEUED, 0)
    assert activity.paused_until is not None
    await at_work.tree.stop("social")

    at_work.claude.plan(Reply(text="Enough."))
    at_work.start(Spender, name="later", daily_budget_usd=10.0)
    task = await at_work.finished(task_id)

    assert (task.status, task.result["text"]) == (TaskStatus.SUCCEEDED, "Enough.")
    assert len(at_work.claude.requests) == 2, "no reply was paid for twice"


async def test_a_call_whose_answer_was_lost_is_booked_at_what_it_may_have_cost(at_work, store):
    at_work.claude.plan(HangUp(), Reply(text="Fine."))

    task = await at_work.do()

    assert task.result["text"] == "Fine."
    assert task.result["estimated_usd"] == pytest.approx(0.09, abs=0.01)
    assert sum(row.cost_usd for row in await store.costs(since=EPOCH)) == task.result["usd"]


async def test_what_came_of_a_reply_that_was_cut_off_half_way_decides_its_estimate(at_work):
    at_work.claude.plan(HangUp(in_the_middle=True), Reply(text="Fine."))

    task = await at_work.do()

    assert 0 < task.result["estimated_usd"] < 0.09, "the prompt is known, and a few words"


async def test_calls_whose_answers_are_lost_are_repeated_a_few_times_only(at_work, store):
    at_work.claude.plan(*[HangUp()] * 20)
    task_id = await at_work.add(max_attempts=1)
    at_work.start()

    task = await at_work.finished(task_id)

    assert task.status is TaskStatus.FAILED
    assert "of 3 calls that may have cost $0.2" in task.error
    assert len(at_work.claude.requests) == 3


async def test_lost_calls_are_bounded_by_what_they_may_have_cost(at_work):
    class Thrifty(QuickAgent):
        patience = Patience(backoff=Backoff(initial=0.01), lost=100, lost_usd=0.15)

    at_work.claude.plan(*[HangUp()] * 20)
    task_id = await at_work.add(max_attempts=1)
    at_work.start(Thrifty)

    await at_work.finished(task_id)

    assert len(at_work.claude.requests) == 2


async def test_the_wait_for_money_ends_at_once_when_the_agent_is_asked_to_stop(at_work, store):
    await reserve(store, "other", limit=0.15, amount=0.15)
    task_id = await at_work.add()
    _, activity = at_work.start(daily_budget_usd=0.15)
    await until(lambda: "budget that other calls hold" in activity.doing)

    with trio.fail_after(20):
        await at_work.tree.stop("social")

    task = await store.task(task_id)
    assert (task.status, task.attempts) == (TaskStatus.QUEUED, 0)


async def test_a_spent_budget_is_whole_again_when_the_workers_day_is_over(at_work, store):
    await store.record_cost(cost("c1", 5.0))
    task_id = await at_work.add()
    zone = _zone_whose_day_is_over(await store.ping() + timedelta(seconds=1))

    _, activity = at_work.start(daily_budget_usd=1.0, timezone=zone)

    await until(lambda: activity.paused is not None)
    task = await at_work.finished(task_id)
    assert (task.status, task.attempts) == (TaskStatus.SUCCEEDED, 1)
    assert activity.paused is None


def _zone_whose_day_is_over(moment):
    into_day = timedelta(hours=moment.hour, minutes=moment.minute, seconds=moment.second + 1)
    return timezone(-into_day if into_day < timedelta(days=1) else timedelta())


async def test_an_unknown_model_is_priced_as_the_dearest_and_flagged(at_work, store):
    await at_work.do(model="claude-unheard-of")

    (row,) = await store.costs(since=EPOCH)
    assert row.cost_usd >= row.output_tokens * 50 / 1e6
