"""What people have said of the rows of the agents' own tables: a draft, an action, a deal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from app.store.verbs import Noun, verb


class Verdict(StrEnum):
    """What a person has said of a row."""

    APPROVED = "approved"
    REJECTED = "rejected"
    EDITED = "edited"
    DONE = "done"
    """It was carried out, by hand or by a program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReview:
    """What a person says of a row."""

    id: str
    table_name: str
    row_id: str
    verdict: Verdict
    comment: str | None
    reviewed_by: str
    """Who, and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewRow:
    """One review (`actp_reviews`)."""

    id: str
    table_name: str
    """The table of the row that it is about."""
    row_id: str
    verdict: Verdict
    comment: str | None
    before: dict[str, Any]
    """The columns that it changed, as they were."""
    after: dict[str, Any]
    """The same columns, as they became."""
    reviewed_by: str
    """Who said it, and where."""
    reviewed_at: datetime


class Reviews(Noun):
    """What people have said of rows of the agents' own tables (`actp_reviews`)."""

    @verb
    async def review_row(
        self, review: NewReview, *, shown: dict[str, Any], changes: dict[str, Any]
    ) -> ReviewRow | None:
        """Change a row by a person's word and keep who said it, as one step.

        None, and nothing has changed, if the row is not there, or is not as it was shown. Said
        again under the same id it is done once.

        Args:
            review: Who says what of which row.
            shown: Columns of the row as the person saw them; those that change are among them.
            changes: What they become.
        """

    @verb
    async def reviews(
        self,
        *,
        table_name: str | None = None,
        row_ids: list[str] | None = None,
        verdict: Verdict | None = None,
        limit: int = 200,
    ) -> list[ReviewRow]:
        """Return reviews, the newest first.

        Args:
            table_name: Only those of rows of this table.
            row_ids: Only those of these rows.
            verdict: Only those that say this.
            limit: The most to return.
        """
