"""Settings: what is allowed, what is said otherwise, and that all of it is documented."""

from __future__ import annotations

import dataclasses
import re
import resource
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from env_example import example

from actp_supervise.service import is_loopback
from app import setting_values
from app.agents.spec import AGENT_SPECS
from app.settings import (
    AgentSettings,
    Section,
    Settings,
    SettingsError,
    load_settings,
    settings_of,
    validate_env,
    variables,
)

ROOT = Path(__file__).parents[2]

KEY = "sk-ant-test-0000"


def load(**environ):
    return load_settings(environ, env_file=None)


def agent(agent_id, **environ):
    return next(a for a in load(**environ).agents if a.agent_id == agent_id)


def test_without_any_variable_the_defaults_hold():
    loaded = load()
    assert loaded.health_host == "127.0.0.1"
    assert loaded.health_port == 8090
    assert loaded.drain_timeout == 30.0
    assert loaded.task_lease == 60.0
    assert loaded.watch_interval == 10.0
    assert loaded.heartbeat_interval == 30.0
    assert loaded.stale_threshold == 90.0
    assert loaded.transcript_days == 30.0
    assert loaded.db_path.name == "worker.db"
    assert [(a.agent_id, a.poll_interval, a.enabled) for a in loaded.agents] == [
        ("social", 30.0, True),
        ("content", 60.0, True),
        ("acquisition", 30.0, True),
        ("revenue", 120.0, True),
    ]


