"""Calls of the Store with what a test does not care about filled in."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count

import trio

from app.store.protocol import (
    AgentRegistration,
    CostEntry,
    Limits,
    Question,
    Reservation,
    ToolCall,
    Turn,
)

LONG = 60.0
SHORT = 0.02
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

_numbers = count(1)


async def lapse():
    """Let what lives for SHORT seconds run out."""
    await trio.sleep(SHORT * 3)


async def register(store, *agent_ids, worker_id="w1"):
    await store.register_agents(
        worker_id,
        [
            AgentRegistration(agent_id=agent_id, class_name=f"a.b:{agent_id}", model="opus")
            for agent_id in agent_ids
        ],
    )


async def add(store, task_id="t1", agent_type="social", **options):
    return await store.add_task(task_id, agent_type, "do it", **options)


async def claim(store, token="k1", agent_type="social", *, lease=LONG, worker="w1"):
    return await store.claim_task(
        agent_type, worker_id=worker, instance=f"{worker}-run", token=token, lease=lease
    )


async def begin(store, task_id="t1", token="k1", agent_type="social", *, lease=LONG, **options):
    return await store.begin_task(
        task_id,
        agent_type,
        "do it",
        worker_id="w1",
        instance="w1-run",
        token=token,
        lease=lease,
        **options,
    )


async def live(store):
    """Return the daemons that are there."""
    return [(worker.worker_id, worker.instance) for worker in await store.live_workers()]


async def claimed_ids(store, agent_type="social"):
    """Claim until nothing is left; the ids in the order of the claims."""
    ids = []
    while task := await claim(store, f"token-{next(_numbers)}", agent_type):
        ids.append(task.id)
    return ids


def tool_call(call_id, **changes):
    values = {
        "id": call_id,
        "agent_id": "social",
        "run_id": "r1",
        "task_id": "t1",
        "tool": "list_actions",
        "arguments": {"limit": 3},
        "duration": 0.5,
    }
    return ToolCall(**{**values, **changes})


def turn(turn_id, **changes):
    values = {
        "id": turn_id,
        "task_id": "t1",
        "agent_id": "social",
        "run_id": "r1",
        "step": 1,
        "role": "assistant",
        "content": [{"type": "text", "text": "Let me look."}],
    }
    return Turn(**{**values, **changes})


def cost(entry_id, usd=1.0, **changes):
    values = {
        "id": entry_id,
        "agent_id": "social",
        "run_id": None,
        "task_id": None,
        "model": "opus",
        "input_tokens": 10,
        "output_tokens": 20,
        "cost_usd": usd,
    }
    return CostEntry(**{**values, **changes})


async def reserve(store, reservation="b1", *, amount=1.0, limit=10.0, lifetime=LONG, **options):
    """Set money aside; whether there was enough."""
    call = Reservation(
        id=reservation,
        agent_id=options.get("agent_id", "social"),
        run_id=None,
        task_id=options.get("task_id"),
        model="opus",
        amount_usd=amount,
    )
    limits = options.get("limits", Limits(agent=limit))
    since = options.get("since", EPOCH)
    reserved = await store.reserve(call, since=since, limits=limits, lifetime=lifetime)
    return reserved.over is None


MAIL = {"to": "ada@example.org", "text": "Hello"}


async def ask(store, approval_id="a1", *, about="use 1", expires_in=0.0, **changes):
    values = {
        "id": approval_id,
        "task_id": "t1",
        "agent_id": "social",
        "about": about,
        "tool": "send_mail",
        "arguments": MAIL,
        "why": "Ada asked for it.",
        **changes,
    }
    return await store.ask_approval(Question(**values), expires_in=expires_in)


async def decide(store, approval_id="a1", *, approve=True, **options):
    return await store.decide_approval(
        approval_id, approve=approve, decided_by="Grace by the page", **options
    )
