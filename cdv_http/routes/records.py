"""Records over HTTP: parse the request, call the use case, build the response."""

from __future__ import annotations

import re
from email.utils import format_datetime

from litestar import Response, get, post

from cdv_core.domain.limits import PAGE_DEFAULT, PAGE_MAX
from cdv_core.domain.records import Receipt, record_json
from cdv_core.errors import InvalidField
from cdv_http.app_state import service_of
from cdv_http.auth import authenticate_reader, authenticated_json
from cdv_http.bodies import CreateRecordBody, Warnings, decode_body, given, page_json, record_receipt
from cdv_http.request_state import state_of
from cdv_http.requests import AnyRequest, query_parameters, required
from cdv_http.responses import success, success_json

_LIST_PARAMETERS = frozenset({"did", "collection", "limit", "cursor", "since", "until"})
_GET_PARAMETERS = frozenset({"uri"})
_LIMIT = re.compile(r"[1-9][0-9]{0,2}")


@post("/v1/repo/record")
async def create_record(request: AnyRequest) -> Response[bytes]:
    """Store a record once, under the caller's DID."""
    service, state = service_of(request), state_of(request.scope)
    raw, subject = await authenticated_json(request, service.tokens, service.settings.max_body_bytes)
    body = decode_body(raw, CreateRecordBody)
    receipt = await service.vault.records.create(
        did=body.did,
        collection=body.collection,
        record=body.record,
        created_at=given(body.created_at),
        idempotency_key=_idempotency_key(request, given(body.idempotency_key)),
        schema_version=given(body.schema_version),
        cid=given(body.cid),
        subject=subject,
        correlation_id=state.correlation_id,
        traceparent=state.traceparent,
    )
    service.on_write()
    meta = Warnings([warning.as_json for warning in receipt.warnings]) if receipt.warnings else None
    return success(record_receipt(receipt), meta, _receipt_headers(receipt))


@get("/v1/repo/record")
async def get_record(request: AnyRequest) -> Response[bytes]:
    """Return one record by its URI, with its CID as the ETag."""
    service = service_of(request)
    viewer = await authenticate_reader(request, service)
    uri = required(query_parameters(request, _GET_PARAMETERS), "uri")
    record = await service.vault.records.get(uri, viewer=viewer)
    headers = {"ETag": f'"{record.cid}"', "Cache-Control": "private, no-cache", "Vary": "Authorization, Origin"}
    if _matches(state_of(request.scope).headers.every(b"if-none-match"), record.cid):
        return Response(b"", status_code=304, headers=headers)
    return success_json(record_json(record), headers)


@get("/v1/repo/listRecords")
async def list_records(request: AnyRequest) -> Response[bytes]:
    """Return a page of a DID's records, newest first."""
    service = service_of(request)
    viewer = await authenticate_reader(request, service)
    parameters = query_parameters(request, _LIST_PARAMETERS)
    page = await service.vault.records.list_json(
        did=required(parameters, "did"),
        collection=parameters.get("collection"),
        limit=_limit(parameters.get("limit")),
        cursor=parameters.get("cursor"),
        since=parameters.get("since"),
        until=parameters.get("until"),
        viewer=viewer,
    )
    return success_json(page_json(page))


def _idempotency_key(request: AnyRequest, member: str | None) -> str | None:
    headers = [value.decode("latin-1") for value in state_of(request.scope).headers.every(b"idempotency-key")]
    if not headers:
        return member
    if len({*headers, *([] if member is None else [member])}) > 1:
        raise InvalidField("idempotencyKey", "must have the same value in the body and in every Idempotency-Key header")
    return headers[0]


def _receipt_headers(receipt: Receipt) -> dict[str, str]:
    headers = {}
    if receipt.replayed:
        headers["Idempotent-Replayed"] = "true"
    if receipt.deprecated_at is not None:
        headers["Deprecation"] = f"@{int(receipt.deprecated_at.timestamp())}"  # RFC 9745
    if receipt.sunset is not None:
        headers["Sunset"] = format_datetime(receipt.sunset, usegmt=True)  # RFC 8594
    return headers


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE_DEFAULT
    if not _LIMIT.fullmatch(text):
        raise InvalidField("limit", f"must be a whole number between 1 and {PAGE_MAX}")
    return int(text)


def _matches(conditions: list[bytes], cid: str) -> bool:
    tags = {tag.strip().removeprefix(b"W/") for condition in conditions for tag in condition.split(b",")}
    return b"*" in tags or b'"%b"' % cid.encode() in tags
