"""People: they post, cancel, pause, restart, and insert rows by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import trio

from .life import current_life
from .plan import AGENTS, POISON, Step, What

if TYPE_CHECKING:
    from .life import Life
    from .world import World

ENDLESS: Final = " [simulate: endless]"
"""Part of a goal for which the model calls tools until it has no more turns."""

_OUTSIDE: Final = (
    "Ring the bell at Acme and deliver a parcel there",
    "Deliver a parcel to Acme and ring the bell",
    "Sign the contract with Acme",
    "Sign the contract with Acme and deliver a parcel",
)
"""What has an effect that others see, for any agent."""

_GOALS: Final = {
    "social": (
        "Queue a like for the post of Example on linkedin",
        "List the engagement actions that are queued",
        "Remember that the tone of voice is friendly",
    ),
    "content": (
        "Save a viral template about morning routines",
        "Find the templates that worked best",
        "Remember what the audience likes",
    ),
    "acquisition": (
        "Add a deal with Acme Ltd worth 5000",
        "List the deals at stage lead and move them on",
        "Remember the name of the buyer",
    ),
    "revenue": (
        "Set the revenue goal of this month to 10000",
        "Compare what was spent with the goals",
        "Remember the price of the plan",
    ),
}


class People:
    """Those who use the daemons of a world, over the web application for the most part.

    Args:
        world: The world.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    async def ask(self, life: Life, step: Step) -> None:
        """Ask something of a daemon."""
        match step.what:
            case What.POST:
                await self._post(life, step)
            case What.CANCEL | What.RETRY:
                await self._ask_of_task(life, step)
            case What.PAUSE:
                status, _ = await self._request(life, "POST", f"/agents/{step.agent}/pause")
                if status in (200, 202):
                    self._world.rules.paused(life, step.agent)
                # Also where no answer came: it may be paused all the same.
                await trio.sleep(step.amount)
                await self.resume(step.agent)
            case What.RESTART:
                await self.restart(life, step.agent)
            case What.ROUTINE:
                jobs = sorted(self._world.rules.routines)
                job = jobs[int(step.pick * len(jobs))]
                await self._request(life, "POST", f"/scheduler/jobs/{job}/run")
            case What.DECIDE:
                await self._decide(life, step.pick)
            case _:
                pass

    async def _ask_of_task(self, life: Life, step: Step) -> None:
        cancels = step.what is What.CANCEL
        of = ("queued", "running") if cancels else ("failed", "cancelled")
        if (task := self._some_task(step, *of)) is not None:
            await self._request(life, "POST", f"/tasks/{task}/{step.what}")

    async def _decide(self, life: Life, pick: float) -> None:
        """Decide what has waited longest for an approval; what is denied is one in five."""
        row = self._world.memory.connection.execute(
            "select id, arguments from actp_approvals where status = 'waiting' order by rowid"
        ).fetchone()
        if row is None:
            return
        wanted: dict[str, Any] = {"approve": pick < 0.8, "comment": f"as I decide by {pick:.6f}"}
        if pick < 0.2:
            wanted["arguments"] = {**json.loads(row["arguments"]), "partner": "Another Ltd"}
        for _ in range(5):  # an answer may be lost; the same decision again is answered alike
            given = life if not life.is_dead else life.machine.life
            if given is not None:
                path = f"/approvals/{row['id']}"
                status, _body = await self._request(given, "POST", path, wanted)
                if status in (200, 404, 409):
                    return
            await trio.sleep(30.0)

    async def decide_all(self) -> None:
        """Decide all that waits for an approval, by any daemon, for ever."""
        while True:
            for machine in self._world.machines:
                if machine.life is not None and not machine.life.is_dead:
                    await self._decide(machine.life, self._world.rng.random())
            await trio.sleep(60.0)

    async def restart(self, life: Life, agent: str) -> None:
        """Have an agent of a daemon restarted."""
        life.restarted[agent] = trio.current_time()
        await self._request(life, "POST", f"/agents/{agent}/restart")

    async def raise_limit(self) -> None:
        """Raise the spend limit of the account, and restart whoever may have paused for it."""
        for machine in self._world.machines:
            for agent in AGENTS:
                if machine.life is not None:
                    await self.restart(machine.life, agent)

    async def _post(self, life: Life, step: Step) -> None:
        """Post a task as a good client does: again, with the same key, until it is acknowledged."""
        key = f"posted-{self._world.happened[What.POST]}"
        goals = (*_GOALS[step.agent], *_OUTSIDE)
        wanted = {
            "agent_type": step.agent,
            "goal": goals[int(step.pick * len(goals))] + ENDLESS * (step.amount > 1.0),
            "context": {"number": self._world.happened[What.POST]},
            "priority": int(step.pick * 1000) % 3,
        }
        for _ in range(5):
            given = life if not life.is_dead else life.machine.life
            if given is not None:
                status, body = await self._request(given, "POST", "/agents/task", wanted, key)
                if status in (200, 201):
                    self._world.rules.acknowledged(body["id"])
                    return
            await trio.sleep(30.0)

    async def resume(self, agent: str) -> None:
        """Resume an agent, if it was paused: by any daemon that takes the word for it."""
        rules = self._world.rules
        while rules.is_paused(agent) or self._is_held(agent):
            rules.resuming(agent)
            for machine in self._world.machines:
                if machine.life is not None:
                    path = f"/agents/{agent}/resume"
                    status, _ = await self._request(machine.life, "POST", path)
                    if status in (200, 202):
                        rules.resumed(agent)
            await trio.sleep(60.0)

    def _is_held(self, agent: str) -> bool:
        """Whether the store has it paused, as where a word to resume it died with its daemon."""
        found = self._world.memory.connection.execute(
            "select paused_at from actp_agent_registry where agent_id = ?", [agent]
        ).fetchone()
        return found is not None and found["paused_at"] is not None

    async def _request(
        self,
        life: Life,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> tuple[int | None, Any]:
        """Ask a daemon's web application; the status of its answer and its JSON, if any."""
        app = life.app
        if app is None or life.is_dead:
            return None, None
        headers = {"Host": "localhost:8090"} | ({} if key is None else {"Idempotency-Key": key})
        token = current_life.set(life)
        try:
            response = await app.test_client().open(
                path, method=method, json=body if body is not None else {}, headers=headers
            )
            life.note(f"{method} {path}: {response.status_code}")
            return response.status_code, await response.get_json()
        finally:
            current_life.reset(token)

    def _some_task(self, step: Step, *statuses: str) -> str | None:
        rows = self._world.memory.connection.execute(
            "select id from actp_agent_tasks where status in (?, ?) order by rowid desc limit 20",
            statuses,
        ).fetchall()
        return rows[int(step.pick * len(rows))][0] if rows else None

    def insert_row(self, step: Step) -> None:
        """Insert a task behind the daemons' backs, with what must be given alone."""
        self._world.memory.connection.execute(
            "insert or ignore into actp_agent_tasks (id, agent_type, goal, created_at) "
            "values (?, ?, ?, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))",
            [
                f"by-hand-{self._world.happened[What.ROW]}",
                step.agent,
                POISON if step.pick < 0.3 else "by hand",
            ],
        )
