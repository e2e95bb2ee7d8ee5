"""Request and response bodies as msgspec structs: lowerCamelCase, times as text."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from cdv_core.domain.canonical import parse_number
from cdv_core.domain.characters import shortened
from cdv_core.domain.idempotency import IDEMPOTENCY_KEY_SYNTAX
from cdv_core.domain.identifiers import DID_SYNTAX, NSID_SYNTAX, RECORD_KEY_SYNTAX, ULID_SYNTAX
from cdv_core.domain.limits import DID_MAX_CHARS, FILENAME_MAX_BYTES, IDEMPOTENCY_KEY_MAX_CHARS, NSID_MAX_CHARS
from cdv_core.domain.media import FILENAME_SYNTAX, SHA256_SYNTAX, Asset, AssetState
from cdv_core.domain.records import JsonPage, Receipt
from cdv_core.domain.times import format_time
from cdv_core.errors import InvalidField, MalformedJson
from cdv_core.use_cases.media import Upload


def exactly(syntax: re.Pattern[str], description: str, **more: object) -> dict[str, Any]:
    """Return the JSON Schema of a string that matches `syntax` as a whole."""
    return {"type": "string", "description": description, "pattern": f"^(?:{syntax.pattern})$", **more}


# Schemas for the OpenAPI document only. The domain parses and enforces these rules, in the contract's order.
DID: Final = exactly(DID_SYNTAX, "a DID", maxLength=DID_MAX_CHARS)
COLLECTION: Final = exactly(NSID_SYNTAX, "an NSID of the schema catalogue", maxLength=NSID_MAX_CHARS)
ASSET_ID: Final = exactly(ULID_SYNTAX, "a ULID")
TIME: Final = {"type": "string", "format": "date-time", "description": "RFC 3339, with an offset"}
URI: Final = {
    "type": "string",
    "description": "at://{did}/{collection}/{rkey}",
    "pattern": f"^at://(?:{DID_SYNTAX.pattern})/(?:{NSID_SYNTAX.pattern})/(?:{RECORD_KEY_SYNTAX.pattern})$",
}
KEY: Final = exactly(
    IDEMPOTENCY_KEY_SYNTAX,
    "visible ASCII; a retry with the same key within 24 hours gets the first response",
    maxLength=IDEMPOTENCY_KEY_MAX_CHARS,
)
_SHA256: Final = exactly(SHA256_SYNTAX, "a SHA-256 as 64 hex characters")
_FILENAME: Final = exactly(
    FILENAME_SYNTAX,
    f"a plain name of at most {FILENAME_MAX_BYTES} bytes, without separators or control characters",
    maxLength=FILENAME_MAX_BYTES,
)
_SIZE: Final = {"type": "integer", "minimum": 1, "description": "bytes"}
_WRITTEN_TIME: Final = {
    **TIME,
    "description": "RFC 3339, UTC, with microseconds",
    "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$",
}
_CID: Final = {"type": "string", "pattern": "^bafyrei[a-z2-7]{52}$", "description": "CIDv1, dag-cbor, SHA-256, base32"}

_Did = Annotated[str, Meta(extra_json_schema=DID)]
_Uri = Annotated[str, Meta(extra_json_schema=URI)]
_Time = Annotated[str, Meta(extra_json_schema=_WRITTEN_TIME)]
_Cid = Annotated[str, Meta(extra_json_schema=_CID)]
_AssetId = Annotated[str, Meta(extra_json_schema=ASSET_ID)]
_Checksum = Annotated[str, Meta(extra_json_schema=_SHA256)]
_Version = Annotated[str, Meta(description="version of the collection's schema")]


class CreateRecordBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    collection: Annotated[str, Meta(extra_json_schema=COLLECTION)]
    did: _Did
    record: Annotated[dict[str, Any], Meta(description="the record, valid by the collection's schema")]
    created_at: (
        Annotated[
            str, Meta(extra_json_schema={**TIME, "description": "creation time as stated by the client, RFC 3339"})
        ]
        | UnsetType
    ) = UNSET
    idempotency_key: Annotated[str, Meta(extra_json_schema=KEY)] | UnsetType = UNSET
    schema_version: (
        Annotated[str, Meta(description="validate against this version of the schema; default: the latest stable one")]
        | UnsetType
    ) = UNSET
    cid: (
        Annotated[
            str, Meta(description="the CID that the client expects; the request is refused if the computed one differs")
        ]
        | UnsetType
    ) = UNSET


class UploadInitBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    did: _Did
    mime_type: str
    size: Annotated[int | float, Meta(extra_json_schema=_SIZE)]
    sha256: _Checksum | UnsetType = UNSET
    filename: Annotated[str, Meta(extra_json_schema=_FILENAME)] | UnsetType = UNSET


class FinalizeBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    asset_id: str
    sha256: _Checksum


class RecordReceipt(msgspec.Struct, rename="camel"):
    uri: _Uri
    cid: _Cid
    indexed_at: _Time
    schema_version: _Version


class Warnings(msgspec.Struct, rename="camel"):
    warnings: list[dict[str, Any]]


class RecordView(msgspec.Struct, rename="camel"):
    uri: _Uri
    cid: _Cid
    value: Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]
    indexed_at: _Time
    schema_version: _Version
    created_at: _Time | UnsetType = UNSET


class RecordPage(msgspec.Struct, rename="camel"):
    records: list[RecordView]
    next_cursor: Annotated[str, Meta(description="present if and only if more records match")] | UnsetType = UNSET


class UploadTicket(msgspec.Struct, rename="camel"):
    asset_id: _AssetId
    upload_url: Annotated[str, Meta(description="accepts one plain PUT of the bytes")]
    expires_at: _Time


class AssetView(msgspec.Struct, rename="camel"):
    asset_id: _AssetId
    uri: _Uri
    mime_type: str
    size: Annotated[int, Meta(description="bytes")]
    created_at: _Time
    checksum: _Checksum | UnsetType = UNSET
    filename: str | UnsetType = UNSET
    status: Literal["pending"] | UnsetType = UNSET


_UNKNOWN_FIELD: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)

Body = TypeVar("Body", CreateRecordBody, UploadInitBody, FinalizeBody)

# The hook keeps integers exact that are written with a fraction or an exponent (1e3, 9007199254740993.0).
_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {
    body: msgspec.json.Decoder(body, float_hook=parse_number)
    for body in (CreateRecordBody, UploadInitBody, FinalizeBody)
}


def decode_body(raw: bytes, body_type: type[Body]) -> Body:
    """Return the body as `body_type`.

    Raises: MalformedJson: not JSON. InvalidField: JSON of another shape (names the field), or text that is not Unicode.
    """
    try:
        body: Body = _DECODERS[body_type].decode(raw)
    except msgspec.ValidationError as error:
        # The decoder stops at the first member of another shape; what follows it may not be JSON.
        if (malformed := _malformed(raw)) is not None:
            raise MalformedJson(malformed) from error
        raise _invalid_field(str(error)) from error
    except UnicodeDecodeError as error:
        raise InvalidField("body", "must be valid UTF-8") from error
    except msgspec.DecodeError as error:
        if (malformed := _malformed(raw)) is not None:
            raise MalformedJson(malformed) from error
        raise InvalidField("body", "must be valid Unicode; a string contains a lone surrogate") from error
    except RecursionError as error:
        raise InvalidField("body", "is nested too deeply") from error
    return body


def _malformed(raw: bytes) -> str | None:
    """Return why `raw` is not JSON; None if it is, whatever its shape, depth and text."""
    try:
        msgspec.json.decode(raw)
    except (UnicodeDecodeError, RecursionError, msgspec.ValidationError):  # ValidationError: a number is too large
        return None
    except msgspec.DecodeError as error:
        # msgspec reports a lone surrogate near the end as truncated input.
        return None if "surrogate" in str(error) or _is_json(raw) else str(error)
    return None


def _is_json(raw: bytes) -> bool:
    """Return whether `raw` is JSON by the grammar alone, which allows lone surrogates."""
    try:
        json.loads(raw.decode(), parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _invalid_field(message: str) -> InvalidField:
    """Split msgspec's ``Expected `str`, got `int` - at `$.did` `` into field and reason."""
    if unknown := _UNKNOWN_FIELD.fullmatch(
        message
    ):  # first: the client chose the name, which may look like any message
        return InvalidField(shortened(unknown[1]), "is not a member of this request body")
    reason, at, path = message.partition(" - at `$")
    if at:
        return InvalidField(path.rstrip("`").lstrip(".") or "body", reason)
    if "field `" in message:
        return InvalidField(message.split("`")[1], reason)
    return InvalidField("body", reason)


