"""Which other origins' pages may call us (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol): none unless listed.

Ours and not the framework's, which replaces an answer's Vary, leaves it out where no origin was sent, and answers a
preflight that it refuses with an error outside our envelope.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from litestar.types import Send

from cdv_http.request_headers import RequestHeaders

_EXPOSED: Final = (
    b"x-correlation-id, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, retry-after, etag, "
    b"idempotent-replayed, deprecation, sunset, location"
)
_METHODS_AND_HEADERS: Final = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, OPTIONS"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, idempotency-key, if-none-match, range, traceparent, x-correlation-id",
    ),
    (b"access-control-max-age", b"600"),  # ours: as long as the strictest browser keeps one
)


class AllowedOrigins:
    """Whose pages may read answers. No credentials: tokens travel in a header that the page sets, never in cookies."""

    def __init__(self, origins: Collection[str]) -> None:
        self._any = "*" in origins
        self._allowed = frozenset(origin.encode() for origin in origins)

    def __bool__(self) -> bool:
        return bool(self._allowed)

    def is_preflight(self, method: str, headers: RequestHeaders) -> bool:
        """Say whether this is a preflight, which is answered before anything else looks at it."""
        return bool(self._allowed) and method == "OPTIONS" and b"access-control-request-method" in headers

    async def answer_preflight(self, headers: RequestHeaders, send: Send) -> None:
        """Answer 204; without the headers that the browser waits for, it stops the page's request by itself."""
        granted = [*_METHODS_AND_HEADERS] if self.granted(headers) else []
        await send({"type": "http.response.start", "status": 204, "headers": granted})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def granted(self, headers: RequestHeaders) -> list[tuple[bytes, bytes]]:
        """Return what lets the request's origin read the answer; [] if it may not."""
        origin = headers.last(b"origin")
        if not origin or not (self._any or origin in self._allowed):
            return []
        return [
            (b"access-control-allow-origin", b"*" if self._any else origin),
            (b"access-control-expose-headers", _EXPOSED),
        ]
