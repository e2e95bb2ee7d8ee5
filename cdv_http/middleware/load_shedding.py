"""Load shedding: a request over the limit of requests in flight gets 503 at once, so that the others are not all late.

The outermost of our layers (cdv_http/app.py). It builds the 503 itself: under overload, shedding is most of what the
service does, and its cost delays the requests that were admitted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send
from loguru import logger

from cdv_http.admission import NEVER_SHED, Admission
from cdv_http.client_address import ClientAddresses
from cdv_http.error_responses import error_bytes
from cdv_http.metrics import METHODS, observe_shed
from cdv_http.middleware.cors import AllowedOrigins
from cdv_http.middleware.edge import correlation_id, trace_id, traceparent_of
from cdv_http.middleware.exchange import response_headers
from cdv_http.request_headers import RequestHeaders
from cdv_http.request_state import begin_state

_LOG_INTERVAL_SECONDS: Final = 1.0  # ours: a log line for each shed request would cost more than shedding it
_BEFORE_ID, _AFTER_ID = error_bytes(
    "CDV_UNAVAILABLE", "too many requests are in flight; try again later", "{id}"
).split(b"{id}")
_HEADERS: Final = ((b"content-type", b"application/json"), (b"retry-after", b"1"))


class LoadSheddingMiddleware:
    """Admits as many requests as `admission` allows. Shed requests are counted, but not traced or logged one by one.

    Creates the state of every request (cdv_http/request_state.py).
    """

    def __init__(
        self, app: ASGIApp, admission: Admission, addresses: ClientAddresses, allowed_origins: AllowedOrigins
    ) -> None:
        self.admission = admission
        self._app = app
        self._addresses = addresses
        self._allowed_origins = allowed_origins
        self._shed_by_method: Counter[str] = Counter()  # in this iteration of the event loop
        self._unlogged = 0
        self._log_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        state = begin_state(scope)
        # Answering a preflight is cheaper than counting it, and a browser would not show the 503 to the page.
        if scope["path"] in NEVER_SHED or self._allowed_origins.is_preflight(scope["method"], state.headers):
            await self._app(scope, receive, send)
            return
        client = state.client = self._addresses.of(scope)
        if not self.admission.enter(client):
            await self._shed(scope, state.headers, send)
            return
        state.holders.append(client)
        entered = self.admission.monotonic()
        try:
            await self._app(scope, receive, send)
        finally:
            self.admission.leave(state.holders, self.admission.monotonic() - entered - state.waited_seconds)

    async def _shed(self, scope: HTTPScope, headers: RequestHeaders, send: Send) -> None:
        self._note_shed(scope["method"])
        correlation = correlation_id(headers, trace_id(traceparent_of(headers))).encode()
        content = b"%b%b%b" % (_BEFORE_ID, correlation, _AFTER_ID)
        response = response_headers(
            [*_HEADERS, (b"content-length", b"%d" % len(content))],
            correlation,
            secure=self._addresses.uses_https(scope),
            closing=self.admission.closing and scope["http_version"].startswith("1"),
        )
        if self._allowed_origins:
            response += self._allowed_origins.granted(headers)
        await send({"type": "http.response.start", "status": 503, "headers": response})
        body = b"" if scope["method"] == "HEAD" else content
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _note_shed(self, method: str) -> None:
        if not self._shed_by_method:
            asyncio.get_running_loop().call_soon(self._count_shed)
        self._shed_by_method[method if method in METHODS else "other"] += 1

    def _count_shed(self) -> None:
        shed, self._shed_by_method = self._shed_by_method, Counter()  # first: an error below must not stop the counting
        self._unlogged += shed.total()
        observe_shed(shed)
        if self.admission.monotonic() >= self._log_at:
            logger.warning("too many requests in flight: {} shed with 503", self._unlogged)
            self._unlogged, self._log_at = 0, self.admission.monotonic() + _LOG_INTERVAL_SECONDS
