"""The daemon's settings: environment and `.env` in, one frozen `Settings` out.

Nothing else reads the environment, but for what a service manager puts there (`app.service`). Every
variable is documented in `.env.example` and in `docs/reference/environment.md`, and a test holds
the three together.
"""

from __future__ import annotations

import dataclasses
import difflib
import io
import math
import os
import re
import socket
from dataclasses import dataclass, field
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import platformdirs
from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream

from actp_supervise.clock import local_timezone
from app.agents.spec import AGENT_SPECS, EFFORTS, AgentSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

ValueT = TypeVar("ValueT")
DefaultT = TypeVar("DefaultT")

Isolation = Literal["loop", "thread", "process"]

HAS_TRIO_ASYNCIO: Final = find_spec("trio_asyncio") is not None
"""Whether agents can run in the daemon's loop; on Python 3.14 trio-asyncio is not installed."""

DEFAULT_ISOLATION: Final[Isolation] = "loop" if HAS_TRIO_ASYNCIO else "thread"

APPLICATION: Final = "actp-worker"
"""What the folder under the user's data directory is called."""

INTEGRATION_KEYS: Final = {
    "STRIPE_SECRET_KEY": "no agent can use Stripe",
    "TELEGRAM_BOT_TOKEN": "no agent can use Telegram",
    "APPLE_KEY_ID": "no agent can use the App Store",
}
"""Keys for agent classes of one's own, and what is not possible without each."""


GOOD_TOKEN: Final = 16
"""Characters that a token should have at least."""


