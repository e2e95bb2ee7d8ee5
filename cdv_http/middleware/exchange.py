"""One request and its answer, on their way between the server and what answers it."""

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
_UNLESS_PRESENT: Final = {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cache-control": b"no-store",
    b"vary": b"Origin",  # always, so that no cache gives one origin's answer to another
}
_USUAL: Final = (*_SAFE_HEADERS, *_UNLESS_PRESENT.items())
_CLOSE: Final = (b"connection", b"close")
# ours: enough for every mistake, little enough for a nuisance. Whoever sends more, or slower, is cut off.
_LEFT_OVER_MAX_BYTES: Final = 16 * 1024 * 1024
_LEFT_OVER_SECONDS: Final = 5.0
_PART_BYTES: Final = 256 * 1024  # ours: a page of 25 goes at once; as much is sent without knowing whether it is read


class Exchange:
    """What every request that is let in, and its answer, pass through. One object: each layer of closures costs.

    `admission` is told while the request does no work but waits for its client. A refusal reaches who is still sending:
    what is left of the body is read, and thrown away, before it is answered; otherwise the server closes the connection
    on them, and most clients then see a broken pipe and not the reason. `status`: 0 until an answer has begun.
    `client_owes`: the client is, or was to the end, waited for.
    `moved`: to be called, if set, when a part of the answer has got through, and of the request too if `patient`. A
    body that is as long as announced is whole: the server would say so only when asked once more, which takes two turns
    between its thread and this.
    """

    __slots__ = (
        *("_admission", "_allowed_origins", "_awaited", "_body_ended", "_bodyless", "_receive", "_scope", "_send"),
        *("_state", "client_owes", "moved", "patient", "status"),
    )

    def __init__(
        self, scope: HTTPScope, receive: Receive, send: Send, admission: Admission, allowed_origins: AllowedOrigins
    ) -> None:
        """`scope`: its HEAD becomes a GET, whose body is left out; its state says so as `head`."""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._admission = admission
        self._allowed_origins = allowed_origins
        self._state = state_of(scope)
        headers = self._state.headers
        self._awaited = -1 if b"transfer-encoding" in headers else headers.content_length()  # bytes; -1: unknown
        self._body_ended = False
        self._bodyless = scope["method"] == "HEAD"
        self.status = 0
        self.client_owes = False
        self.patient = False
        self.moved: Callable[[], None] | None = None
        if self._bodyless:
            scope["method"] = "GET"
            self._state.head = True

    async def receive(self) -> Any:  # noqa: ANN401 - the framework's types know no message to receive
        if self.status:  # the framework only listens for who goes away, while `send` waits
            return await self._receive()
        self.client_owes = True
        with self._admission.waiting_for_the_client(self._state):
            message: Any = await self._receive()
        self.client_owes = False
        if message["type"] == "http.request":
            self._awaited -= len(message.get("body", b""))
            if self._awaited == 0:
                message["more_body"] = False
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._body_ended = True
        if self.patient and self.moved is not None:
            self.moved()
        return message

    def listen_no_more(self) -> None:
        """Answer at once, whatever the client still sends: it has had its time."""
        self._body_ended = True

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] >= 400 and not self._body_ended and _sends_a_body(self._state.headers):
                await self._drain()
            self.status = message["status"]  # only now: until then, its time may run out
            message["headers"] = self._headers(message["headers"])
        elif message["type"] == "http.response.body":
            if self._bodyless:
                message["body"] = b""
            elif len(message.get("body", b"")) > _PART_BYTES and not message.get("more_body"):
                await self._send_in_parts(message["body"])
                return
        if message.get("more_body"):
            with self._admission.waiting_for_the_client(self._state):
                await self._send(message)
            if self.moved is not None:
                self.moved()
        else:
            await self._send(message)

    async def _send_in_parts(self, body: bytes) -> None:
        """Send a body no faster than its client reads it.

        The server takes a whole one at once, and whoever reads none of many would have them kept in its memory.
        """
        for at in range(0, len(body), _PART_BYTES):
            part, more = body[at : at + _PART_BYTES], at + _PART_BYTES < len(body)
            await self.send({"type": "http.response.body", "body": part, "more_body": more})

    def _headers(self, own: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        scope, state = self._scope, self._state
        headers = answer_headers(
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
        left = _LEFT_OVER_MAX_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEFT_OVER_SECONDS):
                while not self._body_ended and left > 0:
                    left -= len((await self.receive()).get("body", b""))


def answer_headers(
    own: Iterable[tuple[bytes, bytes]], correlation_id: bytes, *, secure: bool, closing: bool
) -> list[tuple[bytes, bytes]]:
    """Return an answer's `own` headers and what every answer has. `secure`: it goes by HTTPS. `closing`: none follows.

    What the answer says already of content, caching and variation stays.
    """
    headers = [*own, (b"x-correlation-id", correlation_id)]
    present = [name for name, _ in headers if name in _UNLESS_PRESENT]
    headers += [it for it in _USUAL if it[0] not in present] if present else _USUAL
    if secure:
        headers.append(_STRICT_TRANSPORT)
    if closing:
        headers.append(_CLOSE)
    return headers


def _sends_a_body(headers: RequestHeaders) -> bool:
    """Say whether a body is on its way that fits the bound; who waits for `100 Continue` has not begun to send one."""
    length = headers.content_length()
    sends = length > 0 or b"transfer-encoding" in headers
    return sends and length <= _LEFT_OVER_MAX_BYTES and b"expect" not in headers
