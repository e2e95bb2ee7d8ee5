"""What every request gets, whoever answers it: a correlation id, safe headers, one log line."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Collection
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from cdv_adapters.tracing import NO_SPAN, Span, span
from cdv_core.domain.limits import CORRELATION_ID_MAX_CHARS
from cdv_http.admission import NEVER_SHED
from cdv_http.answered import Answered, tell_soon
from cdv_http.client_address import ClientAddresses
from cdv_http.logs import lines_of_request
from cdv_http.metrics import METHODS

_CORRELATION_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,%d}" % CORRELATION_ID_MAX_CHARS)
# https://www.w3.org/TR/trace-context/, version 00; an id of zeros is none.
_TRACEPARENT: Final = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
# Answers are data: no browser may guess their type, frame them, run them, or tell others where they were linked from.
_SAFE_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"server", b"cdv"),  # or the server below adds its own name
)
# To who came by HTTPS: for a year, never without it.
_STRICT_TRANSPORT: Final = (b"strict-transport-security", b"max-age=31536000")
_NO_CONTENT_POLICY: Final = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_NO_STORE: Final = (b"cache-control", b"no-store")


class EdgeMiddleware:
    """The outermost layer but for the gate: nothing of ours answers outside the two."""

    def __init__(self, app: ASGIApp, addresses: ClientAddresses) -> None:
        self._app = app
        self._addresses = addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        state = scope["state"] = dict(scope.get("state") or {})
        if self._addresses.speak_https(scope):
            scope["scheme"] = "https"  # upload URLs are made from it
        given = traceparent_of(scope)
        # Probes come every few seconds, and nobody looks for their traces.
        with NO_SPAN if scope["path"] in NEVER_SHED else span("request", "server", parent=given) as serving:
            traceparent = state["traceparent"] = serving.traceparent or given
            state["correlation_id"] = correlation_id(scope, traceparent)
            with lines_of_request(state["correlation_id"], _trace_id(traceparent)):
                await self._serve(scope, receive, send, serving)

    async def _serve(self, scope: HTTPScope, receive: Receive, send: Send, serving: Span) -> None:
        state, method = scope["state"], scope["method"]
        if method == "HEAD":
            scope["method"] = "GET"
        answer = _Answer(send, state, bodyless=method == "HEAD", secure=scope["scheme"] == "https")
        started = time.perf_counter()
        try:
            await self._app(scope, receive, answer.send)
        finally:
            self._tell(scope, method, answer.status, time.perf_counter() - started, serving)

    def _tell(self, scope: HTTPScope, method: str, status: int, seconds: float, serving: Span) -> None:
        """Tell metrics, trace and log how it went."""
        state = scope["state"]
        route, error_code = scope.get("path_template") or "unmatched", state.get("error_code")
        if serving.traceparent is not None:
            known_method = method if method in METHODS else "_OTHER"
            attributes: dict[str, str | int] = {
                "http.request.method": known_method,
                "http.route": route,
                "http.response.status_code": status,
            }
            if error_code is not None:
                attributes["error.type"] = error_code
            serving.describe(attributes, name=f"{known_method} {route}", failed=not 0 < status < 500)
        tell_soon(
            Answered(
                *(method, scope.get("raw_path", b""), route, status, seconds),
                *(state["correlation_id"], _trace_id(state["traceparent"]), state.get("did"), error_code),
            )
        )


class _Answer:
    """Passes an answer on, with the headers that every answer has."""

    def __init__(self, send: Send, state: dict[str, Any], *, bodyless: bool, secure: bool) -> None:
        self._send = send
        self._state = state
        self._bodyless = bodyless
        self._secure = secure
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self._headers({name for name, _ in message["headers"]})]
        elif message["type"] == "http.response.body" and self._bodyless:
            message["body"] = b""
        await self._send(message)

    def _headers(self, present: set[bytes]) -> list[tuple[bytes, bytes]]:
        headers = headers_of_every_answer(self._state["correlation_id"].encode(), secure=self._secure, but=present)
        if "rate_limit" in self._state:
            limit, remaining, reset = self._state["rate_limit"]
            headers.append((b"x-ratelimit-limit", b"%d" % limit))
            headers.append((b"x-ratelimit-remaining", b"%d" % remaining))
            headers.append((b"x-ratelimit-reset", b"%d" % reset))  # seconds since 1970
        return headers


def headers_of_every_answer(
    correlation_id: bytes, *, secure: bool, but: Collection[bytes] = ()
) -> list[tuple[bytes, bytes]]:
    """Return them, but for a policy of content or caching that the answer has already. `secure`: it goes by HTTPS."""
    headers = [(b"x-correlation-id", correlation_id), *_SAFE_HEADERS]
    if secure:
        headers.append(_STRICT_TRANSPORT)
    if _NO_CONTENT_POLICY[0] not in but:
        headers.append(_NO_CONTENT_POLICY)
    if _NO_STORE[0] not in but:
        headers.append(_NO_STORE)
    return headers


def correlation_id(scope: Scope, traceparent: str | None) -> str:
    """Return what leads from a log line to its trace and its event: the trace's id, unless the client brings one."""
    given = [value for name, value in scope["headers"] if name == b"x-correlation-id"]
    if len(given) == 1 and _CORRELATION_ID.fullmatch(given[0]):
        return given[0].decode()
    return _trace_id(traceparent) or secrets.token_hex(16)


def traceparent_of(scope: Scope) -> str | None:
    """Return the client's, if it is one (W3C)."""
    given = [value for name, value in scope["headers"] if name == b"traceparent"]
    return given[0].decode() if len(given) == 1 and _TRACEPARENT.fullmatch(given[0]) else None


def _trace_id(traceparent: str | None) -> str | None:
    return traceparent.split("-")[1] if traceparent else None