class SettingsError(Exception):
    """A setting is missing or wrong. Its text is one line that names the variable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """What is configured of one agent."""

    spec: AgentSpec
    enabled: bool
    why_disabled: str | None
    class_path: str
    """``package.module:Class``."""
    model: str
    poll_interval: float
    """Seconds between two looks at an empty queue."""
    daily_budget_usd: float | None
    """None for no limit."""
    task_budget_usd: float | None
    effort: str | None
    """How much its model thinks; None for what is good for the model."""
    max_tokens: int | None
    """Tokens of one reply; None for what its class says."""
    max_turns: int | None
    """Replies for one task; None for what its class says."""
    fallback_model: str | None
    """The model that is asked when the first has refused."""
    tool_timeout: float
    """Seconds that a call of a tool may take."""
    isolation: Isolation
    single: bool
    """Whether it runs in one daemon at a time, of all that share the store."""

    @property
    def agent_id(self) -> str:
        """The agent's name in tables, addresses and logs."""
        return self.spec.agent_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that is configured; durations in seconds."""

    anthropic_api_key: str | None = field(repr=False)
    anthropic_base_url: str | None
    """None for Anthropic's own."""
    supabase_url: str | None
    supabase_service_role_key: str | None = field(repr=False)
    supabase_db_url: str | None = field(repr=False)
    db_path: Path
    health_host: str
    health_port: int
    """0 for one that is free."""
    api_token: str | None = field(repr=False)
    timezone: ZoneInfo
    worker_id: str
    drain_timeout: float
    task_lease: float
    watch_interval: float
    prices_path: Path | None
    """The price table to use in place of the one that ships."""
    log_file: Path | None
    """Where the log goes in place of stderr."""
    heartbeat_interval: float
    stale_threshold: float
    """Without a sign of life for so long an agent is hung, and a daemon elsewhere dead."""
    transcript_days: float
    """How long the conversations about tasks are kept; 0 for ever."""
    daily_budget_usd: float | None
    """What all agents together may spend in a day; None for no limit."""
    agents: tuple[AgentSettings, ...]
    data_dir: Path
    warnings: tuple[str, ...]
    """What the operator may want to know; one line each."""
    other_secrets: tuple[str, ...] = field(repr=False)
    """Values of further variables that must not be shown."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """All values that must not reach a log, an event or an answer."""
        own = (
            self.anthropic_api_key,
            self.supabase_service_role_key,
            self.supabase_db_url,
            self.api_token,
        )
        return (*(secret for secret in own if secret), *self.other_secrets)

    def with_agents(self, agent_ids: Iterable[str]) -> Settings:
        """Return the settings with these agents enabled and the others not.

        Raises:
            SettingsError: If there is no agent of that name; the known ones are named.
        """
        wanted = dict.fromkeys(agent_ids)
        known = [agent.agent_id for agent in self.agents]
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


def unknown_agent(agent_id: str, known: Iterable[str]) -> str:
    """Say that there is no such agent, and which there are."""
    return f"there is no agent {agent_id!r}; known are {', '.join(known)}"


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


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
    return _read(_Environment({**_read_file(env_file), **environ}))


def _read(given: _Environment) -> Settings:
    data_dir = platformdirs.user_data_path(APPLICATION)
    supabase_url, supabase_key = _supabase(given)
    health_host, api_token = _web(given)
    heartbeat_interval, stale_threshold = _life(given)
    return Settings(
        anthropic_api_key=given.read("ANTHROPIC_API_KEY", _secret, None),
        anthropic_base_url=given.read("ANTHROPIC_BASE_URL", _web_address, None),
        supabase_url=supabase_url,
        supabase_service_role_key=supabase_key,
        supabase_db_url=given.read("SUPABASE_DB_URL", _secret, None),
        db_path=given.read("WORKER_DB_PATH", _path, data_dir / "worker.db"),
        health_host=health_host,
        health_port=given.read("WORKER_HEALTH_PORT", _port, 8090),
        api_token=api_token,
        timezone=given.read("WORKER_TIMEZONE", _timezone, None) or _local_timezone(given),
        worker_id=given.read("WORKER_ID", _worker_id, None) or _own_name(),
        drain_timeout=given.read("WORKER_DRAIN_TIMEOUT", _seconds, 30.0),
        task_lease=given.read("WORKER_TASK_LEASE", _lease, 60.0),
        watch_interval=given.read("SUPERVISOR_WATCH_INTERVAL", _interval, 10.0),
        heartbeat_interval=heartbeat_interval,
        stale_threshold=stale_threshold,
        daily_budget_usd=given.read("WORKER_DAILY_BUDGET_USD", _dollars, None),
        transcript_days=given.read("WORKER_TRANSCRIPT_DAYS", _days, 30.0),
        prices_path=given.read("WORKER_PRICES", _existing_file, None),
        log_file=given.read("WORKER_LOG_FILE", _path, None),
        agents=tuple(_agent(given, spec) for spec in AGENT_SPECS),
        data_dir=data_dir,
        warnings=(
            *_weak_token(api_token),
            *_missing_integrations(given),
            *given.unknown_variables(),
        ),
        other_secrets=given.values_of(INTEGRATION_KEYS),
    )


def _read_file(env_file: Path | None) -> dict[str, str]:
    if env_file is None or not env_file.exists():
        return {}
    try:
        text = env_file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"{env_file} cannot be read: {error}") from error
    # dotenv itself leaves out what it cannot read, were it somebody's limit of spend.
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
    "\n\\s*(export )?(WORKER|SUPERVISOR|ENABLE|ANTHROPIC|SUPABASE|"
    + "|".join(spec.env_prefix.rstrip("_") for spec in AGENT_SPECS)
    + ")_[A-Z_]+="
)


def _supabase(given: _Environment) -> tuple[str | None, str | None]:
    url = given.read("SUPABASE_URL", _web_address, None)
    key = given.read("SUPABASE_SERVICE_ROLE_KEY", _secret, None)
    if (url is None) != (key is None):
        missing = "SUPABASE_URL" if url is None else "SUPABASE_SERVICE_ROLE_KEY"
        raise SettingsError(
            f"{missing} is not set: Supabase needs both SUPABASE_URL and "
            "SUPABASE_SERVICE_ROLE_KEY; without either, SQLite is used"
        )
    return url, key


def _web(given: _Environment) -> tuple[str, str | None]:
    host = given.read("WORKER_HEALTH_HOST", _host, "127.0.0.1")
    token = given.read("WORKER_API_TOKEN", _secret, None)
    if token is None and not is_loopback(host):
        raise SettingsError(
            f"WORKER_HEALTH_HOST={host}: others could reach it, so WORKER_API_TOKEN must be set; "
            "127.0.0.1 is for this machine alone"
        )
    return host, token


def _life(given: _Environment) -> tuple[float, float]:
    interval = given.read("WORKER_HEARTBEAT_INTERVAL", _interval, 30.0)
    threshold = given.read("WORKER_STALE_THRESHOLD", _interval, 90.0)
    if threshold < 2 * interval:
        raise SettingsError(
            f"WORKER_STALE_THRESHOLD={threshold:g}: must be at least twice "
            f"WORKER_HEARTBEAT_INTERVAL, which is {interval:g}, or whoever lives counts as hung"
        )
    return interval, threshold


def _agent(given: _Environment, spec: AgentSpec) -> AgentSettings:
    prefix = spec.env_prefix
    enabled = given.read(spec.enable_flag, _flag, default=True)
    return AgentSettings(
        spec=spec,
        enabled=enabled,
        why_disabled=None if enabled else f"{spec.enable_flag} is false",
        class_path=given.read(f"{prefix}CLASS", _class_path, spec.class_path),
        model=given.read(f"{prefix}MODEL", _model, spec.model),
        poll_interval=given.read(f"{prefix}POLL_INTERVAL", _interval, spec.poll_interval),
        daily_budget_usd=given.read(f"{prefix}DAILY_BUDGET_USD", _dollars, None),
        task_budget_usd=given.read(f"{prefix}TASK_BUDGET_USD", _dollars, None),
        effort=given.read(f"{prefix}EFFORT", _effort, None),
        max_tokens=given.read(f"{prefix}MAX_TOKENS", _tokens, None),
        max_turns=given.read(f"{prefix}MAX_TURNS", _turns, None),
        fallback_model=given.read(f"{prefix}FALLBACK_MODEL", _model, None),
        tool_timeout=given.read(f"{prefix}TOOL_TIMEOUT", _interval, 120.0),
        isolation=given.read(f"{prefix}ISOLATION", _isolation, DEFAULT_ISOLATION),
        single=given.read(f"{prefix}SINGLE", _flag, spec.single),
    )


def _weak_token(token: str | None) -> Iterable[str]:
    if token is not None and len(token) < GOOD_TOKEN:
        yield f"WORKER_API_TOKEN is short and can be guessed: use {GOOD_TOKEN} characters or more"


def _missing_integrations(given: _Environment) -> Iterable[str]:
    for name, consequence in INTEGRATION_KEYS.items():
        if given.read(name, _secret, None) is None:
            yield f"{name} is not set: {consequence}"


def _local_timezone(given: _Environment) -> ZoneInfo:
    try:
        zone = local_timezone(given.values)
    except ValueError as error:
        raise SettingsError(f"{error}, in WORKER_TIMEZONE") from error
    return zone if isinstance(zone, ZoneInfo) else ZoneInfo("UTC")


def _own_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


class _Environment:
    """Variables by name, and a record of which were asked for: so the known ones are known."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = {name: value.strip() for name, value in values.items()}
        self.asked: dict[str, None] = {}

    def read(
        self, name: str, parse: Callable[[str], ValueT], default: DefaultT
    ) -> ValueT | DefaultT:
        """Return a variable's value as `parse` makes it of the text, or the default.

        Raises:
            SettingsError: If `parse` raises a `ValueError`, whose text says what is allowed.
        """
        self.asked[name] = None
        text = self.values.get(name)
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            shown = "" if parse in _NOT_SHOWN else f"={text:.60}"
            raise SettingsError(f"{name}{shown}: must be {error}") from None

    def values_of(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the values of those that are set."""
        return tuple(self.values[name] for name in names if self.values.get(name))

    def unknown_variables(self) -> Iterable[str]:
        """Say which variables look like ours and are none, so that a slip of the pen is seen."""
        ours = re.compile(
            "WORKER_|SUPERVISOR_|ENABLE_.*_AGENT$|"
            + "|".join(spec.env_prefix for spec in AGENT_SPECS)
        )
        for name in sorted(self.values.keys() - self.asked.keys()):
            if ours.match(name):
                close = difflib.get_close_matches(name, self.asked, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                yield f"{name} is no setting of this program{hint}"


# Each reads one kind of value; the text of its ValueError completes "must be ...".


def _flag(text: str) -> bool:
    try:
        return _FLAGS[text.lower()]
    except KeyError:
        raise ValueError("one of 1, true, yes, on, 0, false, no, off") from None


_FLAGS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _seconds(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= LONGEST:
        raise ValueError(f"a number of seconds from 0 to {LONGEST}, such as 30")
    return number


def _interval(text: str) -> float:
    number = _number(text)
    if not 0 < number <= LONGEST:
        raise ValueError(f"a number of seconds above 0, to {LONGEST}, such as 30")
    return number


LONGEST: Final = 31_536_000
"""Seconds that any duration may be set to: a year."""


def _days(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= 36_500:
        raise ValueError("a number of days from 0, which means for ever, to 36500")
    return number


def _lease(text: str) -> float:
    number = _number(text)
    if not 1 <= number <= 86_400:
        raise ValueError("a number of seconds from 1 to 86400, such as 60")
    return number


def _dollars(text: str) -> float:
    number = _number(text)
    if not 0 <= number < math.inf:
        raise ValueError("an amount in US dollars from 0, such as 5 or 2.50")
    return number


def _effort(text: str) -> str:
    if text.lower() not in EFFORTS:
        raise ValueError(f"one of {', '.join(EFFORTS)}")
    return text.lower()


def _tokens(text: str) -> int:
    if not re.fullmatch("[0-9]{3,6}", text):
        raise ValueError("a number of tokens from 100 to 999999, such as 32000")
    return int(text)


def _turns(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text) or int(text) < 1:
        raise ValueError("a number of replies from 1 to 9999, such as 30")
    return int(text)


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65_535:
        raise ValueError("a port number from 1 to 65535, or 0 for one that is free")
    return int(text)


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", text):
        raise ValueError("an address or a host's name to listen on, such as 127.0.0.1 or ::1")
    return text


def _web_address(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        usable = usable and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or " " in text:
        raise ValueError("an address that begins with https:// or http://")
    return text


def _timezone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError("an IANA time zone, such as Europe/Berlin or UTC") from None


def _worker_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:@-]{1,100}", text):
        raise ValueError("1 to 100 letters, digits or any of _ . : @ -")
    return text


def _class_path(text: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", text):
        raise ValueError("an import path in the form package.module:Class")
    return text


def _model(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,200}", text):
        raise ValueError("the name of a model, without spaces")
    return text


def _isolation(text: str) -> Isolation:
    if text not in _ISOLATIONS:
        raise ValueError("one of loop, thread, process")
    if text == "loop" and not HAS_TRIO_ASYNCIO:
        raise ValueError("thread or process: loop needs trio-asyncio, for Python 3.13 or older")
    return _ISOLATIONS[text]


_ISOLATIONS: Final[dict[str, Isolation]] = {
    "loop": "loop",
    "thread": "thread",
    "process": "process",
}


def _path(text: str) -> Path:
    try:
        path = Path(text).expanduser().absolute()
        if "\0" not in text and not path.is_dir():
            return path
    except (OSError, RuntimeError):  # the latter for ~somebody who has no home
        pass
    raise ValueError("the path of a file, which need not be there")


def _existing_file(text: str) -> Path:
    path = _path(text)
    if not path.is_file():
        raise ValueError("the path of a file, and there is none")
    return path


def _secret(text: str) -> str:
    if not re.fullmatch("[!-~]+", text):
        raise ValueError("printable ASCII without spaces")
    return text


_NOT_SHOWN: Final = (_secret, _web_address)
