"""The names that the requirements give in code are there, and take what they are said to take."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

from app.agents.spec import AGENT_SPECS
from app.command_line import read_arguments
from app.settings import AgentSettings, Settings, settings_of, variables
from app.store.protocol import REQUIRED_TABLES
from app.web.openapi import ROUTES, address

TESTS = Path(__file__).parents[1]

CALLS = {
    # R1 to R9
    "app.supervisor:AgentSupervisor": ["agents_config"],
    "app.supervisor:AgentSupervisor.start_all": [],
    "app.supervisor:AgentSupervisor.watch_loop": [],
    "app.supervisor:AgentSupervisor.restart_agent": ["agent_id"],
    "app.supervisor:AgentSupervisor.stop_all": [],
    "app.supervisor:AgentSupervisor.get_status": [],
    "app.supervisor:AgentSupervisor.get_crash_count": ["agent_id"],
    "app.supervisor:AgentSupervisor._should_backoff": ["agent_id"],
    "app.supervisor:AgentSupervisor._backoff_delay": ["agent_id"],
    # R10 to R14
    "app.registry:AgentRegistry.register_all": ["agents"],
    "app.registry:AgentRegistry.set_status": ["agent_id", "status"],
    "app.registry:AgentRegistry.set_needs_restart": ["agent_id", "val"],
    "app.registry:AgentRegistry.poll_restart_requests": [],
    "app.registry:AgentRegistry.deregister_all": [],
    # R15 to R17
    "app.heartbeat:HealthHeartbeat.start": ["interval=30"],
    "app.heartbeat:HealthHeartbeat.send": ["agent_id", "health_dict"],
    "app.heartbeat:HealthHeartbeat.detect_stale": ["threshold=90"],
    # R18 to R21
    "app.shutdown:GracefulShutdown.register": [],
    "app.shutdown:GracefulShutdown.handler": ["sig", "frame"],
    "app.shutdown:GracefulShutdown.drain_wait": ["timeout=30"],
    "app.shutdown:GracefulShutdown.force_stop": [],
    # R22 to R25
    "app.routine:DailyRoutineScheduler.setup": [],
    "app.routine:DailyRoutineScheduler.start": [],
    "app.routine:DailyRoutineScheduler.shutdown": [],
    # R27 to R32
    "app.health_server:HealthServer.start": ["port=8090"],
    # R33, R39, R41
    "app.main:main": [],
    "app.store.schema:check_required_tables": ["store"],
    "app.settings:validate_env": [],
}
"""What is called -> what it may be given by position, with the defaults that are required."""

AGENTS = {
    "social": ("SocialMediaDomainAgent", 30, "ENABLE_SOCIAL_MEDIA_AGENT"),
    "content": ("ContentCreationDomainAgent", 60, "ENABLE_CONTENT_AGENT"),
    "acquisition": ("AcquisitionDomainAgent", 30, "ENABLE_ACQUISITION_AGENT"),
    "revenue": ("RevenueAnalyticsDomainAgent", 120, "ENABLE_REVENUE_AGENT"),
}

ROUTINES = {
    "content": {"run_daily_pipeline": "0 6 * * *"},
    "revenue": {
        "run_daily_check": "0 8 * * *",
        "run_cost_audit": "0 23 * * *",
        "run_weekly_report": "0 20 * * 0",
    },
    "acquisition": {
        "run_pipeline_advance": "0 9 * * *",
        "run_daily_prospecting": "0 11,15 * * *",
    },
}


def named(path):
    """Return what an import path such as ``package.module:Class.method`` names."""
    module, _, names = path.partition(":")
    found = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found


@pytest.mark.parametrize(("path", "wanted"), CALLS.items(), ids=CALLS)
def test_each_call_is_there_and_takes_what_it_is_said_to_take(path, wanted):
    parameters = [
        parameter
        for parameter in inspect.signature(named(path)).parameters.values()
        if parameter.name != "self" and parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    taken = [
        (each.name, None if each.default is inspect.Parameter.empty else each.default)
        for each in parameters
    ]
    for number, each in enumerate(wanted):
        name, _, default = each.partition("=")
        assert taken[number] == (name, float(default) if default else None)
    others = parameters[len(wanted) :]
    assert all(parameter.default is not inspect.Parameter.empty for parameter in others)


def test_each_agent_has_its_class_interval_and_flag():
    specs = {
        spec.agent_id: (spec.class_path.partition(":")[2], spec.poll_interval, spec.enable_flag)
        for spec in AGENT_SPECS
    }
    assert specs == AGENTS


@pytest.mark.parametrize("spec", AGENT_SPECS, ids=lambda spec: spec.agent_id)
def test_each_agent_can_be_run_as_a_daemon_and_has_its_routines(spec):
    cls = named(spec.class_path)
    assert list(inspect.signature(cls.run_as_daemon).parameters) == ["self", "poll_interval"]
    routines = {routine.method: routine.cron for routine in spec.routines}
    assert routines == ROUTINES.get(spec.agent_id, {})
    assert all(inspect.iscoroutinefunction(getattr(cls, method)) for method in routines)


@pytest.mark.parametrize(
    "flags",
    [
        ["--agents", "social,content"],
        ["--dry-run"],
        ["--list-agents"],
        ["--restart-agent", "social"],
    ],
)
def test_each_flag_of_the_command_line_is_there(flags):
    read_arguments(flags)


def test_each_address_is_there():
    found = {f"{route.method} {address(route.rule)}" for route in ROUTES}
    assert found >= {
        "GET /health",
        "GET /agents",
        "GET /agents/{agent_id}",
        "GET /agents/{agent_id}/status",
        "GET /agents/{agent_id}/restart",
        "POST /agents/{agent_id}/restart",
        "POST /agents/task",
        "GET /scheduler/jobs",
    }


def test_each_variable_is_there_with_its_default():
    defaults = {setting.name: setting.default for setting in settings_of(Settings).values()}
    assert defaults["WORKER_HEALTH_PORT"] == 8090
    assert defaults["SUPERVISOR_WATCH_INTERVAL"] == 10
    assert set(variables()) >= {
        "ANTHROPIC_API_KEY",
        "SUPABASE_URL",
        "SUPABASE_SERVICE_ROLE_KEY",
        "STRIPE_SECRET_KEY",
        "TELEGRAM_BOT_TOKEN",
        "APPLE_KEY_ID",
        "WORKER_TIMEZONE",
    }
    assert settings_of(AgentSettings)["enabled"].default is True


def test_each_table_is_required():
    assert set(REQUIRED_TABLES) >= {
        "actp_agent_registry",
        "actp_agent_runs",
        "actp_agent_memory",
        "actp_agent_tasks",
        "actp_tool_call_log",
        "actp_engagement_actions",
        "actp_viral_templates",
        "actp_deal_log",
        "actp_revenue_goals",
        "actp_weekly_snapshots",
        "anthropic_cost_log",
    }


def test_the_tests_that_are_asked_for_by_name_are_there():
    names = {
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert names >= {
        "test_supervisor_restarts_crashed_agent",
        "test_supervisor_backoff_after_5_crashes",
        "test_graceful_shutdown_drains_in_flight",
        "test_daily_routine_jobs_registered",
        "test_health_server_returns_all_agents",
        "test_registry_deregisters_on_shutdown",
    }
