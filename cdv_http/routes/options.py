"""OPTIONS requests: which methods a resource allows."""

from __future__ import annotations

from collections.abc import Iterable

from litestar import Response, route
from litestar.handlers import HTTPRouteHandler

from cdv_http.error_responses import allowed_methods
from cdv_http.requests import AnyRequest


def options_of(handlers: Iterable[HTTPRouteHandler]) -> HTTPRouteHandler:
    """Return an OPTIONS handler for every path of `handlers`; the framework's own omits HEAD and shared paths."""
    paths = sorted({path for handler in handlers for path in handler.paths})
    return route(paths, http_method="OPTIONS")(_options)


async def _options(request: AnyRequest) -> Response[bytes]:
    return Response(b"", status_code=204, headers={"Allow": allowed_methods(request)})
