"""The endpoints that are asked most, called without the framework in between.

Its router, and its way from a request to arguments and from a result to an answer, are a tenth of what a create costs
(docs/adr/012-fewer-instructions.md). The handlers are the same, and whatever is unusual goes the framework's way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

from litestar import Litestar, Request, Response
from litestar.enums import ScopeType
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send

from cdv_http.error_responses import respond_to_error
from cdv_http.request_state import state_of
from cdv_http.requests import AnyRequest, is_host

_Handler = Callable[[AnyRequest], Awaitable[Response[bytes]]]


class FastRoutes:
    """Answers what is asked of `handlers`, exactly at their paths; all the rest is for `app`, which has them too.

    `handlers`: of paths without parameters. They take the request, and nothing else. A path with needless slashes is
    none: the framework overlooks them, and so would pass whatever a proxy in front keeps away by its path.
    """

    def __init__(self, app: Litestar, handlers: Iterable[HTTPRouteHandler]) -> None:
        self._app = app
        self._handlers: dict[tuple[str, str], _Handler] = {
            (method, path): handler.fn
            for handler in handlers
            for path in handler.paths
            for method in handler.http_methods
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handler_of(scope) if scope["type"] == ScopeType.HTTP else None
        if handler is None:
            await (_not_found if _has_needless_slashes(scope) else self._app)(scope, receive, send)
            return
        scope["app"] = scope["litestar_app"] = self._app
        scope["path_template"] = scope["path"]
        request: AnyRequest = _BareRequest(scope, receive)
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - as the framework does
            response = respond_to_error(request, error)
        await response.to_asgi_response(None, request)(scope, receive, send)

    def _handler_of(self, scope: HTTPScope) -> _Handler | None:
        handler = self._handlers.get((scope["method"], scope["path"]))
        host = state_of(scope).headers.only(b"host") if handler else None
        # What hosts there may be otherwise, the framework knows.
        return handler if host is not None and is_host(host) else None


def _has_needless_slashes(scope: Scope) -> bool:
    return scope["type"] == ScopeType.HTTP and ("//" in scope["path"] or scope["path"][1:].endswith("/"))


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    request: AnyRequest = Request(scope, receive, send)
    await respond_to_error(request, NotFoundException()).to_asgi_response(None, request)(scope, receive, send)


class _BareRequest(Request[Any, Any, Any]):
    """As much of a request as the handlers of these endpoints look at: the rest takes longer to make than to use."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = cast("HTTPScope", scope)
        self.receive = receive
