"""What Prometheus is told of the daemon, in its conventions of names and units.

What adds up (tasks, tools, tokens) is counted from the daemon's events, since its start; what is so
just now (states, queues) is looked up when Prometheus asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

import actp_supervise
from app.event_kinds import EventKind
from app.facts import fields_of
from app.figures import SECONDS, Gauge, StateGauge, Tally
from app.status import AgentHealth, AgentState, AgentStatus, HealthState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from app.event_log import LoggedEvent
    from app.store.protocol import TaskStatus

CONTENT_TYPE: Final = prometheus.CONTENT_TYPE_LATEST

MOST_NAMES: Final = 50
"""Tools and models of one agent that have series of their own; the rest share one, called
``other``, as a model may make names up."""

_LAGS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)

_BOUNDED: Final = frozenset({"tool", "model"})
"""Labels whose values a model may make up."""

_Counter: TypeAlias = prometheus.Counter | prometheus.Histogram


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
        tallies = {tally.name: tally for kind in EventKind for tally in kind.tallies}
        self._tallies = {name: _made(tally, registry) for name, tally in tallies.items()}
        self._lag = prometheus.Histogram(
            "actp_event_loop_lag_seconds",
            "How late the daemon's loop is.",
            buckets=_LAGS,
            registry=registry,
        )
        self._known_names: dict[str, set[str]] = {}
        self.present: Callable[[], Iterable[Metric]] = tuple
        """Looks up what is so just now, whenever Prometheus asks."""
        registry.register(_Present(self))

    def count(self, event: LoggedEvent) -> None:
        """Count an event."""
        self._events.labels(event.kind).inc()
        for tally in event.kind.tallies:
            self._add(tally, event)

    def note_lag(self, seconds: float) -> None:
        """Count by how much the loop was late."""
        self._lag.observe(seconds)

    def text(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        return prometheus.generate_latest(_WithoutCreated(self._registry))

    def _add(self, tally: Tally, event: LoggedEvent) -> None:
        fields = event.fields
        amount = 1 if tally.fact is None else fields.get(tally.fact)
        if amount is None or (tally.only_if is not None and not fields[tally.only_if]):
            return
        agent = event.agent_id or ""
        facts = fields | {"agent": agent, "routine": fields.get("job")}
        for name in _BOUNDED & set(tally.labels):
            facts[name] = self._bounded(agent, facts[name])
        labels = [*(facts[name] for name in tally.labels), *(value for _, value in tally.fixed)]
        counter = self._tallies[tally.name].labels(*labels)
        if isinstance(counter, prometheus.Histogram):
            counter.observe(max(0.0, amount))  # below 0 where the clock was set meanwhile
        else:
            counter.inc(amount)

    def _bounded(self, agent: str, name: str) -> str:
        known = self._known_names.setdefault(agent, set())
        if name not in known and len(known) >= MOST_NAMES:
            return "other"
        known.add(name)
        return name


def _made(tally: Tally, registry: prometheus.CollectorRegistry) -> _Counter:
    labels = [*tally.labels, *(name for name, _ in tally.fixed)]
    if tally.kind == "histogram":
        return prometheus.Histogram(
            tally.name, tally.description, labels, buckets=SECONDS, registry=registry
        )
    return prometheus.Counter(tally.name, tally.description, labels, registry=registry)


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


def of_agents(statuses: Mapping[str, AgentStatus], now: float) -> Iterable[Metric]:
    """Make the figures of all agents, as `AgentStatus` and `AgentHealth` declare them.

    Args:
        statuses: What `AgentSupervisor.get_status` says.
        now: The time of day, in seconds since 1970.
    """
    for kind, parts in (
        (AgentStatus, statuses),
        (AgentHealth, {agent_id: status.health for agent_id, status in statuses.items()}),
    ):
        for field in fields_of(kind):
            values = {agent_id: getattr(part, field.name) for agent_id, part in parts.items()}
            for figure in field.metadata:
                if isinstance(figure, StateGauge):
                    yield _states(figure, values)
                elif isinstance(figure, Gauge):
                    yield _gauge(figure, values, now)


def _states(figure: StateGauge, values: Mapping[str, AgentState]) -> Metric:
    made = GaugeMetricFamily(figure.name, figure.description, labels=["agent", "state"])
    for agent_id, value in values.items():
        for state in AgentState:
            if not state.derived:
                made.add_metric([agent_id, state.value], float(value is state))
    return made


def _gauge(figure: Gauge, values: Mapping[str, Any], now: float) -> Metric:
    family = CounterMetricFamily if figure.counts_up else GaugeMetricFamily
    made = family(figure.name, figure.description, labels=["agent"])
    for agent_id, value in values.items():
        number = figure.value(value, now)
        if number is not None:
            made.add_metric([agent_id], number)
    return made


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
    *,
    health: HealthState,
    store_up: bool,
    records_waiting: int,
    unreadable: int,
    approvals_waiting: int,
    readers: int,
    uptime: float,
) -> Iterable[Metric]:
    """Make the figures of the daemon itself."""
    state = GaugeMetricFamily("actp_health", "1 for the daemon's health.", labels=["status"])
    for status in HealthState:
        state.add_metric([status.value], float(health is status))
    return (
        state,
        GaugeMetricFamily("actp_store_up", "1 while the store can be reached.", value=store_up),
        GaugeMetricFamily(
            "actp_records_waiting", "Records that wait for the store.", value=records_waiting
        ),
        GaugeMetricFamily(
            "actp_tasks_unreadable",
            "Tasks of the last day that could not be read and have failed.",
            value=unreadable,
        ),
        GaugeMetricFamily(
            "actp_approvals_waiting",
            "Approvals that wait for a person, in all daemons.",
            value=approvals_waiting,
        ),
        GaugeMetricFamily("actp_event_readers", "Readers of the events.", value=readers),
        GaugeMetricFamily("actp_uptime_seconds", "Time since the daemon started.", value=uptime),
    )