WRONG = {
    "WORKER_HEALTH_PORT": ["abc", "-1", "65536", "80.5", "1e3", "٨٠٩٠"],
    "WORKER_HEALTH_HOST": ["two words", "http://host", "a/b"],
    "WORKER_TIMEZONE": ["Mars/Olympus", "../etc/passwd", "America", "EST5EDT4,M1"],
    "WORKER_ID": ["two words", "x" * 101, "a/b"],
    "WORKER_DRAIN_TIMEOUT": ["soon", "-1", "nan", "inf", "30s"],
    "WORKER_HEARTBEAT_INTERVAL": ["0", "-1", "nan", "often"],
    "WORKER_STALE_THRESHOLD": ["0", "-1", "inf", "never"],
    "WORKER_TASK_LEASE": ["0", "0.5", "86401", "nan", "long"],
    "WORKER_RETENTION_DAYS": ["-1", "36501", "nan", "inf", "a month"],
    "WORKER_TRANSCRIPT_DAYS": ["-1", "36501", "nan", "inf", "a month"],
    "WORKER_LONGEST_WAIT": ["0", "-1", "nan", "long"],
    "WORKER_ALERT_URLS": ["slack", "json://a b", "http://a\x07"],
    "WORKER_ALERT_QUIET": ["night", "22:00", "22:00-22:00", "22-7", "24:00-07:00"],
    "WORKER_DAILY_SUMMARY": ["8", "24:00", "08:60", "noon"],
    "WORKER_HEARTBEAT_URL": ["hc-ping.com/x", "ftp://host"],
    "TELEGRAM_CHAT_ID": ["me", "12a", "@x", "1 2"],
    "TELEGRAM_API_URL": ["localhost:8081", "https://"],
    "SUPERVISOR_WATCH_INTERVAL": ["0", "-5", "inf", "often"],
    "WORKER_DB_PATH": ["/", "~nobody-of-that-name/x.db", "a\0b"],
    "WORKER_PRICES": ["/no/such/file.toml"],
    "WORKER_AGENTS": ["/no/such/agents.toml"],
    "WORKER_API_TOKEN": ["two words", "schlüssel"],
    "WORKER_READ_TOKEN": ["two words", "schlüssel"],
    "ANTHROPIC_API_KEY": ["two words", "sk-ant-\x07"],
    "ANTHROPIC_BASE_URL": ["localhost:8080", "ftp://host", "https://", "http://host:port"],
    "SUPABASE_URL": ["abc.supabase.co", "https://"],
    "SUPABASE_SERVICE_ROLE_KEY": ["two words"],
    "SUPABASE_DB_URL": ["two words"],
    "STRIPE_SECRET_KEY": ["two words"],
    "TELEGRAM_BOT_TOKEN": ["two words"],
    "APPLE_KEY_ID": ["two words"],
    "APPLE_ISSUER_ID": ["two words"],
    "APPLE_KEY_FILE": ["/", "~nobody-of-that-name/key.p8"],
    "APPLE_VENDOR_NUMBER": ["two words"],
    "ENABLE_CONTENT_AGENT": ["maybe", "2", "truefalse"],
    "CONTENT_AGENT_CLASS": ["module", "module:", ":Class", "a b:C", "mod/ule:C", "1a:C"],
    "CONTENT_AGENT_MODEL": ["two words"],
    "CONTENT_AGENT_POLL_INTERVAL": ["0", "-1", "nan", "fast"],
    "CONTENT_AGENT_DAILY_BUDGET_USD": ["-1", "$5", "inf"],
    "CONTENT_AGENT_TASK_BUDGET_USD": ["-1", "much"],
    "CONTENT_AGENT_EFFORT": ["lots", "0"],
    "CONTENT_AGENT_MAX_TOKENS": ["0", "16k", "1e5", "12345678"],
    "CONTENT_AGENT_MAX_TURNS": ["0", "-1", "many", "99999"],
    "CONTENT_AGENT_FALLBACK_MODEL": ["claude opus"],
    "CONTENT_AGENT_WORKERS": ["0", "51", "some"],
    "CONTENT_AGENT_TOOL_TIMEOUT": ["0", "-1", "soon"],
    "CONTENT_AGENT_APPROVAL_TIMEOUT": ["0", "-1", "soon"],
    "WORKER_DAILY_BUDGET_USD": ["-1", "nan"],
    "CONTENT_AGENT_ISOLATION": ["container", "Loop"],
    "CONTENT_AGENT_SINGLE": ["once", "2"],
    "WORKER_LOG_FILE": ["/", "~nobody-of-that-name/worker.log"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_one_line_that_names_the_variable(name, value):
    with pytest.raises(SettingsError) as caught:
        load(**{name: value})
    assert str(caught.value).startswith(name)
    assert "must be" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_variable_has_a_wrong_value():
    others = tuple(spec.env_prefix for spec in AGENT_SPECS if spec.agent_id != "content")
    flags = {spec.enable_flag for spec in AGENT_SPECS if spec.agent_id != "content"}
    names = {name for name in variables() if not name.startswith(others)} - flags
    assert WRONG.keys() == names


def test_who_lives_must_not_count_as_hung():
    with pytest.raises(SettingsError, match="WORKER_STALE_THRESHOLD=50: must be at least twice"):
        load(WORKER_STALE_THRESHOLD="50")
    assert load(WORKER_STALE_THRESHOLD="2", WORKER_HEARTBEAT_INTERVAL="1").stale_threshold == 2


def test_only_agents_that_two_daemons_would_disturb_are_single():
    settings = load(CONTENT_AGENT_SINGLE="yes", ACQUISITION_AGENT_SINGLE="no")
    single = {agent.agent_id: agent.single for agent in settings.agents}
    assert single == {"social": True, "content": True, "acquisition": False, "revenue": False}


@pytest.mark.parametrize(
    "name", ["WORKER_API_TOKEN", "ANTHROPIC_API_KEY", "STRIPE_SECRET_KEY", "SUPABASE_DB_URL"]
)
def test_a_wrong_secret_is_not_shown(name):
    with pytest.raises(SettingsError) as caught:
        load(**{name: "hunter2 with spaces"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["1", "true", "YES", "On"])
def test_a_flag_is_true(text):
    assert agent("revenue", ENABLE_REVENUE_AGENT=text).enabled


@pytest.mark.parametrize("text", ["0", "false", "NO", "Off"])
def test_a_flag_is_false_and_the_agent_says_by_what(text):
    revenue = agent("revenue", ENABLE_REVENUE_AGENT=text)
    assert not revenue.enabled
    assert revenue.why_disabled == "ENABLE_REVENUE_AGENT is false"


def test_each_agent_has_its_own_variables():
    content = agent(
        "content",
        CONTENT_AGENT_CLASS="my.agents:Writer",
        CONTENT_AGENT_MODEL="claude-opus-5-5",
        CONTENT_AGENT_POLL_INTERVAL="2.5",
        CONTENT_AGENT_DAILY_BUDGET_USD="4",
        CONTENT_AGENT_ISOLATION="thread",
        REVENUE_AGENT_MODEL="claude-haiku-5-5",
    )
    assert content.class_path == "my.agents:Writer"
    assert content.model == "claude-opus-5-5"
    assert content.poll_interval == 2.5
    assert content.daily_budget_usd == 4.0
    assert content.isolation == "thread"


def test_an_empty_value_is_as_good_as_none():
    loaded = load(WORKER_HEALTH_PORT="", ANTHROPIC_API_KEY="  ", SUPABASE_URL="")
    assert loaded.health_port == 8090
    assert loaded.anthropic_api_key is None


def test_a_daemon_needs_an_api_key():
    with pytest.raises(SettingsError, match=r"ANTHROPIC_API_KEY is not set.*--demo"):
        load().check_runnable()
    load(ANTHROPIC_API_KEY=KEY).check_runnable()


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"SUPABASE_URL": "https://x.supabase.co"}, "SUPABASE_SERVICE_ROLE_KEY"),
        ({"SUPABASE_SERVICE_ROLE_KEY": "key"}, "SUPABASE_URL"),
    ],
)
def test_supabase_is_configured_whole_or_not_at_all(given, missing):
    with pytest.raises(SettingsError, match=f"^{missing} is not set"):
        load(**given)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "worker.example.com"])
