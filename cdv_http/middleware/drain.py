"""A refusal reaches who is still sending: what is left of the body is read, and thrown away, before it is answered.

Otherwise the server closes the connection on them, and most clients then see a broken pipe and not the reason.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

# ours: enough for every mistake, little enough for a nuisance. Whoever sends more, or slower, is cut off.
_LEFT_OVER_MAX_BYTES: Final = 16 * 1024 * 1024
_SECONDS: Final = 5.0


class DrainMiddleware:
    """Reads what a refused request still sends, a bounded number of bytes for a bounded time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        body = _Body(receive)

        async def after_the_body(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400 and _sends_a_body(scope):
                await body.drain()
            await send(message)

        await self._app(scope, body.receive, after_the_body)


class _Body:
    """Passes a body on, and knows whether it has ended."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = False

    async def receive(self) -> Any:  # noqa: ANN401 - the framework's types know no message to receive
        message: Any = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._ended = True
        return message

    async def drain(self) -> None:
        left = _LEFT_OVER_MAX_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS):
                while not self._ended and left > 0:
                    left -= len((await self.receive()).get("body", b""))


def _sends_a_body(scope: Scope) -> bool:
    """Say whether a body is on its way that fits the bound; who waits for `100 Continue` has not begun to send one."""
    headers = dict(scope["headers"])
    declared = headers.get(b"content-length", b"0")
    fits = declared.isdigit() and int(declared[:20]) <= _LEFT_OVER_MAX_BYTES
    return fits and (b"transfer-encoding" in headers or declared != b"0") and b"expect" not in headers
