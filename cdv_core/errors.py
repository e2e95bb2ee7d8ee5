"""Every way a request can be refused: one class per rule, each with a stable code and its data.

Codes are the contract's (spec: error codes). What status an error becomes is the HTTP edge's business,
`cdv_http/error_responses.py`. `details` is what a client may see: it names the field, never a secret.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar


@dataclass(eq=False)
class CdvError(Exception):
    """The root of the family. Subclasses set `code` and `message`, which may name their own fields in braces."""

    code: ClassVar[str] = "CDV_INTERNAL"
    message: ClassVar[str] = "internal error"

    def __str__(self) -> str:
        return self.message.format(**{f.name: getattr(self, f.name) for f in fields(self)})

    @property
    def details(self) -> dict[str, Any]:
        """What the client is told beside the message: the error's own fields, JSON-ready."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


# Shape


@dataclass(eq=False)
class InvalidField(CdvError):
    """A member or parameter is not what the contract allows. `field` is its name or a JSON pointer below it."""

    field: str
    reason: str
    code = "CDV_VALIDATION"
    message = "{field}: {reason}"


@dataclass(eq=False)
class MalformedJson(CdvError):
    """The body is not JSON at all."""

    reason: str
    code = "CDV_BAD_REQUEST"
    message = "the body is not valid JSON: {reason}"


@dataclass(eq=False)
class CursorInvalid(CdvError):
    """The cursor is not one that this vault handed out."""

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
    """`field` names a DID that is not the token's subject."""

    field: str
    code = "CDV_DID_MISMATCH"
    message = "{field} is not the subject of the token"


@dataclass(eq=False)
class NotTheOwner(CdvError):
    """The collection is readable by its owner only."""

    collection: str
    code = "CDV_AUTHZ"
    message = "records of {collection} are readable by their owner only"


# Schemas


@dataclass(eq=False)
class CollectionUnknown(CdvError):
    """`version` is the one that was asked for, None if none was; the client is told of the collection only."""

    collection: str
    version: str | None = None
    code = "CDV_VALIDATION"
    message = "collection: no schema for {collection}"

    @property
    def details(self) -> dict[str, Any]:
        return {"field": "collection", "collection": self.collection}


