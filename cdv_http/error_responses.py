"""Error responses: the one table from error codes to statuses, and the error envelope."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from loguru import logger
from msgspec import UNSET, UnsetType

from cdv_core.errors import (
    CdvError,
    CollectionUnknown,
    RateLimited,
    SchemaRejected,
    SchemaVersionUnknown,
    Unavailable,
)
from cdv_http.metrics import schema_rejects_total
from cdv_http.request_state import state_of

# spec: error codes
STATUS_OF_CODE: Final[dict[str, int]] = {
    "CDV_VALIDATION": 400,
    "CDV_BAD_REQUEST": 400,
    "CDV_SCHEMA_REJECT": 400,
    "CDV_CURSOR_INVALID": 400,
    "CDV_MEDIA_CHECKSUM": 400,
    "CDV_MEDIA_SIZE": 400,
    "CDV_MEDIA_TYPE": 400,
    "CDV_AUTHN": 401,
    "CDV_JWT_MALFORMED": 401,
    "CDV_JWT_EXPIRED": 401,
    "CDV_JWT_INVALID": 401,
    "CDV_AUTHZ": 403,
    "CDV_DID_MISMATCH": 403,
    "CDV_NOT_FOUND": 404,
    "CDV_CONFLICT": 409,
    "CDV_RATE_LIMIT": 429,
    "CDV_INTERNAL": 500,
    "CDV_UNAVAILABLE": 503,
}
# Errors of the framework, before a use case is reached. Any other status is a defect and becomes 500.
_OF_FRAMEWORK_STATUS: Final[dict[int, tuple[str, str]]] = {
    400: ("CDV_BAD_REQUEST", "the request is malformed"),
    404: ("CDV_NOT_FOUND", "not found: there is no resource at this path"),
    405: ("CDV_BAD_REQUEST", "method not allowed; see the Allow header"),
    413: ("CDV_BAD_REQUEST", "the request is too large"),
    415: ("CDV_BAD_REQUEST", "the media type is not supported"),
}

_SHOWN_MAX_CHARS: Final = 128  # ours: of a collection or version name in the log


class RequestRefused(CdvError):
    """The request never reached a use case. `status` is 400, 413, 415 or 416; the code is CDV_BAD_REQUEST for all."""

    code = "CDV_BAD_REQUEST"

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers or {}

    def __str__(self) -> str:
        return self.reason

    @property
    def details(self) -> dict[str, Any]:
        return {}


class ErrorBody(msgspec.Struct, rename="camel"):
    code: str
    message: str
    correlation_id: str
    details: dict[str, Any] | UnsetType = UNSET


class ErrorEnvelope(msgspec.Struct):
    error: ErrorBody


def error_bytes(code: str, message: str, correlation_id: str, details: dict[str, Any] | None = None) -> bytes:
    """Return the encoded error envelope. Lone surrogates in `message` are escaped, so that encoding never fails."""
    safe = message.encode("utf-8", "backslashreplace").decode()
    body = ErrorBody(code, safe, correlation_id, details or UNSET)
    return msgspec.json.encode(ErrorEnvelope(body), enc_hook=_encodable)


def _encodable(value: object) -> int | str:
    """Convert subclasses of int (settings in bytes) and str (names), which msgspec does not encode by itself."""
    return int(value) if isinstance(value, int) else str(value)


def respond_to_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Return the response to an exception of a handler or of the framework."""
    if isinstance(error, CdvError):
        return _respond_to_cdv_error(request, error)
    if isinstance(error, HTTPException):
        return _respond_to_framework_error(request, error)
    return _respond_to_defect(request, error)


def _respond_to_cdv_error(request: Request[Any, Any, Any], error: CdvError) -> Response[bytes]:
    """Return the response with the error's code, status, details and headers."""
    status = error.status if isinstance(error, RequestRefused) else STATUS_OF_CODE[error.code]
    headers = dict(error.headers) if isinstance(error, RequestRefused) else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Unavailable | RateLimited):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, Unavailable):
        logger.bind(dependency=error.dependency).opt(exception=error.__cause__).warning("unavailable: {}", error)
    if isinstance(error, CollectionUnknown | SchemaVersionUnknown):
        logger.warning("no schema: collection {}, version {}", _shown(error.collection), _shown(error.version))
    if isinstance(error, SchemaRejected):
        schema_rejects_total.labels(error.collection).inc()
    return _response(request, status, error.code, str(error), error.details, headers)


def _shown(text: str | None) -> str:
    """Return client input for one short log line: truncated, and quoted as a Python string."""
    return repr(None if text is None else text[:_SHOWN_MAX_CHARS])


def _respond_to_framework_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Return the response to an error of the framework."""
    if error.status_code not in _OF_FRAMEWORK_STATUS:
        return _respond_to_defect(request, error)
    code, message = _OF_FRAMEWORK_STATUS[error.status_code]
    headers = {"Allow": allowed_methods(request)} if error.status_code == 405 else {}
    return _response(request, error.status_code, code, message, None, headers)


def _respond_to_defect(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Return 500. The client gets the correlation id only; the traceback is logged."""
    logger.opt(exception=error).error("unhandled error")
    return _response(
        request, 500, "CDV_INTERNAL", "internal error; include the correlation id when you report it", None, {}
    )


def allowed_methods(request: Request[Any, Any, Any]) -> str:
    """Return the Allow header for the request's path: the methods of its route, and HEAD if GET is one of them."""
    path = request.scope["path"]
    for route in request.app.routes:
        if route.path_format == path or _matches(route.path_format, path):
            methods = {str(method) for method in getattr(route, "methods", ())}
            return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
    return ""


def _matches(template: str, path: str) -> bool:
    expected, actual = template.split("/"), path.split("/")
    return len(expected) == len(actual) and all(
        part == given or part.startswith("{") for part, given in zip(expected, actual, strict=True)
    )


def _response(
    request: Request[Any, Any, Any],
    status: int,
    code: str,
    message: str,
    details: dict[str, Any] | None,
    headers: dict[str, str],
) -> Response[bytes]:
    state = state_of(request.scope)
    state.error_code = code
    content = error_bytes(code, message, state.correlation_id, details)
    return Response(content, status_code=status, headers=headers, media_type="application/json")
