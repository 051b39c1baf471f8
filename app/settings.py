"""The daemon's settings: environment, `.env` and `agents.toml` in, one frozen `Settings` out.

Nothing else of ours reads the environment, but for what a service manager puts there. The
fields of `Settings` and `AgentSettings` are the table of all variables: reading them, redaction,
SIGHUP and `.env.example` (`tests/env_example.py`) are made of it, the reference is tested by it.
"""

from __future__ import annotations

import dataclasses
import difflib
import io
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import time
from enum import StrEnum
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import platformdirs
from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream

from actp_supervise.clock import local_timezone
from actp_supervise.service import is_loopback
from app import setting_values as values
from app.agent_file import AgentFileError, read_agents, variables_in
from app.agents.spec import AGENT_SPECS, PROMPTED_CLASS, AgentSpec
from app.status import Isolation

HAS_TRIO_ASYNCIO: Final = values.HAS_TRIO_ASYNCIO

DEFAULT_ISOLATION: Final[Isolation] = "loop" if HAS_TRIO_ASYNCIO else "thread"

DEMO_KEY: Final = "simulated-key"
"""The API key of the demonstration; no real one looks like it."""

APPLICATION: Final = "actp-worker"
"""What the folder under the user's data directory is called."""

AGENTS_VARIABLE: Final = "WORKER_AGENTS"
"""The variable that names the file of agents."""

SHORTEST_SECRET: Final = 6
"""Characters that a value of the user's own has at least that is taken out of texts."""

GOOD_TOKEN: Final = 16
"""Characters that a token should have at least."""


class SettingsError(Exception):
    """A setting is missing or wrong. Its text is one line that names the variable, or the key."""


class Source(StrEnum):
    """Where the value of a setting comes from."""

    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


class Section(StrEnum):
    """Where a setting stands in `.env.example` and in the reference."""

    CLAUDE = "Claude"
    KEPT = "What is kept"
    WEB = "The page and the API"
    DAEMON = "The daemon"
    ALERTS = "Who is told"
    AGENTS = "The agents"
    SERVICES = "Services that agents may use"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One variable; reading it, redaction, SIGHUP and `.env.example` follow from it.

    The docstring below its field is the comment in `.env.example`, where one that has none follows
    at once.
    """

    name: str
    """Of an agent's, what stands behind its prefix; `ENABLE` is its flag."""
    read: Callable[[str], Any]
    default: Any
    """What holds where it is not set, or a function that makes it of the environment; of an
    agent's setting, of its `AgentSpec`."""
    section: Section
    secret: bool = False
    """Whether its value must not reach a log, an event or an answer."""
    reloads: bool = False
    """Whether a running daemon takes it up on SIGHUP: an agent's, with its next run."""
    without: str | None = None
    """What is not possible without it, which is warned of."""
    example: str = ""
    """What `.env.example` shows in place of the default."""

    def variable(self, spec: AgentSpec | None = None) -> str:
        """Return what it is called in the environment."""
        if spec is None:
            return self.name
        return spec.enable_flag if self.name == "ENABLE" else spec.env_prefix + self.name

    @property
    def key(self) -> str:
        """What an agent's setting is called in the file of agents."""
        return "enabled" if self.name == "ENABLE" else self.name.lower()


