"""OpenTelemetry traces, turned on by an `OTEL_*` environment variable.

Without such a variable, OpenTelemetry is not imported, no method is wrapped, and `span` returns a shared object that
does nothing. Spans record the type of an exception but not its text, which may contain private data.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self

from loguru import logger

if TYPE_CHECKING:
    from cdv_adapters.spans import Tracing

Kind = Literal["internal", "server", "client", "producer"]
Attributes = Mapping[str, str | int]
Method = Callable[..., Coroutine[Any, Any, Any]]

_STOP_SECONDS: Final = 3.0  # ours: how long an unresponsive collector may delay the end of the process
_NONE: Final[Attributes] = {}

_tracing: Tracing | None = None


class Span(Protocol):
    """A span in progress. `traceparent`: its context in the W3C format; None if tracing is off."""

    @property
    def traceparent(self) -> str | None: ...

    def describe(self, attributes: Attributes, *, name: str | None = None, failed: bool = False) -> None:
        """Add attributes, or set the name or the status."""
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


class SpanUnderWay(AbstractContextManager[Span, None]):
    """A span that can have children. `recorded`: whether the sampler has chosen its trace."""

    recorded: bool

    @abstractmethod
    def child(
        self, name: str, kind: Kind, attributes: Attributes, links: Iterable[str | None]
    ) -> AbstractContextManager[Span]:
        """Return a child span."""


current: Final[ContextVar[SpanUnderWay | None]] = ContextVar("span", default=None)


def start() -> None:
    """Start tracing if the environment turns it on. Must be called in the process that serves, after any fork."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    configured = any(name.startswith("OTEL_") and value for name, value in os.environ.items())
    if not configured or exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return
    try:
        from cdv_adapters.spans import tracing_to
    except ImportError:
        logger.warning("OTEL_* is set but OpenTelemetry's SDK is not installed: no traces; install the extra `otel`")
        return
    if exporter not in {"otlp", "console"}:
        logger.warning(
            "OTEL_TRACES_EXPORTER={} is not known (otlp, console, none): traces are exported by OTLP", exporter
        )
    use(tracing_to("console" if exporter == "console" else "otlp"))


def use(tracing: Tracing | None) -> None:
    """Use `tracing` from now on; None: stop tracing."""
    global _tracing
    _tracing = tracing


async def stop() -> None:
    """Export the remaining spans, for a few seconds at most."""
    tracing = _tracing
    if tracing is None:
        return
    use(None)
    # A daemon thread, so that the process does not wait for it any longer.
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
    """Return a context manager for a span: a child of `parent` (W3C) if given, otherwise of the current span.

    `links`: traceparents of other traces that this work belongs to; None is ignored. In a trace that the sampler has
    not chosen, nothing is recorded, so that tracing costs little for most requests.
    """
    if _tracing is None:
        return NO_SPAN
    within = None if kind == "server" or parent is not None else current.get()
    if within is None:
        return _tracing.begin(name, kind, attributes, parent, links)
    return within.child(name, kind, attributes, links)


def is_recorded() -> bool:
    """Return whether the current span belongs to a recorded trace."""
    within = current.get()
    return within is not None and within.recorded


def trace_methods(part: object, kind: Kind = "internal") -> None:
    """Wrap each public coroutine method of `part`, so that calls within a recorded trace become spans."""
    if _tracing is None:
        return
    of = type(part)
    for name, _ in inspect.getmembers(of, inspect.iscoroutinefunction):
        if not name.startswith("_"):
            setattr(part, name, _within_traces(f"{of.__name__}.{name}", kind, getattr(part, name)))


def _within_traces(name: str, kind: Kind, method: Method) -> Method:
    # Not itself a coroutine function: most calls are not recorded, and would pay for a second coroutine.
    def traced(*arguments: Any, **options: Any) -> Coroutine[Any, Any, Any]:  # noqa: ANN401 - the method's own
        # Calls outside of a trace, such as those of background tasks and probes, must not start traces of their own.
        return recorded(*arguments, **options) if is_recorded() else method(*arguments, **options)

    async def recorded(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        statement = arguments[0] if arguments and isinstance(arguments[0], str) and " " in arguments[0] else None
        # SQL statements are constants: data of clients is only in their parameters.
        attributes = {} if statement is None else {"db.query.text": _collapse_whitespace(statement)}
        with span(name, kind, attributes):
            return await method(*arguments, **options)

    return traced


@lru_cache(maxsize=256)
def _collapse_whitespace(statement: str) -> str:
    return " ".join(statement.split())
