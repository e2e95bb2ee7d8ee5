"""The endpoints as the OpenAPI document describes them: parameters, bodies, responses and error codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from cdv_core.domain.limits import PAGE_DEFAULT, PAGE_MAX
from cdv_http.bodies import (
    ASSET_ID,
    COLLECTION,
    DID,
    KEY,
    TIME,
    URI,
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
from cdv_http.routes.health import Liveness, Readiness

TEXT: Final = {"type": "string"}
BYTES: Final = {"type": "string", "format": "binary"}


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    description: str
    schema: Mapping[str, object]
    location: str = "query"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`response`: of a 200, schemas by media type or the type of `data`. `other_statuses`: their descriptions.

    `codes`: error codes, in addition to those that follow from `needs_token`, `body` and `limited`. `needs_token`: None
    if a setting decides. `links`: from members of this response to operations that can be called next.
    """

    method: str
    path: str
    operation_id: str
    summary: str
    response: type[msgspec.Struct] | Mapping[str, object] | None = None
    response_description: str = "Done"
    body: type[msgspec.Struct] | Mapping[str, object] | None = None
    parameters: tuple[Parameter, ...] = ()
    codes: tuple[str, ...] = ()
    meta: type[msgspec.Struct] | None = None
    needs_token: bool | None = False
    headers: Mapping[str, str] = field(default_factory=dict)
    other_statuses: Mapping[int, str] = field(default_factory=dict)
    links: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tag: str = "records"

    @property
    def limited(self) -> bool:
        """Whether its requests count against a rate limit: so do those of every endpoint that reads tokens."""
        return self.needs_token is not False


def _link(operation_id: str, body: Mapping[str, str] | None = None, **parameters: str) -> dict[str, Any]:
    link: dict[str, Any] = {"operationId": operation_id}
    if parameters:
        link["parameters"] = {name: f"${source}" for name, source in parameters.items()}
    if body:
        link["requestBody"] = {name: f"${source}" for name, source in body.items()}
    return link


_ASSET_ID: Final = Parameter("assetId", "the asset's id", ASSET_ID, "path", required=True)
_TOKEN: Final = Parameter("token", "the last part of a URL that this service signed", TEXT, "path", required=True)
_KEY: Final = Parameter(
    "Idempotency-Key",
    "the same as the body's idempotencyKey",
    KEY,
    "header",
)
_PAGING: Final = (
    Parameter("did", "the DID whose records to list", DID, required=True),
    Parameter("collection", "only records of this collection", COLLECTION),
    Parameter(
        "limit",
        "maximum number of records; a page of large records has fewer, and nextCursor: at most 1 MiB together",
        {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT},
    ),
    Parameter("cursor", "nextCursor of the previous page", {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}),
    Parameter("since", "only records indexed at or after this time; not later than `until`", TIME),
    Parameter("until", "only records indexed at or before this time", TIME),
)
_ASSET_LINKS: Final = {
    "meta": _link("mediaMeta", assetId="response.body#/data/assetId"),
    "content": _link("mediaContent", assetId="response.body#/data/assetId"),
}

