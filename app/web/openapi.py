"""`/openapi.json` and `/api`: what can be asked of the daemon, for programs and for people."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from quart import Response

import actp_supervise
from actp_supervise.clock import SystemWallClock, WallClock
from app.web.api import Api
from app.web.inputs import OBJECT_SCHEMA, STORABLE_SCHEMA, VALUE_SCHEMA, TaskRequest
from app.web.item_pages import ItemPages
from app.web.items import Items
from app.web.live import Live
from app.web.login import Login, is_open_to_read
from app.web.page import Templates
from app.web.pages import Pages
from app.web.problem_details import ProblemDetails
from app.web.routes import HEADERS, HTML, PATH_PARAMETERS, TAGS, Route, get, page, routes_of
from app.web.schemas import REFERENCE, Schema, plain_schema, schemas_of, without_null
from app.web.scrape import Scrape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

    from app.daemon import Daemon

PROBLEM: Final = "application/problem+json"

Named = dict[Any, Schema]
"""Type that is answered -> its schema."""

PROBLEMS: Final = {
    400: "The body is not JSON, or a header is malformed.",
    401: "The token is missing or wrong.",
    403: "The request comes from another site, or is a prefetch.",
    404: "There is no such thing; where it helps, `detail` names those that there are.",
    408: "The body did not arrive in time.",
    409: "It cannot be done in the state things are in; `detail` says why.",
    413: "The body is too large.",
    415: "The body is not `application/json`.",
    421: "The server does not answer under that Host.",
    422: "The JSON or the query is not what is wanted; `errors` says where.",
    429: "There were too many wrong tokens from this address.",
    500: "A mistake of the daemon's own. Its log has it.",
    503: "Not now: the store is away, or the daemon starts or stops.",
}

_MEANINGS: Final = {
    200: "As asked.",
    201: "It is there now; `Location` is its address.",
    202: "It has begun; `Location` says where to see what becomes of it.",
    204: "Done; there is nothing to show.",
    304: "The browser has it already.",
    503: "The daemon is critical.",
}

_TEXT: Final = {"type": "string"}

_PROBLEM_HEADERS: Final = {
    401: {"WWW-Authenticate": {"required": True, "schema": _TEXT}},
    429: {"Retry-After": {"required": True, "schema": {"type": "integer"}}},
    503: {
        "Retry-After": {
            "description": "Seconds after which to try again, where the store is away.",
            "schema": {"type": "integer"},
        }
    },
}

_LOCATION: Final = {
    "Location": {"required": True, "schema": {"type": "string", "format": "uri-reference"}}
}

_NEXT_PAGE: Final = {
    "Link": {
        "description": 'The address of the next page, where there is one: `<...>; rel="next"`.',
        "schema": _TEXT,
    }
}

_LINKS: Final = {
    name: {"operationId": name, "parameters": {"task_id": "$response.body#/id"}}
    for name in ("task", "turns", "cancel_task", "retry_task", "task_page")
}
"""What can be asked about a task that was posted."""

_DESCRIPTION: Final = (
    "The state of the worker daemon, and commands to it. Moments are ISO 8601 in UTC, durations "
    "seconds, money US dollars; what is unknown is null. Errors are problems as RFC 9457 has them. "
    "Fields may be added in later versions, so ignore what you do not know. HEAD is taken wherever "
    "GET is."
)


class Description:
    """What answers at `/openapi.json` and `/api`.

    Args:
        daemon: The running daemon's parts.
        wall_clock: Tells the time of day; the machine's where not given.
    """

    def __init__(self, daemon: Daemon, *, wall_clock: WallClock | None = None) -> None:
        self._daemon = daemon
        self._wall_clock = SystemWallClock() if wall_clock is None else wall_clock
        self._templates = Templates(daemon.redact, demo=daemon.settings.demo)
        self._made: tuple[tuple[str, ...], Schema, str] | None = None
        """The agents that there were, the description, and the same as it is sent."""

    def _document(self) -> Schema:
        """Return the description, made when it is asked for and agents have come or gone since."""
        agent_ids = tuple(self._daemon.supervisor.get_status())
        if self._made is None or self._made[0] != agent_ids:
            settings = self._daemon.settings
            made = document(
                agent_ids,
                secured=settings.api_token is not None,
                read_secured=settings.read_token is not None,
            )
            self._made = agent_ids, made, json.dumps(made)
        return self._made[1]

    def _written(self) -> str:
        self._document()
        return "" if self._made is None else self._made[2]

    @get("/openapi.json", "This description, for programs (OpenAPI 3.1)", "application/json")
    async def _openapi(self) -> Response:
        return Response(self._written(), content_type="application/json")

    @page("/api", "This description, for people")
    async def _api_page(self) -> Response:
        shown = self._templates.render(
            "api.html",
            now=self._wall_clock.now(),
            timezone=self._daemon.settings.timezone,
            health=self._daemon.health(),
            api=self._document(),
            secured=self._daemon.settings.api_token is not None,
            by_tag=by_tag(self._document()),
        )
        return shown.response()


PARTS: Final = (Api, Items, Live, Scrape, Description, Pages, ItemPages, Login)
"""What answers, in the order in which it is described."""

ROUTES: Final = tuple(route for part in PARTS for route, _ in routes_of(part) if route.summary)
"""All that is described."""


def document(agent_ids: Sequence[str], *, secured: bool, read_secured: bool = False) -> Schema:
    """Return the description as OpenAPI 3.1 has it.

    Args:
        agent_ids: Who can be given a task.
        secured: Whether what changes something needs the token.
        read_secured: Whether what only reads needs one, too.
    """
    answered = [kind for route in ROUTES for kind in route.answers.values()]
    named, schemas = schemas_of(
        [ProblemDetails, *(kind for kind in answered if not isinstance(kind, str))]
    )
    schemas["Value"] = VALUE_SCHEMA
    paths: dict[str, Schema] = {}
    for route in ROUTES:
        if route.changes:
            needs_token = secured and route.needs_token
        else:
            needs_token = read_secured and not is_open_to_read(route.rule)
        described = _operation(route, named, secured=needs_token)
        paths.setdefault(address(route.rule), {})[route.method.lower()] = described
        if route.body is not None:
            schemas[route.body.__name__] = _body_schema(route.body)
            schemas |= {
                name: schema for name, schema in _within(route.body).items() if name not in schemas
            }
    # One that only another daemon has is taken too, but when this is written nobody knows it.
    schemas[TaskRequest.__name__]["properties"]["agent_type"]["enum"] = list(agent_ids)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Worker daemon",
            "version": actp_supervise.__version__,
            "description": _DESCRIPTION,
        },
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The value of WORKER_API_TOKEN, where it is set; to read, "
                    "where WORKER_READ_TOKEN is set, the value of either. A browser reads by the "
                    "cookie of a login too.",
                }
            },
        },
    }


def address(rule: str) -> str:
    """Return the address of a route as OpenAPI writes it.

    >>> address("/agents/<agent_id>/status")
    '/agents/{agent_id}/status'
    """
    return re.sub(r"<(\w+)>", r"{\1}", rule)


def by_tag(api: Schema) -> dict[str, list[tuple[str, str, Schema]]]:
    """Return tag -> method, address and description of all that has it."""
    operations = [
        (method.upper(), path, operation)
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    ]
    return {
        tag["name"]: [each for each in operations if tag["name"] in each[2]["tags"]]
        for tag in api["tags"]
    }


def _operation(route: Route, named: Named, *, secured: bool) -> Schema:
    described: Schema = {"operationId": route.id, "tags": [route.tag], "summary": route.summary}
    if route.details:
        described["description"] = route.details
    parameters = [*_path(route.rule), *_query(route), *_headers(route)]
    if parameters:
        described["parameters"] = parameters
    if route.body is not None:
        schema = {"$ref": REFERENCE.format(model=route.body.__name__)}
        described["requestBody"] = {
            "required": route.needs_body,
            "content": {"application/json": {"schema": schema}},
        }
    described["responses"] = _responses(route, named, secured=secured)
    if secured:
        described["security"] = [{"bearer": []}]
    return described


def _path(rule: str) -> list[Schema]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": description,
            "schema": _TEXT,
            "example": example,
        }
        for segment, name in re.findall(r"(\w+)/<(\w+)>", rule)
        for description, example in [PATH_PARAMETERS[f"{segment}/<{name}>"]]
    ]


def _query(route: Route) -> list[Schema]:
    parameters: list[Schema] = [
        {"name": name, "in": "query", "description": text, "schema": _TEXT}
        for name, text in route.flags
    ]
    fields = {} if route.query is None else _input_schema(route.query)["properties"]
    for name, field in fields.items():
        parameter = {"name": name, "in": "query", "description": field.pop("description")}
        parameters.append({**parameter, "schema": without_null(field)})
    return parameters


def _headers(route: Route) -> list[Schema]:
    return [
        {"name": name, "in": "header", "description": text, "schema": schema}
        for name in route.headers
        for text, schema in [HEADERS[name]]
    ]


def _responses(route: Route, named: Named, *, secured: bool) -> Schema:
    responses = {
        status: _answer(status, shape, named, route) for status, shape in route.answers.items()
    }
    every = [421, 500]
    if route.changes:
        every.append(403)
    if secured:
        every.append(401)
    if route.method in {"POST", "PUT"}:
        every += [408, 413, 415]
    for status in (*every, *route.problems):
        if route.pages and status in route.problems:
            content = {HTML: {"schema": _TEXT}}
        else:
            content = {PROBLEM: {"schema": named[ProblemDetails]}}
        responses[status] = {"description": PROBLEMS[status], "content": content}
        if status in _PROBLEM_HEADERS:
            responses[status]["headers"] = _PROBLEM_HEADERS[status]
    return {str(status): responses[status] for status in sorted(responses)}


def _answer(status: int, shape: Any, named: Named, route: Route) -> Schema:  # noqa: ANN401
    answer: Schema = {"description": _MEANINGS[status]}
    if not isinstance(shape, str):
        answer["content"] = {"application/json": {"schema": named[shape]}}
    elif shape:
        schema = {"type": "object"} if shape == "application/json" else _TEXT
        answer["content"] = {shape: {"schema": schema}}
    if route.changes and status in {201, 202}:
        answer["headers"] = _LOCATION
    if route.has_pages:
        answer["headers"] = _NEXT_PAGE
    if route.body is TaskRequest:
        answer["links"] = _LINKS
    return answer


def _input_schema(model: type[BaseModel]) -> Schema:
    """Return the schema of what is sent; what it refers to is among the answers' schemas."""
    schema = plain_schema(model.model_json_schema(ref_template=REFERENCE))
    schema.pop("$defs", None)
    return schema


def _within(model: type[BaseModel]) -> dict[str, Schema]:
    """Return the schemas of the objects that stand within what is sent, by name."""
    schema = model.model_json_schema(ref_template=REFERENCE)
    return {name: plain_schema(each) for name, each in schema.get("$defs", {}).items()}


def _body_schema(model: type[BaseModel]) -> Schema:
    schema = _input_schema(model)
    for field in schema["properties"].values():
        _say_what_is_storable(field)
    return schema


def _say_what_is_storable(schema: Schema) -> None:
    """Add to a field of a body what `parse_body` asks of all its text, at whatever depth."""
    if schema.get("additionalProperties") is True:
        schema |= OBJECT_SCHEMA  # pydantic cannot refer to what is not its own
    if "string" in schema.get("type", ()) and not schema.keys() & {"pattern", "format", "enum"}:
        schema["pattern"] = STORABLE_SCHEMA["pattern"]
    for option in schema.get("anyOf", ()):
        _say_what_is_storable(option)