def given(value: str | UnsetType) -> str | None:
    """Return an optional member's value; None if it was left out. (JSON null has the wrong type and is refused.)"""
    return None if value is UNSET else value


def to_int(value: float, field: str) -> int:
    """Return a number without a fractional part as an integer: in JSON, 4 and 4.0 are the same.

    Raises InvalidField: it has a fractional part.
    """
    if value != int(value):
        raise InvalidField(field, "must be a whole number")
    return int(value)


def record_receipt(receipt: Receipt) -> RecordReceipt:
    return RecordReceipt(receipt.uri, receipt.cid, format_time(receipt.indexed_at), receipt.schema_version)


def page_json(page: JsonPage) -> bytes:
    """Return a RecordPage as JSON, from records that are already encoded."""
    more = b"" if page.next_cursor is None else b',"nextCursor":"%b"' % page.next_cursor.encode()
    return b'{"records":[%b]%b}' % (b",".join(page.records), more)


def upload_ticket(upload: Upload, url: str) -> UploadTicket:
    return UploadTicket(str(upload.asset.asset_id), url, format_time(upload.asset.expires_at))


def asset_view(asset: Asset) -> AssetView:
    pending = asset.state is not AssetState.FINALIZED
    checksum = asset.announced_checksum if pending else asset.checksum
    return AssetView(
        str(asset.asset_id),
        str(asset.uri),
        asset.mime_type,
        asset.size_bytes,
        format_time(asset.created_at),
        UNSET if checksum is None else str(checksum),
        asset.filename or UNSET,
        "pending" if pending else UNSET,
    )
