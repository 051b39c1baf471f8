"""What callers send, read strictly: unknown fields, wrong types and unstorable text are refused."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from app.event_log import KEPT
from app.setting_values import LONGEST
from app.store.protocol import ApprovalStatus, TaskStatus
from app.web.problem_details import FieldError
from app.web.problems import Problem, unprocessable

if TYPE_CHECKING:
    from werkzeug.datastructures import MultiDict

    from app.event_log import LoggedEvent

MAX_GOAL: Final = 16_000
"""Characters of a task's goal."""

MAX_COMMENT: Final = 4_000
"""Characters of a comment on a decision."""

MAX_DEPTH: Final = 20
"""How deep lists and objects may be nested in a body."""

MAX_LIMIT: Final = 200
"""Tasks in one list."""

MAX_SEARCH: Final = 200
"""Characters of what is searched for."""

MAX_BULK: Final = 1_000
"""Tasks that one request retries or cancels."""

_ID: Final = r"^[A-Za-z0-9_-]{1,64}$"

Id = Annotated[str, Field(pattern=_ID)]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "Should not be blank")
    return text


def _integral(value: object) -> object:
    """Take 1.0 for 1, as JSON Schema does."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


STORABLE_SCHEMA: Final = {"type": "string", "pattern": r"^[^\u0000]*$"}
"""A text inside of a body, as JSON Schema."""

OBJECT_SCHEMA: Final = {
    "type": "object",
    "propertyNames": STORABLE_SCHEMA,
    "additionalProperties": {"$ref": "#/components/schemas/Value"},
}
"""An object inside of a body with whatever the caller likes, as JSON Schema."""

VALUE_SCHEMA: Final[dict[str, Any]] = {
    "description": (
        f"Any JSON whose text holds no NUL and no lone surrogate, whose integers fit into 64 bits, "
        f"and that is nested at most {MAX_DEPTH} levels deep, the body itself included."
    ),
    "anyOf": [
        {"type": ["null", "boolean"]},
        STORABLE_SCHEMA,
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "number", "not": {"type": "integer"}},
        {"type": "array", "items": {"$ref": "#/components/schemas/Value"}},
        OBJECT_SCHEMA,
    ],
}
"""What `parse_body` takes inside of such an object."""


def _moment(value: object) -> object:
    """Read a moment, which needs a time zone."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is not None and moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):  # of a moment at the edge of the calendar
        pass
    raise PydanticCustomError("moment", "Should be a time as in 2026-12-01T08:00:00+01:00")


def _day_or_moment(value: object) -> object:
    """Read a day, or a moment whose plus has become a space, as in addresses it does."""
    if not isinstance(value, str):
        return value
    if _DAY.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            return _moment(None)
    return _moment(_PLUS_LOST.sub("+", value))


_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_PLUS_LOST: Final = re.compile(r"(?<=[\d.]) (?=\d\d:?\d\d$)")

DayOrMoment = Annotated[datetime | date, BeforeValidator(_day_or_moment)]
"""A day alone, or a moment in ISO 8601 with its time zone."""

Moment = Annotated[datetime, BeforeValidator(_moment)]
"""A moment in ISO 8601, with its time zone."""


class TaskRequest(BaseModel):
    """The body of `POST /agents/task`."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    agent_type: Id
    """The id of the agent that is to do it."""
    goal: Annotated[
        str,
        Field(
            max_length=MAX_GOAL,
            json_schema_extra={"pattern": r"^[^\u0000]*[^\s\u0000][^\u0000]*$"},
        ),
        AfterValidator(_not_blank),
    ]
    """What is to be done; not blank."""
    context: dict[str, Any] = {}
    """Whatever the agent should know."""
    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1), BeforeValidator(_integral)] = 0
    """Higher comes first; equal ones by age."""
    not_before: Moment | None = None
    """When it may begin; at once where that is over."""
    timeout: Annotated[float, Field(gt=0, le=LONGEST)] | None = None
    """Seconds that one attempt may take."""
    max_attempts: Annotated[int, Field(ge=1, le=100), BeforeValidator(_integral)] = 3
    """How often it is tried before it fails."""
    unique_key: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Of one agent's tasks that wait or run, no two have the same; then the one there is given."""