def test_others_may_reach_the_port_only_with_a_token(host):
    with pytest.raises(SettingsError, match=r"^WORKER_HEALTH_HOST=.*WORKER_API_TOKEN"):
        load(WORKER_HEALTH_HOST=host)
    assert load(WORKER_HEALTH_HOST=host, WORKER_API_TOKEN="token").health_host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LocalHost"])
def test_a_loopback_address_needs_no_token(host):
    assert is_loopback(host)
    assert load(WORKER_HEALTH_HOST=host).api_token is None


def test_a_zone_that_cannot_be_read_for_want_of_files_is_not_called_wrong():
    ZoneInfo.clear_cache()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files") as raised:
            load(WORKER_TIMEZONE="Asia/Kathmandu")
        assert setting_values.is_shortage(raised.value)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert str(load(WORKER_TIMEZONE="Asia/Kathmandu").timezone) == "Asia/Kathmandu"


def test_the_zone_is_the_machines_unless_one_is_named():
    assert str(load(TZ="Asia/Tokyo").timezone) == "Asia/Tokyo"
    assert str(load(TZ="Asia/Tokyo", WORKER_TIMEZONE="Europe/Berlin").timezone) == "Europe/Berlin"


def test_a_machine_zone_that_cannot_be_read_is_named_unless_it_is_not_needed():
    with pytest.raises(SettingsError, match=r"TZ.*WORKER_TIMEZONE"):
        load(TZ="Mars/Olympus")
    assert str(load(TZ="Mars/Olympus", WORKER_TIMEZONE="UTC").timezone) == "UTC"


def test_missing_integration_keys_are_warned_of():
    warnings = " ".join(load(STRIPE_SECRET_KEY="sk_1").warnings)
    assert "TELEGRAM_BOT_TOKEN is not set" in warnings
    assert "APPLE_KEY_ID is not set" in warnings
    assert "STRIPE_SECRET_KEY" not in warnings


def test_a_token_that_can_be_guessed_is_warned_of():
    assert any("WORKER_API_TOKEN is short" in w for w in load(WORKER_API_TOKEN="abc").warnings)
    assert not any("TOKEN is short" in w for w in load(WORKER_API_TOKEN="x" * 16).warnings)


