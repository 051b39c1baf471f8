"""Hands: what an agent can do besides its own methods. `open_hands` gives it those it asks for."""

from .contract import (
    Hand,
    HandError,
    HandTool,
    Kind,
    OutcomeUnknownError,
    SetUpError,
    needs_approval,
)
from .opening import Hands, Wanted, check_hands, open_hands, variables_of
from .untrusted import MARK, RULE, as_data, block, from_outside, is_from_outside, outside_of

__all__ = [
    "MARK",
    "RULE",
    "Hand",
    "HandError",
    "HandTool",
    "Hands",
    "Kind",
    "OutcomeUnknownError",
    "SetUpError",
    "Wanted",
    "as_data",
    "block",
    "check_hands",
    "from_outside",
    "is_from_outside",
    "needs_approval",
    "open_hands",
    "outside_of",
    "variables_of",
]
