"""What can be asked over HTTP, declared at the view that answers it.

::

    @get("/tasks/<task_id>", "One task", TaskRow, problems=(404, 503))
    async def _task(self, task_id: str) -> Response: ...

The router, the API's description and the test of the reference are made of that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel
from quart import Response

from app.items import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator


HTML: Final = "text/html"

View = Callable[..., Awaitable[Response]]
ViewT = TypeVar("ViewT", bound=View)

HEADERS: Final = {
    "Idempotency-Key": (
        "Makes it safe to ask again after a lost answer: the same key gives the same task.",
        {"type": "string", "pattern": "^[!-~]{1,255}$"},
    ),
    "Last-Event-ID": (
        "The id of the last event that was received, to go on after it.",
        {"type": "string"},
    ),
}

PATH_PARAMETERS: Final = {
    "agents/<agent_id>": ("The agent.", "content"),
    "approvals/<approval_id>": ("The approval.", "9f4b2c1d0e8a47b6a1c35d7e2f60b984"),
    "tasks/<task_id>": ("The task.", "0f9d2b52-6c3e-5d0b-9d43-0b0f6d1c8b57"),
    **{
        f"{kind.name}/<item_id>": (f"The {kind.one}.", "3f8a1c5e9d2b4706a8e1c4f09b7d6253")
        for kind in KINDS.values()
    },
    "jobs/<name>": ("The job.", "revenue.run_cost_audit"),
    "static/<name>": ("The file.", "style.css"),
}
"""The end of an address and its variable -> what it names, with an example."""

TAGS: Final = {
    "Health": "Is all well? For load balancers, monitoring and people.",
    "Agents": "The agents of this daemon, what they do, and commands to them.",
    "Tasks": "The queue: what agents are to do, do, and have done.",
    "Approvals": "What agents may do only once a person has said so.",
    "What agents make": "Drafts, actions, deals, goals and reports, and decisions about them.",
    "Scheduler": "The agents' routines and when they run.",
    "Live": "What happens, as it happens.",
    "Pages": "The same for people.",
}

_TAG_OF: Final = {
    **dict.fromkeys(("health", "livez", "readyz", "tree", "workers"), "Health"),
    "agents": "Agents",
    "tasks": "Tasks",
    "approvals": "Approvals",
    **dict.fromkeys(KINDS, "What agents make"),
    "scheduler": "Scheduler",
    **dict.fromkeys(("events", "metrics"), "Live"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one address."""

    method: str
    rule: str
    """The address as the router has it, as in ``/tasks/<task_id>``."""
    id: str
    """The view's name where none is given."""
    summary: str
    """One line; what has none is left out of the description."""
    tag: str
    """That of its first segment where none is given."""
    details: str = ""
    answers: Mapping[int, Any] = field(default_factory=dict)
    """Status -> the type that is answered as JSON, or a media type; problems excepted."""
    problems: tuple[int, ...] = ()
    """Statuses of problems, besides those that every request may meet."""
    query: type[BaseModel] | None = None
    flags: tuple[tuple[str, str], ...] = ()
    """Other parameters of the query, with what they mean."""
    headers: tuple[str, ...] = ()
    """Header fields that it reads: names in `HEADERS`."""
    body: type[BaseModel] | None = None
    needs_body: bool = True
    """Whether that has to be there."""
    changes: bool = False
    """Whether it changes something, so that the checks for that apply."""
    needs_token: bool = True
    """Whether what it changes needs the token."""
    has_pages: bool = False
    """Whether it answers page by page, with a `Link` to the next one."""
    pages: bool = False
    """Whether its problems are pages too."""
    refuses: bool = False
    """Whether it is there only to refuse the method, for an address that looks like another."""

    def __str__(self) -> str:
        return f"{self.method} {self.rule}"


def get(
    rule: str,
    summary: str = "",
    answer: Any = None,  # noqa: ANN401  (a type, or a media type)
    **facts: Any,  # noqa: ANN401  (the fields of `Route`)
) -> Callable[[ViewT], ViewT]:
    """Declare what a view answers to a GET: with 200 and `answer`, where that is given."""
    return _declared("GET", rule, summary, answer, **facts)


def put(
    rule: str,
    summary: str = "",
    answer: Any = None,  # noqa: ANN401  (a type)
    **facts: Any,  # noqa: ANN401  (the fields of `Route`)
) -> Callable[[ViewT], ViewT]:
    """Declare what a view answers to a PUT, which sets something to what the body says."""
    return _declared("PUT", rule, summary, answer, changes=True, **facts)


def post(
    rule: str,
    summary: str = "",
    answer: Any = None,  # noqa: ANN401  (a type)
    **facts: Any,  # noqa: ANN401  (the fields of `Route`)
) -> Callable[[ViewT], ViewT]:
    """Declare what a view answers to a POST, which changes something."""
    return _declared("POST", rule, summary, answer, changes=True, **facts)


def page(rule: str, summary: str, *problems: int, **facts: Any) -> Callable[[ViewT], ViewT]:  # noqa: ANN401
    """Declare a page for people."""
    return get(rule, summary, HTML, problems=problems, pages=bool(problems), **facts)


def _declared(
    method: str,
    rule: str,
    summary: str,
    answer: Any,  # noqa: ANN401
    **facts: Any,  # noqa: ANN401
) -> Callable[[ViewT], ViewT]:
    if answer is not None:
        facts["answers"] = {200: answer}
    facts.setdefault("tag", _TAG_OF.get(rule.split("/")[1], "Pages"))

    def declare(view: ViewT) -> ViewT:
        named = {"id": view.__name__.strip("_")} | facts
        route = Route(method=method, rule=rule, summary=summary, **named)
        # Decorators are applied from below, and are read from above.
        vars(view)["routes"] = (route, *vars(view).get("routes", ()))
        return view

    return declare


def routes_of(part: type[object]) -> Iterator[tuple[Route, str]]:
    """Return the routes that a class declares, with the name of the method that answers each."""
    for name, view in vars(part).items():
        for route in getattr(view, "routes", ()):
            yield route, name
