"""Traces by OpenTelemetry: what a task did and how long each step took, joined over restarts.

They go where the standard variables say (`OTEL_EXPORTER_OTLP_ENDPOINT` and its kin), from a thread
of the exporter's own that nothing waits for. Where no variable is set nothing of OpenTelemetry is
loaded, and `span` does nothing.

All attempts at a task are one trace, whichever daemon makes them: its id, and that of the span that
all others are in, are made of the task's. That span is sent when the task has ended. Names and
attributes are those of the conventions for generative AI where they have one.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import actp_supervise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    from app.store.protocol import TaskRow

logger = logging.getLogger(__name__)

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")

SERVICE: Final = "actp-worker"
"""The name of the service, where OTEL_SERVICE_NAME says no other."""

FLUSH: Final = 2.0
"""Seconds that the end of a program waits for what is not sent yet."""

Value = str | int | float | bool


class Span(Protocol):
    """One step that is traced."""

    def set(self, **attributes: Value | None) -> None:
        """Add facts to it; ``_`` in a name stands for a dot, ``__`` for itself."""

    def fail(self, kind: str) -> None:
        """Mark that it failed, and by what kind of error."""


class _NoSpan:
    """What is told of a step while nothing is traced."""

    def set(self, **attributes: Value | None) -> None:
        """Do nothing."""

    def fail(self, kind: str) -> None:
        """Do nothing."""


_NOTHING: Final = _NoSpan()


class _RealSpan:
    def __init__(self, inner: trace.Span) -> None:
        self._inner = inner

    def set(self, **attributes: Value | None) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._inner.set_attribute(dotted(name), value)

    def fail(self, kind: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._inner.set_status(Status(StatusCode.ERROR))
        self._inner.set_attribute("error.type", kind)


def dotted(name: str) -> str:
    """Return the name of an attribute.

    >>> dotted("gen__ai_request_max__tokens")
    'gen_ai.request.max_tokens'
    """
    return name.replace("__", "\0").replace("_", ".").replace("\0", "_")


_tracing: Tracing | None = None
"""What traces in this process, if anything does."""


@contextmanager
def span(name: str, *, client: bool = False, **attributes: Value | None) -> Iterator[Span]:
    """Trace the block as a step of what is traced around it.

    Args:
        name: What the step is.
        client: Whether it is a call of another program.
        attributes: What is known of it; names as `Span.set` has them.
    """
    if _tracing is None:
        yield _NOTHING
        return
    with _tracing.span(name, client=client) as made:
        made.set(**attributes)
        yield made


@contextmanager
def attempt_span(task: TaskRow, **attributes: Value | None) -> Iterator[Span]:
    """Trace the block as an attempt at a task."""
    if _tracing is None:
        yield _NOTHING
        return
    with _tracing.attempt(task) as made:
        made.set(
            gen__ai_operation_name="invoke_agent",
            gen__ai_agent_name=task.agent_type,
            gen__ai_conversation_id=task.id,
            actp_task_id=task.id,
            actp_task_attempt=task.attempts,
            actp_routine=task.routine,
            **attributes,
        )
        yield made


def end_task(task: TaskRow, now: datetime, **attributes: Value | None) -> None:
    """Send the span of a task that has ended, in which those of its attempts are."""
    if _tracing is not None:
        _tracing.end_task(task, now, **attributes)


# How it is set up.


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Return whether the standard variables ask for traces."""
    off = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    none = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    return not off and not none and any(environ.get(name) for name in ENDPOINTS)


def start_tracing(environ: Mapping[str, str], worker_id: str) -> None:
    """Trace from now on, if the variables ask for it; what is in the way of it is one line.

    Args:
        environ: The environment, which OpenTelemetry itself reads as well.
        worker_id: The name of this daemon.
    """
    global _tracing
    if not is_wanted(environ):
        return
    protocol = next(filter(None, map(environ.get, PROTOCOLS)), "http/protobuf")
    if protocol != "http/protobuf":
        _not_traced(f"of the protocols of OpenTelemetry http/protobuf is known, not {protocol}")
        return
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError as error:
        _not_traced(f"{error}. To have it: pip install -e '.[otel]'")
        return
    try:
        _tracing = Tracing(environ, worker_id)
    except Exception as error:  # noqa: BLE001  (a variable that it cannot read)
        _not_traced(f"{type(error).__name__}: {error}")


