"""The charts: sums of days of a zone, as bars, in a sentence and as a table."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from http_daemon import make_daemon, served
from store_calls import claim

from app.store.protocol import CostEntry, CostSum, Store, TaskStatus, TaskSum
from app.web.charts import MOST_SERIES, day_edges, last_days, spend_charts, task_charts
from app.web.spend import DAYS, HEIGHT
from app.web.spending import Spending

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 10, 26, 23, 30, tzinfo=UTC)  # the 27th in Berlin
DAY_LIST = last_days(NOW, BERLIN)


def task_sum(since, **counts):
    nothing = {"succeeded": 0, "failed": 0, "cancelled": 0, "begun": 0, "waited": 0.0}
    return TaskSum(agent_type="social", since=since, **nothing | counts)


def cost(agent_id, usd, *, day=DAY_LIST[-1], model="m"):
    return CostSum(
        agent_id=agent_id, model=model, day=day, calls=1, input_tokens=1, output_tokens=1,
        cache_read_tokens=0, cache_write_tokens=0, cost_usd=usd,
    )  # fmt: skip


def test_days_are_those_of_the_zone_over_a_change_of_clocks_too():
    assert (DAY_LIST[0], DAY_LIST[-1], len(DAY_LIST)) == (
        date(2026, 10, 14), date(2026, 10, 27), DAYS,
    )  # fmt: skip
    edges = day_edges(DAY_LIST, BERLIN)
    moments = [edge.astimezone(UTC) for edge in edges]
    lengths = {later - before for before, later in pairwise(moments)}
    assert lengths == {timedelta(hours=24), timedelta(hours=25)}
    assert edges[-1] == datetime(2026, 10, 26, 23, tzinfo=UTC)


def test_tasks_are_counted_on_the_day_of_the_zone_on_which_they_ended():
    edges = day_edges(DAY_LIST, BERLIN)
    sums = [
        task_sum(edges[-1].astimezone(UTC), succeeded=3, failed=1),
        task_sum(edges[0], failed=2),
    ]
    ended, _ = task_charts(sums, DAY_LIST, BERLIN)
    assert ended.totals == (2, *(0,) * (DAYS - 2), 4)
    assert ended.text == (
        "6 in 14 days; done 3, failed 3, cancelled 0; most on Tue 27 Oct: 4; today 4."
    )


def test_each_part_of_a_bar_stands_on_the_one_before_it():
    sums = [task_sum(day_edges(DAY_LIST, BERLIN)[-1], succeeded=3, failed=1)]
    ended, _ = task_charts(sums, DAY_LIST, BERLIN)
    assert [(part.name, part.y, part.height) for part in ended.parts] == [
        ("done", HEIGHT / 4, HEIGHT * 3 / 4),
        ("failed", 0, HEIGHT / 4),
    ]


def test_the_mean_wait_of_a_day_is_over_all_agents_and_none_where_nothing_was_begun():
    today = day_edges(DAY_LIST, BERLIN)[-1]
    sums = [task_sum(today, begun=3, waited=30.0), task_sum(today, begun=1, waited=50.0)]
    _, waited = task_charts(sums, DAY_LIST, BERLIN)
    assert waited.totals == (*(0.0,) * (DAYS - 1), 20.0)
    assert waited.text == "most on Tue 27 Oct: 20.0 s; today 20.0 s."


def test_spend_is_split_by_agent_and_by_model_the_dearest_first():
    costs = [cost("social", 1.0), cost("content", 2.0, model="n"), cost("social", 0.5, model="n")]
    by_agent, by_model = spend_charts(costs, DAY_LIST)
    assert [(each.name, each.values[-1]) for each in by_agent.series] == [
        ("content", 2.0), ("social", 1.5),
    ]  # fmt: skip
    assert [(each.name, each.values[-1]) for each in by_model.series] == [("n", 2.5), ("m", 1.0)]


def test_of_many_agents_those_that_spent_least_are_added_up():
    costs = [cost(f"a{number}", float(number + 1)) for number in range(9)]
    by_agent, _ = spend_charts(costs, DAY_LIST)
    assert [each.name for each in by_agent.series] == ["a8", "a7", "a6", "a5", "a4", "others"]
    assert len(by_agent.series) == MOST_SERIES
    assert by_agent.series[-1].values[-1] == 1 + 2 + 3 + 4
    assert len({each.style for each in by_agent.series}) == MOST_SERIES


class Costs(Store):
    """Has booked something at some moments, and books more whenever it is asked."""

    def __init__(self, booked):
        self.booked = booked
        self.asked = 0

    async def costs(self, *, since, agent_id=None):
        self.asked += 1
        found = [
            dataclasses.replace(cost("a", usd), day=at.date())
            for at, usd in sorted(self.booked.items())
            if at >= since
        ]
        self.booked[NOW - timedelta(seconds=1) + timedelta(microseconds=self.asked)] = 100.0
        return found


async def test_what_is_booked_while_days_are_looked_up_is_on_no_day_but_its_own():
    edges = [edge.astimezone(UTC) for edge in day_edges(DAY_LIST, BERLIN)]
    second = timedelta(seconds=1)
    booked = {edges[3] - second: 1.0, edges[3]: 2.0, edges[4] - second: 4.0, edges[4]: 8.0}
    spending, store = Spending(BERLIN), Costs(booked)
    spent = {each.day: each.cost_usd for each in await spending.costs(store, NOW)}
    assert [spent.get(day, 0.0) for day in DAY_LIST[2:5]] == [1.0, 6.0, 8.0]
    assert [spent.get(day, 0.0) for day in DAY_LIST[5:12]] == [0.0] * 7
    store.asked = 0
    await spending.costs(store, NOW)
    assert store.asked == 2  # yesterday is of the same day of UTC as today


async def test_the_page_shows_each_chart_as_a_picture_with_a_title_and_as_a_table(store):
    await store.add_task("t1", "social", "Do it")
    await claim(store)
    await store.finish_task("t1", "k1", TaskStatus.FAILED, error="no")
    await store.record_cost(
        CostEntry(
            id="c", agent_id="social", run_id=None, task_id="t1", model="claude-haiku-5-5",
            input_tokens=1, output_tokens=1, cost_usd=1.25,
        )
    )  # fmt: skip
    async with served(make_daemon(store)) as client:
        page = (await client.get("/ui/charts")).text
    for key in ("ended", "waited", "by-agent", "by-model"):
        assert f'aria-labelledby="{key}-plot {key}-text"' in page
        assert f'<title id="{key}-plot">' in page
        assert f'<desc id="{key}-text">' in page
    assert page.count('<table class="plain">') == 4
    assert "1 in 14 days; done 0, failed 1, cancelled 0;" in page
    assert "claude-haiku-5-5" in page
    assert "$1.25 in 14 days" in page
    assert "Days are those of America/New_York." in page


async def test_where_nothing_was_done_the_page_says_so(store):
    async with served(make_daemon(store)) as client:
        page = (await client.get("/ui/charts")).text
    assert page.count("There is nothing of the last 14 days.") == 4
