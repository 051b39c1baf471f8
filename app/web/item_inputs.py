"""What callers send about drafts, actions, deals, goals and reports, read strictly."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.web.inputs import MAX_COMMENT, MAX_LIMIT, Id, Moment

_STRICT: Final = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


def _without_defaults(schema: dict[str, Any]) -> None:
    """What is not given of changes stays as it is, whatever the default of its field."""
    for field in schema["properties"].values():
        field.pop("default", None)


_CHANGES: Final = ConfigDict(**_STRICT, json_schema_extra=_without_defaults)

Word = Annotated[str, Field(min_length=1, max_length=200)]
Line = Annotated[str, Field(min_length=1, max_length=500)]
Text = Annotated[str, Field(min_length=1, max_length=20_000)]
Amount = Annotated[float, Field(ge=-1e12, le=1e12)]


_QUERY: Final = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

_CarriedOut = Literal["approved", "rejected", "done", "failed", "unknown"]
_LookedAt = Literal["new", "approved", "rejected"]


class ItemFilter(BaseModel):
    """What all queries of lists have."""

    model_config = _QUERY

    agent_id: Id | None = None
    """The agent that made them."""
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 50
    """The most to list."""
    cursor: Id | None = None
    """Those behind an item, as the `Link` of the page before has it."""


class DraftFilter(ItemFilter):
    """The query of `GET /drafts`."""

    status: Literal["draft"] | _CarriedOut | None = None
    """Where they stand."""


class ActionFilter(ItemFilter):
    """The query of `GET /actions`."""

    status: Literal["queued", "skipped"] | _CarriedOut | None = None
    """Where they stand."""


class DealFilter(ItemFilter):
    """The query of `GET /deals`."""

    status: _LookedAt | None = None
    """Where they stand."""


class GoalFilter(ItemFilter):
    """The query of `GET /goals`."""

    status: _LookedAt | None = None
    """Where they stand."""


class ReportFilter(ItemFilter):
    """The query of `GET /reports`."""

    status: _LookedAt | None = None
    """Where they stand."""


FILTERS: Final[dict[str, type[ItemFilter]]] = {
    "drafts": DraftFilter,
    "actions": ActionFilter,
    "deals": DealFilter,
    "goals": GoalFilter,
    "reports": ReportFilter,
}
"""The query of a list of each kind of items."""


_NOTHING: Final[dict[str, Any]] = {"type": "null"}
_NO_CHANGES: Final[dict[str, Any]] = {"anyOf": [_NOTHING, {"type": "object", "maxProperties": 0}]}

_ONE_DECISION: Final[list[dict[str, Any]]] = [
    {
        "required": [wanted],
        "properties": {"approve": _NOTHING, "done": _NOTHING, "changes": _NO_CHANGES} | values,
    }
    for wanted, values in (
        ("approve", {"approve": {"const": True}, "changes": {}}),
        ("approve", {"approve": {"const": False}}),
        ("done", {"done": {"const": True}}),
        ("changes", {"changes": {"type": "object", "minProperties": 1}}),
    )
]
"""JSON Schema: it is approved, perhaps with changes, or rejected, or carried out, or changed."""


class ItemDecision(BaseModel):
    """What all decisions about an item have; one of `approve`, `done` and `changes` is needed."""

    model_config = ConfigDict(**_STRICT, json_schema_extra={"anyOf": list(_ONE_DECISION)})

    approve: bool | None = None
    """True approves it, false rejects it; with `changes` it is changed, and approved as it is
    then."""
    done: Literal[True] | None = None
    """It was carried out; in place of `approve`."""
    comment: Annotated[str, Field(min_length=1, max_length=MAX_COMMENT)] | None = None
    """Why; the agent reads it when it does the like again."""
    by: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Who decides, as it is to be kept; *API* where not given."""
    seen: Moment | None = None
    """`updated_at` of the item that was looked at: one that has changed since is a 409."""


