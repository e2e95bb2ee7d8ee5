"""One request and its response, on their way between the ASGI server and the application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from litestar.types import HTTPScope, Message, Receive, Send

from cdv_http.admission import Admission
from cdv_http.middleware.cors import AllowedOrigins
from cdv_http.request_headers import RequestHeaders
from cdv_http.request_state import state_of

# Responses are data: no browser may sniff their type, frame them, execute them, or send their URL as a referrer.
_SAFE_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"server", b"cdv"),  # otherwise granian adds its own name
)
# Only over HTTPS: the browser must use HTTPS for the next year.
_STRICT_TRANSPORT: Final = (b"strict-transport-security", b"max-age=31536000")
_OVERRIDABLE_HEADERS: Final = {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cache-control": b"no-store",
    b"vary": b"Origin",  # always, so that no cache serves one origin's response to another
}
_DEFAULT_HEADERS: Final = (*_SAFE_HEADERS, *_OVERRIDABLE_HEADERS.items())
_CLOSE: Final = (b"connection", b"close")
# ours: enough for honest mistakes, too little for abuse. A client that sends more, or slower, is disconnected.
_DRAIN_MAX_BYTES: Final = 16 * 1024 * 1024
_DRAIN_SECONDS: Final = 5.0
_CHUNK_BYTES: Final = (
    256 * 1024
)  # ours: a page of 25 fits into one; the server accepts one whether the client reads it or not


class Exchange:
    """Wraps `receive` and `send` of every admitted request. One object, because each layer of closures costs time.

    Waits for the client are reported to `admission`, which does not count them as work.

    Before an error response, the rest of the request body is read and discarded. Otherwise the server would close the
    connection while the client is still sending, and most clients then report a broken pipe instead of the error.

    A request body is complete when it has the announced length. The server would say so only on another `receive`,
    which costs two switches between its thread and this one.

    `status`: of the response; 0 until it has started. `awaiting_client`: the request waits, or waited when it was
    cancelled, for its body. `on_progress`: called, if set, after each part of the response that has been sent, and if
    `reports_uploads` after each part of the request body that has arrived.
    """

    __slots__ = (
        *("_admission", "_allowed_origins", "_body_bytes_left", "_body_ended", "_is_head", "_receive", "_scope"),
        *("_send", "_state", "awaiting_client", "on_progress", "reports_uploads", "status"),
    )

    def __init__(
        self, scope: HTTPScope, receive: Receive, send: Send, admission: Admission, allowed_origins: AllowedOrigins
    ) -> None:
        """A HEAD request is turned into a GET in `scope`, with `head` set in its state; no response body is sent."""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._admission = admission
        self._allowed_origins = allowed_origins
        self._state = state_of(scope)
        headers = self._state.headers
        self._body_bytes_left = headers.content_length() if headers.has_known_length() else -1  # -1: unknown
        self._body_ended = False
        self._is_head = scope["method"] == "HEAD"
        self.status = 0
        self.awaiting_client = False
        self.reports_uploads = False
        self.on_progress: Callable[[], None] | None = None
        if self._is_head:
            scope["method"] = "GET"
            self._state.head = True

    async def receive(self) -> Any:  # noqa: ANN401 - the framework's types know no message to receive
        if self.status:  # the response has started: the framework only listens for a disconnect
            return await self._receive()
        self.awaiting_client = True
        with self._admission.waiting_for_the_client(self._state):
            message: Any = await self._receive()
        self.awaiting_client = False
        if message["type"] == "http.request":
            self._body_bytes_left -= len(message.get("body", b""))
            if self._body_bytes_left == 0:
                message["more_body"] = False
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._body_ended = True
        if self.reports_uploads and self.on_progress is not None:
            self.on_progress()
        return message

    def skip_drain(self) -> None:
        """Send the error response without reading the rest of the body: the client has used up its time."""
        self._body_ended = True

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] >= 400 and not self._body_ended and _has_drainable_body(self._state.headers):
                await self._drain()
            self.status = message["status"]  # only now: the request may still time out while it is drained
            message["headers"] = self._headers(message["headers"])
        elif message["type"] == "http.response.body":
            if self._is_head:
                message["body"] = b""
            elif len(message.get("body", b"")) > _CHUNK_BYTES and not message.get("more_body"):
                await self._send_in_chunks(message["body"])
                return
        if message.get("more_body"):
            with self._admission.waiting_for_the_client(self._state):
                await self._send(message)
            if self.on_progress is not None:
                self.on_progress()
        else:
            await self._send(message)

    async def _send_in_chunks(self, body: bytes) -> None:
        """Send a large body in chunks, no faster than the client reads it.

        The server would buffer a whole body at once, so that a client that reads nothing could fill its memory.
        """
        for at in range(0, len(body), _CHUNK_BYTES):
            chunk, more = body[at : at + _CHUNK_BYTES], at + _CHUNK_BYTES < len(body)
            await self.send({"type": "http.response.body", "body": chunk, "more_body": more})

    def _headers(self, own: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        scope, state = self._scope, self._state
        headers = response_headers(
            own,
            state.correlation_id.encode(),
            secure=scope["scheme"] == "https",
            closing=self._admission.closing and scope["http_version"].startswith("1"),
        )
        if state.rate_limit is not None:
            limit, remaining, reset = state.rate_limit
            headers += (
                (b"x-ratelimit-limit", b"%d" % limit),
                (b"x-ratelimit-remaining", b"%d" % remaining),
                (b"x-ratelimit-reset", b"%d" % reset),  # seconds since 1970
            )
        if self._allowed_origins:
            headers += self._allowed_origins.granted(state.headers)
        return headers

    async def _drain(self) -> None:
        left = _DRAIN_MAX_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._body_ended and left > 0:
                    left -= len((await self.receive()).get("body", b""))


def response_headers(
    own: Iterable[tuple[bytes, bytes]], correlation_id: bytes, *, secure: bool, closing: bool
) -> list[tuple[bytes, bytes]]:
    """Return a response's `own` headers with those that every response gets.

    Own Content-Security-Policy, Cache-Control and Vary headers take precedence. `secure`: the client uses HTTPS.
    `closing`: the connection is closed after this response.
    """
    headers = [*own, (b"x-correlation-id", correlation_id)]
    present = [name for name, _ in headers if name in _OVERRIDABLE_HEADERS]
    headers += [it for it in _DEFAULT_HEADERS if it[0] not in present] if present else _DEFAULT_HEADERS
    if secure:
        headers.append(_STRICT_TRANSPORT)
    if closing:
        headers.append(_CLOSE)
    return headers


def _has_drainable_body(headers: RequestHeaders) -> bool:
    """Return whether a body that can be drained is being sent. With `Expect: 100-continue`, none has been sent yet."""
    length = headers.content_length()
    sends = length > 0 or b"transfer-encoding" in headers
    return sends and length <= _DRAIN_MAX_BYTES and b"expect" not in headers