def _status(value: object) -> object:
    return TaskStatus(str(value)) if value in list(TaskStatus) else value


By = Annotated[str, Field(min_length=1, max_length=200)] | None
"""Who says something, which is believed."""


class TimeOfRoutine(BaseModel):
    """The body of `PUT /scheduler/jobs/{name}`."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    cron: Annotated[str, Field(min_length=1, max_length=200)] | None
    """When it is to run, as a cron expression; null for as it is configured."""
    by: By = None
    """Who says so, as it is to be kept."""


class Said(BaseModel):
    """The body of a command, which may be left out."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    by: By = None
    """Who says so, as it is to be kept; *an operator* where not given."""


class TaskFilter(BaseModel):
    """The query of `GET /tasks`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    status: TaskStatus | None = None
    """Where they stand."""
    agent_type: Id | None = None
    """The agent that is to do them."""
    q: Annotated[str, Field(min_length=1, max_length=MAX_SEARCH)] | None = None
    """Those whose goal or error contains it, upper and lower case alike; also the id of a task, or
    six of its first characters, and the id of an agent."""
    since: DayOrMoment | None = None
    """Those made then or later; a day begins in the worker's zone."""
    until: DayOrMoment | None = None
    """Those made before that moment, or before the end of that day."""
    cursor: Id | None = None
    """Those behind a task, as the `Link` of the page before has it."""
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 50
    """The most to list."""


class ApprovalFilter(BaseModel):
    """The query of `GET /approvals`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    status: ApprovalStatus | None = None
    """Where they stand."""
    task_id: Id | None = None
    """The task that asked."""
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 50
    """The most to list."""


class Decision(BaseModel):
    """The body of `POST /approvals/<approval_id>`."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        json_schema_extra={
            "not": {
                "required": ["arguments"],
                "properties": {"approve": {"const": False}, "arguments": {"type": "object"}},
            }
        },
    )

    approve: bool
    """Whether the tool may be called."""
    comment: Annotated[str, Field(max_length=MAX_COMMENT)] | None = None
    """What the agent is told, as the operator's words."""
    arguments: dict[str, Any] | None = None
    """What the tool is to be called with instead; only where it is approved."""
    by: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Who decides, as it is to be kept; *API* where not given."""


class BulkRequest(BaseModel):
    """The body of `POST /tasks/retry` and `POST /tasks/cancel`: which tasks."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    agent_type: Id | None = None
    """Those of one agent."""
    status: Annotated[TaskStatus, BeforeValidator(_status)] | None = None
    """Those that stand there."""
    text: Annotated[str, Field(min_length=1, max_length=MAX_SEARCH)] | None = None
    """Those whose goal contains it, upper and lower case alike."""
    q: Annotated[str, Field(min_length=1, max_length=MAX_SEARCH)] | None = None
    """Those that `GET /tasks` finds with it."""
    since: DayOrMoment | None = None
    """Those made then or later; a day begins in the worker's zone."""
    until: DayOrMoment | None = None
    """Those made before that moment, or before the end of that day."""
    limit: Annotated[int, Field(ge=1, le=MAX_BULK), BeforeValidator(_integral)] = MAX_BULK
    """The most at once, the oldest first."""
    dry_run: bool = False
    """Only say how many it would concern."""


class TurnFilter(BaseModel):
    """The query of `GET /tasks/<task_id>/turns`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    after: Id | None = None
    """The id of the last turn that is known."""
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = MAX_LIMIT
    """The most to list."""


class LogFilter(BaseModel):
    """The query of `GET /agents/<agent_id>/log`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    after: Annotated[int, Field(ge=0)] = 0
    """The id of the last line that is known."""
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = MAX_LIMIT
    """The most to list, of which the newest."""


