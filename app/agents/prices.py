"""What a call of the model costs, by a dated table: `prices.toml`, or a file in its place.

A model that the table does not name is priced as the dearest that it does, never at nothing, and
the price says so.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, Final

DEFAULT_PATH: Final = Path(__file__).with_name("prices.toml")

_SNAPSHOT: Final = re.compile(r"[-@](\d{8}|latest)$")


class PriceTableError(Exception):
    """A price table cannot be used; the message is one line for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The tokens of one call; of the prompt, each token is in exactly one of the counts."""

    input_tokens: int = 0
    """Neither read from the cache nor written to it."""
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    web_searches: int = 0
    """By the API's own tool, which has a price for each."""
    inference_geo: str | None = None
    """Where it was computed; a place of one's choice costs more than anywhere."""
    service_tier: str | None = None
    """``batch`` costs less."""

    @property
    def prompt_tokens(self) -> int:
        """The whole prompt."""
        return (
            self.input_tokens
            + self.cache_read_tokens
            + self.cache_write_5m_tokens
            + self.cache_write_1h_tokens
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceRow:
    """US dollars per million tokens, of one model from one day on."""

    model: str
    valid_from: date
    input: float
    output: float
    cache_write_5m: float
    cache_write_1h: float
    cache_read: float
    prompt_over: int = 0
    """It holds for prompts above so many tokens; for the whole of them."""

    def cost(self, usage: Usage) -> float:
        """Return what a call costs, in US dollars."""
        return (
            usage.input_tokens * self.input
            + usage.output_tokens * self.output
            + usage.cache_write_5m_tokens * self.cache_write_5m
            + usage.cache_write_1h_tokens * self.cache_write_1h
            + usage.cache_read_tokens * self.cache_read
        ) / 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """What makes a call dearer or cheaper than its tokens."""

    inference_geo: float = 1.1
    """Where it was computed in a place that was chosen."""
    batch: float = 0.5
    web_search: float = 0.01
    """US dollars for each search."""

    def cost(self, usage: Usage, tokens: float) -> float:
        """Return what a call costs whose tokens cost so much."""
        if usage.inference_geo not in _ANYWHERE:
            tokens *= self.inference_geo
        if usage.service_tier == "batch":
            tokens *= self.batch
        return tokens + usage.web_searches * self.web_search


_ANYWHERE: Final = (None, "", "global", "not_available")


@dataclass(frozen=True, slots=True)
class Price:
    """What a call costs."""

    usd: float
    known: bool
    """False where no row named the model, and the dearest was taken."""


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices by model, day and length of the prompt."""

    rows: tuple[PriceRow, ...]
    """At least one."""
    factors: Factors = Factors()

    def __post_init__(self) -> None:
        if not self.rows:
            raise PriceTableError("the price table has no rows")

    def knows(self, model: str) -> bool:
        """Return whether a row names this model, with or without the date of a snapshot."""
        return any(row.model in {_SNAPSHOT.sub("", model), model} for row in self.rows)

    def hint(self, model: str) -> str:
        """Return which model was perhaps meant, in words to follow the name of an unknown one."""
        close = difflib.get_close_matches(model, {row.model for row in self.rows}, n=1)
        return f" (did you mean {close[0]}?)" if close else ""

    def of_tokens(self, model: str, on: date) -> tuple[float, float]:
        """Return US dollars per million tokens of the prompt and of replies."""
        return (
            self.price(model, Usage(input_tokens=1_000_000), on).usd,
            self.price(model, Usage(output_tokens=1_000_000), on).usd,
        )

    def price(self, model: str, usage: Usage, on: date) -> Price:
        """Return what a call costs.

        Args:
            model: As the API names it, with or without the date of a snapshot.
            usage: Its tokens.
            on: The day of the call.
        """
        name = _SNAPSHOT.sub("", model)
        rows = [row for row in self.rows if row.model in {name, model}]
        if rows:
            tokens = _holding(rows, usage, on).cost(usage)
            return Price(self.factors.cost(usage, tokens), known=True)
        models = {row.model for row in self.rows}
        dearest = max(
            _holding([row for row in self.rows if row.model == known], usage, on).cost(usage)
            for known in models
        )
        return Price(self.factors.cost(usage, dearest), known=False)


def _holding(rows: list[PriceRow], usage: Usage, on: date) -> PriceRow:
    """Return the row of a model that holds; before the first day of all, the first one."""
    begun = [row for row in rows if row.valid_from <= on]
    first = min(row.valid_from for row in rows)
    since = max((row.valid_from for row in begun), default=first)
    tiers = [row for row in rows if row.valid_from == since]
    above = [row for row in tiers if usage.prompt_tokens > row.prompt_over or not row.prompt_over]
    return max(above or tiers, key=lambda row: row.prompt_over)


def load_prices(path: Path | None = None) -> PriceTable:
    """Read a price table.

    Args:
        path: The file, by default the one that ships.

    Raises:
        PriceTableError: If it cannot be read or a row makes no sense; it names the row.
    """
    file = path or DEFAULT_PATH
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PriceTableError(f"price table {file} cannot be read: {error}") from error
    records = content.get("price")
    if not isinstance(records, list) or not records or not set(content) <= {"price", "factors"}:
        raise PriceTableError(
            f"price table {file} must have [[price]] rows, may have [factors], and nothing else"
        )
    try:
        factors = _factors(content.get("factors", {}))
        return PriceTable(tuple(_row(record) for record in records), factors)
    except ValueError as error:
        raise PriceTableError(f"price table {file}: {error}") from None


def _row(record: Any) -> PriceRow:  # noqa: ANN401  (TOML)
    known = {field.name: field.type for field in fields(PriceRow)}
    name = record.get("model") if isinstance(record, dict) else None
    where = f"row of model {name!r}"
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}: model must be a text")
    missing = known.keys() - record.keys() - {"prompt_over"}
    unknown = record.keys() - known.keys()
    if missing or unknown:
        raise ValueError(
            f"{where}: "
            + "; ".join(
                [f"{field} is missing" for field in sorted(missing)]
                + [f"{field} is not known" for field in sorted(unknown)]
            )
        )
    if type(record["valid_from"]) is not date:
        raise ValueError(f"{where}: valid_from must be a date, such as 2026-10-07")
    _check_numbers(where, {name: record[name] for name in record.keys() - _NO_NUMBERS})
    return PriceRow(**record)


def _factors(record: Any) -> Factors:  # noqa: ANN401  (TOML)
    known = {field.name for field in fields(Factors)}
    if not isinstance(record, dict) or not record.keys() <= known:
        raise ValueError(f"[factors] may have {', '.join(sorted(known))}, and nothing else")
    _check_numbers("[factors]", record)
    return Factors(**record)


_NO_NUMBERS: Final = {"model", "valid_from"}


def _check_numbers(where: str, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{where}: {name} must be a number, not {value!r:.40}")
        if not 0 <= value < math.inf:
            raise ValueError(f"{where}: {name} must be from 0, not {value}")
