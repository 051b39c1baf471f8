"""Long answers of tools in pages, each of them whole JSON."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from actp_supervise.service import clean_json

from .tools import ToolError, as_json, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.store.protocol import JSON

PAGE: Final = 20_000
"""Characters of an answer that the model is shown at once."""

MOST_KEPT: Final = 5_000_000
"""Characters of all the pages that a conversation keeps; the oldest answers go first."""

MORE: Final = "read_more"
"""The tool that shows the next page."""


class Pages:
    """The pages that a conversation has not shown yet.

    They are kept by the process alone. After a restart the model is told to call the tool again.

    Args:
        redact: Takes secrets out of a text.
    """

    def __init__(self, redact: Callable[[str], str]) -> None:
        self._redact = redact
        self._answers: OrderedDict[str, list[str]] = OrderedDict()

    def first(self, value: JSON, name: str) -> str:
        """Return what the model is told of an answer: the whole of it, or its first page.

        Args:
            value: What the tool returned.
            name: What the answer is known by, unlike that of any other.

        Raises:
            TypeError: If it is no JSON.
        """
        as_json(value)  # before it is cleaned: what is no JSON is the tool's fault
        shown = clean_json(plain(value), self._redact)
        text = self._redact(json.dumps(shown, ensure_ascii=False))
        if len(text) <= PAGE:
            return text
        pages = [self._redact(page) for page in pages_of(shown, text, name)]
        self._answers[name] = pages
        while self._size() > MOST_KEPT and len(self._answers) > 1:
            self._answers.popitem(last=False)
        return pages[0]

    def read(self, name: str, page: int) -> str:
        """Return a page of an answer.

        Raises:
            ToolError: If it is not there.
        """
        pages = self._answers.get(name)
        if pages is None:
            raise ToolError(f"answer: {name!r} is no longer kept; call its tool again")
        if not 1 <= page <= len(pages):
            raise ToolError(f"page: must be from 1 to {len(pages)}")
        return pages[page - 1]

    def _size(self) -> int:
        return sum(len(page) for pages in self._answers.values() for page in pages)


def pages_of(value: JSON, text: str, name: str) -> list[str]:
    """Divide an answer into pages of at most some `PAGE` characters, each of which is JSON.

    It is divided between the items of its longest list. What has none that helps, such as a long
    text, is divided as a text.

    Args:
        value: The answer.
        text: The same as JSON.
        name: What the model asks for further pages by.
    """
    parts = _between_items(value) or [
        {"text": text[start : start + PAGE]} for start in range(0, len(text), PAGE)
    ]
    pages = []
    for number, part in enumerate(parts, 1):
        about: dict[str, Any] = {"page": number, "pages": len(parts), "answer": name}
        if number < len(parts):
            about["next"] = f"call {MORE} with answer={name!r} and page={number + 1}"
        pages.append(json.dumps({**part, "_page": about}, ensure_ascii=False))
    return pages


def _between_items(value: JSON) -> list[dict[str, Any]]:
    """Divide between the items of the longest list; nothing where no item would fit on a page."""
    whole = value if isinstance(value, dict) else {"items": value}
    lists = {key: item for key, item in whole.items() if isinstance(item, list)}
    if not lists:
        return []
    sizes = {key: len(json.dumps(item)) for key, item in lists.items()}
    longest = max(sizes, key=lambda key: sizes[key])
    rest = {key: item for key, item in whole.items() if key != longest}
    room = PAGE - len(json.dumps(rest, ensure_ascii=False))
    pages: list[list[Any]] = [[]]
    used = 0
    for item in lists[longest]:
        size = len(json.dumps(item, ensure_ascii=False)) + len(", ")
        if size > room:
            return []
        if used + size > room:
            pages.append([])
            used = 0
        pages[-1].append(item)
        used += size
    return [{**rest, longest: page} for page in pages]
