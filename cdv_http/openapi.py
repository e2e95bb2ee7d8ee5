"""The OpenAPI 3.1 document, generated from the body types and the table of error codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, Final

import msgspec

from cdv_http.admission import NEVER_SHED
from cdv_http.error_responses import STATUS_OF_CODE, ErrorEnvelope
from cdv_http.openapi_endpoints import ENDPOINTS, TEXT, Endpoint, Parameter

Json = dict[str, Any]

_TOKEN_CODES: Final = ("CDV_AUTHN", "CDV_JWT_MALFORMED", "CDV_JWT_EXPIRED", "CDV_JWT_INVALID")
_DESCRIPTIONS: Final[dict[int, str]] = {
    400: "The request is invalid",
    401: "The bearer token is missing, malformed, expired or invalid",
    403: "The caller is not allowed to do this",
    404: "Not found",
    409: "Conflicts with existing data",
    413: "The body is too large",
    415: "The body is not JSON, or has a Content-Encoding",
    416: "The range is outside the file",
    429: "A rate limit, or the limit of concurrent requests of a subject, is reached; try again after Retry-After",
    500: "A defect of the service; include the correlation id when you report it",
    503: "A dependency is down, or the service is overloaded; try again after Retry-After",
}
# CDV_BAD_REQUEST with statuses other than 400 (spec: error codes).
_STATUSES_OF_JSON: Final = (413, 415)
_HEADERS: Final[Json] = {
    "X-Correlation-Id": {"description": "the request's correlation id, or a fresh one", "schema": TEXT},
    "X-RateLimit-Limit": {"description": "requests allowed in the window", "schema": {"type": "integer"}},
    "X-RateLimit-Remaining": {"description": "requests left in the window", "schema": {"type": "integer"}},
    "X-RateLimit-Reset": {"description": "when the window ends, in seconds since 1970", "schema": {"type": "integer"}},
    "Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}},
    "WWW-Authenticate": {"description": "`Bearer`", "schema": TEXT},
    "Content-Range": {"description": "which bytes, of how many", "schema": TEXT},
    "Location": {"description": "the URL to redirect to", "schema": TEXT},
}
_CORRELATION: Final = Parameter(
    "X-Correlation-Id",
    "1 to 128 of A-Z a-z 0-9 . _ : -; echoed, logged and added to events; replaced by a fresh one if invalid",
    TEXT,
    "header",
)
_TRACE: Final = Parameter(
    "traceparent",
    "the trace that the request belongs to (W3C Trace Context); without X-Correlation-Id, its id is the correlation id",
    TEXT,
    "header",
)


def openapi_document() -> Json:
    """Return the OpenAPI document of the service, JSON-ready."""
    types = [ErrorEnvelope, *(struct for endpoint in ENDPOINTS for struct in _structs(endpoint))]
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    components["ErrorBody"]["properties"]["code"] = {"type": "string", "enum": list(STATUS_OF_CODE)}
    paths: Json = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Creator Data Vault",
            "version": version("creator-data-vault"),
            "description": "Keeps creators' published records and media under their DIDs.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(endpoint.tag for endpoint in ENDPOINTS)],
        "paths": paths,
        "components": {
            "schemas": components,
            "headers": _HEADERS,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def codes_of(endpoint: Endpoint) -> tuple[str, ...]:
    """Return every error code that the endpoint may return."""
    codes = list(endpoint.codes)
    if endpoint.limited:
        codes += [*_TOKEN_CODES, "CDV_RATE_LIMIT", "CDV_UNAVAILABLE"]
    if isinstance(endpoint.body, type):
        codes += ["CDV_BAD_REQUEST", "CDV_VALIDATION"]
    elif endpoint.limited:  # each of them refuses unknown query parameters
        codes.append("CDV_VALIDATION")
    if endpoint.path not in NEVER_SHED:
        codes.append("CDV_UNAVAILABLE")  # overload, or the time limit of the request
    return tuple(sorted({*codes, "CDV_INTERNAL"}, key=list(STATUS_OF_CODE).index))


def _structs(endpoint: Endpoint) -> list[type[msgspec.Struct]]:
    return [it for it in (endpoint.body, endpoint.response, endpoint.meta) if isinstance(it, type)]


def _operation(endpoint: Endpoint) -> Json:
    operation: Json = {
        "operationId": endpoint.operation_id,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "parameters": [_parameter(parameter) for parameter in (*endpoint.parameters, _CORRELATION, _TRACE)],
        "responses": dict(sorted(_responses(endpoint).items())),
        "security": {True: [{"bearer": []}], False: [], None: [{}, {"bearer": []}]}[endpoint.needs_token],
    }
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(endpoint.body)}
    return operation


def _parameter(parameter: Parameter) -> Json:
    return {
        "name": parameter.name,
        "in": parameter.location,
        "required": parameter.required,
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }


def _responses(endpoint: Endpoint) -> Json:
    responses: Json = {}
    if endpoint.response is not None:
        responses["200"] = _success(endpoint)
    for status, description in endpoint.other_statuses.items():
        refs = {206: ("Content-Range",), 307: ("Location",)}.get(status, ())
        own = _own_headers(endpoint) if status == 304 else {}  # those of a 200 (RFC 9110, 15.4.5)
        responses[str(status)] = {"description": description, "headers": {**own, **_header_refs(endpoint, *refs)}}
        if status == 206:
            responses["206"]["content"] = _content(endpoint.response or {})
    refusals = [(status, ["CDV_BAD_REQUEST"]) for status in _own_statuses(endpoint)]
    for status, codes in [*_by_status(codes_of(endpoint)).items(), *refusals]:
        responses[str(status)] = _error(endpoint, status, codes)
    return responses


def _own_statuses(endpoint: Endpoint) -> tuple[int, ...]:
    if isinstance(endpoint.body, type):
        return _STATUSES_OF_JSON
    return (416,) if 416 in endpoint.other_statuses else ()


def _success(endpoint: Endpoint) -> Json:
    headers = {**_own_headers(endpoint), **_header_refs(endpoint)}
    response: Json = {"description": endpoint.response_description, "headers": headers}
    if isinstance(endpoint.response, type):
        properties: Json = {"data": _ref(endpoint.response)}
        if endpoint.meta is not None:
            properties["meta"] = _ref(endpoint.meta)
        envelope = {"type": "object", "properties": properties, "required": ["data"], "additionalProperties": False}
        response["content"] = {"application/json": {"schema": envelope}}
    elif endpoint.response:
        response["content"] = _content(endpoint.response)
    if endpoint.links:
        response["links"] = {name: dict(link) for name, link in endpoint.links.items()}
    return response


def _error(endpoint: Endpoint, status: int, codes: list[str]) -> Json:
    own = {401: ("WWW-Authenticate",), 416: ("Content-Range",), 429: ("Retry-After",), 503: ("Retry-After",)}
    these = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
    return {
        "description": f"{_DESCRIPTIONS[status]}: {', '.join(codes)}.",
        "headers": _header_refs(endpoint, *own.get(status, ())),
        "content": {"application/json": {"schema": {"allOf": [_ref(ErrorEnvelope), these]}}},
    }


def _own_headers(endpoint: Endpoint) -> Json:
    return {name: {"description": text, "schema": TEXT} for name, text in endpoint.headers.items()}


def _header_refs(endpoint: Endpoint, *names: str) -> Json:
    limits = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset") if endpoint.limited else ()
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*names, "X-Correlation-Id", *limits)}


def _by_status(codes: Iterable[str]) -> dict[int, list[str]]:
    grouped: dict[int, list[str]] = {}
    for code in codes:
        grouped.setdefault(STATUS_OF_CODE[code], []).append(code)
    return grouped


def _content(body: type[msgspec.Struct] | Mapping[str, object]) -> Json:
    if isinstance(body, type):
        return {"application/json": {"schema": _ref(body)}}
    return {media_type: {"schema": schema} for media_type, schema in body.items()}


def _ref(struct: type[msgspec.Struct]) -> Json:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}
