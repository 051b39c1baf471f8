"""`--show drafts` and the other lists of what agents make, and decisions about one of them."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from actp_supervise.service import visible
from app.facts import JSON, to_json
from app.items import KINDS, Item, Kind
from app.settings import SettingsError
from app.terminal.api import open_api
from app.terminal.person import person

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from app.settings import Settings
    from app.terminal.shows import Wanted

_APART: Final = frozenset({"id", "agent_id", "status", "created_at", "updated_at", "reviews"})
"""What stands in an item's first line, or below the rest."""


async def show_items(settings: Settings, kind: Kind, wanted: Wanted) -> None:
    """Write items, the newest last, with what people have said of each.

    Raises:
        DaemonError: If no daemon answers.
    """
    query: dict[str, str | int] = {"limit": wanted.limit}
    if wanted.status is not None:
        query["status"] = wanted.status
    if wanted.agent_id is not None:
        query["agent_id"] = wanted.agent_id
    async with open_api(settings) as api:
        items = await api.get(list[kind.row], f"/{kind.name}", **query)  # type: ignore[name-defined]
    if wanted.as_json:
        print(json.dumps(to_json(items), indent=2))
    elif not items:
        print(f"There are no {kind.name}{' like that' * (len(query) > 1)}.")
    else:
        print("\n\n".join(in_words(kind, item) for item in reversed(items)))


async def decide(settings: Settings, target: str, options: argparse.Namespace) -> None:
    """Decide about an item, and write what came of it.

    Args:
        settings: Where the daemon is.
        target: Which, as ``drafts/3f8a``.
        options: The command line.

    Raises:
        SettingsError: If there is no such kind.
        DaemonError: If it is not there or cannot be decided so, or no daemon answers.
    """
    name, _, item_id = target.partition("/")
    kind = KINDS.get(name)
    if kind is None or not item_id:
        raise SettingsError(f"{target!r}: write a kind and an id; kinds are {', '.join(KINDS)}")
    body: dict[str, JSON] = {"by": person(), "comment": options.comment}
    if options.changes is not None:
        body["changes"] = options.changes
    if options.done is not None:
        body["done"] = True
    elif options.edit is None:
        body["approve"] = options.approve is not None
    async with open_api(settings) as api:
        item: Item = await api.post(kind.row, f"/{name}/{quote(item_id, safe='')}", body)
    if options.json:
        print(json.dumps(to_json(item), indent=2))
    else:
        print(f"The {kind.one} {item.id} is {item.status}.")


def in_words(kind: Kind, item: Item) -> str:
    """Write an item for a person, with what was said of it."""
    whose = f", by {item.agent_id}" if item.agent_id else ""
    lines = [
        f"{kind.name}/{item.id}",
        f"  {item.status}{whose}, {item.created_at:%Y-%m-%d %H:%M} UTC",
        *_facts(item),
    ]
    for review in item.reviews:
        comment = f": {review.comment}" if review.comment else ""
        lines.append(
            f"  {review.verdict} by {review.reviewed_by} at {review.reviewed_at:%Y-%m-%d %H:%M} "
            f"UTC{comment}"
        )
    return visible("\n".join(lines), lines=True)


def _facts(item: Item) -> Iterator[str]:
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        if field.name in _APART or value in (None, [], {}):
            continue
        label = field.name.replace("_", " ")
        if isinstance(value, datetime):
            value = f"{value:%Y-%m-%d %H:%M} UTC"
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        elif isinstance(value, dict):
            value = json.dumps(value, ensure_ascii=False)
        first, *others = str(value).splitlines() or [""]
        yield f"  {label}: {first}"
        yield from (f"    {line}" for line in others)