class EventFilter(BaseModel):
    """The query of `GET /events`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    agent_id: Id | None = None
    """Only what is about this agent."""
    task_id: Id | None = None
    """Only what is about this task."""
    recent: Annotated[int, Field(ge=0, le=KEPT)] = 0
    """How many of those before to begin with."""

    def matches(self, event: LoggedEvent) -> bool:
        """Whether an event is wanted."""
        return self.agent_id in (None, event.agent_id) and self.task_id in (None, event.task_id)


_WORDS: Final = {
    "extra_forbidden": "Unknown field",
    "model_type": "Should be a JSON object",
}

ModelT = TypeVar("ModelT", bound=BaseModel)


def parse_body(model: type[ModelT], body: bytes) -> ModelT:
    """Read a JSON body.

    Raises:
        Problem: 400 for what is no JSON, 422 for JSON that is not what is wanted.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_int,
            object_pairs_hook=_unique_object,
        )
    except RecursionError:
        raise Problem(400, "The request body is nested too deeply.") from None
    except ValueError as error:
        raise Problem(400, f"The request body is not JSON: {_in_words(error)}.") from None
    fault = _unstorable(value, (), MAX_DEPTH)
    if fault is not None:
        raise unprocessable([fault])
    return _validated(model, value)


def parse_query(model: type[ModelT], args: MultiDict[str, str]) -> ModelT:
    """Read the parameters of a query.

    Raises:
        Problem: 422 for parameters that are unknown, given twice or not what is wanted.
    """
    known = model.model_fields.keys()
    # One that is not known is not named: what an answer repeats of a request is looked through for
    # secrets, and so would tell whether it was one.
    if not args.keys() <= known:
        detail = f"There is a parameter that is not known; known are {', '.join(known)}"
        raise unprocessable([FieldError(field="", detail=detail)])
    twice = [name for name, values in args.lists() if len(values) > 1]
    if twice:
        raise unprocessable([FieldError(field=name, detail="Given twice") for name in twice])
    return _validated(model, args.to_dict())


def is_id(text: str) -> bool:
    """Whether a text can be an id at all; what cannot is not there, whatever the store says."""
    return re.fullmatch(_ID, text) is not None


def _validated(model: type[ModelT], value: object) -> ModelT:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise unprocessable(
            [
                FieldError(
                    field=_path(fault["loc"]), detail=_WORDS.get(fault["type"], fault["msg"])
                )
                for fault in error.errors(include_url=False, include_context=False)
            ]
        ) from None


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))


def _unstorable(value: object, path: tuple[int | str, ...], depth: int) -> FieldError | None:
    """Find the first text in `value` that no database takes, or where it is nested too deeply."""
    if isinstance(value, str):
        fault = _unstorable_text(value)
        return FieldError(field=_path(path), detail=fault) if fault else None
    if not isinstance(value, dict | list):
        return None
    if depth == 0:
        return FieldError(field="", detail=f"Nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        for key in value:
            fault = _unstorable_text(key)
            if fault:
                return FieldError(field=_path(path), detail=f"In the name of a field: {fault}")
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        found = _unstorable(item, (*path, key), depth - 1)
        if found is not None:
            return found
    return None


def _unstorable_text(text: str) -> str | None:
    if "\0" in text:
        return "NUL characters are not allowed"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "Lone surrogates are not allowed"
    return None


class _NotJsonError(ValueError):
    """Something that Python's parser takes and JSON or a database does not."""


def _refuse_constant(name: str) -> NoReturn:
    raise _NotJsonError(f"{name} is not a JSON number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NotJsonError("a number is too large")
    return number


def _bounded_int(text: str) -> int:
    # Checked as text: reading a number of thousands of digits takes long.
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise _NotJsonError("an integer does not fit into 64 bits")
    return int(text)


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _NotJsonError("an object names a field twice")
    return value


def _in_words(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.rstrip('.').lower()} (line {error.lineno}, column {error.colno})"
    return str(error)
