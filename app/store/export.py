"""Copies the migrations into another repository, which keeps the history of a project."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from app.store.errors import StoreError
from app.store.functions import migrations

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path


def export(folder: Path, now: datetime) -> list[str]:
    """Copy the migrations into the `supabase/migrations` of another repository.

    The Supabase CLI refuses to push from a repository that lacks what another one has pushed, so
    all files of a project have to be in one. There they get versions of that moment, behind what
    was pushed before.

    Args:
        folder: Where they go; made if need be. A file whose text is there already, under whatever
            version, is left out.
        now: Makes the versions.

    Returns:
        What to tell the operator, a line for each file.

    Raises:
        StoreError: If the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = {path.read_bytes(): path.name for path in sorted(folder.glob("*.sql"))}
        told = []
        for number, path in enumerate(migrations()):
            text = path.read_bytes()
            if text in there:
                told.append(f"{path.name} is there as {there[text]}")
                continue
            version = f"{now + timedelta(seconds=number):%Y%m%d%H%M%S}"
            copy = folder / f"{version}_actp_{path.name.split('_', 1)[1]}"
            copy.write_bytes(text)
            told.append(f"wrote {copy}")
    except OSError as error:
        raise StoreError(f"cannot export to {folder}: {error.strerror}") from error
    return told
