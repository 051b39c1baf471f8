"""What a reply of the simulated Claude looks like before which the API has searched the web.

Nothing is searched: the pages do not exist, and their titles and the answer say so.
"""

from __future__ import annotations

from typing import Any, Final

PAGES: Final = (
    ("https://example.org/simulated/launches", "Simulated: what a launch needs"),
    ("https://example.com/simulated/first-week", "Simulated: the first week after a launch"),
)
"""Address and title of what every search finds."""


def searched(use_id: str, query: str, text: str) -> list[dict[str, Any]]:
    """Return the blocks of a reply: the search, what it found, and a text that cites that.

    Args:
        use_id: The id of the search.
        query: What was searched for.
        text: What is said then.
    """
    found = [
        {
            "type": "web_search_result",
            "url": url,
            "title": title,
            "encrypted_content": "simulated",
            "page_age": None,
        }
        for url, title in PAGES
    ]
    cited = [
        {
            "type": "web_search_result_location",
            "url": url,
            "title": title,
            "cited_text": "No such page exists: this is a demonstration.",
            "encrypted_index": "simulated",
        }
        for url, title in PAGES
    ]
    return [
        {"type": "server_tool_use", "id": use_id, "name": "web_search", "input": {"query": query}},
        {"type": "web_search_tool_result", "tool_use_id": use_id, "content": found},
        {"type": "text", "text": text, "citations": cited},
    ]
