"""Why a request was not done, as RFC 9457 has it: what the server writes and a command reads."""

from __future__ import annotations

from typing import Annotated, Literal

from app.facts import LEFT_OUT, fact


@fact
class FieldError:
    """What is wrong with one field of a request."""

    field: str
    """Its name; nested ones as `context.items.0`. Empty for the whole body."""
    detail: str


@fact
class ProblemDetails:
    """Why a request was not done (RFC 9457)."""

    type: Literal["about:blank"] = "about:blank"
    title: str
    """What the status means."""
    status: int
    detail: str
    """One sentence for people."""
    errors: Annotated[tuple[FieldError, ...] | None, LEFT_OUT] = None
    """What is wrong with which field; with 422 only."""
