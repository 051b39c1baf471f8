"""What OpenTelemetry's SDK is given of ours; loaded only where traces are wanted."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

logger = logging.getLogger(__name__)

_preset: ContextVar[tuple[int, int] | None] = ContextVar("preset", default=None)


class TaskIds(RandomIdGenerator):
    """Ids by chance, but for a span whose ids are known before."""

    @contextmanager
    def preset(self, trace_id: int, span_id: int) -> Iterator[None]:
        """Give the span that is begun in the block these ids."""
        reset = _preset.set((trace_id, span_id))
        try:
            yield
        finally:
            _preset.reset(reset)

    @override
    def generate_trace_id(self) -> int:
        known = _preset.get()
        return super().generate_trace_id() if known is None else known[0]

    @override
    def generate_span_id(self) -> int:
        known = _preset.get()
        return super().generate_span_id() if known is None else known[1]


class OneLineExporter(SpanExporter):
    """An exporter that tells in one line when sending begins to fail, and in one when it is over.

    Args:
        inner: Sends the spans; called in a thread of its own.
    """

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._failing = False

    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        why = "the collector refuses them, or is not there"
        try:
            result = self._inner.export(spans)
        except Exception as error:  # noqa: BLE001  (whatever it is, the work goes on)
            result, why = SpanExportResult.FAILURE, f"{type(error).__name__}: {error}"
        failing = result is not SpanExportResult.SUCCESS
        if failing and not self._failing:
            extra = {"action": "traces_not_sent"}
            logger.warning("Traces cannot be sent, and are thrown away: %s", why, extra=extra)
        elif self._failing and not failing:
            logger.info("Traces are sent again", extra={"action": "traces_sent"})
        self._failing = failing
        return result

    @override
    def shutdown(self) -> None:
        self._inner.shutdown()

    @override
    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)