ENDPOINTS: Final = (
    Endpoint(
        "post", "/v1/repo/record", "createRecord", "Store a record once, under the caller's DID",
        RecordReceipt, "Stored, now or by an earlier, equal request", CreateRecordBody, (_KEY,),
        ("CDV_SCHEMA_REJECT", "CDV_DID_MISMATCH", "CDV_CONFLICT"), Warnings, True,
        {
            "Idempotent-Replayed": "`true` if this is the response to an earlier, equal request",
            "Deprecation": "when the schema version was deprecated (RFC 9745)",
            "Sunset": "when the schema version will be refused (RFC 8594)",
        },
        links={
            "record": _link("getRecord", uri="response.body#/data/uri"),
            "records": _link("listRecords", did="request.body#/did"),
        },
    ),
    Endpoint(
        "get", "/v1/repo/record", "getRecord", "Return one record by its URI", RecordView, "The record",
        parameters=(
            Parameter("uri", "the record's URI", URI, required=True),
            Parameter("If-None-Match", "an ETag that is still good", TEXT, "header"),
        ),
        codes=("CDV_AUTHZ", "CDV_NOT_FOUND"), needs_token=None,
        headers={"ETag": "the record's CID in quotes"}, other_statuses={304: "Not modified: records never change."},
    ),
    Endpoint(
        "get", "/v1/repo/listRecords", "listRecords", "Return a page of a DID's records, newest first",
        RecordPage, "A page; nextCursor is present if and only if more records match", parameters=_PAGING,
        codes=("CDV_CURSOR_INVALID", "CDV_AUTHZ"), needs_token=None,
        links={
            "record": _link("getRecord", uri="response.body#/data/records/0/uri"),
            "next": _link("listRecords", did="request.query.did", cursor="response.body#/data/nextCursor"),
        },
    ),
    Endpoint(
        "post", "/v1/media/uploadInit", "uploadInit", "Announce a media object and get the URL to upload its bytes to",
        UploadTicket, "PUT the bytes to uploadUrl before expiresAt, then call finalize", UploadInitBody,
        codes=("CDV_DID_MISMATCH", "CDV_MEDIA_SIZE", "CDV_MEDIA_TYPE"), needs_token=True, tag="media",
        links={
            **_ASSET_LINKS,
            "finalize": _link("finalize", {"assetId": "response.body#/data/assetId", "sha256": "request.body#/sha256"}),
        },
    ),
    Endpoint(
        "post", "/v1/media/finalize", "finalize", "Verify the uploaded bytes and make the asset permanent",
        AssetView, "The asset, now permanent", FinalizeBody,
        codes=("CDV_DID_MISMATCH", "CDV_NOT_FOUND", "CDV_CONFLICT", "CDV_MEDIA_CHECKSUM", "CDV_MEDIA_SIZE",
               "CDV_MEDIA_TYPE"),
        needs_token=True, links=_ASSET_LINKS, tag="media",
    ),
    Endpoint(
        "get", "/v1/media/{assetId}/meta", "mediaMeta", "Describe a media asset",
        AssetView, "The asset; status is pending until it is finalised", parameters=(_ASSET_ID,),
        codes=("CDV_NOT_FOUND",), needs_token=True, tag="media",
    ),
    Endpoint(
        "get", "/v1/media/{assetId}/content", "mediaContent", "Redirect to the asset's bytes",
        parameters=(_ASSET_ID,), codes=("CDV_BAD_REQUEST", "CDV_NOT_FOUND"), needs_token=True, tag="media",
        other_statuses={307: "Location is a signed URL, valid for 5 minutes."},
    ),
    Endpoint(
        "put", "/v1/blobs/upload/{token}", "uploadBlob", "Upload an asset's bytes, if no object store is configured",
        {}, "The bytes are stored; finalize verifies them", {"application/octet-stream": BYTES}, (_TOKEN,),
        ("CDV_BAD_REQUEST", "CDV_AUTHZ", "CDV_MEDIA_SIZE", "CDV_UNAVAILABLE"), tag="media",
    ),
    Endpoint(
        "get", "/v1/blobs/download/{token}", "downloadBlob",
        "Download an asset's bytes, if no object store is configured",
        {"*/*": BYTES}, "All bytes, with the asset's own media type",
        parameters=(_TOKEN, Parameter("Range", "one byte range", TEXT, "header")),
        codes=("CDV_AUTHZ", "CDV_NOT_FOUND", "CDV_UNAVAILABLE"),
        headers={"Accept-Ranges": "`bytes`", "Content-Disposition": "`attachment` unless image, audio or video"},
        other_statuses={206: "The requested range.", 416: "The range is outside the file: CDV_BAD_REQUEST."},
        tag="media",
    ),
    Endpoint(
        "get", "/healthz", "healthz", "Liveness: whether the process is running", Liveness,
        "The process is running", tag="service",
    ),
    Endpoint(
        "get", "/readyz", "readyz", "Readiness: whether requests can be served, and which dependencies are up",
        Readiness, "Ready, or degraded: a dependency is down that is not critical", codes=("CDV_UNAVAILABLE",),
        tag="service",
    ),
    Endpoint(
        "get", "/metrics", "metrics", "Return the service's metrics", {"text/plain": TEXT},
        "Prometheus text format", tag="service",
    ),
    Endpoint(
        "get", "/openapi.json", "openapi", "Return this document",
        {"application/json": {"type": "object"}}, "OpenAPI 3.1", tag="service",
    ),
    Endpoint(
        "get", "/docs", "docs", "Return this document as an HTML page", {"text/html": TEXT}, "The page", tag="service",
    ),
    Endpoint(
        "get", "/.well-known/jwks.json", "jwks",
        "Return the public keys of the built-in issuer, if no other is configured",
        {"application/json": {"type": "object", "required": ["keys"]}}, "A JWK Set (RFC 7517)", tag="service",
    ),
)  # fmt: skip
