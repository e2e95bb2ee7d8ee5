"""Every error that a use case can raise: one class per rule, each with a stable code and its data.

Codes are part of the contract (spec: error codes). `cdv_http/error_responses.py` maps them to HTTP statuses. `details`
is shown to clients: it names the field, never a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Final, Literal, TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

_MEDIA_CONFLICTS: Final[Mapping[str, str]] = {
    "not_uploaded": "no bytes have been uploaded yet; upload them, then finalize",
    "finalized_with_another_hash": "it was finalized with another SHA-256; its metadata says which",
    "claimed_by_another_hash": (
        "a finalize with another SHA-256 has begun; upload those bytes again and finalize with that hash, or start over"
    ),
    "changed_while_finalizing": (
        "its bytes were replaced during finalize; upload those of this hash again and finalize again, or start over"
    ),
}


@dataclass(eq=False)
class CdvError(Exception):
    """The base class. Subclasses set `code` and `message`, which may refer to their own fields in braces."""

    code: ClassVar[str] = "CDV_INTERNAL"
    message: ClassVar[str] = "internal error"

    def __str__(self) -> str:
        return self.message.format(**{f.name: getattr(self, f.name) for f in fields(self)})

    @property
    def details(self) -> dict[str, JsonValue]:
        """The `details` of the error response: by default the error's own fields."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


# Syntax and validation


@dataclass(eq=False)
class InvalidField(CdvError):
    """A member or parameter breaks a rule. `field`: its name, or a JSON pointer into it. `reason`: "must be ..."."""

    field: str
    reason: str
    code = "CDV_VALIDATION"
    message = "{field}: {reason}"


@dataclass(eq=False)
class MalformedJson(CdvError):
    """The body is not JSON."""

    reason: str
    code = "CDV_BAD_REQUEST"
    message = "the body is not valid JSON: {reason}"


@dataclass(eq=False)
class CursorInvalid(CdvError):
    """The cursor was not issued by this vault."""

    reason: str
    code = "CDV_CURSOR_INVALID"
    message = "the cursor is not valid ({reason}); start again without a cursor"


# Authentication and authorisation


@dataclass(eq=False)
class TokenMissing(CdvError):
    code = "CDV_AUTHN"
    message = "a bearer token is required: send 'Authorization: Bearer <JWT>'"


@dataclass(eq=False)
class TokenMalformed(CdvError):
    reason: str
    code = "CDV_JWT_MALFORMED"
    message = "the token is malformed: {reason}"


@dataclass(eq=False)
class TokenExpired(CdvError):
    code = "CDV_JWT_EXPIRED"
    message = "the token has expired; get a new one"


@dataclass(eq=False)
class TokenInvalid(CdvError):
    reason: str
    code = "CDV_JWT_INVALID"
    message = "the token is not valid: {reason}"


@dataclass(eq=False)
class DidMismatch(CdvError):
    """The DID in `field` is not the token's subject."""

    field: str
    code = "CDV_DID_MISMATCH"
    message = "{field} is not the subject of the token"


@dataclass(eq=False)
class NotTheOwner(CdvError):
    """Records of the collection are readable by their owner only."""

    collection: str
    code = "CDV_AUTHZ"
    message = "records of {collection} are readable by their owner only"


# Schemas


@dataclass(eq=False)
class CollectionUnknown(CdvError):
    """`version`: the requested one, None if none was; for the log, and not in `details`."""

    collection: str
    version: str | None = None
    code = "CDV_VALIDATION"
    message = "collection: no schema for {collection}"

    @property
    def details(self) -> dict[str, JsonValue]:
        return {"field": "collection", "collection": self.collection}


@dataclass(eq=False)
class SchemaVersionUnknown(CdvError):
    """`version`: the requested one; None if none was, and the collection has only drafts."""

    collection: str
    version: str | None
    code = "CDV_VALIDATION"
    message = "schemaVersion: {collection} has no version {version}"

    def __str__(self) -> str:
        if self.version is None:
            return f"schemaVersion: {self.collection} has no stable version yet; name one of its drafts"
        return super().__str__()

    @property
    def details(self) -> dict[str, JsonValue]:
        return {"field": "schemaVersion", "collection": self.collection, "version": self.version}


@dataclass(frozen=True, slots=True)
class Violation:
    """One violated rule: `pointer` (RFC 6901, "" is the record itself), `rule` (the schema keyword), `message`."""

    pointer: str
    rule: str
    message: str


@dataclass(eq=False)
class SchemaRejected(CdvError):
    """The record violates its schema. `violations` is never empty."""

    collection: str
    version: str
    violations: tuple[Violation, ...]
    code = "CDV_SCHEMA_REJECT"
    message = "the record does not satisfy {collection} {version}"

    @property
    def details(self) -> dict[str, JsonValue]:
        return {
            "collection": self.collection,
            "schemaVersion": self.version,
            "violations": [{"pointer": v.pointer, "rule": v.rule, "message": v.message} for v in self.violations],
        }


@dataclass(eq=False)
class SchemaVersionRefused(CdvError):
    """The version's status forbids writing: a draft outside dev, past its sunset, retired, or deprecated."""

    collection: str
    version: str
    reason: str
    code = "CDV_SCHEMA_REJECT"
    message = "{collection} {version} is {reason}"

    @property
    def details(self) -> dict[str, JsonValue]:
        violation: dict[str, JsonValue] = {"pointer": "", "rule": "status", "message": str(self)}
        return {"collection": self.collection, "schemaVersion": self.version, "violations": [violation]}


# Not found and conflict


@dataclass(eq=False)
class RecordNotFound(CdvError):
    uri: str
    code = "CDV_NOT_FOUND"
    message = "no record at {uri}"


