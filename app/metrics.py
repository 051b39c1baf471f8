"""What Prometheus is told of the daemon, in its conventions of names and units.

What adds up (tasks, tools, tokens) is counted from the daemon's events, since its start; what is so
just now (states, queues) is looked up when Prometheus asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import prometheus_client as prometheus
import trio
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

import actp_supervise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from app.event_log import LoggedEvent
    from app.store.protocol import TaskStatus

CONTENT_TYPE: Final = prometheus.CONTENT_TYPE_LATEST

LAG_EVERY: Final = 1.0
"""Seconds between two measurements of the loop's lag."""

MOST_NAMES: Final = 50
"""Tools and models of one agent that have series of their own; the rest share one, called
``other``, as a model may make names up."""

STATES: Final = (
    "starting",
    "running",
    "standby",
    "restarting",
    "backing_off",
    "draining",
    "stopping",
    "stopped",
    "crashed",
    "disabled",
)

_SECONDS: Final = (0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_LAGS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)


class Metrics:
    """The figures of one daemon, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)
        info = prometheus.Gauge(
            "actp_build_info", "The version that runs.", ["version"], registry=registry
        )
        info.labels(actp_supervise.__version__).set(1)
        self._events = prometheus.Counter(
            "actp_events", "What has happened, by kind.", ["kind"], registry=registry
        )
        self._finished = prometheus.Counter(
            "actp_tasks_finished",
            "Tasks that ended here, by outcome.",
            ["agent", "outcome"],
            registry=registry,
        )
        self._tasks = prometheus.Histogram(
            "actp_task_duration_seconds",
            "Time from claim to end of tasks that were done here.",
            ["agent", "outcome"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._tools = prometheus.Histogram(
            "actp_tool_duration_seconds",
            "Time that calls of tools took.",
            ["agent", "tool"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._tool_errors = prometheus.Counter(
            "actp_tool_errors", "Calls of tools that failed.", ["agent", "tool"], registry=registry
        )
        self._model_calls = prometheus.Counter(
            "actp_model_calls", "Calls of the model.", ["agent", "model"], registry=registry
        )
        self._model_time = prometheus.Histogram(
            "actp_model_call_duration_seconds",
            "Time that calls of the model took.",
            ["agent", "model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = prometheus.Counter(
            "actp_tokens",
            "Tokens by use: input, output, cache_read, cache_write.",
            ["agent", "model", "use"],
            registry=registry,
        )
        self._cost = prometheus.Counter(
            "actp_cost_usd", "Spend in US dollars.", ["agent", "model"], registry=registry
        )
        self._routines = prometheus.Counter(
            "actp_routine_runs", "Runs of routines.", ["routine", "outcome"], registry=registry
        )
        self._routine_time = prometheus.Histogram(
            "actp_routine_duration_seconds",
            "Time that runs of routines took.",
            ["routine"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._lateness = prometheus.Histogram(
            "actp_routine_lateness_seconds",
            "How late routines began.",
            ["routine"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._lag = prometheus.Histogram(
            "actp_event_loop_lag_seconds",
            "How late the daemon's loop is.",
            buckets=_LAGS,
            registry=registry,
        )
        self._known_names: dict[str, set[str]] = {}
        self._counted: dict[str, Callable[[str, dict[str, Any]], None]] = {
            "task_finished": self._count_task,
            "tool_called": self._count_tool,
            "model_called": self._count_model_call,
            "routine_started": self._count_routine_start,
            "routine_finished": self._count_routine_end,
        }
        self.present: Callable[[], Iterable[Metric]] = tuple
        """Looks up what is so just now, whenever Prometheus asks."""
        registry.register(_Present(self))

    def count(self, event: LoggedEvent) -> None:
        """Count an event."""
        self._events.labels(event.kind).inc()
        count = self._counted.get(event.kind)
        if count is not None:
            count(event.agent_id or "", event.fields)

    async def measure_lag(self) -> None:
        """Measure how late the loop is, for ever."""
        while True:
            due = trio.current_time() + LAG_EVERY
            await trio.sleep_until(due)
            self._lag.observe(trio.current_time() - due)

    def text(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        return prometheus.generate_latest(_WithoutCreated(self._registry))

    def _count_task(self, agent: str, fields: dict[str, Any]) -> None:
        outcome = fields["outcome"]
        self._finished.labels(agent, outcome).inc()
        if "seconds" in fields:
            self._tasks.labels(agent, outcome).observe(fields["seconds"])

    def _count_tool(self, agent: str, fields: dict[str, Any]) -> None:
        tool = self._bounded(agent, fields["tool"])
        self._tools.labels(agent, tool).observe(fields["seconds"])
        if fields["failed"]:
            self._tool_errors.labels(agent, tool).inc()

    def _count_model_call(self, agent: str, fields: dict[str, Any]) -> None:
        model = self._bounded(agent, fields["model"])
        self._model_calls.labels(agent, model).inc()
        if fields["seconds"] is not None:
            self._model_time.labels(agent, model).observe(fields["seconds"])
        self._cost.labels(agent, model).inc(fields["usd"])
        for use in ("input", "output", "cache_read", "cache_write"):
            self._tokens.labels(agent, model, use).inc(fields[f"{use}_tokens"])

    def _count_routine_start(self, _agent: str, fields: dict[str, Any]) -> None:
        self._lateness.labels(fields["job"]).observe(max(0.0, fields["late"]))

    def _count_routine_end(self, _agent: str, fields: dict[str, Any]) -> None:
        self._routines.labels(fields["job"], fields["outcome"]).inc()
        if "seconds" in fields:
            self._routine_time.labels(fields["job"]).observe(fields["seconds"])

    def _bounded(self, agent: str, name: str) -> str:
        known = self._known_names.setdefault(agent, set())
        if name not in known and len(known) >= MOST_NAMES:
            return "other"
        known.add(name)
        return name


class _WithoutCreated(Collector):
    """Leaves out when each series was made, which nobody asked for."""

    def __init__(self, registry: prometheus.CollectorRegistry) -> None:
        self._registry = registry

    @override
    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            unasked_for = metric.name + "_created"
            metric.samples = [each for each in metric.samples if each.name != unasked_for]
            yield metric


class _Present(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    @override
    def collect(self) -> Iterable[Metric]:
        return self._metrics.present()


def of_agents(statuses: Mapping[str, Mapping[str, Any]], now: float) -> Iterable[Metric]:
    """Make the figures of all agents.

    Args:
        statuses: What `AgentSupervisor.get_status` says.
        now: The time of day, in seconds since 1970.
    """
    state = GaugeMetricFamily(
        "actp_agent_state", "1 for the state that an agent is in.", labels=["agent", "state"]
    )
    paused = GaugeMetricFamily(
        "actp_agent_paused", "1 for an agent that takes no tasks.", labels=["agent"]
    )
    throttled = GaugeMetricFamily(
        "actp_agent_throttled",
        "1 for an agent that waits because its calls of the model do not succeed.",
        labels=["agent"],
    )
    uptime = GaugeMetricFamily(
        "actp_agent_uptime_seconds", "Time since an agent started.", labels=["agent"]
    )
    beat = GaugeMetricFamily(
        "actp_agent_last_heartbeat_timestamp_seconds",
        "When an agent's loop last turned.",
        labels=["agent"],
    )
    recent = GaugeMetricFamily(
        "actp_agent_recent_crashes", "Crashes in the last 24 hours.", labels=["agent"]
    )
    restarts = CounterMetricFamily(
        "actp_agent_restarts", "Further runs of an agent.", labels=["agent"]
    )
    crashes = CounterMetricFamily(
        "actp_agent_crashes", "Crashes since the daemon started.", labels=["agent"]
    )
    for agent_id, status in statuses.items():
        for each in STATES:
            state.add_metric([agent_id, each], float(status["status"] == each))
        paused.add_metric([agent_id], float(bool(status["paused"])))
        throttled.add_metric([agent_id], float(status.get("throttled_age") is not None))
        uptime.add_metric([agent_id], status["uptime"])
        recent.add_metric([agent_id], status["error_count"])
        restarts.add_metric([agent_id], status["restarts"])
        crashes.add_metric([agent_id], status["crashes"])
        if status["heartbeat_age"] is not None:
            beat.add_metric([agent_id], now - status["heartbeat_age"])
    return state, paused, throttled, uptime, beat, recent, restarts, crashes


def of_queue(
    counts: Mapping[str, Mapping[TaskStatus, int]], oldest: Mapping[str, float]
) -> Iterable[Metric]:
    """Make the figures of the queue.

    Args:
        counts: agent_type -> status -> how many tasks.
        oldest: agent_type -> for how long its oldest task has waited.
    """
    tasks = GaugeMetricFamily("actp_tasks", "Tasks by status.", labels=["agent", "status"])
    waiting = GaugeMetricFamily(
        "actp_oldest_queued_task_age_seconds",
        "For how long the oldest task that is queued has waited.",
        labels=["agent"],
    )
    for agent_id, by_status in counts.items():
        for status, count in by_status.items():
            tasks.add_metric([agent_id, str(status)], count)
    for agent_id, age in oldest.items():
        waiting.add_metric([agent_id], age)
    return tasks, waiting


def of_daemon(
    *, health: str, store_up: bool, records_waiting: int, readers: int, uptime: float
) -> Iterable[Metric]:
    """Make the figures of the daemon itself."""
    state = GaugeMetricFamily("actp_health", "1 for the daemon's health.", labels=["status"])
    for status in ("healthy", "degraded", "critical"):
        state.add_metric([status], float(health == status))
    return (
        state,
        GaugeMetricFamily("actp_store_up", "1 while the store can be reached.", value=store_up),
        GaugeMetricFamily(
            "actp_records_waiting", "Records that wait for the store.", value=records_waiting
        ),
        GaugeMetricFamily("actp_event_readers", "Readers of the events.", value=readers),
        GaugeMetricFamily("actp_uptime_seconds", "Time since the daemon started.", value=uptime),
    )
