"""The addresses of what agents make for people: drafts, actions, deals, goals and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import Response, request

from app.items import KINDS, Kind, NotPossible, Release, Said, decide, item_of, items_of
from app.store.protocol import Verdict
from app.web.inputs import is_id, parse_body, parse_query
from app.web.item_inputs import BODIES, FILTERS, ItemDecision, ItemFilter, changes_of
from app.web.next_page import link_to_next, page_is_gone
from app.web.problem_details import FieldError
from app.web.problems import Problem, unprocessable
from app.web.routes import ViewT, get, post
from app.web.views import answer, json_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.daemon import Daemon
    from app.items import Item, ItemPage
    from app.store.protocol import ReviewRow, Store


def _of_each(declared: Callable[[Kind], Callable[[ViewT], ViewT]]) -> Callable[[ViewT], ViewT]:
    """Declare an address for each kind of items, which one view answers."""

    def declare(view: ViewT) -> ViewT:
        for kind in reversed(list(KINDS.values())):
            declared(kind)(view)
        return view

    return declare


def _kind() -> Kind:
    """Return the kind of items that the request is about."""
    return KINDS[request.path.split("/")[1]]


class Items:
    """What answers about drafts, actions, deals, goals and reports.

    Args:
        daemon: The running daemon's parts.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    @_of_each(
        lambda kind: get(
            f"/{kind.name}",
            f"{kind.name.capitalize()}, the newest first",
            list[kind.row],  # type: ignore[name-defined]
            id=kind.name,
            details=f"{kind.summary}.",
            problems=(422, 503),
            query=FILTERS[kind.name],
            has_pages=True,
        )
    )
    async def _items(self) -> Response:
        kind = _kind()
        wanted = parse_query(FILTERS[kind.name], request.args)
        page = await find_items(self._daemon.store, kind, wanted)
        return answer(page.items, 200, **link_to_next(f"/{kind.name}", wanted, page.next))

    @_of_each(
        lambda kind: get(
            f"/{kind.name}/<item_id>",
            f"One {kind.one}",
            kind.row,
            id=kind.one,
            problems=(404, 503),
        )
    )
    async def _item(self, item_id: str) -> Response:
        kind = _kind()
        found = await item_of(self._daemon.store, kind, item_id) if is_id(item_id) else None
        if found is None:
            raise _not_there(kind)
        return answer(found[0])

    @_of_each(
        lambda kind: post(
            f"/{kind.name}/<item_id>",
            f"Approve, change or reject a {kind.one}",
            kind.row,
            id=f"decide_{kind.one}",
            details="The same again is answered alike; what is not possible any more is a 409.",
            problems=(400, 404, 409, 422, 503),
            body=BODIES[kind.name],
        )
    )
    async def _decide(self, item_id: str) -> Response:
        kind = _kind()
        wanted = parse_body(BODIES[kind.name], await json_body())
        store = self._daemon.store
        found = await item_of(store, kind, item_id) if is_id(item_id) else None
        if found is None:
            raise _not_there(kind)
        item, row = found
        said = _said(wanted)
        try:
            review = await decide(store, kind, item, row, said)
        except NotPossible as error:
            raise Problem(409, str(error)) from None
        if review.verdict is Verdict.APPROVED:
            await self._release(kind, item, review)
        decided = await item_of(store, kind, item_id)
        if decided is None:
            raise _not_there(kind)
        return answer(decided[0])

    async def _release(self, kind: Kind, item: Item, review: ReviewRow) -> None:
        """Post a task for the agent to carry out what was approved, where it has a tool for it."""
        agent_id = item.agent_id or kind.agent_id
        by_id = {agent.agent_id: agent for agent in self._daemon.settings.agents}
        agent = by_id.get(agent_id)
        if not kind.releases or agent is None or agent.spec.release is None:
            return
        release = Release(kind=kind.name, id=item.id, review=review.id)
        await self._daemon.store.add_task(
            release.task_id, agent_id, release.goal, context=release.context
        )


async def find_items(store: Store, kind: Kind, wanted: ItemFilter) -> ItemPage:
    """Return a page of items.

    Args:
        store: Where they are.
        kind: What they are.
        wanted: Which of them, and which page.

    Raises:
        Problem: 422 if the item behind which the page begins is gone.
    """
    page = await items_of(store, kind, **dict(wanted))
    cursor = wanted.cursor
    if not page.items and cursor is not None and await item_of(store, kind, cursor) is None:
        raise page_is_gone(kind.name)
    return page


def _said(wanted: ItemDecision) -> Said:
    """Return what a decision says.

    Raises:
        Problem: 422, if it says nothing, or two things at once.
    """
    changes = changes_of(wanted)
    match wanted.approve, wanted.done:
        case True, None:
            verdict = Verdict.APPROVED
        case False, None if not changes:
            verdict = Verdict.REJECTED
        case None, True if not changes:
            verdict = Verdict.DONE
        case None, None if changes:
            verdict = Verdict.EDITED
        case _:
            detail = "Should have approve, true or false, or done, or else changes alone"
            raise unprocessable([FieldError(field="", detail=detail)])
    return Said(
        verdict=verdict,
        comment=wanted.comment,
        changes=changes,
        by=wanted.by or "API",
        seen=wanted.seen,
    )


def _not_there(kind: Kind) -> Problem:
    return Problem(404, f"There is no such {kind.one}.")
