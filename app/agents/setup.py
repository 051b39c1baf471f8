"""What an agent is run with, as plain values that may cross to a process, and its context."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from actp_supervise.bridge import run_in_trio
from actp_supervise.clock import LOCALTIME, local_timezone
from actp_supervise.service import make_redactor
from app.agents.client import make_client
from app.agents.contract import AgentContext
from app.agents.handle import AgentStore
from app.agents.own_rows import OwnRows
from app.agents.prices import PriceTable
from app.agents.spec import AgentOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import tzinfo

    from anthropic import AsyncAnthropic

    from actp_supervise import Backoff
    from app.agents.activity import Activity
    from app.hands import Hands
    from app.store.protocol import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSetup:
    """What one run of an agent is made with."""

    agent_id: str
    class_path: str
    model: str
    poll_interval: float
    worker_id: str
    instance: str
    run_id: str
    prices: PriceTable
    daily_budget_usd: float | None
    options: AgentOptions = field(default_factory=AgentOptions)
    timezone: str
    task_lease: float
    api_key: str | None = field(repr=False)
    base_url: str | None
    secrets: tuple[str, ...] = field(repr=False)
    """What is kept out of all that it writes."""


def make_context(
    setup: AgentSetup,
    *,
    store: Store,
    activity: Activity,
    wait_for_work: Callable[[float], Awaitable[None]],
    patience: Backoff | None = None,
    make_client: Callable[[str | None, str | None], AsyncAnthropic] = make_client,
    hands: Hands | None = None,
    is_routine: bool = False,
) -> AgentContext:
    """Make what an agent is given; the one place that does.

    Args:
        setup: What it is run with.
        store: The daemon's store, or the way to it, on Trio's side.
        activity: Where it says what it does.
        wait_for_work: Returns after so many seconds, or sooner when a task was posted; called on
            Trio's side.
        patience: How long its store waits between two tries, in place of the usual.
        make_client: Makes a client of Claude's API from a key and an address.
        hands: Its hands, as they are open.
        is_routine: Whether it is to do a routine.
    """

    async def wait_in_trio(seconds: float) -> None:
        await run_in_trio(wait_for_work, seconds)

    options = {} if patience is None else {"patience": patience}
    return AgentContext(
        agent_id=setup.agent_id,
        model=setup.model,
        worker_id=setup.worker_id,
        instance=setup.instance,
        run_id=setup.run_id,
        store=OwnRows(AgentStore(store, activity, **options), setup.agent_id),
        activity=activity,
        make_client=partial(make_client, setup.api_key, setup.base_url),
        wait_for_work=wait_in_trio,
        prices=setup.prices,
        daily_budget_usd=setup.daily_budget_usd,
        options=setup.options,
        timezone=zone_named(setup.timezone),
        task_lease=setup.task_lease,
        hands=hands,
        is_routine=is_routine,
        redact=make_redactor(setup.secrets),
    )


def zone_named(name: str) -> tzinfo:
    """Return a zone by its name; where /etc/localtime is a copy, the machine's has none."""
    return local_timezone({}) if name == LOCALTIME else ZoneInfo(name)
