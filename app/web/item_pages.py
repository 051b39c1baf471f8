"""The pages of what agents make for people: drafts, actions, deals, goals and reports."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from quart import request

from app.items import KINDS, Kind, item_of
from app.web.inputs import is_id, parse_query
from app.web.item_inputs import FILTERS, LINES, TEXTS
from app.web.items import find_items
from app.web.pages import Pages, addresses
from app.web.problems import Problem
from app.web.routes import ViewT, page

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quart import Response
    from werkzeug.datastructures import MultiDict

    from app.items import Item
    from app.web.page import Rendered

VERBS: Final = {"approved": "Approve", "rejected": "Reject", "done": "Done"}
"""Verdict -> what its button says."""


def _of_each(declared: Callable[[Kind], Callable[[ViewT], ViewT]]) -> Callable[[ViewT], ViewT]:
    def declare(view: ViewT) -> ViewT:
        for kind in reversed(list(KINDS.values())):
            declared(kind)(view)
        return view

    return declare


def _kind() -> Kind:
    return KINDS[request.path.split("/")[2]]


class ItemPages(Pages):
    """What a browser is shown of drafts, actions, deals, goals and reports."""

    @_of_each(
        lambda kind: page(
            f"/ui/{kind.name}",
            f"{kind.summary}, with a form to decide about each",
            422,
            503,
            id=f"{kind.name}_page",
            query=FILTERS[kind.name],
        )
    )
    async def _items_page(self) -> Response:
        kind = _kind()
        return await self._page(
            f"{kind.name} {request.query_string!r}",
            partial(self._render_items, kind, request.args),
        )

    @_of_each(
        lambda kind: page(
            f"/ui/{kind.name}/<item_id>",
            f"The page of a {kind.one}",
            404,
            503,
            id=f"{kind.one}_page",
        )
    )
    async def _item_page(self, item_id: str) -> Response:
        kind = _kind()
        return await self._page(f"{kind.one} {item_id}", partial(self._render_item, kind, item_id))

    async def _render_items(self, kind: Kind, args: MultiDict[str, str]) -> Rendered:
        wanted = parse_query(FILTERS[kind.name], args)
        found = await self._in_time(partial(find_items, self._daemon.store, kind, wanted))
        repeated = wanted.model_dump(exclude={"cursor"}, exclude_unset=True)
        return self._render_found(
            kind,
            found.items,
            wanted=wanted,
            next=found.next,
            address=addresses(f"/ui/{kind.name}", **repeated),
            whole=None,
        )

    async def _render_item(self, kind: Kind, item_id: str) -> Rendered:
        store = self._daemon.store
        found = (
            await self._in_time(partial(item_of, store, kind, item_id)) if is_id(item_id) else None
        )
        if found is None:
            raise Problem(404, f"There is no such {kind.one}.")
        return self._render_found(kind, [found[0]], whole=found[0])

    def _render_found(self, kind: Kind, found: Sequence[Item], **state: Any) -> Rendered:  # noqa: ANN401
        return self._render(
            "items.html",
            kind=kind,
            kinds=list(KINDS.values()),
            items=found,
            lines=LINES[kind.name],
            texts=TEXTS[kind.name],
            verbs=VERBS,
            possible=partial(_possible, kind),
            releasing=self._releasing(kind),
            **state,
        )

    def _releasing(self, kind: Kind) -> dict[str, str]:
        """Return the agents that carry out what is approved, with the tool by which they do."""
        return {
            agent.agent_id: agent.spec.release.tool
            for agent in self._daemon.settings.agents
            if kind.releases and agent.spec.release is not None
        }


def _possible(kind: Kind, item: Item) -> list[str]:
    """Return the verdicts that are possible of an item as it stands."""
    return [verdict.value for verdict, statuses in kind.steps.items() if item.status in statuses]
