"""Our own implementation of OpenTelemetry spans: the SDK's cost twice as much (docs/adr/012-fewer-instructions.md).

The SDK samples, batches and exports them. This module is imported only if tracing is on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from cdv_adapters.tracing import NO_SPAN, Attributes, Kind, Span, SpanUnderWay, current
from cdv_core.errors import CdvError, Unavailable

_KINDS: Final = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_UNSET: Final = Status(StatusCode.UNSET)
_FAILED: Final = Status(StatusCode.ERROR)
_EMPTY_CONTEXT: Final = Context()
_TRACES_AT_ONCE: Final = 64  # ours


class _OneResource(Resource):
    """The resource of all spans of a process. Compared by identity: the exporter groups spans by resource, and the
    SDK's class encodes itself as JSON for each comparison.
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class _OneScope(InstrumentationScope):
    """Compared by identity, like _OneResource."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


_SCOPE: Final = _OneScope("cdv")


@dataclass(frozen=True, slots=True)
class Tracing:
    """`provider`: holds the sampler and the resource. `processor`: receives the spans that have ended."""

    provider: TracerProvider
    processor: SpanProcessor
    _new_traces: list[_NotRecorded | int] = field(default_factory=list)

    def begin(
        self, name: str, kind: Kind, attributes: Attributes, parent: str | None, links: Iterable[str | None]
    ) -> AbstractContextManager[Span]:
        """Return a span without a parent span in this process."""
        if parent is None and kind == "server":
            new = self._new_trace()
            return new if isinstance(new, _NotRecorded) else _Recorded(self, name, kind, attributes, new, None, links)
        if parent is not None and kind != "server":  # continues a trace that began elsewhere in this service
            if not _is_sampled(parent):
                return NO_SPAN
            within = _span_context(parent)
            return _Recorded(self, name, kind, attributes, within.trace_id, within, links)
        context = None if parent is None else _span_context(parent)
        trace_id = self.provider.id_generator.generate_trace_id() if context is None else context.trace_id
        decision = self.provider.sampler.should_sample(_as_parent(context), trace_id, name).decision
        if decision.is_sampled():  # type: ignore[no-untyped-call]
            return _Recorded(self, name, kind, attributes, trace_id, context, links)
        return _NotRecorded(trace_id, self.provider.id_generator.generate_span_id())

    def _new_trace(self) -> _NotRecorded | int:
        """Return the id of a new trace of a request if it is sampled, and otherwise its span.

        They are made in advance, many at once: with the code in the caches, one takes a quarter of the time. The SDK's
        samplers decide by nothing but the trace's id.
        """
        try:
            return self._new_traces.pop()
        except IndexError:
            ids, sampler = self.provider.id_generator, self.provider.sampler
            for _ in range(_TRACES_AT_ONCE):
                trace_id = ids.generate_trace_id()
                sampled = sampler.should_sample(_EMPTY_CONTEXT, trace_id, "request").decision.is_sampled()  # type: ignore[no-untyped-call]
                self._new_traces.append(trace_id if sampled else _NotRecorded(trace_id, ids.generate_span_id()))
            return self._new_traces.pop()


def tracing_to(exporter: Literal["console", "otlp"]) -> Tracing:
    """Return a Tracing configured by the `OTEL_*` variables."""
    resource = Resource.create({"service.name": "cdv"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(
        resource=_OneResource(dict(resource.attributes), resource.schema_url), shutdown_on_exit=False
    )
    return Tracing(provider, BatchSpanProcessor(ConsoleSpanExporter() if exporter == "console" else OTLPSpanExporter()))


class _NotRecorded(SpanUnderWay):
    """A span of a trace that the sampler has not chosen: it has a trace context and nothing else."""

    recorded = False

    def __init__(self, trace_id: int, span_id: int) -> None:
        self.traceparent: str | None = f"00-{trace_id:032x}-{span_id:016x}-00"

    def child(self, *_: object) -> AbstractContextManager[Span]:
        return NO_SPAN

    def __enter__(self) -> Self:
        self._token = current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        current.reset(self._token)

    def describe(self, attributes: Attributes, *, name: str | None = None, failed: bool = False) -> None:
        pass


class _Recorded(ReadableSpan, SpanUnderWay):
    recorded = True

    def __init__(
        self,
        tracing: Tracing,
        name: str,
        kind: Kind,
        attributes: Attributes,
        trace_id: int,
        parent: SpanContext | None,
        links: Iterable[str | None],
    ) -> None:
        span_id = tracing.provider.id_generator.generate_span_id()
        super().__init__(
            name,
            SpanContext(trace_id, span_id, is_remote=False, trace_flags=_SAMPLED),
            parent,
            tracing.provider.resource,
            dict(attributes),
            links=[Link(_span_context(link)) for link in links if link is not None and _is_sampled(link)],
            kind=_KINDS[kind],
            status=_UNSET,
            instrumentation_scope=_SCOPE,
        )
        self._tracing = tracing

    def child(
        self, name: str, kind: Kind, attributes: Attributes, links: Iterable[str | None]
    ) -> AbstractContextManager[Span]:
        return _Recorded(self._tracing, name, kind, attributes, self.context.trace_id, self.context, links)

    @property
    def traceparent(self) -> str | None:
        return f"00-{self.context.trace_id:032x}-{self.context.span_id:016x}-01"

    def __enter__(self) -> Self:
        self._token = current.set(self)
        self._start_time = time.time_ns()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._end_time = time.time_ns()
        if error is not None:
            code = error.code if isinstance(error, CdvError) else type(error).__name__
            # A client's error is not a failure of the service.
            self.describe(
                {"error.type": code}, failed=not isinstance(error, CdvError) or isinstance(error, Unavailable)
            )
        current.reset(self._token)
        self._tracing.processor.on_end(self)

    def describe(self, attributes: Attributes, *, name: str | None = None, failed: bool = False) -> None:
        self._attributes = {**(self._attributes or {}), **attributes}
        self._name = name or self._name
        if failed:
            self._status = _FAILED


def _is_sampled(traceparent: str) -> bool:
    return bool(int(traceparent[-2:], 16) & 1)


def _span_context(traceparent: str) -> SpanContext:
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def _as_parent(context: SpanContext | None) -> Context:
    """Return the context in which the sampler looks for the parent span."""
    if context is None:
        return _EMPTY_CONTEXT
    return set_span_in_context(NonRecordingSpan(context), _EMPTY_CONTEXT)