def setting(
    section: Section,
    name: str,
    read: Callable[[str], Any],
    default: Any,  # noqa: ANN401  (what `read` returns, or a function)
    **facts: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401  (as `dataclasses.field`)
    """Declare a field that is read from the environment; `facts` are further ones of `Setting`."""
    made = Setting(name=name, read=read, default=default, section=section, **facts)
    return field(repr=not made.secret, metadata={"setting": made})


_claude = partial(setting, Section.CLAUDE)
_kept = partial(setting, Section.KEPT)
_web = partial(setting, Section.WEB)
_daemon = partial(setting, Section.DAEMON)
_alerts = partial(setting, Section.ALERTS)
_agents = partial(setting, Section.AGENTS)
_services = partial(setting, Section.SERVICES)


@cache
def settings_of(kind: type[Settings | AgentSettings]) -> dict[str, Setting]:
    """Return field -> setting."""
    fields = dataclasses.fields(kind)
    return {each.name: each.metadata["setting"] for each in fields if "setting" in each.metadata}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """What is configured of one agent."""

    spec: AgentSpec
    why_disabled: str | None
    enabled: bool = _agents("ENABLE", values.flag, default=True)
    """Whether it runs."""
    class_path: str = _agents("CLASS", values.class_path, attrgetter("class_path"))
    """The class, as package.module:Class."""
    model: str = _agents("MODEL", values.model, attrgetter("model"), reloads=True)
    """The model."""
    poll_interval: float = _agents(
        "POLL_INTERVAL", values.interval, attrgetter("poll_interval"), reloads=True
    )
    """How often it looks at an empty queue."""
    daily_budget_usd: float | None = _agents("DAILY_BUDGET_USD", values.dollars, None, reloads=True)
    """What it may spend a day, in US dollars (default: no limit)."""
    task_budget_usd: float | None = _agents("TASK_BUDGET_USD", values.dollars, None, reloads=True)
    """What one task may cost, in all its attempts (default: no limit)."""
    effort: str | None = _agents("EFFORT", values.effort, None, reloads=True)
    """How much its model thinks: low, medium, high, xhigh or max (default: what is good for it)."""
    max_tokens: int | None = _agents("MAX_TOKENS", values.tokens, None, reloads=True)
    """Tokens of one reply, its thinking included (default: what its class says)."""
    max_turns: int | None = _agents("MAX_TURNS", values.turns, None, reloads=True)
    """Replies of the model for one task (default: what its class says)."""
    fallback_model: str | None = _agents("FALLBACK_MODEL", values.model, None, reloads=True)
    """The model that is asked once its own has refused (default: none)."""
    tool_timeout: float = _agents("TOOL_TIMEOUT", values.interval, 120.0, reloads=True)
    """How long a call of a tool may take; then the model is told so."""
    approval_timeout: float | None = _agents(
        "APPROVAL_TIMEOUT", values.interval, None, reloads=True
    )
    """How long a call waits for a person's approval before it counts as denied (default: for
    ever)."""
    isolation: Isolation = _agents(
        "ISOLATION", values.isolation, DEFAULT_ISOLATION, reloads=True, example="loop"
    )
    """Whether it shares the daemon's thread (loop), or has a thread or a process of its own."""
    single: bool = _agents("SINGLE", values.flag, attrgetter("single"))
    """Whether, of several daemons that share Supabase, one at a time runs it."""
    workers: int = _agents("WORKERS", values.workers, 1, reloads=True)
    """How many tasks it does at once."""
    # Where the values of its settings come from, by field; for who asks what holds (`--dry-run`).
    sources: Mapping[str, Source] = field(default_factory=dict, compare=False)

    @property
    def agent_id(self) -> str:
        """The agent's name in tables, addresses and logs."""
        return self.spec.agent_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that is configured; durations in seconds."""

    anthropic_api_key: str | None = _claude("ANTHROPIC_API_KEY", values.secret, None, secret=True)
    """The API key. Required; without one there is only the demo (python -m app.main --demo)."""
    anthropic_base_url: str | None = _claude(
        "ANTHROPIC_BASE_URL", values.web_address, None, example="https://api.anthropic.com"
    )
    """Another address to reach the API at, such as a gateway's. Default: Anthropic's own."""
    prices_path: Path | None = _claude("WORKER_PRICES", values.existing_file, None)
    """A price table in place of app/agents/prices.toml, in the same form. Default: the one that
    ships.
    """
    daily_budget_usd: float | None = _claude("WORKER_DAILY_BUDGET_USD", values.dollars, None)
    """What all agents together may spend a day, in US dollars. Default: no limit."""
    db_path: Path = _kept("WORKER_DB_PATH", values.path, lambda _environ: _data_dir() / "worker.db")
    """The SQLite file. Default: worker.db in actp-worker under the user's data directory."""
    supabase_url: str | None = _kept("SUPABASE_URL", values.supabase_address, None)
    """Supabase in place of SQLite: both or neither. See docs/how-to/set-up-supabase.md."""
    supabase_service_role_key: str | None = _kept(
        "SUPABASE_SERVICE_ROLE_KEY", values.secret, None, secret=True
    )
    supabase_db_url: str | None = _kept("SUPABASE_DB_URL", values.secret, None, secret=True)
    """The Postgres behind it, for making the tables: python -m app.main --migrate"""
    agents_path: Path | None = _agents(AGENTS_VARIABLE, values.existing_file, None)
    """The file of agents, in place of the four that ship; see agents.example.toml. Default:
    agents.toml beside .env, where there is one.
    """
    health_port: int = _web("WORKER_HEALTH_PORT", values.port, 8090)
    """The port; 0 takes one that is free."""
    health_host: str = _web("WORKER_HEALTH_HOST", values.host, "127.0.0.1")
    """The address to listen on. Anything but loopback needs WORKER_API_TOKEN."""
    api_token: str | None = _web("WORKER_API_TOKEN", values.secret, None, secret=True)
    """What every request that changes something must carry (Authorization: Bearer ...). Default:
    none.
    """
    read_token: str | None = _web("WORKER_READ_TOKEN", values.secret, None, secret=True)
    """What every request that only reads must carry then, or WORKER_API_TOKEN; a browser is shown a
    page to log in. Default: reading is open to all who reach the port.
    """
    worker_id: str = _daemon(
        "WORKER_ID", values.worker_id, lambda _environ: f"{socket.gethostname()}-{os.getpid()}"
    )
    """Its name in the registry. Default: the machine's name and the process id."""
    timezone: ZoneInfo = _daemon(
        "WORKER_TIMEZONE", values.timezone, lambda environ: _local_timezone(environ)
    )
    """The time zone of the daily routines, such as Europe/Berlin. Default: the machine's."""
    drain_timeout: float = _daemon("WORKER_DRAIN_TIMEOUT", values.seconds, 30.0)
    """How long work in flight has to finish when the daemon or an agent is asked to stop. Give a
    service manager 15 seconds more (systemd: TimeoutStopSec).
    """
    task_lease: float = _daemon("WORKER_TASK_LEASE", values.lease, 60.0)
    """How long a task stays claimed without a renewal (1 to 86400); it is renewed three times as
    often.
    """
    watch_interval: float = _daemon(
        "SUPERVISOR_WATCH_INTERVAL", values.interval, 10.0, reloads=True
    )
    """The most seconds between two beats, by which restart requests, cancellations, pauses and work
    are noticed; there are 4.5 at most.
    """
    heartbeat_interval: float = _daemon("WORKER_HEARTBEAT_INTERVAL", values.interval, 30.0)
    """How often agents and daemons show in the store that they live, and after how long without a
    sign an agent counts as hung and is restarted, or a daemon on another machine as dead. At
    least twice the interval.
    """
    stale_threshold: float = _daemon("WORKER_STALE_THRESHOLD", values.interval, 90.0)
    longest_wait: float = _daemon("WORKER_LONGEST_WAIT", values.interval, 1800.0, reloads=True)
    """How many seconds a task may wait in the queue before that is a reason for /health and an
    alert.
    """
    transcript_days: float = _daemon("WORKER_TRANSCRIPT_DAYS", values.days, 30.0)
    """How many days the conversations about tasks are kept; 0 for ever."""
    retention_days: float = _daemon("WORKER_RETENTION_DAYS", values.days, 90.0)
    """How many days finished tasks, runs, calls of tools and single costs are kept; 0 for ever."""
    log_file: Path | None = _daemon("WORKER_LOG_FILE", values.path, None)
    """A file for the log, in place of stderr. It may be moved away at any time: a new one is
    begun.
    """
    alert_urls: tuple[str, ...] = _alerts(
        "WORKER_ALERT_URLS", values.alert_urls, (), secret=True, reloads=True
    )
    """Where alerts go, as addresses of apprise with spaces between them: Slack, mail, webhooks. It
    needs pip install --group alerts. See docs/how-to/be-told-on-your-phone.md.
    """
    alert_quiet: tuple[time, time] | None = _alerts(
        "WORKER_ALERT_QUIET", values.hours, None, reloads=True
    )
    """Hours of the worker's zone in which nothing is told, such as 22:00-07:00; what is still so is
    told after them.
    """
    daily_summary: time | None = _alerts(
        "WORKER_DAILY_SUMMARY", values.time_of_day, None, reloads=True
    )
    """When each day what was done, what it cost and what waits is told, such as 08:00. Default:
    never.
    """
    heartbeat_url: str | None = _alerts(
        "WORKER_HEARTBEAT_URL", values.web_address, None, secret=True, reloads=True
    )
    """An address that is asked each minute for as long as the daemon lives, of a service that tells
    you when that stops (a dead man's switch).
    """
    agents: tuple[AgentSettings, ...]
    stripe_secret_key: str | None = _services(
        "STRIPE_SECRET_KEY", values.secret, None, secret=True, without="no agent can use Stripe"
    )
    """For hands of agents (`docs/reference/hands.md`); a warning at start says which are missing.
    A class of your own finds these in its environment, and whatever else stands in .env.
    """
    telegram_bot_token: str | None = _services(
        "TELEGRAM_BOT_TOKEN", values.secret, None, secret=True, without="no agent can use Telegram"
    )
    """A bot of Telegram and the chat that it writes to: alerts go there where both are set."""
    telegram_chat_id: str | None = _services("TELEGRAM_CHAT_ID", values.chat_id, None)
    telegram_api_url: str | None = _services("TELEGRAM_API_URL", values.web_address, None)
    """Another address of the Bot API, for alerts, approvals and the tool, such as that of a server
    of your own. Default: https://api.telegram.org
    """
    apple_key_id: str | None = _services(
        "APPLE_KEY_ID", values.secret, None, secret=True, without="no agent can use the App Store"
    )
    apple_issuer_id: str | None = _services("APPLE_ISSUER_ID", values.word, None)
    apple_key_file: Path | None = _services("APPLE_KEY_FILE", values.path, None)
    apple_vendor_number: str | None = _services("APPLE_VENDOR_NUMBER", values.word, None)
    referred: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The other variables that the file of agents refers to, as in ``${CRM_TOKEN}``."""
    only_in_file: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """What `.env` has and the environment has not, for classes of one's own."""
    given: frozenset[str] = field(default_factory=frozenset, compare=False, repr=False)
    """The names of the daemon's variables that are set."""
    data_dir: Path
    warnings: tuple[str, ...]
    """What the operator may want to know; one line each."""

    @property
    def demo(self) -> bool:
        """Whether this is the demonstration: its model is simulated, its money is not real."""
        return self.anthropic_api_key == DEMO_KEY

    @property
    def secrets(self) -> tuple[str, ...]:
        """All values that must not reach a log, an event or an answer."""
        given = (getattr(self, name) for name, each in settings_of(Settings).items() if each.secret)
        each_alone = (one if isinstance(one, tuple) else (one,) for one in given if one)
        others = tuple(
            value
            for name, value in {**self.only_in_file, **self.referred}.items()
            if names_a_secret(name) and len(value) >= SHORTEST_SECRET
        )
        return tuple(
            found
            for values in (*each_alone, others)
            for one in values
            for found in _with_parts(one)
        )

    @property
    def for_hands(self) -> dict[str, str]:
        """The variables of services that are set, by name."""
        found = {
            setting.name: getattr(self, field)
            for field, setting in settings_of(Settings).items()
            if setting.section is Section.SERVICES
        }
        given = {name: str(value) for name, value in found.items() if value is not None}
        return {**self.referred, **given}

    def with_agents(self, agent_ids: Iterable[str]) -> Settings:
        """Return the settings with these agents enabled and the others not.

        Raises:
            SettingsError: If there is no agent of that name; the known ones are named.
        """
        wanted = dict.fromkeys(agent_ids)
        known = [agent.agent_id for agent in self.agents]
        if not wanted:
            raise SettingsError(f"--agents: name one or more of {', '.join(known)}")
        for agent_id in wanted:
            if agent_id not in known:
                raise SettingsError(unknown_agent(agent_id, known))
        agents = tuple(
            dataclasses.replace(agent, enabled=True, why_disabled=None)
            if agent.agent_id in wanted
            else dataclasses.replace(agent, enabled=False, why_disabled="not named by --agents")
            for agent in self.agents
        )
        return dataclasses.replace(self, agents=agents)

    def check_runnable(self) -> None:
        """Check what a daemon needs and the commands beside it do not.

        Raises:
            SettingsError: If there is no API key.
        """
        if self.anthropic_api_key is None:
            raise SettingsError(
                "ANTHROPIC_API_KEY is not set: put it into the environment or into .env, "
                "or try the demo, which needs none: python -m app.main --demo"
            )


_SECRET_WORDS: Final = re.compile(
    r"(?:^|_)(?:API)?(?:KEY|TOKEN|SECRET|PASS|PASSWD|PASSWORD|PASSPHRASE|CREDENTIALS?|DSN)S?$",
    re.IGNORECASE,
)


def names_a_secret(variable: str) -> bool:
    """Return whether a variable that is none of ours holds a secret, by its name.

    >>> [names_a_secret(name) for name in ("CRM_TOKEN", "OPENAI_API_KEY", "KEY_FILE", "AUTHOR")]
    [True, True, False, False]
    """
    return _SECRET_WORDS.search(variable) is not None


def _with_parts(secret: str) -> Iterable[str]:
    """Return a secret; of an address also the keys in it, which an error may name alone."""
    yield secret
    if "://" in secret:
        yield from (part for part in re.split("[/:@?&=]+", secret) if len(part) >= GOOD_TOKEN)


def unknown_agent(agent_id: str, known: Iterable[str]) -> str:
    """Say that there is no such agent, and which there are."""
    return f"there is no agent {agent_id!r}; known are {', '.join(known)}"


def load_settings(
    environ: Mapping[str, str] = os.environ,
    *,
    env_file: Path | None = Path(".env"),
    required: bool = False,
) -> Settings:
    """Read and check all settings.

    Args:
        environ: The environment; it wins over the file. An empty value is as good as none.
        env_file: A file in the form of `.env`.
        required: Whether that has to be there.

    Raises:
        SettingsError: If a variable is wrong, or a line of the file is.
    """
    if required and env_file is not None and not env_file.exists():
        raise SettingsError(f"{env_file} is not there any more: put it back, or restart the daemon")
    in_file = _read_file(env_file)
    given = {**in_file, **environ}
    if env_file is not None and AGENTS_VARIABLE not in given:  # an empty value hides the file
        beside = env_file.with_name("agents.toml").absolute()
        if beside.is_file():
            given[AGENTS_VARIABLE] = str(beside)
    only_in_file = {name: value for name, value in in_file.items() if value and name not in environ}
    return _read(given, only_in_file)


def validate_env(
    environ: Mapping[str, str] = os.environ, *, env_file: Path | None = Path(".env")
) -> Settings:
    """Return the settings of a daemon, checked (R41); what it can do without is in `warnings`.

    Args:
        environ: The environment; it wins over the file.
        env_file: A file in the form of `.env`.

    Raises:
        SettingsError: If one is wrong, or is missing and the daemon cannot do without.
    """
    settings = load_settings(environ, env_file=env_file)
    settings.check_runnable()
    return settings


def variables(specs: Iterable[AgentSpec] = AGENT_SPECS) -> tuple[str, ...]:
    """Return the names of all variables of these agents, in the order in which they are read."""
    of_agents = settings_of(AgentSettings).values()
    return (
        *(each.name for each in settings_of(Settings).values()),
        *(each.variable(spec) for spec in specs for each in of_agents),
    )


def given_variables(
    environ: Mapping[str, str] = os.environ, *, env_file: Path | None = Path(".env")
) -> frozenset[str]:
    """Return the names of the daemon's variables that are set, whatever their values.

    Args:
        environ: The environment; it wins over the file.
        env_file: A file in the form of `.env`.

    Raises:
        SettingsError: If a line of the file is wrong.
    """
    return _given({**_read_file(env_file), **environ})


def _given(values: Mapping[str, str]) -> frozenset[str]:
    names = (each.name for each in settings_of(Settings).values())
    return frozenset(name for name in names if values.get(name, "").strip())


def _read(environ: Mapping[str, str], only_in_file: Mapping[str, str]) -> Settings:
    given = {name: value.strip() for name, value in environ.items()}
    read = {name: _value(each, given) for name, each in settings_of(Settings).items()}
    specs = _specs(read["agents_path"])
    settings = Settings(
        **read,
        agents=tuple(_agent(given, spec) for spec in specs),
        referred={name: given[name] for name in variables_in(specs) if given.get(name)},
        only_in_file=only_in_file,
        given=_given(given),
        data_dir=_data_dir(),
        warnings=(),
    )
    _check_together(settings)
    return dataclasses.replace(settings, warnings=tuple(_warnings(settings, given)))


def _specs(path: Path | None) -> tuple[AgentSpec, ...]:
    """Return which agents there are: those of the file, or the four."""
    if path is None:
        return AGENT_SPECS
    try:
        return read_agents(path, [each.key for each in settings_of(AgentSettings).values()])
    except AgentFileError as error:
        raise SettingsError(str(error)) from error


def _value(each: Setting, given: Mapping[str, str], spec: AgentSpec | None = None) -> Any:  # noqa: ANN401  (what the setting's `read` returns)
    name = each.variable(spec)
    text = given.get(name)
    in_file = None if spec is None else spec.given.get(each.key)
    if not text and in_file is None:
        return each.default(spec or given) if callable(each.default) else each.default
    try:
        return each.read(text or (in_file.text if in_file is not None else ""))
    except ValueError as error:
        if not text and in_file is not None:
            raise SettingsError(f"{in_file.place}: must be {error}") from None
        # An address may have a password in it.
        hidden = each.secret or each.read is values.web_address
        shown = "" if hidden else f"={text:.60}"
        raise SettingsError(f"{name}{shown}: must be {error}") from None


def _agent(given: Mapping[str, str], spec: AgentSpec) -> AgentSettings:
    own = settings_of(AgentSettings)
    read = {name: _value(each, given, spec) for name, each in own.items()}
    sources = {name: _source(each, given, spec) for name, each in own.items()}
    if read["class_path"] == PROMPTED_CLASS and spec.prompt is None:
        raise SettingsError(f"{spec.place}: needs a prompt, or a class")
    in_file = spec.given.get("enabled")
    why = f"{spec.enable_flag} is false"
    if sources["enabled"] is Source.FILE and in_file is not None:
        why = f"{in_file.place} is false"
    return AgentSettings(
        spec=spec, why_disabled=None if read["enabled"] else why, sources=sources, **read
    )


def _source(each: Setting, given: Mapping[str, str], spec: AgentSpec) -> Source:
    if given.get(each.variable(spec)):
        return Source.ENVIRONMENT
    return Source.FILE if each.key in spec.given else Source.DEFAULT


def _check_together(settings: Settings) -> None:
    url, key = settings.supabase_url, settings.supabase_service_role_key
    if (url is None) != (key is None):
        missing = "SUPABASE_URL" if url is None else "SUPABASE_SERVICE_ROLE_KEY"
        raise SettingsError(
            f"{missing} is not set: Supabase needs both SUPABASE_URL and "
            "SUPABASE_SERVICE_ROLE_KEY; without either, SQLite is used"
        )
    if settings.read_token is not None and settings.api_token is None:
        raise SettingsError("WORKER_API_TOKEN is not set: with WORKER_READ_TOKEN it has to be, too")
    if settings.read_token is not None and settings.read_token == settings.api_token:
        raise SettingsError("WORKER_READ_TOKEN: must be another than WORKER_API_TOKEN")
    if settings.telegram_chat_id is not None and settings.telegram_bot_token is None:
        raise SettingsError("TELEGRAM_BOT_TOKEN is not set: TELEGRAM_CHAT_ID needs a bot to write")
    host = settings.health_host
    if settings.api_token is None and not is_loopback(host):
        raise SettingsError(
            f"WORKER_HEALTH_HOST={host}: others could reach it, so WORKER_API_TOKEN must be set; "
            "127.0.0.1 is for this machine alone"
        )
    interval, threshold = settings.heartbeat_interval, settings.stale_threshold
    if threshold < 2 * interval:
        raise SettingsError(
            f"WORKER_STALE_THRESHOLD={threshold:g}: must be at least twice "
            f"WORKER_HEARTBEAT_INTERVAL, which is {interval:g}, or whoever lives counts as hung"
        )


_LOOKS_LIKE_A_KEY: Final = re.compile(r"sk-ant-[A-Za-z0-9_-]{30,}")


def _warnings(settings: Settings, given: Mapping[str, str]) -> Iterable[str]:
    key = settings.anthropic_api_key
    # A gateway may have keys of its own.
    is_theirs = key is not None and settings.anthropic_base_url is None
    if key is not None and is_theirs and not _LOOKS_LIKE_A_KEY.fullmatch(key):
        yield (
            "ANTHROPIC_API_KEY does not look like a key of Anthropic's, which begins with sk-ant- "
            "and has some 100 letters, digits, _ and -; try it with: python -m app.main --dry-run"
        )
    tokens = {"WORKER_API_TOKEN": settings.api_token, "WORKER_READ_TOKEN": settings.read_token}
    for name, token in tokens.items():
        if token is not None and len(token) < GOOD_TOKEN:
            yield f"{name} is short and can be guessed: use {GOOD_TOKEN} characters or more"
    is_to_tell = settings.alert_quiet is not None or settings.daily_summary is not None
    if is_to_tell and not settings.alert_urls and settings.telegram_chat_id is None:
        yield (
            "WORKER_ALERT_QUIET and WORKER_DAILY_SUMMARY say when somebody is told, and nobody is: "
            "set TELEGRAM_CHAT_ID or WORKER_ALERT_URLS"
        )
    for name, each in settings_of(Settings).items():
        if each.without is not None and getattr(settings, name) is None:
            yield f"{each.name} is not set: {each.without}"
    yield from _unknown_variables(given, [agent.spec for agent in settings.agents])


def _unknown_variables(given: Mapping[str, str], specs: Sequence[AgentSpec]) -> Iterable[str]:
    """Name the variables that look like ours and are none, so that a slip of the pen is seen."""
    prefixes = {spec.env_prefix for spec in (*AGENT_SPECS, *specs)}
    ours = re.compile("WORKER_|SUPERVISOR_|ENABLE_.*_AGENT$|" + "|".join(sorted(prefixes)))
    known = variables(specs)
    for name in sorted(given.keys() - set(known)):
        if ours.match(name):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            yield f"{name} is no setting of this program{hint}"


def _read_file(env_file: Path | None) -> dict[str, str]:
    if env_file is None or not env_file.exists():
        return {}
    try:
        text = env_file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"{env_file} cannot be read: {error}") from error
    # dotenv itself leaves out what it cannot read, were it a limit of spend.
    for binding in parse_stream(io.StringIO(text)):
        fault = _fault_of(binding)
        if fault is not None:
            where = f"{env_file}, line {binding.original.line}"
            raise SettingsError(f"{where}: {fault}; write NAME=value, with quotes in pairs")
    values = dotenv_values(stream=io.StringIO(text))
    return {name: value for name, value in values.items() if value is not None}


def _fault_of(binding: Binding) -> str | None:
    if binding.error:
        return "cannot be read"
    if binding.key is not None and binding.value is None:
        return f"{binding.key} has no '='"
    if binding.value is not None and _SWALLOWED.search(binding.value):
        return f"the quote that {binding.key} begins with does not end before the next setting"
    return None


_SWALLOWED: Final = re.compile(
    "\n\\s*(export )?(WORKER|SUPERVISOR|ENABLE|ANTHROPIC|SUPABASE|[A-Z0-9_]+_AGENT)_[A-Z_]+="
)


def _local_timezone(environ: Mapping[str, str]) -> ZoneInfo:
    try:
        zone = local_timezone(environ)
    except ValueError as error:
        raise SettingsError(f"{error}, in WORKER_TIMEZONE") from error
    return zone if isinstance(zone, ZoneInfo) else ZoneInfo("UTC")


def _data_dir() -> Path:
    return platformdirs.user_data_path(APPLICATION)
