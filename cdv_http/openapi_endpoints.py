"""The endpoints as the API's document describes them: what each takes, gives and refuses with."""

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
    place: str = "query"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`answer`: what a 200 holds, by media type, or the type of its data. `other`: more successes, by status.

    `codes`: the refusals, beside those that `needs_token`, `body` and `limited` bring along. `needs_token`: None where
    a setting decides. `links`: from the members of this answer to what can be asked next.
    """

    method: str
    path: str
    operation_id: str
    summary: str
    answer: type[msgspec.Struct] | Mapping[str, object] | None = None
    answer_description: str = "Done"
    body: type[msgspec.Struct] | Mapping[str, object] | None = None
    parameters: tuple[Parameter, ...] = ()
    codes: tuple[str, ...] = ()
    meta: type[msgspec.Struct] | None = None
    needs_token: bool | None = False
    headers: Mapping[str, str] = field(default_factory=dict)
    other: Mapping[int, str] = field(default_factory=dict)
    links: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tag: str = "records"

    @property
    def limited(self) -> bool:
        """Whether a rate limit counts its requests: wherever a token is looked at."""
        return self.needs_token is not False


def _link(operation_id: str, body: Mapping[str, str] | None = None, **parameters: str) -> dict[str, Any]:
    link: dict[str, Any] = {"operationId": operation_id}
    if parameters:
        link["parameters"] = {name: f"${source}" for name, source in parameters.items()}
    if body:
        link["requestBody"] = {name: f"${source}" for name, source in body.items()}
    return link


_ASSET_ID: Final = Parameter("assetId", "which asset", ASSET_ID, "path", required=True)
_TOKEN: Final = Parameter("token", "the last part of a URL that this service signed", TEXT, "path", required=True)
_KEY: Final = Parameter(
    "Idempotency-Key",
    "The same as the member idempotencyKey",
    KEY,
    "header",
)
_PAGING: Final = (
    Parameter("did", "whose records", DID, required=True),
    Parameter("collection", "only this collection", COLLECTION),
    Parameter(
        "limit",
        "how many at most; fewer, and nextCursor, when they would exceed 1 MiB together",
        {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT},
    ),
    Parameter("cursor", "nextCursor of the page before", {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}),
    Parameter("since", "only indexed at or after; not after `until`", TIME),
    Parameter("until", "only indexed at or before", TIME),
)
_ASSET_LINKS: Final = {
    "meta": _link("mediaMeta", assetId="response.body#/data/assetId"),
    "content": _link("mediaContent", assetId="response.body#/data/assetId"),
}

ENDPOINTS: Final = (
    Endpoint(
        "post", "/v1/repo/record", "createRecord", "Store a record once, under the caller's DID",
        RecordReceipt, "Stored, or stored before by an equal request", CreateRecordBody, (_KEY,),
        ("CDV_SCHEMA_REJECT", "CDV_DID_MISMATCH", "CDV_CONFLICT"), Warnings, True,
        {
            "Idempotent-Replayed": "`true` when this is the answer to an earlier, equal request",
            "Deprecation": "when the schema version was deprecated (RFC 9745)",
            "Sunset": "when it will be refused (RFC 8594)",
        },
        links={
            "record": _link("getRecord", uri="response.body#/data/uri"),
            "records": _link("listRecords", did="request.body#/did"),
        },
    ),
    Endpoint(
        "get", "/v1/repo/record", "getRecord", "Return one record by its URI", RecordView, "The record",
        parameters=(
            Parameter("uri", "which record", URI, required=True),
            Parameter("If-None-Match", "an ETag that is still good", TEXT, "header"),
        ),
        codes=("CDV_AUTHZ", "CDV_NOT_FOUND"), needs_token=None,
        headers={"ETag": "the record's CID in quotes"}, other={304: "Not changed, and records never do."},
    ),
    Endpoint(
        "get", "/v1/repo/listRecords", "listRecords", "Return a page of a DID's records, newest first",
        RecordPage, "A page; nextCursor is present exactly when more match", parameters=_PAGING,
        codes=("CDV_CURSOR_INVALID", "CDV_AUTHZ"), needs_token=None,
        links={
            "record": _link("getRecord", uri="response.body#/data/records/0/uri"),
            "next": _link("listRecords", did="request.query.did", cursor="response.body#/data/nextCursor"),
        },
    ),
    Endpoint(
        "post", "/v1/media/uploadInit", "uploadInit", "Announce a media object and get the URL to PUT its bytes to",
        UploadTicket, "PUT the bytes to uploadUrl before expiresAt, then finalize", UploadInitBody,
        codes=("CDV_DID_MISMATCH", "CDV_MEDIA_SIZE", "CDV_MEDIA_TYPE"), needs_token=True, tag="media",
        links={
            **_ASSET_LINKS,
            "finalize": _link("finalize", {"assetId": "response.body#/data/assetId", "sha256": "request.body#/sha256"}),
        },
    ),
    Endpoint(
        "post", "/v1/media/finalize", "finalize", "Prove the uploaded bytes and make the asset permanent",
        AssetView, "Permanent", FinalizeBody,
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
        other={307: "Location is a signed URL, good for 5 minutes."},
    ),
    Endpoint(
        "put", "/v1/blobs/upload/{token}", "uploadBlob", "Take the bytes of an upload, where no object store does",
        {}, "The bytes are there; finalize proves them", {"application/octet-stream": BYTES}, (_TOKEN,),
        ("CDV_BAD_REQUEST", "CDV_AUTHZ", "CDV_MEDIA_SIZE", "CDV_UNAVAILABLE"), tag="media",
    ),
    Endpoint(
        "get", "/v1/blobs/download/{token}", "downloadBlob", "Give an asset's bytes, where no object store does",
        {"*/*": BYTES}, "All of them, as the asset's own media type",
        parameters=(_TOKEN, Parameter("Range", "one range of bytes", TEXT, "header")),
        codes=("CDV_AUTHZ", "CDV_NOT_FOUND", "CDV_UNAVAILABLE"),
        headers={"Accept-Ranges": "`bytes`", "Content-Disposition": "`attachment` unless image, audio or video"},
        other={206: "The part that Range names.", 416: "The file has no such part: CDV_BAD_REQUEST."}, tag="media",
    ),
    Endpoint(
        "get", "/healthz", "healthz", "Say that the process runs", Liveness, "It does", tag="service",
    ),
    Endpoint(
        "get", "/readyz", "readyz", "Say whether requests can be served, and what is up",
        Readiness, "Ready, or degraded: something is down that is not critical", codes=("CDV_UNAVAILABLE",),
        tag="service",
    ),
    Endpoint(
        "get", "/metrics", "metrics", "Return the service's metrics", {"text/plain": TEXT},
        "In the text form of Prometheus", tag="service",
    ),
    Endpoint(
        "get", "/openapi.json", "openapi", "Return this document",
        {"application/json": {"type": "object"}}, "OpenAPI 3.1", tag="service",
    ),
    Endpoint(
        "get", "/docs", "docs", "Return this document for people to read", {"text/html": TEXT}, "A page", tag="service",
    ),
    Endpoint(
        "get", "/.well-known/jwks.json", "jwks", "Publish the keys of the built-in issuer, where there is no other",
        {"application/json": {"type": "object", "required": ["keys"]}}, "A JWK Set (RFC 7517)", tag="service",
    ),
)  # fmt: skip
