"""The price table: which row holds, what a call costs, and what a file of one's own must be."""

from __future__ import annotations

from datetime import date

import pytest

from app.agents.prices import PriceTableError, Usage, load_prices

NOVEMBER = date(2026, 11, 23)
MILLION = 1_000_000

ROW = """
[[price]]
model = "claude-a"
valid_from = 2026-01-01
input = 1.0
output = 10
cache_write_5m = 2.0
cache_write_1h = 3.0
cache_read = 0.5
"""


def table(tmp_path, text):
    path = tmp_path / "prices.toml"
    path.write_text(text, encoding="utf-8")
    return load_prices(path)


def later(row, **changes):
    lines = dict(line.split(" = ") for line in row.strip().splitlines()[1:])
    lines |= {name: str(value) for name, value in changes.items()}
    return "\n[[price]]\n" + "\n".join(f"{name} = {value}" for name, value in lines.items()) + "\n"


def test_each_kind_of_token_has_its_price(tmp_path):
    usage = Usage(
        input_tokens=MILLION,
        output_tokens=MILLION,
        cache_write_5m_tokens=MILLION,
        cache_write_1h_tokens=MILLION,
        cache_read_tokens=MILLION,
    )

    price = table(tmp_path, ROW).price("claude-a", usage, NOVEMBER)

    assert (price.usd, price.known) == (1.0 + 10.0 + 2.0 + 3.0 + 0.5, True)
    assert usage.prompt_tokens == 4 * MILLION


def test_a_price_holds_from_its_day_on_and_the_first_one_before_it(tmp_path):
    prices = table(tmp_path, ROW + later(ROW, valid_from="2026-10-07", input=7.0))
    usage = Usage(input_tokens=MILLION)

    costs = {
        day: prices.price("claude-a", usage, date.fromisoformat(day)).usd
        for day in ("2025-01-01", "2026-10-06", "2026-10-07", "2027-01-01")
    }

    assert costs == {"2025-01-01": 1.0, "2026-10-06": 1.0, "2026-10-07": 7.0, "2027-01-01": 7.0}


def test_a_long_prompt_has_its_own_price_for_the_whole_of_it(tmp_path):
    prices = table(tmp_path, ROW + later(ROW, prompt_over=100_000, input=5.0))

    def cost(tokens):
        usage = Usage(input_tokens=tokens - 40_000, cache_read_tokens=40_000)
        return prices.price("claude-a", usage, NOVEMBER).usd

    assert cost(100_000) == pytest.approx((60_000 * 1.0 + 40_000 * 0.5) / MILLION)
    assert cost(100_001) == pytest.approx((60_001 * 5.0 + 40_000 * 0.5) / MILLION)


@pytest.mark.parametrize("model", ["claude-a", "claude-a-20261001", "claude-a@20261001"])
def test_a_snapshot_of_a_model_has_the_models_price(tmp_path, model):
    prices = table(tmp_path, ROW + later(ROW, model='"claude-b"', input=9.0))

    assert prices.price(model, Usage(input_tokens=MILLION), NOVEMBER).usd == 1.0


@pytest.mark.parametrize("model", ["claude-a-2", "claude", "claude-aa", "gpt"])
def test_an_unknown_model_costs_what_the_dearest_does_and_says_so(tmp_path, model):
    """A name that only begins like a known one is another model with another price."""
    prices = table(tmp_path, ROW + later(ROW, model='"claude-b"', input=9.0, output=0))

    by_input = prices.price(model, Usage(input_tokens=MILLION), NOVEMBER)
    by_output = prices.price(model, Usage(output_tokens=MILLION), NOVEMBER)

    assert (by_input.usd, by_input.known) == (9.0, False)
    assert (by_output.usd, by_output.known) == (10.0, False)


def test_the_table_that_ships_knows_the_model_that_is_the_default_and_its_cheaper_reads():
    prices = load_prices()
    reads = Usage(cache_read_tokens=MILLION)

    assert prices.price("claude-sonnet-5-5", reads, date(2026, 10, 6)).usd == 0.20
    assert prices.price("claude-sonnet-5-5", reads, date(2026, 10, 7)).usd == 0.10
    long_prompt = Usage(input_tokens=100_001)
    assert prices.price("claude-haiku-5-5", long_prompt, NOVEMBER).usd == pytest.approx(0.0500005)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must have [[price]] rows"),
        ("price = 3", "must have [[price]] rows"),
        ("[[prices]]\nmodel = 'a'", "must have [[price]] rows"),
        (ROW + "\n[other]\n", "must have [[price]] rows"),
        ("[[price]\n", "cannot be read"),
        ("[[price]]\nmodel = 3", "model must be a text"),
        ("[[price]]\nmodel = 'a'", "row of model 'a': cache_read is missing"),
        (later(ROW, colour=1), "row of model 'claude-a': colour is not known"),
        (later(ROW, valid_from='"2026-01-01"'), "valid_from must be a date"),
        (later(ROW, valid_from="2026-01-01T00:00:00"), "valid_from must be a date"),
        (later(ROW, input='"free"'), "input must be a number"),
        (later(ROW, output="true"), "output must be a number"),
        (later(ROW, output="-1"), "output must be from 0"),
        (later(ROW, cache_read="nan"), "cache_read must be from 0"),
    ],
)
def test_a_file_that_is_no_price_table_is_refused_in_one_line(tmp_path, text, said):
    with pytest.raises(PriceTableError) as caught:
        table(tmp_path, text)

    message = str(caught.value)
    assert said in message
    assert "prices.toml" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["not-there.toml", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name):
    with pytest.raises(PriceTableError, match="cannot be read"):
        load_prices(tmp_path / name)
