"""Which agents ship, as data. Classes are named by import path and loaded when they run.

A file of the operator's may name others in their place: `app.agent_file` makes `AgentSpec` of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

PROMPTED_CLASS = "app.agents.prompted:PromptedAgent"
"""The class of an agent that has a prompt in place of one of its own."""

DEFAULT_MODEL = "claude-sonnet-5-5"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseTool:
    """The tool of the user's by which what a person has approved is carried out."""

    tool: str
    """Its name, as the model would call it: ``mcp__poster__publish``."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Its parameters -> the fields of the item that they get; empty for all fields by their names.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """How an agent holds its conversations; None where its class decides, or for no limit."""

    prompt: str | None = None
    """Its job as the file of agents tells it; None where its class does."""
    effort: str | None = None
    """How much the model thinks: low, medium, high, xhigh or max."""
    max_tokens: int | None = None
    """Tokens of one reply, its thinking included."""
    max_turns: int | None = None
    """Replies of the model for one task."""
    fallback_model: str | None = None
    """The model that is asked once when the first has refused."""
    tool_timeout: float = 120.0
    """Seconds that a call of a tool may take."""
    task_budget_usd: float | None = None
    """What one task may cost, in all its attempts."""
    approve: tuple[str, ...] = ()
    """Names of tools whose calls a person has to approve, with ``*`` for any characters; with ``!``
    in front, of tools that need no approval. The last that fits counts."""
    approval_timeout: float | None = None
    """Seconds after which what nobody has decided counts as denied; None for never."""
    total_budget_usd: float | None = None
    """What all agents together may spend in a day."""
    about: Mapping[str, str] = field(default_factory=dict)
    """What the operator says of the business, by name: brand, audience, ideal_customer."""
    release: ReleaseTool | None = None
    """What carries out drafts and actions that a person has approved."""


DEFAULT_EFFORT = {"claude-sonnet-5-5": "medium"}
"""The effort for models whose own default thinks more than unattended routine work is worth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routine:
    """What an agent does at certain times (R23): a method that the scheduler calls, or a goal."""

    method: str
    """The method; of a goal, its name."""
    cron: str
    """When, in the worker's time zone."""
    goal: str | None = None
    """What is to be reached, in words for the model, where no method is called."""


HAND_NAMES = (
    "app_store",
    "code_execution",
    "http",
    "stripe",
    "telegram",
    "web_fetch",
    "web_search",
)
"""The tools that an agent can ask for by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedHand:
    """Tools that an agent asks for by name, beyond its own methods."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False
    """Whether the agent works without it, where it cannot be set up."""
    for_model: bool = True
    """Whether the model gets its tools, or the agent's own code alone."""


class Place(Protocol):
    """Where in a file something is said; its text names the file, the line and the key."""

    def __str__(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Given:
    """The value of a setting as a file gives it."""

    text: str
    place: Place = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """One agent as it ships or as the file of agents has it; variables override what it says."""

    agent_id: str
    class_path: str
    """`package.module:Class`."""
    poll_interval: float = 30.0
    """Seconds between two looks at an empty queue."""
    enable_flag: str
    """The variable that turns it off."""
    env_prefix: str
    """What its variables begin with, as in ``CONTENT_AGENT_MODEL``."""
    tables: tuple[str, ...] = ()
    """Tables of its own without which it cannot work (R40)."""
    routines: tuple[Routine, ...] = ()
    model: str = DEFAULT_MODEL
    single: bool = False
    """Whether it runs in one daemon at a time, of several that share the store."""
    prompt: str | None = None
    """Its job, where it has no class of its own."""
    hands: tuple[WantedHand, ...] = ()
    offered: tuple[WantedHand, ...] = ()
    """Hands that it has where their keys are set, unless the file says which it has."""
    about: Mapping[str, str] = field(default_factory=dict)
    """What the file says of the business, by name."""
    about_keys: tuple[str, ...] = ()
    """What its class reads of that; empty for a class that is not ours."""
    approve: tuple[str, ...] = ()
    """Patterns of the names of tools that need a person's approval."""
    release: ReleaseTool | None = None
    """What carries out drafts and actions that a person has approved; None for what nobody does."""
    given: Mapping[str, Given] = field(default_factory=dict, compare=False)
    """What the file says of its settings, by their names in lower case."""
    place: Place | None = field(default=None, compare=False)
    """Where in the file it stands; None for one that ships."""

    @property
    def all_hands(self) -> tuple[tuple[WantedHand, ...], tuple[WantedHand, ...]]:
        """The hands that it asks for, and those that it has where it can."""
        return self.hands, self.offered


SHARED_TABLES = (
    "actp_agent_registry",
    "actp_agent_runs",
    "actp_agent_memory",
    "actp_agent_tasks",
    "actp_tool_call_log",
    "anthropic_cost_log",
)
"""Tables that every agent needs."""

AGENT_SPECS = (
    AgentSpec(
        agent_id="social",
        class_path="app.agents.social:SocialMediaDomainAgent",
        poll_interval=30.0,
        enable_flag="ENABLE_SOCIAL_MEDIA_AGENT",
        env_prefix="SOCIAL_MEDIA_AGENT_",
        tables=("actp_engagement_actions",),
        # It acts for one account on others' platforms, where two at once look like a bot.
        single=True,
        about_keys=("brand", "audience", "voice"),
    ),
    AgentSpec(
        agent_id="content",
        class_path="app.agents.content:ContentCreationDomainAgent",
        poll_interval=60.0,
        enable_flag="ENABLE_CONTENT_AGENT",
        env_prefix="CONTENT_AGENT_",
        tables=("actp_viral_templates",),
        routines=(Routine(method="run_daily_pipeline", cron="0 6 * * *"),),
        about_keys=("brand", "audience", "topics", "voice"),
    ),
    AgentSpec(
        agent_id="acquisition",
        class_path="app.agents.acquisition:AcquisitionDomainAgent",
        poll_interval=30.0,
        enable_flag="ENABLE_ACQUISITION_AGENT",
        env_prefix="ACQUISITION_AGENT_",
        tables=("actp_deal_log",),
        routines=(
            Routine(method="run_pipeline_advance", cron="0 9 * * *"),
            Routine(method="run_daily_prospecting", cron="0 11,15 * * *"),
        ),
        # Two at work on one deal would write to the same person, each unaware of the other.
        single=True,
        about_keys=("ideal_customer", "offer"),
    ),
    AgentSpec(
        agent_id="revenue",
        class_path="app.agents.revenue:RevenueAnalyticsDomainAgent",
        poll_interval=120.0,
        enable_flag="ENABLE_REVENUE_AGENT",
        env_prefix="REVENUE_AGENT_",
        tables=("actp_revenue_goals", "actp_weekly_snapshots", "actp_reports"),
        about_keys=("business",),
        offered=(
            WantedHand(name="stripe", options={"refunds": False}),
            WantedHand(name="app_store"),
            # Its reports go there by its own code, which sends each once.
            WantedHand(name="telegram", for_model=False),
        ),
        routines=(
            Routine(method="run_daily_check", cron="0 8 * * *"),
            Routine(method="run_cost_audit", cron="0 23 * * *"),
            Routine(method="run_weekly_report", cron="0 20 * * 0"),
        ),
    ),
)
