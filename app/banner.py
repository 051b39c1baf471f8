"""What is shown at the start: which agents run and which do not, and where to look (R42)."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import actp_supervise
from actp_supervise.service import shorten
from app.settings import AgentSettings, Source, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    from app.agents.prices import PriceTable
    from app.agents.spec import WantedHand
    from app.routine import RoutineJob
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


def agents_in_full(
    settings: Settings, prices: PriceTable, routines: Sequence[RoutineJob], today: date
) -> str:
    """Return what came of the file and the environment, agent by agent; for ``--dry-run``."""
    found = ", ".join(sorted(settings.only_in_file)) or "nothing that the environment has not"
    lines = [
        f"  .env       {found}",
        f"  agents     {settings.agents_path or 'the four that ship'}",
        "",
    ]
    for agent in settings.agents:
        lines += _agent_in_full(agent, prices, today)
        lines += _offered(agent, settings)
        lines += [
            f"    {'routine':<18} {job.method} at {job.cron}"
            + (f": {shorten(job.goal, 60)}" if job.goal else "")
            + (f" (never: {job.disabled})" if agent.enabled and job.disabled else "")
            for job in routines
            if job.agent_id == agent.agent_id
        ]
        lines.append("")
    return "\n".join(lines)


def _agent_in_full(agent: AgentSettings, prices: PriceTable, today: date) -> Iterator[str]:
    yield f"  {agent.agent_id}" + ("" if agent.enabled else f" (disabled: {agent.why_disabled})")
    for field, setting in settings_of(AgentSettings).items():
        value, source = getattr(agent, field), agent.sources.get(field, Source.DEFAULT)
        if field == "enabled" or (value is None and source is Source.DEFAULT):
            continue
        if field == "class_path" and agent.spec.prompt is not None:
            yield f"    {'prompt':<18} {shorten(agent.spec.prompt, 60)!r}  (file)"
            continue
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        if field in {"model", "fallback_model"}:
            shown += _priced(str(value), prices, today)
        yield f"    {setting.key:<18} {shown}  ({source})"
    if agent.spec.hands:
        yield f"    {'tools':<18} {', '.join(map(_hand, agent.spec.hands))}"
    if agent.spec.about:
        yield f"    {'about':<18} {', '.join(agent.spec.about)}"
    if agent.spec.approve:
        yield f"    {'approve':<18} {', '.join(agent.spec.approve)}"
    if agent.spec.release is not None:
        yield f"    {'release':<18} {agent.spec.release.tool}"


def _offered(agent: AgentSettings, settings: Settings) -> Iterator[str]:
    """Return the tools that an agent has as their keys are set, and those that it goes without."""
    from app.agents.own_hands import wanted_of
    from app.hands import check_hands
    from app.launcher import offered_hands

    there = []
    for wanted in wanted_of(offered_hands(agent, settings)):
        problems = check_hands([wanted], settings.for_hands)
        if problems:
            yield f"    {'goes without':<18} {shorten(problems[0], 200)}"
        else:
            there.append(wanted.name)
    if there:
        yield f"    {'tools':<18} {', '.join(there)} (their keys are set)"


def _hand(hand: WantedHand) -> str:
    return hand.name if hand.name != "mcp" else f"mcp ({', '.join(hand.options)})"


def _priced(model: str, prices: PriceTable, today: date) -> str:
    prompt, reply = prices.of_tokens(model, today)
    unknown = "" if prices.knows(model) else ", UNKNOWN: as the dearest"
    return f", ${prompt:g} and ${reply:g} per million tokens{unknown}"