def _not_traced(why: str) -> None:
    extra = {"action": "not_traced"}
    logger.warning(
        "OTEL_EXPORTER_OTLP_ENDPOINT is set, and nothing is traced: %s", why, extra=extra
    )


def stop_tracing() -> None:
    """Send what is not sent yet, for as long as `FLUSH`, and trace no more."""
    global _tracing
    tracing, _tracing = _tracing, None
    if tracing is not None:
        tracing.close()


class Tracing:
    """The spans of this process and their way out.

    Args:
        environ: The environment.
        worker_id: The name of this daemon.
    """

    def __init__(self, environ: Mapping[str, str], worker_id: str) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from .otlp import OneLineExporter, TaskIds

        # Its own log tells of each try, and at times with a traceback.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        facts: dict[str, str] = {
            "service.instance.id": worker_id,
            "service.version": actp_supervise.__version__,
        }
        named = "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        if not environ.get("OTEL_SERVICE_NAME") and not named:
            facts["service.name"] = SERVICE
        self._ids = TaskIds()
        self._provider: TracerProvider = TracerProvider(
            resource=Resource.create(facts), id_generator=self._ids, shutdown_on_exit=False
        )
        exporter = OneLineExporter(OTLPSpanExporter())
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        trace.set_tracer_provider(self._provider)  # by it the SDK's own spans come as well
        self._trace = trace
        self._tracer = self._provider.get_tracer("actp", actp_supervise.__version__)

    @contextmanager
    def span(
        self,
        name: str,
        *,
        client: bool = False,
        context: Any = None,  # noqa: ANN401  (theirs)
    ) -> Iterator[Span]:
        """Trace the block, within what is traced around it or in a context."""
        kind = self._trace.SpanKind.CLIENT if client else self._trace.SpanKind.INTERNAL
        with self._tracer.start_as_current_span(
            name,
            context=context,
            kind=kind,
            record_exception=False,
            set_status_on_exception=False,
        ) as inner:
            made = _RealSpan(inner)
            try:
                yield made
            except BaseException as error:
                made.fail(type(error).__name__)
                raise

    @contextmanager
    def attempt(self, task: TaskRow) -> Iterator[Span]:
        """Trace the block as an attempt at a task."""
        context = self._trace.set_span_in_context(
            self._trace.NonRecordingSpan(self._context_of(task.id))
        )
        with self.span(f"invoke_agent {task.agent_type}", context=context) as made:
            yield made

    def end_task(self, task: TaskRow, now: datetime, **attributes: Value | None) -> None:
        """Send the span of a task that has ended."""
        trace_id, span_id = ids_of(task.id)
        with self._ids.preset(trace_id, span_id):
            inner = self._tracer.start_span(
                f"task {task.agent_type}",
                context=self._trace.set_span_in_context(self._trace.INVALID_SPAN),
                start_time=_nanoseconds(task.created_at),
            )
        made = _RealSpan(inner)
        made.set(actp_task_id=task.id, gen__ai_agent_name=task.agent_type, **attributes)
        inner.end(_nanoseconds(now))

    def _context_of(self, task_id: str) -> trace.SpanContext:
        """Return the span of a task as if another program had made it, which may be so."""
        trace_id, span_id = ids_of(task_id)
        from opentelemetry.sdk.trace.sampling import Decision

        decided = self._provider.sampler.should_sample(None, trace_id, "task").decision
        is_sampled = decided is Decision.RECORD_AND_SAMPLE
        flags = self._trace.TraceFlags.SAMPLED if is_sampled else 0
        return self._trace.SpanContext(
            trace_id, span_id, is_remote=True, trace_flags=self._trace.TraceFlags(flags)
        )

    def close(self) -> None:
        """Send what is not sent yet, for a limited time."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(FLUSH)


def ids_of(task_id: str) -> tuple[int, int]:
    """Return the ids of a task's trace and of the span in which all others are."""
    digest = hashlib.sha256(f"actp task {task_id}".encode()).digest()
    return int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)