class DraftChanges(BaseModel):
    """What may be changed of a draft; what is not given stays."""

    model_config = _CHANGES

    name: Word = ""
    """What it is called."""
    platform: Word = ""
    """Where it is to appear."""
    hook: Line = ""
    """Its first line."""
    body: Text = ""
    """The rest."""
    tags: Annotated[list[Word], Field(max_length=20)] = []
    """Words to find it by."""


class ActionChanges(BaseModel):
    """What may be changed of an action; what is not given stays."""

    model_config = _CHANGES

    platform: Word = ""
    """Where."""
    target: Line = ""
    """The address or handle of a post or person."""
    content: Text | None = None
    """What is said."""
    reason: Text | None = None
    """Why it is worth doing."""


class DealChanges(BaseModel):
    """What may be changed of a deal; what is not given stays."""

    model_config = _CHANGES

    name: Word = ""
    """The person or the project."""
    company: Word | None = None
    """Whose deal it is."""
    contact: Word | None = None
    """How they are reached."""
    source: Line | None = None
    """Where they were found."""
    stage: Literal["prospect", "contacted", "qualified", "proposal", "won", "lost"] = "prospect"
    """How far it is."""
    value_usd: Amount | None = None
    """What it may be worth, in US dollars."""
    next_action: Word | None = None
    """One concrete step."""
    next_action_at: Moment | None = None
    """When that is due."""
    notes: Text | None = None
    """What is known."""


class GoalChanges(BaseModel):
    """What may be changed of a goal; what is not given stays."""

    model_config = _CHANGES

    target: Amount = 0.0
    """What is to be reached."""
    actual: Amount | None = None
    """What it has reached so far."""
    notes: Text | None = None
    """What is worth knowing."""


class ReportChanges(BaseModel):
    """What may be changed of a report; what is not given stays."""

    model_config = _CHANGES

    text: Text = ""
    """What it says."""


class DraftDecision(ItemDecision):
    """The body of `POST /drafts/<draft_id>`."""

    changes: DraftChanges | None = None
    """What is changed of it."""


class ActionDecision(ItemDecision):
    """The body of `POST /actions/<action_id>`."""

    changes: ActionChanges | None = None
    """What is changed of it."""


class DealDecision(ItemDecision):
    """The body of `POST /deals/<deal_id>`."""

    changes: DealChanges | None = None
    """What is changed of it."""


class GoalDecision(ItemDecision):
    """The body of `POST /goals/<goal_id>`."""

    changes: GoalChanges | None = None
    """What is changed of it."""


class ReportDecision(ItemDecision):
    """The body of `POST /reports/<report_id>`."""

    changes: ReportChanges | None = None
    """What is changed of it."""


BODIES: Final[dict[str, type[ItemDecision]]] = {
    "drafts": DraftDecision,
    "actions": ActionDecision,
    "deals": DealDecision,
    "goals": GoalDecision,
    "reports": ReportDecision,
}
"""The body of a decision about each kind of items."""


def changes_of(decision: ItemDecision) -> dict[str, Any]:
    """Return what is changed by a decision: what was given alone."""
    changes: BaseModel | None = getattr(decision, "changes", None)
    return {} if changes is None else changes.model_dump(exclude_unset=True)


LINES: Final[dict[str, tuple[str, ...]]] = {
    "drafts": ("name", "platform"),
    "actions": ("platform", "target"),
    "deals": ("name", "company", "contact", "source", "stage", "value_usd", "next_action"),
    "goals": ("target", "actual"),
    "reports": (),
}
"""What a form has a line for; of each kind of items."""

TEXTS: Final[dict[str, tuple[str, ...]]] = {
    "drafts": ("hook", "body"),
    "actions": ("content", "reason"),
    "deals": ("notes",),
    "goals": ("notes",),
    "reports": ("text",),
}
"""What a form has a field of several lines for."""
