"""What every request gets, whoever answers it: a correlation id, a time limit, safe headers, one log line."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from loguru import logger

from cdv_core.domain.limits import CORRELATION_ID_MAX_CHARS
from cdv_http.error_responses import error_bytes

_CORRELATION_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,%d}" % CORRELATION_ID_MAX_CHARS)
_TRACEPARENT: Final = re.compile(rb"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
# Answers are data: no browser may guess their type, frame them, run them, or tell others where they were linked from.
_SAFE_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"server", b"cdv"),  # or the server below adds its own name
)
_NO_CONTENT_POLICY: Final = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_NO_STORE: Final = (b"cache-control", b"no-store")


class EdgeMiddleware:
    """The outermost layer: nothing of ours answers outside it."""

    def __init__(self, app: ASGIApp, *, timeout_seconds: float) -> None:
        self._app = app
        self._timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        correlation_id = _correlation_id(scope) or secrets.token_hex(16)
        state = scope["state"] = dict(scope.get("state") or {})
        state["correlation_id"] = correlation_id
        method = scope["method"]
        if method == "HEAD":
            scope["method"] = "GET"
        answer = _Answer(send, correlation_id, bodyless=method == "HEAD")
        started = time.perf_counter()
        with logger.contextualize(correlation_id=correlation_id, **_trace_id(scope)):
            try:
                async with asyncio.timeout(self._timeout_seconds) as limit:
                    await self._app(scope, receive, answer.send)
            except TimeoutError:
                if not limit.expired():
                    raise
                logger.warning("the request ran over {} s", self._timeout_seconds)
                state["error_code"] = "CDV_UNAVAILABLE"
                await answer.time_out()
            finally:
                milliseconds = (time.perf_counter() - started) * 1000
                logger.info(
                    "{} {} {} {:.1f} ms",
                    method,
                    _printable_path(scope),
                    answer.status,
                    milliseconds,
                    route=scope.get("path_template", ""),
                    status=answer.status,
                    latency_ms=round(milliseconds, 3),
                    did=state.get("did"),
                    error_code=state.get("error_code"),
                )


class _Answer:
    """Passes an answer on, with the headers that every answer has."""

    def __init__(self, send: Send, correlation_id: str, *, bodyless: bool) -> None:
        self._send = send
        self._correlation_id = correlation_id
        self._bodyless = bodyless
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self._headers({name for name, _ in message["headers"]})]
        elif message["type"] == "http.response.body" and self._bodyless:
            message["body"] = b""
        await self._send(message)

    async def time_out(self) -> None:
        """Answer 503 if nothing was answered yet; what had begun is cut off by the server."""
        if self.status:
            return
        content = error_bytes("CDV_UNAVAILABLE", "the request took too long; try again later", self._correlation_id)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"retry-after", b"1"),
        ]
        await self.send({"type": "http.response.start", "status": 503, "headers": headers})
        await self.send({"type": "http.response.body", "body": content, "more_body": False})

    def _headers(self, present: set[bytes]) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-correlation-id", self._correlation_id.encode()), *_SAFE_HEADERS]
        if _NO_CONTENT_POLICY[0] not in present:
            headers.append(_NO_CONTENT_POLICY)
        if _NO_STORE[0] not in present:
            headers.append(_NO_STORE)
        return headers


def _correlation_id(scope: Scope) -> str | None:
    given = [value for name, value in scope["headers"] if name == b"x-correlation-id"]
    return given[0].decode() if len(given) == 1 and _CORRELATION_ID.fullmatch(given[0]) else None


def _trace_id(scope: Scope) -> dict[str, str]:
    for name, value in scope["headers"]:
        if name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value)):
            return {"trace_id": match.group(1).decode()}
    return {}


def _printable_path(scope: Scope) -> str:
    """Return the path still percent-encoded: decoded, it could hold a line break and forge a log line."""
    return scope.get("raw_path", b"").decode("ascii", "backslashreplace")
