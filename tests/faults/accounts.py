"""What a campaign has to leave behind: nothing lost, nothing twice, nobody accused."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from scripted import CUT_OFF, Note, notes

if TYPE_CHECKING:
    from campaign import Campaign
    from daemons import Place


def check_all(campaign: Campaign) -> dict[str, int]:
    """Check every promise; return the figures."""
    place = campaign.place
    tasks = nothing_is_lost(campaign)
    numbers = {task_id: number for number, task_id in campaign.posted.items()}
    noted = notes(place)
    every_effect_is_once(campaign, noted, numbers)
    asked = approvals_are_asked_once_and_go_on_once(place, noted)
    each_step_is_recorded_once(place)
    every_reply_is_booked(campaign, numbers)
    nobody_is_accused(place)
    all_is_tidied_up(place)
    return {
        "tasks": len(tasks),
        "begun_again": sum(task["attempts"] - 1 for task in tasks),
        "effects": len({note.key for note in noted}),
        "approvals": asked,
        "replies": sum(campaign.claude.served.values()),
    }


def nothing_is_lost(campaign: Campaign) -> list[dict[str, Any]]:
    """Each task that was acknowledged is there once, and done."""
    tasks = campaign.place.rows("select id, goal, status, attempts, error from actp_agent_tasks")
    by_id = {task["id"]: task for task in tasks}
    assert set(campaign.posted.values()) <= set(by_id)
    goals = Counter(task["goal"] for task in tasks)
    assert [goal for goal, times in goals.items() if times > 1] == []
    assert [task for task in tasks if task["status"] != "succeeded"] == []
    return tasks


def every_effect_is_once(campaign: Campaign, noted: list[Note], numbers: dict[str, int]) -> None:
    """A keyed effect has one key; a call that knows none is begun once, or again being told."""
    began = [note for note in noted if note.phase == "began"]
    keys = defaultdict(set)
    for note in began:
        keys[note.tool, note.task, note.what].add(note.key)
    more = {what: found for what, found in keys.items() if len(found) > 1 and what[0] != "pay"}
    assert more == {}
    per_key = Counter((note.tool, note.key) for note in began if note.tool in {"once", "pay"})
    assert [key for key, times in per_key.items() if times > 1] == []
    for note in began:
        if note.tool == "once" and note.what.endswith("again") and note.task in numbers:
            assert campaign.claude.told[numbers[note.task]] > 0
    asked_for = {
        (row["task_id"], name)
        for row in campaign.place.rows("select id as task_id, goal from actp_agent_tasks")
        for name in ("keyed",)
        if name in row["goal"]
    }
    assert asked_for <= {(note.task, note.tool) for note in noted if note.phase == "ended"}


def approvals_are_asked_once_and_go_on_once(place: Place, noted: list[Note]) -> int:
    """Each call is asked for once, and called as often as a person has approved it."""
    rows = place.rows("select task_id, tool, why, status from actp_approvals")
    assert {row["status"] for row in rows} <= {"approved", "denied"}
    about_cuts = [row for row in rows if CUT_OFF in (row["why"] or "")]
    asked = Counter((row["task_id"], row["tool"]) for row in rows if row not in about_cuts)
    assert [what for what, times in asked.items() if times > 1] == []
    approved = Counter((row["task_id"], row["tool"]) for row in rows if row["status"] == "approved")
    called = defaultdict(set)
    for note in noted:
        if note.tool in {"pay", "grant"}:
            called[note.task, note.tool].add(note.key)
    assert {what: keys for what, keys in called.items() if len(keys) > approved[what]} == {}
    assert [what for what in approved if what[1] == "grant" and what not in called] == []
    paid = {what for what, times in approved.items() if what[1] == "pay" and times == 1}
    # One that was begun and has not noted it was cut off, which is asked about.
    assert paid - {(row["task_id"], row["tool"]) for row in about_cuts} <= set(called)
    return len(rows)


def each_step_is_recorded_once(place: Place) -> None:
    """No reply and no answer of a tool is in a conversation twice."""
    steps: Counter[Any] = Counter()
    for turn in place.rows("select task_id, step, role, content from actp_task_turns"):
        content = turn["content"]
        if turn["role"] == "assistant":
            steps[turn["task_id"], turn["step"]] += 1
        elif turn["role"] == "tool":
            blocks = json.loads(content) if isinstance(content, str) else content
            for block in blocks:
                steps[turn["task_id"], block["tool_use_id"]] += 1
    assert [step for step, times in steps.items() if times > 1] == []


def every_reply_is_booked(campaign: Campaign, numbers: dict[str, int]) -> None:
    """What Claude was asked is booked, as it was or as an estimate, and no reply twice."""
    costs = campaign.place.rows("select task_id, request_id, estimated from anthropic_cost_log")
    known = [cost["request_id"] for cost in costs if not cost["estimated"]]
    assert None not in known
    assert len(set(known)) == len(known)
    booked = Counter(numbers[cost["task_id"]] for cost in costs if cost["task_id"] in numbers)
    served = campaign.claude.served
    assert {n: (served[n], booked[n]) for n in booked if served[n] > booked[n]} == {}


def nobody_is_accused(place: Place) -> None:
    """No agent has a crash on record: it was its daemon that was killed."""
    outcomes = {row["outcome"] for row in place.rows("select outcome from actp_agent_runs")}
    assert outcomes <= {"stopped", "interrupted"}


def all_is_tidied_up(place: Place) -> None:
    """Nobody is registered as running, and no lock, lease or claim is left."""
    assert set(place.statuses().values()) == {"stopped"}
    assert place.rows("select 1 from actp_workers where ended_at is null") == []
    assert place.rows("select 1 from actp_leases where name in ('social', 'content')") == []
    assert place.rows("select 1 from actp_budget_reservations") == []
    assert place.locks == []
