"""Which other origins' pages may call us (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol): none unless listed.

Ours and not the framework's, which replaces an answer's Vary, leaves it out where no origin was sent, and answers a
preflight that it refuses with an error outside our envelope.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

_METHODS: Final = b"GET, HEAD, POST, PUT, OPTIONS"
_REQUEST_HEADERS: Final = (
    b"authorization, content-type, idempotency-key, if-none-match, range, traceparent, x-correlation-id"
)
_EXPOSED: Final = (
    b"x-correlation-id, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, retry-after, etag, "
    b"idempotent-replayed, deprecation, sunset, location"
)
_PREFLIGHT_SECONDS: Final = b"600"  # ours: as long as the strictest browser keeps one


class AllowedOrigins:
    """Whose pages may read answers. No credentials: tokens travel in a header that the page sets, never in cookies."""

    def __init__(self, origins: Collection[str]) -> None:
        self._any = "*" in origins
        self._allowed = frozenset(origin.encode() for origin in origins)

    def __bool__(self) -> bool:
        return bool(self._allowed)

    def is_preflight(self, scope: HTTPScope) -> bool:
        """Say whether this is a preflight, which is answered before anything else looks at it."""
        return (
            bool(self._allowed)
            and scope["method"] == "OPTIONS"
            and b"access-control-request-method" in dict(scope["headers"])
        )

    def granted(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Return the headers that let the request's origin read the answer; none if it may not."""
        origin = dict(scope["headers"]).get(b"origin", b"")
        if not origin or not (self._any or origin in self._allowed):
            return []
        return [
            (b"access-control-allow-origin", b"*" if self._any else origin),
            (b"access-control-expose-headers", _EXPOSED),
        ]

    def headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Return all that they add to an answer which varies by nothing else."""
        return [(b"vary", b"Origin"), *self.granted(scope)] if self._allowed else []


class CorsMiddleware:
    """Answers preflights before anything else looks at them, and marks answers for the origins allowed."""

    def __init__(self, app: ASGIApp, allowed_origins: AllowedOrigins) -> None:
        self._app = app
        self._allowed_origins = allowed_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or not self._allowed_origins:
            await self._app(scope, receive, send)
            return
        granted = self._allowed_origins.granted(scope)

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*_varying(message["headers"]), *granted]
            await send(message)

        if self._allowed_origins.is_preflight(scope):
            await _answer_preflight(marked, allowed=bool(granted))
        else:
            await self._app(scope, receive, marked)


async def _answer_preflight(send: Send, *, allowed: bool) -> None:
    """Answer 204; without the headers that the browser waits for, it stops the page's request by itself."""
    headers: list[tuple[bytes, bytes]] = []
    if allowed:
        headers = [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", _PREFLIGHT_SECONDS),
        ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _varying(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers with Origin added to Vary, so that no cache gives one origin's answer to another."""
    others, varies = [], []
    for name, value in headers:
        if name == b"vary":
            varies.append(value)
        else:
            others.append((name, value))
    return [*others, (b"vary", b", ".join([*varies, b"Origin"]))]
