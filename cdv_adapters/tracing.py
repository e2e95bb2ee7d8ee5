"""Traces by OpenTelemetry, where the environment asks for them by an `OTEL_*` variable; the only file that knows it.

Without such a variable nothing of OpenTelemetry is imported, no method is wrapped, and `span` gives one and the same
object that does nothing. Exceptions leave their kind in a span and not their text, which may hold what is nobody's
business.

The SDK samples, batches and exports. Spans are made here: the SDK's own cost twice as much
(docs/adr/012-fewer-instructions.md).
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self

from loguru import logger

from cdv_core.errors import CdvError, Unavailable

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.sampling import Decision
    from opentelemetry.trace import SpanContext

Kind = Literal["internal", "server", "client", "producer"]
Attributes = Mapping[str, str | int]
Method = Callable[..., Coroutine[Any, Any, Any]]

_STOP_SECONDS: Final = 3.0  # ours: what a collector that does not answer may add to the end of a process
_NONE: Final[Attributes] = {}


@dataclass(frozen=True, slots=True)
class Tracing:
    """`provider`: samples, and says whose spans these are. `processor`: takes those that have ended."""

    provider: TracerProvider
    processor: SpanProcessor


_tracing: Tracing | None = None


class Span(Protocol):
    """A span under way. `traceparent`: its context as W3C spells it; None when there are no traces."""

    @property
    def traceparent(self) -> str | None: ...

    def describe(self, attributes: Attributes, *, name: str | None = None, failed: bool = False) -> None:
        """Say what is known by now."""
        ...


class _NoSpan(AbstractContextManager["_NoSpan", None]):
    traceparent: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def describe(self, attributes: Attributes, *, name: str | None = None, failed: bool = False) -> None:
        pass


NO_SPAN: Final = _NoSpan()


def start() -> None:
    """Trace from now on if the environment asks for it. To be called in the process that serves, after any fork."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    asked = any(name.startswith("OTEL_") and value for name, value in os.environ.items())
    if not asked or exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    except ImportError:
        logger.warning("OTEL_* is set and OpenTelemetry's SDK is not installed: no traces; install the extra `otel`")
        return
    resource = Resource.create({"service.name": "cdv"}).merge(OTELResourceDetector().detect())
    processor = BatchSpanProcessor(ConsoleSpanExporter() if exporter == "console" else OTLPSpanExporter())
    use(Tracing(TracerProvider(resource=resource, shutdown_on_exit=False), processor))


def use(tracing: Tracing | None) -> None:
    """Trace with it from now on; None: no more."""
    global _tracing
    _tracing = tracing


async def stop() -> None:
    """Send what is left, for a few seconds at most."""
    tracing = _tracing
    if tracing is None:
        return
    use(None)
    # A daemon, so that nothing waits for it beyond that.
    sending = threading.Thread(target=tracing.processor.shutdown, name="last spans", daemon=True)
    sending.start()
    await asyncio.to_thread(sending.join, _STOP_SECONDS)


def span(
    name: str,
    kind: Kind = "internal",
    attributes: Attributes = _NONE,
    *,
    parent: str | None = None,
    links: Iterable[str | None] = (),
) -> AbstractContextManager[Span]:
    """Return a block that is a span: within `parent` (W3C) if given, else within the span that is current.

    `links`: other traces that what happens is done for; None among them are left out. Within a trace that the sampler
    has not chosen nothing is recorded: most requests must not pay for the few that are.
    """
    if _tracing is None:
        return NO_SPAN
    current = None if kind == "server" or parent is not None else _current.get()
    if current is None:
        return _begin(_tracing, name, kind, attributes, parent, links)
    if isinstance(current, _LeftOut):
        return NO_SPAN
    return _Recorded(_tracing, name, kind, attributes, current.context.trace_id, current.context, links)


def _begin(
    tracing: Tracing, name: str, kind: Kind, attributes: Attributes, parent: str | None, links: Iterable[str | None]
) -> AbstractContextManager[Span]:
    """Return a span that is nobody's child in this process."""
    if parent is not None and kind != "server":  # what goes on in a trace that began elsewhere in this service
        if not _is_sampled(parent):
            return NO_SPAN
        within = _span_context(parent)
        return _Recorded(tracing, name, kind, attributes, within.trace_id, within, links)
    context = None if parent is None else _span_context(parent)
    trace_id = tracing.provider.id_generator.generate_trace_id() if context is None else context.trace_id
    decision: Decision = tracing.provider.sampler.should_sample(_as_parent(context), trace_id, name).decision
    if decision.is_sampled():  # type: ignore[no-untyped-call]
        return _Recorded(tracing, name, kind, attributes, trace_id, context, links)
    return _LeftOut(trace_id, tracing.provider.id_generator.generate_span_id())


