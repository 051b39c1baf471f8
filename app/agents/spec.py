"""Which agents there are, as data. Classes are named by import path and loaded when they run."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_MODEL = "claude-sonnet-5-5"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """How an agent holds its conversations; None where its class decides, or for no limit."""

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
    total_budget_usd: float | None = None
    """What all agents together may spend in a day."""


DEFAULT_EFFORT = {"claude-sonnet-5-5": "medium"}
"""The effort for models whose own default thinks more than unattended routine work is worth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routine:
    """A method of an agent that the daily scheduler calls (R23)."""

    method: str
    cron: str
    """When, in the worker's time zone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """One agent as it ships; settings may replace its class, model and poll interval."""

    agent_id: str
    class_path: str
    """`package.module:Class`."""
    poll_interval: float
    """Seconds between two looks at an empty queue."""
    enable_flag: str
    """The variable that turns it off."""
    env_prefix: str
    """What its variables begin with, as in ``CONTENT_AGENT_MODEL``."""
    tables: tuple[str, ...]
    """Tables of its own without which it cannot work (R40)."""
    routines: tuple[Routine, ...] = ()
    model: str = DEFAULT_MODEL
    single: bool = False
    """Whether it runs in one daemon at a time, of several that share the store."""


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
    ),
    AgentSpec(
        agent_id="content",
        class_path="app.agents.content:ContentCreationDomainAgent",
        poll_interval=60.0,
        enable_flag="ENABLE_CONTENT_AGENT",
        env_prefix="CONTENT_AGENT_",
        tables=("actp_viral_templates",),
        routines=(Routine(method="run_daily_pipeline", cron="0 6 * * *"),),
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
    ),
    AgentSpec(
        agent_id="revenue",
        class_path="app.agents.revenue:RevenueAnalyticsDomainAgent",
        poll_interval=120.0,
        enable_flag="ENABLE_REVENUE_AGENT",
        env_prefix="REVENUE_AGENT_",
        tables=("actp_revenue_goals", "actp_weekly_snapshots"),
        routines=(
            Routine(method="run_daily_check", cron="0 8 * * *"),
            Routine(method="run_cost_audit", cron="0 23 * * *"),
            Routine(method="run_weekly_report", cron="0 20 * * 0"),
        ),
    ),
)
