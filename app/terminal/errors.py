"""What can go wrong between a command and the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.web.problem_details import FieldError


class DaemonError(Exception):
    """The daemon does not do what is wanted. Its text is one line."""


class DaemonAwayError(DaemonError):
    """No daemon answers, or it cannot just now."""


class RefusedError(DaemonError):
    """The daemon refuses what was asked.

    Args:
        detail: The API's sentence.
        status: The HTTP status.
        errors: What is wrong with which field, as the API has it.
    """

    def __init__(self, detail: str, *, status: int, errors: Sequence[FieldError] = ()) -> None:
        wrong = "; ".join(f"{error.field}: {error.detail}" for error in errors)
        super().__init__(f"the daemon refused: {wrong or detail}")
        self.status = status