@dataclass(eq=False)
class SchemaVersionUnknown(CdvError):
    """`version` is the one that was asked for; None if none was, and the collection has drafts only."""

    collection: str
    version: str | None
    code = "CDV_VALIDATION"
    message = "schemaVersion: {collection} has no version {version}"

    def __str__(self) -> str:
        if self.version is None:
            return f"schemaVersion: {self.collection} has no stable version yet; name one of its drafts"
        return super().__str__()

    @property
    def details(self) -> dict[str, Any]:
        return {"field": "schemaVersion", "collection": self.collection, "version": self.version}


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: `pointer` (RFC 6901, "" is the record itself), `rule` (the schema keyword), `message`."""

    pointer: str
    rule: str
    message: str


@dataclass(eq=False)
class SchemaRejected(CdvError):
    """The record breaks its schema. `violations` holds every broken rule, never none."""

    collection: str
    version: str
    violations: tuple[Violation, ...]
    code = "CDV_SCHEMA_REJECT"
    message = "the record does not satisfy {collection} {version}"

    @property
    def details(self) -> dict[str, Any]:
        return {
            "collection": self.collection,
            "schemaVersion": self.version,
            "violations": [{"pointer": v.pointer, "rule": v.rule, "message": v.message} for v in self.violations],
        }


@dataclass(eq=False)
class SchemaVersionRefused(CdvError):
    """The version exists and its status forbids writing: draft outside dev, past its sunset, retired, or deprecated."""

    collection: str
    version: str
    reason: str
    code = "CDV_SCHEMA_REJECT"
    message = "{collection} {version} is {reason}"

    @property
    def details(self) -> dict[str, Any]:
        violation = {"pointer": "", "rule": "status", "message": str(self)}
        return {"collection": self.collection, "schemaVersion": self.version, "violations": [violation]}


# Absence and conflict


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
    def details(self) -> dict[str, Any]:
        return {"assetId": self.asset_id}


@dataclass(eq=False)
class IdempotencyConflict(CdvError):
    """The key was used for another request within its life."""

    key: str
    code = "CDV_CONFLICT"
    message = "the idempotency key was used for another request; use a new key"

    @property
    def details(self) -> dict[str, Any]:
        return {"reason": "idempotency_key_reused", "idempotencyKey": self.key}


@dataclass(eq=False)
class CidMismatch(CdvError):
    expected: str
    actual: str
    code = "CDV_CONFLICT"
    message = "the record's CID is {actual}, not {expected}"

    @property
    def details(self) -> dict[str, Any]:
        return {"reason": "cid_mismatch", "expected": self.expected, "actual": self.actual}


@dataclass(eq=False)
class IdTaken(CdvError):
    """Something new came under an id that is in use, and was not stored. Ids are ours: the id source has failed."""

    message = "an id was given twice"


@dataclass(eq=False)
class MediaConflict(CdvError):
    """`reason`: not_uploaded, finalized_with_another_hash or changed_while_finalizing."""

    asset_id: str
    reason: str
    code = "CDV_CONFLICT"
    message = "media asset {asset_id}: {reason}"

    @property
    def details(self) -> dict[str, Any]:
        return {"reason": self.reason, "assetId": self.asset_id}


# Media


@dataclass(eq=False)
class MediaTooLarge(CdvError):
    size_bytes: int
    max_bytes: int
    code = "CDV_MEDIA_SIZE"
    message = "size: {size_bytes} bytes is over the limit of {max_bytes}"

    @property
    def details(self) -> dict[str, Any]:
        return {"field": "size", "size": self.size_bytes, "max": self.max_bytes}


@dataclass(eq=False)
class MediaSizeMismatch(CdvError):
    declared_bytes: int
    actual_bytes: int
    code = "CDV_MEDIA_SIZE"
    message = "the uploaded object has {actual_bytes} bytes, {declared_bytes} were declared; upload it again"

    @property
    def details(self) -> dict[str, Any]:
        return {"field": "size", "declared": self.declared_bytes, "actual": self.actual_bytes}


@dataclass(eq=False)
class MediaTypeNotAllowed(CdvError):
    mime_type: str
    allowed: tuple[str, ...]
    code = "CDV_MEDIA_TYPE"
    message = "mimeType: this type is not accepted here"

    @property
    def details(self) -> dict[str, Any]:
        return {"field": "mimeType", "mimeType": self.mime_type, "allowed": list(self.allowed)}


@dataclass(eq=False)
class MediaTypeMismatch(CdvError):
    declared: str
    detected: str
    code = "CDV_MEDIA_TYPE"
    message = "the uploaded bytes are {detected}, {declared} was declared; upload it again"

    @property
    def details(self) -> dict[str, Any]:
        return {"field": "mimeType", "declared": self.declared, "detected": self.detected}


@dataclass(eq=False)
class ChecksumMismatch(CdvError):
    """Both are SHA-256 as 64 lower-case hex characters."""

    expected: str
    actual: str
    code = "CDV_MEDIA_CHECKSUM"
    message = "the uploaded object's SHA-256 is {actual}, not {expected}; upload it again"

    @property
    def details(self) -> dict[str, Any]:
        return {"field": "sha256", "expected": self.expected, "actual": self.actual}


# Dependencies


@dataclass(eq=False)
class Unavailable(CdvError):
    """A dependency did not answer in time. `retry_after_seconds` becomes the Retry-After header."""

    dependency: str
    retry_after_seconds: int = 1
    code = "CDV_UNAVAILABLE"
    message = "{dependency} is not available; try again later"

    @property
    def details(self) -> dict[str, Any]:
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
    def details(self) -> dict[str, Any]:
        return {"budget": self.budget}


@dataclass(eq=False)
class BlobUrlRefused(CdvError):
    """`reason`: not_signed_by_us, expired, or for_another_purpose."""

    reason: str
    code = "CDV_AUTHZ"
    message = "this URL does not allow that: {reason}"


@dataclass(eq=False)
class CannotStart(CdvError):
    """Something that must be there before the first request is not. Said on one line, for who starts the process.

    `what`: what could not be done. `reason`: why. `remedy`: what to do about it.
    """

    what: str
    reason: str
    remedy: str
    code = "CDV_UNAVAILABLE"
    message = "cannot {what}: {reason}; {remedy}"
