"""How long a request may take, and how many may be under way: beyond that, 503 at once rather than later for all."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from loguru import logger

from cdv_http.admission import Admission
from cdv_http.client_address import ClientAddresses
from cdv_http.error_responses import error_bytes
from cdv_http.metrics import in_flight, shed_total

# Probes must get through a flood, or an orchestrator would kill what is merely busy.
NEVER_SHED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_MEDIA: Final = "/v1/blobs/"
_TELL_SECONDS: Final = 1.0  # ours: a line for each request turned away would cost more than turning it away


class GuardMiddleware:
    """Bounds the requests in flight in this process, and the time of each; of media, the time that it stands still.

    Leaves in the request's state `hold`, to be asked whether whoever it proves to come from may have one more.
    """

    def __init__(self, app: ASGIApp, *, timeout_seconds: float, max_in_flight: int, addresses: ClientAddresses) -> None:
        self._app = app
        self._timeout_seconds = timeout_seconds
        self._admission = Admission(max_in_flight)
        self._addresses = addresses
        self._turned_away = 0
        self._tell_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["path"] in NEVER_SHED:
            await self._app(scope, receive, send)
            return
        client = self._addresses.of(scope)
        if not self._admission.enter(client):
            self._note_turned_away(scope)
            await _unavailable(scope, send, "too many requests are under way; try again later")
            return
        holders = [client]

        def hold(who: str) -> bool:
            held = self._admission.hold(who)
            if held:
                holders.append(who)
            return held

        scope["state"]["hold"] = hold
        in_flight.inc()
        try:
            await self._within_time(scope, receive, send)
        finally:
            self._admission.leave(holders)
            in_flight.dec()

    def _note_turned_away(self, scope: Scope) -> None:
        shed_total.inc()
        scope["state"]["turned_away"] = True
        self._turned_away += 1
        if time.monotonic() >= self._tell_at:
            logger.warning("too many requests are under way; {} turned away", self._turned_away)
            self._turned_away, self._tell_at = 0, time.monotonic() + _TELL_SECONDS

    async def _within_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False
        loop = asyncio.get_running_loop()

        def moved() -> None:
            # Media may take as long as it moves: ten megabytes over a poor line take minutes.
            if scope["path"].startswith(_MEDIA) and not limit.expired():
                limit.reschedule(loop.time() + self._timeout_seconds)

        async def noting(message: Message) -> None:
            nonlocal answered
            answered = True
            if message.get("more_body"):
                with self._admission.waiting_for_the_client():
                    await send(message)
            else:
                await send(message)
            moved()

        async def progressing() -> Any:  # noqa: ANN401 - what ASGI's receive gives
            with self._admission.waiting_for_the_client():
                message = await receive()
            moved()
            return message

        try:
            async with asyncio.timeout(self._timeout_seconds) as limit:
                await self._app(scope, progressing, noting)
        except TimeoutError:
            if not limit.expired():
                raise
            logger.warning("the request ran over {} s", self._timeout_seconds)
            # What had begun to be answered is cut off by the server.
            if not answered:
                await _unavailable(scope, send, "the request took too long; try again later")


async def _unavailable(scope: Scope, send: Send, message: str) -> None:
    state = scope["state"]
    state["error_code"] = "CDV_UNAVAILABLE"
    content = error_bytes("CDV_UNAVAILABLE", message, state["correlation_id"])
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": False})
