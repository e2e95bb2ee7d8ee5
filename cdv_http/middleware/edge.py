"""The edge: gives every admitted request an id, a trace, a time limit, safe headers, metrics and a log line."""

from __future__ import annotations

import asyncio
import random
import re
import time
from functools import partial
from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send
from loguru import logger

from cdv_adapters.tracing import NO_SPAN, Span, is_recorded, span
from cdv_core.domain.limits import CORRELATION_ID_MAX_CHARS
from cdv_http.admission import NEVER_SHED, Admission
from cdv_http.client_address import ClientAddresses
from cdv_http.completed_requests import CompletedRequest, record_soon
from cdv_http.error_responses import error_bytes
from cdv_http.logs import lines_of_request
from cdv_http.metrics import METHODS
from cdv_http.middleware.cors import AllowedOrigins
from cdv_http.middleware.exchange import Exchange
from cdv_http.middleware.time_limits import TimeLimits
from cdv_http.request_headers import RequestHeaders
from cdv_http.request_state import RequestState, state_of

_BLOBS_PREFIX: Final = "/v1/blobs/"
_CORRELATION_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,%d}" % CORRELATION_ID_MAX_CHARS)
# https://www.w3.org/TR/trace-context/: version 00, and the beginning of later ones. Invalid: ids of zeros, version ff.
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})(-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-.*)?"
)


class EdgeMiddleware:
    """The layer inside load shedding (cdv_http/app.py). It handles every response except the 503 of a shed request."""

    def __init__(
        self,
        app: ASGIApp,
        admission: Admission,
        addresses: ClientAddresses,
        allowed_origins: AllowedOrigins,
        limits: TimeLimits,
    ) -> None:
        self._app = app
        self._admission = admission
        self._addresses = addresses
        self._allowed_origins = allowed_origins
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        state, method = state_of(scope), scope["method"]
        if self._addresses.uses_https(scope):
            scope["scheme"] = "https"  # upload URLs are built from it
        given = traceparent_of(state.headers)
        probe = scope["path"] in NEVER_SHED
        # Probes are not traced: they come every few seconds.
        with NO_SPAN if probe else span("request", "server", parent=given) as serving:
            traceparent = state.traceparent = serving.traceparent or given
            traced = trace_id(traceparent)
            state.correlation_id = correlation_id(state.headers, traced)
            exchange = Exchange(scope, receive, send, self._admission, self._allowed_origins)
            started = time.perf_counter()
            with lines_of_request(state.correlation_id, traced):
                try:
                    if self._allowed_origins.is_preflight(method, state.headers):
                        await self._allowed_origins.answer_preflight(state.headers, exchange.send)
                    elif probe:
                        await self._app(scope, exchange.receive, exchange.send)
                    else:
                        await self._run_with_time_limit(scope, exchange)
                finally:
                    self._record(scope, state, method, exchange.status, time.perf_counter() - started, serving, traced)

    async def _run_with_time_limit(self, scope: HTTPScope, exchange: Exchange) -> None:
        task = self._limits.start()
        state_of(scope).end = partial(self._limits.expire, task)
        # Media and chunked responses may take as long as data keeps moving: megabytes over a slow line take minutes.
        exchange.reports_uploads = scope["path"].startswith(_BLOBS_PREFIX)
        exchange.on_progress = partial(self._limits.restart, task)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            if not self._limits.timed_out(task):
                raise
            logger.warning(
                "the request exceeded its time limit of {} s, or others needed its slot while its client sent nothing",
                self._limits.seconds,
            )
            # A response that has already started is cut off by the server.
            if not exchange.status:
                exchange.skip_drain()
                respond = _respond_to_slow_client if exchange.awaiting_client else _respond_to_timeout
                await respond(scope, exchange.send)
        finally:
            self._limits.stop(task)

    def _record(
        self,
        scope: HTTPScope,
        state: RequestState,
        method: str,
        status: int,
        seconds: float,
        serving: Span,
        traced: str | None,
    ) -> None:
        """Report the completed request to metrics, trace and log."""
        route, error_code = scope.get("path_template") or "unmatched", state.error_code
        if is_recorded():
            known_method = method if method in METHODS else "_OTHER"
            attributes: dict[str, str | int] = {
                "http.request.method": known_method,
                "http.route": route,
                "http.response.status_code": status,
            }
            if error_code is not None:
                attributes["error.type"] = error_code
            serving.describe(attributes, name=f"{known_method} {route}", failed=not 0 < status < 500)
        record_soon(
            CompletedRequest(
                *(method, scope.get("raw_path", b""), route, status, seconds),
                *(state.correlation_id, traced, state.did, error_code),
            )
        )


def correlation_id(headers: RequestHeaders, trace: str | None) -> str:
    """Return the client's X-Correlation-Id if it is valid, else the trace id, else a fresh one."""
    given = headers.only(b"x-correlation-id")
    if given is not None and _CORRELATION_ID.fullmatch(given):
        return given.decode()
    # Not secret, so no system randomness: under a flood, that took 7 % of the time.
    return trace or f"{random.getrandbits(128):032x}"


def traceparent_of(headers: RequestHeaders) -> str | None:
    """Return the client's traceparent as one of version 00; None if it is not valid (W3C Trace Context)."""
    match = _TRACEPARENT.fullmatch(headers.only(b"traceparent") or b"")
    if match is None or (match[1] == b"00" and match[3] is not None):
        return None
    return f"00{match[2].decode()}"


def trace_id(traceparent: str | None) -> str | None:
    return traceparent[3:35] if traceparent else None


async def _respond_to_timeout(scope: HTTPScope, send: Send) -> None:
    message = "the request took too long; try again later"
    await _send_error(scope, send, 503, "CDV_UNAVAILABLE", message, (b"retry-after", b"1"))


async def _respond_to_slow_client(scope: HTTPScope, send: Send) -> None:
    # The client's fault, so not a 5xx: a client that sends its body slowly must not be able to raise our alerts.
    await _send_error(scope, send, 400, "CDV_BAD_REQUEST", "the body did not arrive in time")


async def _send_error(
    scope: HTTPScope, send: Send, status: int, code: str, message: str, *more: tuple[bytes, bytes]
) -> None:
    state = state_of(scope)
    state.error_code = code
    content = error_bytes(code, message, state.correlation_id)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content)), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": False})
