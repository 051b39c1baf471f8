"""Faults put to real daemons, in campaigns that end by themselves: `make test-long`.

Each prints its figures in one line at the end of the session (`figures`). All of it is on loopback.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parents[1] / "e2e"))  # for `daemons`

from daemons import Place, SupabasePlace, running_claude

pytest.register_assert_rewrite("accounts", "campaign")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from services import Project


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Keeps the figures of a campaign for the end of the session, and prints them at once."""

    def keep(title: str, **numbers: object) -> None:
        told = ", ".join(
            f"{value:.0f} {name}" if isinstance(value, float) else f"{value} {name}"
            for name, value in ((name.replace("_", " "), value) for name, value in numbers.items())
        )
        line = f"{title}: {told}"
        print(line)
        record_property("figures", line)

    return keep


@pytest.fixture(scope="session")
def claude() -> Iterator[str]:
    """Run the demo's simulated Claude; gives its address."""
    with running_claude() as address:
        yield address


@pytest.fixture
def place(tmp_path: Path, claude: str) -> Place:
    """A folder with a database, for daemons that talk to the simulated Claude."""
    return Place(tmp_path, claude, forks=False)


@pytest.fixture
def supabase(tmp_path: Path, claude: str, project: Project) -> SupabasePlace:
    """A place on a Supabase project with all migrations and empty tables."""
    return SupabasePlace(tmp_path, claude, forks=False, project=project)
