"""Errors as `application/problem+json` (RFC 9457), and nothing of ours in them."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from quart import Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from app.facts import to_json
from app.store.protocol import StoreUnavailable, TableMissing
from app.web.problem_details import FieldError, ProblemDetails

if TYPE_CHECKING:
    from quart_trio import QuartTrio

RETRY_AFTER = 5
"""Seconds after which a client may try again what failed for want of the store."""


class Problem(Exception):
    """An answer that says what went wrong.

    Args:
        status: The HTTP status.
        detail: One sentence for the caller, who reads it as it is.
        errors: What is wrong with which field.
        headers: Header fields to send along.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: list[FieldError] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}

    def response(self) -> Response:
        """Return the answer."""
        errors = None if self.errors is None else tuple(self.errors)
        body = ProblemDetails(
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            errors=errors,
        )
        return Response(
            json.dumps(to_json(body)),
            self.status,
            headers=self.headers,
            content_type="application/problem+json",
        )


def unprocessable(errors: list[FieldError]) -> Problem:
    """Return the problem of a request whose fields are wrong."""
    first = errors[0]
    detail = f"{first.field or 'The request body'}: {first.detail}"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(422, detail + more, errors=errors)


def answer_errors(app: QuartTrio) -> None:
    """Make every error that leaves a view of `app` a problem."""
    app.register_error_handler(Problem, _problem)
    app.register_error_handler(StoreUnavailable, _store_unavailable)
    app.register_error_handler(TableMissing, _table_missing)
    # Also what no other handler takes: it comes as an InternalServerError, already logged.
    app.register_error_handler(HTTPException, answer_http_error)


NOTHING_HERE: Final = "There is nothing at this address."
SOMETHING_WRONG: Final = "Something went wrong here; the log of the daemon says what."

_DETAILS = {
    400: "The request cannot be understood.",
    404: NOTHING_HERE,
    405: "This address does not take that method.",
    408: "The request body did not arrive in time.",
    413: "The request body is too large.",
    500: SOMETHING_WRONG,
}


async def _problem(error: Problem) -> Response:
    return error.response()


async def answer_http_error(error: HTTPException) -> Response:
    """Answer what no view has answered."""
    status = error.code or 500
    headers = {}
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
    return Problem(
        status, _DETAILS.get(status, HTTPStatus(status).phrase), headers=headers
    ).response()


async def _store_unavailable(_error: StoreUnavailable) -> Response:
    return Problem(
        503,
        "The store cannot be reached just now; try again later.",
        headers={"Retry-After": str(RETRY_AFTER)},
    ).response()


async def _table_missing(_error: TableMissing) -> Response:
    return Problem(
        503,
        "A table of the store is missing; start the daemon with --dry-run to see which.",
        headers={"Retry-After": str(RETRY_AFTER)},
    ).response()