def is_recorded() -> bool:
    """Say whether what happens now is part of a trace that is recorded."""
    return _tracing is not None and isinstance(_current.get(), _Recorded)


def _is_sampled(traceparent: str) -> bool:
    return bool(int(traceparent[-2:], 16) & 1)


def trace_methods(part: object, kind: Kind = "internal") -> None:
    """Make each call of a public coroutine method of `part` a span, where it is part of a trace."""
    if _tracing is None:
        return
    of = type(part)
    for name, _ in inspect.getmembers(of, inspect.iscoroutinefunction):
        if not name.startswith("_"):
            setattr(part, name, _within_traces(f"{of.__name__}.{name}", kind, getattr(part, name)))


def _within_traces(name: str, kind: Kind, method: Method) -> Method:
    async def traced(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - the method's own
        # Chores and probes are no part of a trace, and each would be one of its own.
        if not isinstance(_current.get(), _Recorded):
            return await method(*arguments, **options)
        statement = arguments[0] if arguments and isinstance(arguments[0], str) and " " in arguments[0] else None
        # Statements are constants: what clients sent is in their parameters.
        attributes = {} if statement is None else {"db.query.text": _in_one_line(statement)}
        with span(name, kind, attributes):
            return await method(*arguments, **options)

    return traced


@lru_cache(maxsize=256)
def _in_one_line(statement: str) -> str:
    return " ".join(statement.split())


class _LeftOut(AbstractContextManager["_LeftOut", None]):
    """A span of a trace that the sampler has not chosen: it has a context, and that is all."""

    def __init__(self, trace_id: int, span_id: int) -> None:
        self.traceparent: str | None = f"00-{trace_id:032x}-{span_id:016x}-00"

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)

    def describe(self, attributes: Attributes, *, name: str | None = None, failed: bool = False) -> None:
        pass


class _Recorded(AbstractContextManager["_Recorded", None]):
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
        from opentelemetry.trace import SpanContext, TraceFlags

        span_id = tracing.provider.id_generator.generate_span_id()
        self.context = SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        self._tracing = tracing
        self._name = name
        self._kind = kind
        self._attributes = dict(attributes)
        self._parent = parent
        self._links = [link for link in links if link is not None and _is_sampled(link)]
        self._failed = False

    @property
    def traceparent(self) -> str | None:
        return f"00-{self.context.trace_id:032x}-{self.context.span_id:016x}-01"

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        self._began = time.time_ns()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None:
            code = error.code if isinstance(error, CdvError) else type(error).__name__
            # What a client did wrong is no failure of ours.
            self.describe(
                {"error.type": code}, failed=not isinstance(error, CdvError) or isinstance(error, Unavailable)
            )
        _current.reset(self._token)
        self._tracing.processor.on_end(self._ended())

    def describe(self, attributes: Attributes, *, name: str | None = None, failed: bool = False) -> None:
        self._attributes.update(attributes)
        self._name = name or self._name
        self._failed = self._failed or failed

    def _ended(self) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import Link, SpanKind, Status, StatusCode

        return ReadableSpan(
            self._name,
            self.context,
            self._parent,
            self._tracing.provider.resource,
            self._attributes,
            links=[Link(_span_context(link)) for link in self._links],
            kind=SpanKind[self._kind.upper()],
            status=Status(StatusCode.ERROR if self._failed else StatusCode.UNSET),
            start_time=self._began,
            end_time=time.time_ns(),
            instrumentation_scope=InstrumentationScope("cdv"),
        )


_current: Final[ContextVar[_Recorded | _LeftOut | None]] = ContextVar("span", default=None)


def _span_context(traceparent: str) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def _as_parent(context: SpanContext | None) -> Context | None:
    """Return what a sampler looks for a parent in."""
    if context is None:
        return None
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    return set_span_in_context(NonRecordingSpan(context), Context())
