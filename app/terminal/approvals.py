"""`--approvals`, `--approve` and `--deny`: what waits for a person, and the decision."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from actp_supervise.service import visible
from app.facts import JSON, to_json
from app.store.protocol import ApprovalRow, ApprovalStatus
from app.terminal.api import open_api
from app.terminal.looking import look
from app.terminal.person import person

if TYPE_CHECKING:
    from app.settings import Settings
    from app.store.protocol import Store
    from app.terminal.api import Api

MOST: Final = 200
"""Approvals that are shown."""


async def show(settings: Settings, *, as_json: bool) -> None:
    """Write what waits for approval, with all that will be done.

    Raises:
        DaemonError: If no daemon answers, and there is no store to look at.
    """

    async def ask(api: Api) -> list[ApprovalRow]:
        return await api.get(list[ApprovalRow], "/approvals", status="waiting", limit=MOST)

    async def read(store: Store) -> list[ApprovalRow]:
        return await store.approvals(status=ApprovalStatus.WAITING, limit=MOST)

    rows = await look(settings, ask, read)
    if as_json:
        print(json.dumps(to_json(rows), indent=2))
    elif not rows:
        print("Nothing waits for approval.")
    else:
        print("\n\n".join(in_words(row) for row in reversed(rows)))


async def decide(
    settings: Settings, approval_id: str, *, approve: bool, comment: str | None, as_json: bool
) -> None:
    """Approve or deny, and write what came of it.

    Args:
        settings: Where the daemon is.
        approval_id: Which.
        approve: Whether the tool may be called.
        comment: For the agent.
        as_json: Whether to write all of the approval.

    Raises:
        DaemonError: If it is not there, or decided otherwise, or no daemon answers.
    """
    body: dict[str, JSON] = {"approve": approve, "comment": comment, "by": person()}
    async with open_api(settings) as api:
        row = await api.post(ApprovalRow, f"/approvals/{quote(approval_id, safe='')}", body)
    if as_json:
        print(json.dumps(to_json(row), indent=2))
    else:
        print(f"{row.tool} of {row.agent_id} is {row.status}; task {row.task_id} goes on.")


def in_words(row: ApprovalRow) -> str:
    """Write an approval for a person: what exactly will be done, and why the agent wants it."""
    lines = [
        row.id,
        f"  {row.agent_id} wants to call {row.tool} (task {row.task_id}, asked "
        f"{row.created_at:%Y-%m-%d %H:%M} UTC)",
    ]
    if row.expires_at is not None:
        lines.append(f"  denied by itself at {row.expires_at:%Y-%m-%d %H:%M} UTC")
    arguments = json.dumps(row.arguments, ensure_ascii=False, indent=2)
    lines += ["  with:", *_indented(arguments)]
    if row.why:
        lines += ["  because, in its own words:", *_indented(row.why)]
    return visible("\n".join(lines), lines=True)


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.splitlines()]
