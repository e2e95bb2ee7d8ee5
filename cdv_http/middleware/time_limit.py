"""How long a request may take: of media, how long it may stand still."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from loguru import logger

from cdv_http.admission import NEVER_SHED, Admission
from cdv_http.error_responses import error_bytes

_MEDIA: Final = "/v1/blobs/"


class TimeLimitMiddleware:
    """Ends what takes too long with 503. Tells `admission` when a request does no work but waits for its client."""

    def __init__(self, app: ASGIApp, timeout_seconds: float, admission: Admission) -> None:
        self._app = app
        self._timeout_seconds = timeout_seconds
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["path"] in NEVER_SHED:
            await self._app(scope, receive, send)
            return
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
                with self._admission.waiting_for_the_client(scope["state"]):
                    await send(message)
            else:
                await send(message)
            moved()

        async def progressing() -> Any:  # noqa: ANN401 - what ASGI's receive gives
            with self._admission.waiting_for_the_client(scope["state"]):
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
                await _refuse(scope, send)


async def _refuse(scope: Scope, send: Send) -> None:
    state = scope["state"]
    state["error_code"] = "CDV_UNAVAILABLE"
    content = error_bytes("CDV_UNAVAILABLE", "the request took too long; try again later", state["correlation_id"])
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": False})
