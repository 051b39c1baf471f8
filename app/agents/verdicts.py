"""What follows from an error of the API: wait and repeat, pause the agent, or fail the work. Pure.

Source of the cases: https://platform.claude.com/docs/en/api/errors, and the SDK's retry policy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class Consequence(Enum):
    """What is to be done about an error."""

    WAIT = "wait"
    """Repeat the call after a while."""
    PAUSE = "pause"
    """No call will succeed until somebody has done something: take no work meanwhile."""
    FAIL = "fail"
    """This call will never succeed, others may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An error, judged."""

    consequence: Consequence
    reason: str
    """One line for the operator."""
    retry_after: float | None = None
    """Seconds that the API asks to wait."""
    counts: bool = False
    """Whether what was sent may be to blame, if it goes on for long."""
    until: datetime | None = None
    """When a pause ends by itself."""
    too_long: bool = False
    """Whether the conversation has outgrown what the model can read."""
    may_cost: bool = False
    """Whether the call may have been carried out, and be billed, all the same."""


# Here the account is the matter, and not speed or what was sent, whatever the status. The codes are
# those of the SDK's `ErrorDetails`; the words are for errors that come without a code.
_ACCOUNT_CODES: Final = re.compile(
    r"spend_limit_reached|billing|organization_on_hold|organization_type_not_supported"
    r"|parent_organization_required|linked_organization|^cmek_|rbac_role_not_found|key_expired"
)
_ACCOUNT_WORDS: Final = re.compile(
    r"credit balance|usage limit|spend(?:ing)? limit|billing|payment"
    r"|(?:organi[sz]ation|workspace|account|api key)\b.{0,60}?\b"
    r"(?:disabled|suspended|on hold|archived|deactivated|revoked|expired|deleted|banned"
    r"|not (?:active|allowed|authori[sz]ed|enabled|found)|restricted|does not have access)"
    r"|unsupported (?:country|region)|not available in your (?:country|region)",
    re.IGNORECASE,
)
_REGAINED: Final = re.compile(r"regain access on (\d{4}-\d\d-\d\d)")

# httpx's errors of a connection that never came about.
_NEVER_SENT: Final = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})

_OVERLOADED: Final = frozenset({429, 529})
_NEEDS_SOMEBODY: Final = {
    401: "Set ANTHROPIC_API_KEY to a key that is valid and restart the daemon",
    402: "See to the account's billing, then restart the agent",
    403: "Have the key allowed this, then restart the agent",
    404: "Set the agent's MODEL to one that exists and reload the settings",
}
_WORTH_REPEATING: Final = frozenset({408, 409, 429})
_ACCOUNT_STATUS: Final = frozenset({400, 422, 429})

_TOO_LONG: Final = re.compile(
    r"prompt is too long|exceeds? the (?:model's )?(?:maximum )?context|context (?:window|limit)"
    r"|request_too_large|input length and .?max_tokens.? exceed",
    re.IGNORECASE,
)

STATUS_OF: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that an error has which comes in the middle of a stream, where there is none."""


def judge(
    status: int, body: object, headers: Mapping[str, str], *, now: datetime
) -> Verdict | None:
    """Judge an answer of the API; None where it is no error.

    Args:
        status: Its HTTP status.
        body: Its JSON, or the text where it is none.
        headers: Its headers.
        now: The present moment.
    """
    if status < 400:
        return None
    kind, message, code = _error(body)
    answer = f"{status} {kind}".rstrip()
    reason = f"Claude answers {answer}: {message}".replace("\n", " ")
    if _ACCOUNT_CODES.search(code) or (
        status in _ACCOUNT_STATUS and _ACCOUNT_WORDS.search(message)
    ):
        until = _regained(message) or (_next_month(now) if code.startswith("enforced_") else None)
        return Verdict(consequence=Consequence.PAUSE, reason=reason, until=until)
    if status in _NEEDS_SOMEBODY:
        reason = f"{reason}. {_NEEDS_SOMEBODY[status]}"
        return Verdict(consequence=Consequence.PAUSE, reason=reason)
    if status in _WORTH_REPEATING or status >= 500:
        return Verdict(
            consequence=Consequence.WAIT,
            reason=reason,
            retry_after=_retry_after(headers),
            counts=status not in _OVERLOADED,
        )
    too_long = status == 413 or (status == 400 and _TOO_LONG.search(message) is not None)
    return Verdict(consequence=Consequence.FAIL, reason=reason, too_long=too_long)


def judge_event(body: object, *, now: datetime) -> Verdict:
    """Judge an error that came in the middle of a reply, which may have its price all the same."""
    kind, _, _ = _error(body)
    verdict = judge(STATUS_OF.get(kind, 500), body, {}, now=now)
    assert verdict is not None  # noqa: S101  (each of these is an error)
    return replace(verdict, may_cost=True)


def judge_exception(error: Exception) -> Verdict:
    """Judge a call that got no answer."""
    timed_out = isinstance(error, TimeoutError) or "Timeout" in type(error).__name__
    what = "did not answer in time" if timed_out else "could not be reached"
    # Beneath a time-out of asyncio's own is only the cancellation that it was made of.
    cause = error if isinstance(error, TimeoutError) else error.__cause__ or error
    kind = type(cause).__name__
    return Verdict(
        consequence=Consequence.WAIT,
        reason=f"Claude {what} ({kind})",
        counts=timed_out,
        may_cost=kind not in _NEVER_SENT,
    )


def judge_unreadable(why: str) -> Verdict:
    """Judge a call that got an answer which is no message.

    Args:
        why: In what way.
    """
    reason = f"Claude answered what is no message ({why})"
    return Verdict(consequence=Consequence.WAIT, reason=reason, counts=True, may_cost=True)


def _error(body: object) -> tuple[str, str, str]:
    """Return the type, the message and the code of an error."""
    error: Any = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return "", str(body)[:200], ""
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    return str(error.get("type", "")), str(error.get("message", ""))[:500], str(code or "")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if 0 < seconds < 1e9:
            return seconds
    return None


def _regained(message: str) -> datetime | None:
    found = _REGAINED.search(message)
    try:
        return _midnight(date.fromisoformat(found[1])) if found else None
    except ValueError:  # no such day
        return None


def _next_month(now: datetime) -> datetime:
    day = now.astimezone(UTC).date().replace(day=28)
    while day.day != 1:
        day = date.fromordinal(day.toordinal() + 1)
    return _midnight(day)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