def test_a_misspelt_variable_is_warned_of():
    warnings = load(WORKER_HEALT_PORT="1", ENABLE_CONTNT_AGENT="0", OTHER="x").warnings
    assert "WORKER_HEALT_PORT is no setting of this program; did you mean WORKER_HEALTH_PORT?" in (
        warnings
    )
    assert any(w.startswith("ENABLE_CONTNT_AGENT is no setting") for w in warnings)
    assert not any("OTHER" in w for w in warnings)


def test_the_environment_wins_over_the_file(tmp_path):
    env_file = tmp_path / ".env"
    env_file.write_text("WORKER_HEALTH_PORT=1111\nexport WORKER_ID='from-file'\n")
    loaded = load_settings({"WORKER_HEALTH_PORT": "2222"}, env_file=env_file)
    assert loaded.health_port == 2222
    assert loaded.worker_id == "from-file"


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    env_file = tmp_path / ".env"
    env_file.write_bytes(b"WORKER_ID=\xff\xfe")
    with pytest.raises(SettingsError, match=r"\.env cannot be read"):
        load_settings({}, env_file=env_file)


def test_a_file_that_is_not_there_is_none(tmp_path):
    assert load_settings({}, env_file=tmp_path / ".env").health_port == 8090


@pytest.mark.parametrize(
    "line",
    [
        'CONTENT_AGENT_DAILY_BUDGET_USD="2',
        "CONTENT_AGENT_DAILY_BUDGET_USD: 2",
        'CONTENT_AGENT_DAILY_BUDGET_USD="2" $',
        "CONTENT_AGENT_DAILY_BUDGET_USD",
        'WORKER_ID="mac\nCONTENT_AGENT_DAILY_BUDGET_USD=2\nX=3"',
    ],
)
def test_a_line_of_the_file_that_cannot_be_read_is_an_error_and_no_limit_less(tmp_path, line):
    env_file = tmp_path / ".env"
    env_file.write_text(f"# mine\n{line}\n")
    with pytest.raises(SettingsError, match=r"\.env, line 2: .*; write NAME=value") as caught:
        load_settings({}, env_file=env_file)
    assert "2" not in str(caught.value).partition("line 2")[2], "a value may be a secret"


def test_a_value_may_have_several_lines(tmp_path):
    env_file = tmp_path / ".env"
    env_file.write_text('APPLE_KEY="-----BEGIN-----\nabc==\n-----END-----"\nWORKER_ID=mac\n')
    assert load_settings({}, env_file=env_file).worker_id == "mac"


def test_naming_agents_enables_them_and_no_others():
    loaded = load(ENABLE_SOCIAL_MEDIA_AGENT="no").with_agents(["social", "revenue"])
    assert [(a.agent_id, a.enabled, a.why_disabled) for a in loaded.agents] == [
        ("social", True, None),
        ("content", False, "not named by --agents"),
        ("acquisition", False, "not named by --agents"),
        ("revenue", True, None),
    ]


def test_naming_an_unknown_agent_names_the_known_ones():
    with pytest.raises(SettingsError, match="'scoial'; known are social, content, acquisition, "):
        load().with_agents(["scoial"])


def test_the_example_file_is_made_of_the_table_of_settings():
    assert (ROOT / ".env.example").read_text() == example(), "python tests/env_example.py writes it"


def test_the_example_file_names_every_variable_and_its_default(tmp_path):
    given = dict(re.findall(r"^(?:# )?([A-Z_]+)=(.*)$", example(), re.MULTILINE))
    assert given.keys() == set(variables())
    uncommented = tmp_path / ".env"
    uncommented.write_text("\n".join(f"{name}={value}" for name, value in given.items()))
    filled = load_settings({}, env_file=uncommented)
    assert filled == dataclasses.replace(load(), anthropic_base_url="https://api.anthropic.com")


def test_the_example_file_as_it_is_changes_nothing():
    assert load_settings({}, env_file=ROOT / ".env.example") == load()


