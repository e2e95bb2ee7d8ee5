"""The API described: OpenAPI 3.1, made from the very types that travel and the one table of error codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final

import msgspec

from cdv_core.domain.limits import DID_MAX_CHARS, IDEMPOTENCY_KEY_MAX_CHARS, PAGE_DEFAULT, PAGE_MAX
from cdv_http.bodies import (
    AssetView,
    CreateRecordBody,
    FinalizeBody,
    RecordPage,
    RecordReceipt,
    RecordView,
    UploadInitBody,
    UploadTicket,
    Warnings,
)
from cdv_http.error_responses import STATUS_OF_CODE, ErrorEnvelope
from cdv_http.routes.health import Liveness, Readiness

Json = dict[str, Any]

_AUTH: Final = ("CDV_AUTHN", "CDV_JWT_MALFORMED", "CDV_JWT_EXPIRED", "CDV_JWT_INVALID", "CDV_UNAVAILABLE")
_BODY: Final = ("CDV_BAD_REQUEST", "CDV_VALIDATION")
_BODY_STATUSES: Final = {413: "The body is too large: CDV_BAD_REQUEST.", 415: "Not JSON: CDV_BAD_REQUEST."}
_DESCRIPTIONS: Final[dict[int, str]] = {
    400: "The request is not what the contract allows",
    401: "No token, or none that counts",
    403: "The token's subject may not do this",
    404: "There is no such thing",
    409: "It conflicts with what is there",
    429: "The budget of the subject or the address is spent; try again after Retry-After",
    500: "A defect of the service; quote the correlation id",
    503: "A dependency is down; try again after Retry-After",
}


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    description: str
    schema: Mapping[str, object]
    place: str = "query"
    required: bool = False

    @property
    def as_json(self) -> Json:
        return {
            "name": self.name,
            "in": self.place,
            "required": self.required,
            "description": self.description,
            "schema": dict(self.schema),
        }


@dataclass(frozen=True, slots=True)
class _Endpoint:
    method: str
    path: str
    operation_id: str
    summary: str
    answer: type[msgspec.Struct] | None = None
    answer_description: str = "Done"
    body: type[msgspec.Struct] | None = None
    parameters: tuple[_Parameter, ...] = ()
    codes: tuple[str, ...] = ()
    meta: type[msgspec.Struct] | None = None
    needs_token: bool | None = None  # None: only under some settings
    headers: Mapping[str, str] = field(default_factory=dict)
    other: Mapping[int, str] = field(default_factory=dict)


_TEXT: Final = {"type": "string"}
_TIME: Final = {"type": "string", "format": "date-time"}
_DID: Final = {"type": "string", "maxLength": DID_MAX_CHARS, "pattern": "^did:[a-z0-9]+:"}
_ASSET_ID: Final = _Parameter("assetId", "the asset's id, a ULID", _TEXT, "path", required=True)
_KEY: Final = _Parameter(
    "Idempotency-Key",
    "The same as the member idempotencyKey: a retry within 24 hours gets the first answer.",
    {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_MAX_CHARS},
    "header",
)
_CORRELATION: Final = _Parameter(
    "X-Correlation-Id", "Echoed, logged and put into events; a fresh one if absent or unfit.", _TEXT, "header"
)
_PAGING: Final = (
    _Parameter("did", "whose records", _DID, required=True),
    _Parameter("collection", "only this collection, an NSID", _TEXT),
    _Parameter(
        "limit",
        "how many at most",
        {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT},
    ),
    _Parameter("cursor", "nextCursor of the page before", _TEXT),
    _Parameter("since", "only indexed at or after, RFC 3339 with an offset", _TIME),
    _Parameter("until", "only indexed at or before, RFC 3339 with an offset", _TIME),
)
_RETRY: Final = {"Idempotent-Replayed": "`true` when this is the answer to an earlier, equal request"}
_DEPRECATION: Final = {
    "Deprecation": "when the schema version was deprecated (RFC 9745)",
    "Sunset": "when it will be refused (RFC 8594)",
}

_ENDPOINTS: Final = (
    _Endpoint(
        "post", "/v1/repo/record", "createRecord", "Store a record once, under the caller's DID",
        RecordReceipt, "Stored, or stored before by an equal request", CreateRecordBody, (_KEY, _CORRELATION),
        (*_BODY, "CDV_SCHEMA_REJECT", *_AUTH, "CDV_DID_MISMATCH", "CDV_CONFLICT"),
        Warnings, True, {**_RETRY, **_DEPRECATION}, _BODY_STATUSES,
    ),
    _Endpoint(
        "get", "/v1/repo/record", "getRecord", "Return one record by its URI",
        RecordView, "The record",
        parameters=(
            _Parameter("uri", "at://{did}/{collection}/{rkey}", _TEXT, required=True),
            _Parameter("If-None-Match", "an ETag that is still good", _TEXT, "header"),
            _CORRELATION,
        ),
        codes=("CDV_VALIDATION", *_AUTH, "CDV_AUTHZ", "CDV_NOT_FOUND"),
        headers={"ETag": "the record's CID in quotes"}, other={304: "Not changed, and records never do."},
    ),
    _Endpoint(
        "get", "/v1/repo/listRecords", "listRecords", "Return a page of a DID's records, newest first",
        RecordPage, "A page; nextCursor is present exactly when more match", parameters=(*_PAGING, _CORRELATION),
        codes=("CDV_VALIDATION", "CDV_CURSOR_INVALID", *_AUTH, "CDV_AUTHZ"),
    ),
    _Endpoint(
        "post", "/v1/media/uploadInit", "uploadInit", "Announce a media object and get the URL to PUT its bytes to",
        UploadTicket, "PUT the bytes to uploadUrl before expiresAt, then finalize", UploadInitBody, (_CORRELATION,),
        (*_BODY, *_AUTH, "CDV_DID_MISMATCH", "CDV_MEDIA_SIZE", "CDV_MEDIA_TYPE"),
        None, True, other=_BODY_STATUSES,
    ),
    _Endpoint(
        "post", "/v1/media/finalize", "finalize", "Prove the uploaded bytes and make the asset permanent",
        AssetView, "Permanent", FinalizeBody, (_CORRELATION,),
        (*_BODY, *_AUTH, "CDV_DID_MISMATCH", "CDV_NOT_FOUND", "CDV_CONFLICT", "CDV_MEDIA_CHECKSUM", "CDV_MEDIA_SIZE",
         "CDV_MEDIA_TYPE"),
        None, True, other=_BODY_STATUSES,
    ),
    _Endpoint(
        "get", "/v1/media/{assetId}/meta", "mediaMeta", "Describe a media asset",
        AssetView, "The asset; status is pending until it is finalised", parameters=(_ASSET_ID, _CORRELATION),
        codes=("CDV_VALIDATION", *_AUTH, "CDV_NOT_FOUND"), needs_token=True,
    ),
    _Endpoint(
        "get", "/v1/media/{assetId}/content", "mediaContent", "Redirect to the asset's bytes",
        parameters=(_ASSET_ID, _CORRELATION), codes=("CDV_VALIDATION", *_AUTH, "CDV_NOT_FOUND"), needs_token=True,
        other={307: "Location is a signed URL, good for 5 minutes."},
    ),
    _Endpoint("get", "/healthz", "healthz", "Say that the process runs", Liveness, "It does", needs_token=False),
    _Endpoint(
        "get", "/readyz", "readyz", "Say whether requests can be served, and what is up",
        Readiness, "Ready, or degraded", codes=("CDV_UNAVAILABLE",), needs_token=False,
    ),
    _Endpoint(
        "get", "/metrics", "metrics", "Return the service's metrics", needs_token=False,
        other={200: "Prometheus's text form."},
    ),
)  # fmt: skip


def openapi_document() -> Json:
    """Return the OpenAPI document of the service, JSON-ready."""
    types = [ErrorEnvelope, *(t for e in _ENDPOINTS for t in (e.body, e.answer, e.meta) if t is not None)]
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    components["RecordView"]["properties"]["value"] = {"type": "object"}
    components["UploadInitBody"]["properties"]["size"] = {"type": "integer", "minimum": 1}
    paths: Json = {}
    for endpoint in _ENDPOINTS:
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
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(endpoint: _Endpoint) -> Json:
    operation: Json = {
        "operationId": endpoint.operation_id,
        "summary": endpoint.summary,
        "parameters": [parameter.as_json for parameter in endpoint.parameters],
        "responses": dict(sorted(_responses(endpoint).items())),
        "security": {True: [{"bearer": []}], False: [], None: [{}, {"bearer": []}]}[endpoint.needs_token],
    }
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": _json_content(_ref(endpoint.body))}
    return operation


def _responses(endpoint: _Endpoint) -> Json:
    responses: Json = {str(status): {"description": text} for status, text in endpoint.other.items()}
    for status in (413, 415):
        if str(status) in responses:
            responses[str(status)]["content"] = _json_content(_ref(ErrorEnvelope))
    if endpoint.answer is not None:
        responses["200"] = {"description": endpoint.answer_description, "content": _json_content(_success(endpoint))}
        if endpoint.headers:
            responses["200"]["headers"] = {
                name: {"description": text, "schema": _TEXT} for name, text in endpoint.headers.items()
            }
    limited = ("CDV_RATE_LIMIT", "CDV_UNAVAILABLE") if endpoint.path.startswith("/v1/") else ()
    for status, codes in _by_status(dict.fromkeys((*endpoint.codes, *limited, "CDV_INTERNAL"))).items():
        responses[str(status)] = {
            "description": f"{_DESCRIPTIONS[status]}: {', '.join(codes)}.",
            "content": _json_content(_ref(ErrorEnvelope)),
        }
        if status in {429, 503}:
            responses[str(status)]["headers"] = {
                "Retry-After": {"description": "seconds", "schema": {"type": "integer"}}
            }
        if status == 401:
            responses["401"]["headers"] = {"WWW-Authenticate": {"description": "`Bearer`", "schema": _TEXT}}
    return responses


def _by_status(codes: Iterable[str]) -> dict[int, list[str]]:
    grouped: dict[int, list[str]] = {}
    for code in codes:
        grouped.setdefault(STATUS_OF_CODE[code], []).append(code)
    return grouped


def _success(endpoint: _Endpoint) -> Json:
    properties: Json = {"data": _ref(endpoint.answer)}
    if endpoint.meta is not None:
        properties["meta"] = _ref(endpoint.meta)
    return {"type": "object", "properties": properties, "required": ["data"], "additionalProperties": False}


def _ref(struct: type[msgspec.Struct] | None) -> Json:
    assert struct is not None, "only called for endpoints that answer with one"  # noqa: S101
    return {"$ref": f"#/components/schemas/{struct.__name__}"}


def _json_content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}
