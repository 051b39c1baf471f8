"""A simulated Claude as a process, and a folder for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from daemons import IDLER, Place, SupabasePlace, running_claude

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from services import Project


@pytest.fixture(scope="session")
def claude() -> Iterator[str]:
    """Run a simulated Claude; gives its address."""
    with running_claude() as address:
        yield address


@pytest.fixture
def place(tmp_path: Path, claude: str) -> Place:
    return Place(tmp_path, claude)


@pytest.fixture
def real_start(place: Place) -> None:
    """For tests of the start or the end itself, to which belongs what Python does then."""
    place.forks = False


@pytest.fixture
def idle_place(place: Place) -> Place:
    """A place where the social agent idles and the others are off: daemons start quickly."""
    place.use_class(IDLER, "Idler")
    for agent in ("CONTENT", "ACQUISITION", "REVENUE"):
        place.environ[f"ENABLE_{agent}_AGENT"] = "no"
    return place


@pytest.fixture
def supabase(tmp_path: Path, claude: str, project: Project) -> SupabasePlace:
    """A place on a Supabase project with all migrations and empty tables."""
    return SupabasePlace(tmp_path, claude, project=project)
