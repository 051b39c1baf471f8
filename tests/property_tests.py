"""How hypothesis plays property tests: the same examples in `make test`, others in `explore`."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis.database import DirectoryBasedExampleDatabase

EXAMPLES = Path(__file__).parents[1] / ".hypothesis" / "examples"

# A slow machine fails nothing: there is no deadline, and no example that takes too long to make.
settings.register_profile(
    "same",  # so that a failure is the fault of a change
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore",
    derandomize=False,
    database=DirectoryBasedExampleDatabase(EXAMPLES),
    deadline=None,
    phases=[phase for phase in Phase if phase is not Phase.explain],  # which takes minutes
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("same")
