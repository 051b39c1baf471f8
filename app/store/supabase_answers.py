"""What each function in a Supabase project answers, read strictly: a proxy may answer in JSON too.

A reader returns what the answer says, or raises `StoreError` or `ValueError` where it can be no
answer to that question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from app.store.protocol import (
    JSON,
    AgentRow,
    CostSum,
    Effect,
    EffectState,
    Lease,
    LeaseHolder,
    Memory,
    TaskRow,
    TaskStatus,
    ToolStats,
    Turn,
    WorkerRow,
)
from app.store.records import as_it_is, read_domain_row, read_moment, read_record

if TYPE_CHECKING:
    from app.store.domain import DomainTable, Row

Reader = Callable[[Any], Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCount:
    """How many tasks of an agent are in a status."""

    agent_type: str
    status: TaskStatus
    tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    status: str | None


def any_rows(answer: JSON) -> list[dict[str, JSON]]:
    """Read rows of a table, whatever is in them."""
    return _each(dict, _list(answer))


def records(row_type: type[T]) -> Callable[[JSON], list[T]]:
    """Return what reads rows, each with all that is needed for one of ours."""
    return lambda answer: [read_record(row_type, row) for row in any_rows(answer)]


def domain_rows(table: DomainTable) -> Callable[[JSON], list[Row]]:
    """Return what reads rows of a domain table."""
    return lambda answer: [read_domain_row(table, row, as_it_is) for row in any_rows(answer)]


def known_task(answer: JSON) -> TaskRow | None:
    """Read the one task; None if there is none, or it is in a state that is not the worker's.

    A table that was there before may hold such.
    """
    found = records(_State)(answer)
    is_known = bool(found) and found[0].status in list(TaskStatus)
    return read_record(TaskRow, answer[0]) if is_known else None


def _is_a(kind: type[Any] | tuple[type[Any], ...], answer: JSON) -> Any:  # noqa: ANN401
    # bool is an int to Python, and none to anybody else.
    if not isinstance(answer, kind) or (isinstance(answer, bool) and kind is not bool):
        raise ValueError
    return answer


_list = partial(_is_a, list)
_text = partial(_is_a, str)
_truth = partial(_is_a, bool)
_object = partial(_is_a, dict)


def _each(kind: type[Any] | tuple[type[Any], ...], values: list[Any]) -> list[Any]:
    return [_is_a(kind, value) for value in values]


def _texts(answer: JSON) -> list[str]:
    return _each(str, _list(answer))


def _numbers(answer: JSON) -> list[float]:
    return _each((int, float), _list(answer))


def _ages(answer: JSON) -> dict[str, float]:
    ages: dict[str, float] = _object(answer)
    _each((int, float), list(ages.values()))
    return ages


def _nothing(answer: JSON) -> None:
    if answer not in (None, []):  # a list is supabase-py's word for an empty answer
        raise ValueError


def _moment(answer: JSON) -> Any:  # noqa: ANN401
    return read_moment(_text(answer))


def _effect(answer: JSON) -> EffectState:
    state = _object(answer)
    return EffectState(state=Effect(state.get("state")), result=state.get("result"))


def _schema(answer: JSON) -> Mapping[str, Any]:
    found: dict[str, Any] = _object(answer)
    for columns in _object(found.get("tables")).values():
        _texts(columns)
    _texts(found.get("functions"))
    return found


FUNCTIONS: Final[Mapping[str, Reader]] = {
    "actp_add_task": known_task,
    "actp_agents": records(AgentRow),
    "actp_begin_effect": _effect,
    "actp_cancel_task": known_task,
    "actp_claim_fire": _truth,
    "actp_claim_task": known_task,
    "actp_costs": records(CostSum),
    "actp_count_tasks": records(TaskCount),
    "actp_crash_ages": _numbers,
    "actp_drop_effect": _nothing,
    "actp_drop_lease": _nothing,
    "actp_finish_effect": _nothing,
    "actp_finish_fire": _nothing,
    "actp_finish_run": _nothing,
    "actp_finish_task": _truth,
    "actp_forget": _truth,
    "actp_forget_turns": _nothing,
    "actp_forget_worker": _nothing,
    "actp_hand_back": _nothing,
    "actp_hold_lease": lambda answer: read_record(LeaseHolder, _object(answer)),
    "actp_live_workers": records(WorkerRow),
    "actp_now": _moment,
    "actp_oldest_queued": _ages,
    "actp_recall": records(Memory),
    "actp_record_cost": _nothing,
    "actp_record_heartbeat": _nothing,
    "actp_record_tool_call": _nothing,
    "actp_record_turn": _nothing,
    "actp_register_agents": _nothing,
    "actp_release_budget": _nothing,
    "actp_release_task": _truth,
    "actp_remember": _nothing,
    "actp_renew_task": Lease,
    "actp_reserve_budget": _truth,
    "actp_retry_task": known_task,
    "actp_schema_check": _schema,
    "actp_set_needs_restart": _truth,
    "actp_set_status": _nothing,
    "actp_start_run": _nothing,
    "actp_take_restart_requests": _texts,
    "actp_tool_stats": records(ToolStats),
    "actp_touch_worker": _texts,
    "actp_turns": records(Turn),
    "actp_worker_of": _text,
}
"""What `supabase/migrations` makes, with what reads the function's answer."""
