"""Calls the handlers of the busiest endpoints directly, bypassing the framework.

The framework's routing, argument parsing and response handling are a tenth of the cost of a create
(docs/adr/012-fewer-instructions.md). The handlers are the same, and anything unusual still goes through the framework.
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
    """Routes requests for the exact paths of `handlers` to them, and all others to `app`, which has the same handlers.

    `handlers`: of paths without parameters; they take the request as their only argument. A path with a trailing or
    doubled slash is 404: the framework ignores such slashes, so that a request could get past a proxy's path rules.
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
            await (_not_found if _has_extra_slashes(scope) else self._app)(scope, receive, send)
            return
        scope["app"] = scope["litestar_app"] = self._app
        scope["path_template"] = scope["path"]
        request: AnyRequest = _BareRequest(scope, receive)
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - every exception becomes a response, as in the framework
            response = respond_to_error(request, error)
        await response.to_asgi_response(None, request)(scope, receive, send)

    def _handler_of(self, scope: HTTPScope) -> _Handler | None:
        handler = self._handlers.get((scope["method"], scope["path"]))
        host = state_of(scope).headers.only(b"host") if handler else None
        # The framework handles requests with an unusual Host header.
        return handler if host is not None and is_host(host) else None


def _has_extra_slashes(scope: Scope) -> bool:
    return scope["type"] == ScopeType.HTTP and ("//" in scope["path"] or scope["path"][1:].endswith("/"))


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    request: AnyRequest = Request(scope, receive, send)
    await respond_to_error(request, NotFoundException()).to_asgi_response(None, request)(scope, receive, send)


class _BareRequest(Request[Any, Any, Any]):
    """A request with only what these handlers use: the framework's constructor takes longer than they do to use it."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = cast("HTTPScope", scope)
        self.receive = receive
