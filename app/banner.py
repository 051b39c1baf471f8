"""What is shown at the start: which agents run and which do not, and where to look (R42)."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import actp_supervise

if TYPE_CHECKING:
    from app.settings import Settings

logger = logging.getLogger(__name__)


def show(settings: Settings, *, where: str, page: str) -> None:
    """Write the banner to stderr for people on a terminal; to any other log as a line.

    Args:
        settings: What is configured.
        where: Where the data is, in words.
        page: The address of the page.
    """
    if sys.stderr.isatty():
        sys.stderr.write(text(settings, where=where, page=page) + "\n")
        if settings.log_file is None:
            return
    for warning in settings.warnings:
        logger.warning(warning, extra={"action": "configuration"})
    enabled = [agent.agent_id for agent in settings.agents if agent.enabled]
    disabled = {a.agent_id: a.why_disabled for a in settings.agents if not a.enabled}
    logger.info(
        "Worker daemon %s starts; enabled: %s; disabled: %s; page: %s",
        settings.worker_id,
        ", ".join(enabled) or "none",
        ", ".join(disabled) or "none",
        page,
        extra={
            "action": "starting",
            "version": actp_supervise.__version__,
            "worker_id": settings.worker_id,
            "store": where,
            "page": page,
            "timezone": str(settings.timezone),
            "enabled": enabled,
            "disabled": disabled,
        },
    )


def text(settings: Settings, *, where: str, page: str | None = None) -> str:
    """Return the banner as lines for people."""
    lines = [f"Worker daemon {actp_supervise.__version__}, {settings.worker_id}", ""]
    if page is not None:
        lines.append(f"  page       {page}/")
    lines += [f"  store      {where}", f"  time zone  {settings.timezone}", ""]
    for agent in settings.agents:
        if agent.enabled:
            budget = agent.daily_budget_usd
            lines.append(
                f"  enabled    {agent.agent_id:<12} every {agent.poll_interval:g} s, {agent.model}"
                + (f", at most ${budget:g} a day" if budget is not None else "")
            )
    lines += [
        f"  disabled   {agent.agent_id:<12} {agent.why_disabled}"
        for agent in settings.agents
        if not agent.enabled
    ]
    if settings.warnings:
        lines += ["", *(f"  warning: {warning}" for warning in settings.warnings)]
    return "\n".join([*lines, ""])
