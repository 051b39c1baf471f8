"""Lists that are answered page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from app.web.problem_details import FieldError
from app.web.problems import unprocessable

if TYPE_CHECKING:
    from pydantic import BaseModel

    from app.web.problems import Problem


def link_to_next(path: str, wanted: BaseModel, cursor: str | None) -> dict[str, str]:
    """Return the header that leads to the next page (RFC 8288).

    Args:
        path: The list.
        wanted: The query of this page.
        cursor: Where the next page begins; None where there is none, and so no header.
    """
    if cursor is None:
        return {}
    asked: dict[str, Any] = wanted.model_dump(mode="json", exclude_unset=True)
    address = f"{path}?{urlencode(asked | {'cursor': cursor})}"
    return {"Link": f'<{address}>; rel="next"'}


def page_is_gone(what: str) -> Problem:
    """Return what is answered where the row is gone behind which a page begins."""
    detail = f"That page is gone with its {what}; begin with the first one"
    return unprocessable([FieldError(field="cursor", detail=detail)])