@dataclass(eq=False)
class AssetNotFound(CdvError):
    asset_id: str
    code = "CDV_NOT_FOUND"
    message = "no media asset {asset_id}"

    @property
    def details(self) -> dict[str, JsonValue]:
        return {"assetId": self.asset_id}


@dataclass(eq=False)
class IdempotencyConflict(CdvError):
    """The key was used for another request and has not expired."""

    key: str
    code = "CDV_CONFLICT"
    message = "the idempotency key was used for another request; use a new key"

    @property
    def details(self) -> dict[str, JsonValue]:
        return {"reason": "idempotency_key_reused", "idempotencyKey": self.key}


@dataclass(eq=False)
class CidMismatch(CdvError):
    expected: str
    actual: str
    code = "CDV_CONFLICT"
    message = "the record's CID is {actual}, not {expected}"

    @property
    def details(self) -> dict[str, JsonValue]:
        return {"reason": "cid_mismatch", "expected": self.expected, "actual": self.actual}


@dataclass(eq=False)
class IdTaken(CdvError):
    """A new object has an id that is in use, and was not stored. The id source is defective."""

    message = "a new object has an id that is already in use"


@dataclass(eq=False)
class MediaConflict(CdvError):
    """`reason`: not_uploaded, finalized_with_another_hash, claimed_by_another_hash or changed_while_finalizing."""

    asset_id: str
    reason: str
    code = "CDV_CONFLICT"

    def __str__(self) -> str:
        return f"media asset {self.asset_id}: {_MEDIA_CONFLICTS.get(self.reason, self.reason)}"

    @property
    def details(self) -> dict[str, JsonValue]:
        return {"reason": self.reason, "assetId": self.asset_id}


# Media


@dataclass(eq=False)
class MediaTooLarge(CdvError):
    size_bytes: int
    max_bytes: int
    code = "CDV_MEDIA_SIZE"
    message = "size: {size_bytes} bytes is over the limit of {max_bytes}"

    @property
    def details(self) -> dict[str, JsonValue]:
        return {"field": "size", "size": self.size_bytes, "max": self.max_bytes}


@dataclass(eq=False)
class MediaSizeMismatch(CdvError):
    declared_bytes: int
    actual_bytes: int
    code = "CDV_MEDIA_SIZE"
    message = "the uploaded object has {actual_bytes} bytes, {declared_bytes} were declared; upload it again"

    @property
    def details(self) -> dict[str, JsonValue]:
        return {"field": "size", "declared": self.declared_bytes, "actual": self.actual_bytes}


@dataclass(eq=False)
class MediaTypeNotAllowed(CdvError):
    mime_type: str
    allowed: tuple[str, ...]
    code = "CDV_MEDIA_TYPE"
    message = "mimeType: this type is not accepted here"

    @property
    def details(self) -> dict[str, JsonValue]:
        return {"field": "mimeType", "mimeType": self.mime_type, "allowed": list(self.allowed)}


@dataclass(eq=False)
class MediaTypeMismatch(CdvError):
    declared: str
    detected: str
    code = "CDV_MEDIA_TYPE"
    message = "the uploaded bytes are {detected}, {declared} was declared; upload it again"

    @property
    def details(self) -> dict[str, JsonValue]:
        return {"field": "mimeType", "declared": self.declared, "detected": self.detected}


@dataclass(eq=False)
class ChecksumMismatch(CdvError):
    """Both are SHA-256 as 64 lower-case hex characters."""

    expected: str
    actual: str
    code = "CDV_MEDIA_CHECKSUM"
    message = "the uploaded object's SHA-256 is {actual}, not {expected}; upload it again"

    @property
    def details(self) -> dict[str, JsonValue]:
        return {"field": "sha256", "expected": self.expected, "actual": self.actual}


@dataclass(eq=False)
class ChecksumNotAnnounced(ChecksumMismatch):
    """`expected`: announced when the upload began. `actual`: stated when it was finalized."""

    message = "the SHA-256 is {actual}, but the upload was announced with {expected}; state that one, or upload anew"


# Dependencies


# As in readiness and in the metrics.
DependencyName: TypeAlias = Literal[
    "database", "object_store", "events", "issuer", "schemas", "rate_limits", "secret_source"
]


@dataclass(eq=False)
class Unavailable(CdvError):
    """A dependency did not respond in time. `retry_after_seconds` becomes the Retry-After header."""

    dependency: DependencyName
    retry_after_seconds: int = 1
    code = "CDV_UNAVAILABLE"
    message = "{dependency} is not available; try again later"

    @property
    def details(self) -> dict[str, JsonValue]:
        return {"dependency": self.dependency}


@dataclass(eq=False)
class RateLimited(CdvError):
    """Too many requests of one subject or address.

    `budget`: reads or writes (per window), or concurrent_requests (in flight). `retry_after_seconds` becomes the
    Retry-After header.
    """

    budget: str
    retry_after_seconds: int
    code = "CDV_RATE_LIMIT"
    message = "too many {budget}; try again in {retry_after_seconds} s"

    @property
    def details(self) -> dict[str, JsonValue]:
        return {"budget": self.budget}


@dataclass(eq=False)
class BlobUrlRefused(CdvError):
    """`reason`: not_signed_by_us, expired, or for_another_purpose."""

    reason: str
    code = "CDV_AUTHZ"
    message = "the signed URL is not valid ({reason}); request a new one"


@dataclass(eq=False)
class CannotStart(CdvError):
    """Something required before the first request is missing. Printed on one line, for the operator.

    `what`: the action that failed. `reason`: why. `remedy`: what to do about it.
    """

    what: str
    reason: str
    remedy: str
    code = "CDV_UNAVAILABLE"
    message = "cannot {what}: {reason}; {remedy}"
