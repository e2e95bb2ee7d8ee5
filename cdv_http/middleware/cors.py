"""CORS (https://fetch.spec.whatwg.org/#http-cors-protocol): only the listed origins may read responses.

Ours and not the framework's: that one replaces the Vary header of a response, leaves it out where no origin was sent,
and rejects a preflight with an error outside the error envelope.
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
    (b"access-control-max-age", b"600"),  # ours: the longest time that every browser honours
)


class AllowedOrigins:
    """The origins that may read responses. No credentials: pages send tokens in a header, never in cookies."""

    def __init__(self, origins: Collection[str]) -> None:
        self._any = "*" in origins
        self._allowed = frozenset(origin.encode() for origin in origins)

    def __bool__(self) -> bool:
        return bool(self._allowed)

    def is_preflight(self, method: str, headers: RequestHeaders) -> bool:
        """Return whether the request is a preflight, which is answered before anything else is checked."""
        return bool(self._allowed) and method == "OPTIONS" and b"access-control-request-method" in headers

    async def answer_preflight(self, headers: RequestHeaders, send: Send) -> None:
        """Send 204. Without the headers that grant access, the browser does not send the page's request."""
        granted = [*_METHODS_AND_HEADERS] if self.granted(headers) else []
        await send({"type": "http.response.start", "status": 204, "headers": granted})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def granted(self, headers: RequestHeaders) -> list[tuple[bytes, bytes]]:
        """Return the headers that let the request's origin read the response; [] if it may not."""
        origin = headers.last(b"origin")
        if not origin or not (self._any or origin in self._allowed):
            return []
        return [
            (b"access-control-allow-origin", b"*" if self._any else origin),
            (b"access-control-expose-headers", _EXPOSED),
        ]
