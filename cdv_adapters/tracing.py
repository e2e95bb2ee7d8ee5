"""Traces by OpenTelemetry, where the environment asks for them by an `OTEL_*` variable.

Without such a variable nothing of OpenTelemetry is imported, no method is wrapped, and `span` gives one and the same
object that does nothing. Exceptions leave their kind in a span and not their text, which may hold what is nobody's
business.
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

_STOP_SECONDS: Final = 3.0  # ours: what a collector that does not answer may add to the end of a process
_NONE: Final[Attributes] = {}

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


class SpanUnderWay(AbstractContextManager[Span, None]):
    """What knows its place in a trace. `recorded`: the sampler has chosen the trace."""

    recorded: bool

    @abstractmethod
    def child(
        self, name: str, kind: Kind, attributes: Attributes, links: Iterable[str | None]
    ) -> AbstractContextManager[Span]:
        """Return a span within this one."""


current: Final[ContextVar[SpanUnderWay | None]] = ContextVar("span", default=None)


def start() -> None:
    """Trace from now on if the environment asks for it. To be called in the process that serves, after any fork."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    asked = any(name.startswith("OTEL_") and value for name, value in os.environ.items())
    if not asked or exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return
    try:
        from cdv_adapters.spans import tracing_to
    except ImportError:
        logger.warning("OTEL_* is set and OpenTelemetry's SDK is not installed: no traces; install the extra `otel`")
        return
    use(tracing_to("console" if exporter == "console" else "otlp"))


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
    within = None if kind == "server" or parent is not None else current.get()
    if within is None:
        return _tracing.begin(name, kind, attributes, parent, links)
    return within.child(name, kind, attributes, links)


def is_recorded() -> bool:
    """Say whether what happens now is part of a trace that is recorded."""
    within = current.get()
    return within is not None and within.recorded


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
        # Background tasks and probes are no part of a trace, and each would be one of its own.
        if not is_recorded():
            return await method(*arguments, **options)
        statement = arguments[0] if arguments and isinstance(arguments[0], str) and " " in arguments[0] else None
        # Statements are constants: what clients sent is in their parameters.
        attributes = {} if statement is None else {"db.query.text": _collapse_whitespace(statement)}
        with span(name, kind, attributes):
            return await method(*arguments, **options)

    return traced


@lru_cache(maxsize=256)
def _collapse_whitespace(statement: str) -> str:
    return " ".join(statement.split())
