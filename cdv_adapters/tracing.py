"""Traces by OpenTelemetry, where the environment asks for them by an `OTEL_*` variable; the only file that knows it.

Without such a variable nothing of OpenTelemetry is imported, no method is wrapped, and `span` gives one and the same
object that does nothing. Exceptions leave their kind in a span and not their text, which may hold what is nobody's
business.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self

from loguru import logger

from cdv_core.errors import CdvError, Unavailable

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanContext, Tracer

Kind = Literal["internal", "server", "client", "producer"]
Attributes = Mapping[str, str | int]
Method = Callable[..., Coroutine[Any, Any, Any]]

_STOP_SECONDS: Final = 3.0  # ours: what a collector that does not answer may add to the end of a process
_NONE: Final[Attributes] = {}

_provider: TracerProvider | None = None
_tracer: Tracer | None = None


class Span(Protocol):
    """A span under way. `traceparent`: its context as W3C spells it; None when there are no traces."""

    traceparent: str | None

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
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(
        BatchSpanProcessor(ConsoleSpanExporter() if exporter == "console" else OTLPSpanExporter())
    )
    use(provider)


def use(provider: TracerProvider | None) -> None:
    """Trace with `provider` from now on; None: no more."""
    global _provider, _tracer
    _provider, _tracer = provider, None if provider is None else provider.get_tracer("cdv")


async def stop() -> None:
    """Send what is left, for a few seconds at most."""
    provider = _provider
    if provider is None:
        return
    use(None)
    # A daemon, so that nothing waits for it beyond that.
    sending = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
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
    if _tracer is None or (kind != "server" and _is_left_out(parent)):
        return NO_SPAN
    return _RecordedSpan(_tracer, name, kind, attributes, parent, links)


def is_recorded() -> bool:
    """Say whether what happens now is part of a trace that is recorded."""
    if _tracer is None:
        return False
    from opentelemetry.trace import get_current_span

    return get_current_span().get_span_context().trace_flags.sampled


def _is_left_out(parent: str | None) -> bool:
    """Say whether what begins now belongs to a trace that was not chosen; what belongs to none may begin one."""
    from opentelemetry.trace import get_current_span

    if parent is not None:
        return not _is_sampled(parent)
    current = get_current_span().get_span_context()
    return current.is_valid and not current.trace_flags.sampled


def _is_sampled(traceparent: str) -> bool:
    return bool(int(traceparent[-2:], 16) & 1)


def trace_methods(part: object, kind: Kind = "internal") -> None:
    """Make each call of a public coroutine method of `part` a span, where it is part of a trace."""
    if _tracer is None:
        return
    of = type(part)
    for name, _ in inspect.getmembers(of, inspect.iscoroutinefunction):
        if not name.startswith("_"):
            setattr(part, name, _within_traces(f"{of.__name__}.{name}", kind, getattr(part, name)))


def _within_traces(name: str, kind: Kind, method: Method) -> Method:
    from opentelemetry.trace import get_current_span

    async def traced(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - the method's own
        # Chores and probes are no part of a trace, and each would be one of its own. (An invalid one is not sampled.)
        if not get_current_span().get_span_context().trace_flags.sampled:
            return await method(*arguments, **options)
        statement = arguments[0] if arguments and isinstance(arguments[0], str) and " " in arguments[0] else None
        # Statements are constants: what clients sent is in their parameters.
        attributes = {} if statement is None else {"db.query.text": " ".join(statement.split())}
        with span(name, kind, attributes):
            return await method(*arguments, **options)

    return traced


class _RecordedSpan(AbstractContextManager["_RecordedSpan", None]):
    def __init__(
        self,
        tracer: Tracer,
        name: str,
        kind: Kind,
        attributes: Attributes,
        parent: str | None,
        links: Iterable[str | None],
    ) -> None:
        from opentelemetry import context, trace

        self._context, self._trace = context, trace
        within = None
        if parent is not None:
            within = trace.set_span_in_context(trace.NonRecordingSpan(_span_context(parent)), context.Context())
        self._span = tracer.start_span(
            name,
            within,
            trace.SpanKind[kind.upper()],
            dict(attributes),
            [trace.Link(_span_context(link)) for link in links if link is not None and _is_sampled(link)],
            record_exception=False,
            set_status_on_exception=False,
        )
        own = self._span.get_span_context()
        self.traceparent: str | None = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def __enter__(self) -> Self:
        self._token = self._context.attach(self._trace.set_span_in_context(self._span))
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None:
            code = error.code if isinstance(error, CdvError) else type(error).__name__
            # What a client did wrong is no failure of ours.
            self.describe(
                {"error.type": code}, failed=not isinstance(error, CdvError) or isinstance(error, Unavailable)
            )
        self._context.detach(self._token)
        self._span.end()

    def describe(self, attributes: Attributes, *, name: str | None = None, failed: bool = False) -> None:
        self._span.set_attributes(dict(attributes))
        if name is not None:
            self._span.update_name(name)
        if failed:
            self._span.set_status(self._trace.StatusCode.ERROR)


def _span_context(traceparent: str) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