REFERENCE = (ROOT / "docs/reference/environment.md").read_text()


def section_of_reference(title):
    return REFERENCE.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("setting", settings_of(Settings).values(), ids=lambda each: each.name)
def test_the_reference_has_every_variable_in_its_section_with_its_default(setting):
    text = section_of_reference(setting.section)
    assert f"`{setting.name}`" in text
    if isinstance(setting.default, int | float | str):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{setting.name}` |"))
        shown = setting.default if isinstance(setting.default, str) else f"{setting.default:g}"
        assert row.split(" | ")[1] == shown


def test_the_reference_has_every_variable_of_an_agent():
    text = section_of_reference(Section.AGENTS)
    for spec in AGENT_SPECS:
        assert f"`{spec.enable_flag}` | `{spec.env_prefix}` | {spec.poll_interval:g} |" in text
    enable, *others = settings_of(AgentSettings).values()
    assert enable.name == "ENABLE"
    assert [setting.name for setting in others if f"| `{setting.name}` |" not in text] == []


def test_every_secret_of_the_table_is_known_as_such():
    secret = {field: setting for field, setting in settings_of(Settings).items() if setting.secret}
    addresses = {setting_values.web_address, setting_values.alert_urls}
    given = {
        setting.name: ("https://" if setting.read in addresses else "") + f"hidden-{setting.name}"
        for setting in secret.values()
    }
    loaded = load(SUPABASE_URL="https://x.supabase.co", **given)
    assert set(loaded.secrets) >= set(given.values())
    assert "hidden" not in repr(loaded)
    assert {setting.read for setting in secret.values()} == {setting_values.secret, *addresses}


def test_the_keys_within_a_secret_address_are_secrets_too():
    loaded = load(
        WORKER_ALERT_URLS="slack://T1JJ3T3L2/A1BRTD4JD0123456/x jsons://me:hunter2hunter2hunter2@h/p"
    )
    assert set(loaded.secrets) == {
        "slack://T1JJ3T3L2/A1BRTD4JD0123456/x",
        "A1BRTD4JD0123456",
        "jsons://me:hunter2hunter2hunter2@h/p",
        "hunter2hunter2hunter2",
    }


def test_times_at_which_nobody_is_told_are_warned_of():
    warned = "say when somebody is told, and nobody is"
    assert warned in " ".join(load(WORKER_DAILY_SUMMARY="08:00").warnings)
    told = load(WORKER_DAILY_SUMMARY="08:00", WORKER_ALERT_URLS="ntfy://topic")
    assert warned not in " ".join(told.warnings)


def test_who_may_only_read_has_another_token_than_who_may_change():
    with pytest.raises(SettingsError, match="WORKER_API_TOKEN is not set: with WORKER_READ_TOKEN"):
        load(WORKER_READ_TOKEN="r" * 16)
    with pytest.raises(SettingsError, match="WORKER_READ_TOKEN: must be another"):
        load(WORKER_READ_TOKEN="r" * 16, WORKER_API_TOKEN="r" * 16)


def test_a_chat_of_telegram_needs_a_bot():
    with pytest.raises(SettingsError, match="TELEGRAM_BOT_TOKEN is not set"):
        load(TELEGRAM_CHAT_ID="1")


def test_the_environment_is_validated_for_a_daemon():
    with pytest.raises(SettingsError, match="ANTHROPIC_API_KEY is not set"):
        validate_env({}, env_file=None)
    with pytest.raises(SettingsError, match="SUPABASE_SERVICE_ROLE_KEY is not set"):
        validate_env({"ANTHROPIC_API_KEY": KEY, "SUPABASE_URL": "https://x.co"}, env_file=None)
    warnings = " ".join(validate_env({"ANTHROPIC_API_KEY": KEY}, env_file=None).warnings)
    for name in ("STRIPE_SECRET_KEY", "TELEGRAM_BOT_TOKEN", "APPLE_KEY_ID"):
        assert f"{name} is not set: no agent can" in warnings
