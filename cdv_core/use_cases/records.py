"""Create, get and list records: the contract's checks, in the contract's order, then one call of the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from cdv_core.domain.canonical import CanonicalRecord, canonical_record
from cdv_core.domain.characters import plain_str, shortened
from cdv_core.domain.cursors import Cursor
from cdv_core.domain.events import record_created
from cdv_core.domain.idempotency import IdempotencyKey, request_fingerprint
from cdv_core.domain.identifiers import Did, Nsid, RecordKey, RecordUri
from cdv_core.domain.limits import IDEMPOTENCY_LIFE, PAGE_DEFAULT, PAGE_MAX
from cdv_core.domain.records import (
    JsonPage,
    ListQuery,
    NewRecord,
    Page,
    Receipt,
    StoredRecord,
    cursor_after,
    read_record_json,
)
from cdv_core.domain.schemas import Resolution
from cdv_core.domain.times import parse_time
from cdv_core.domain.viewers import Viewer
from cdv_core.errors import (
    CdvError,
    CidMismatch,
    CollectionUnknown,
    DidMismatch,
    InvalidField,
    NotTheOwner,
    RecordNotFound,
    SchemaRejected,
    TokenMissing,
)
from cdv_core.ports.clock import Clock
from cdv_core.ports.ids import IdSource
from cdv_core.ports.records import IdempotentReply, RecordStore
from cdv_core.ports.schemas import SchemaSource


@dataclass(frozen=True, slots=True)
class SchemaPolicy:
    """`allow_drafts`: accept writes against drafts. `reject_deprecated`: refuse deprecated versions before sunset."""

    allow_drafts: bool = False
    reject_deprecated: bool = False


class _Request(msgspec.Struct, frozen=True):
    """A parsed create request."""

    did: Did
    collection: Nsid
    record: CanonicalRecord
    created_at: datetime | None
    schema_version: str | None
    key: IdempotencyKey | None

    @property
    def fingerprint(self) -> bytes:
        return request_fingerprint(
            collection=self.collection,
            cid=self.record.cid,
            created_at=self.created_at,
            schema_version=self.schema_version,
        )


class Records:
    """The records of the vault."""

    def __init__(
        self, store: RecordStore, schemas: SchemaSource, clock: Clock, ids: IdSource, policy: SchemaPolicy
    ) -> None:
        self._store = store
        self._schemas = schemas
        self._clock = clock
        self._ids = ids
        self._policy = policy

    async def create(
        self,
        *,
        did: str,
        collection: str,
        record: Mapping[str, Any],
        created_at: str | datetime | None = None,
        idempotency_key: str | None = None,
        schema_version: str | None = None,
        cid: str | None = None,
        subject: Did | None = None,
        correlation_id: str | None = None,
        traceparent: str | None = None,
    ) -> Receipt:
        """Store `record` once and return its receipt; a retry with the same key returns the first receipt.

        `created_at`: as the client states it, RFC 3339 or an aware datetime. `cid`: the CID that the client computed,
        checked. `subject`: the authenticated DID; `did` itself if None.
        `correlation_id`: for the event; generated if None. `traceparent`: W3C trace context, for the event.

        Raises, in this order: InvalidField: a value breaks the contract. DidMismatch: `did` or the record's
        `authorDid` is not `subject`. IdempotencyConflict: the key was used for another request.
        CollectionUnknown, SchemaVersionUnknown, SchemaVersionRefused, SchemaRejected. CidMismatch. Unavailable.
        """
        request = _Request(
            Did.parse(did),
            Nsid.parse(collection),
            canonical_record(record),
            None if created_at is None else parse_time(created_at, "createdAt"),
            None if schema_version is None else plain_str(schema_version),
            None if idempotency_key is None else IdempotencyKey.parse(idempotency_key),
        )
        _authorise(request, subject)
        now = self._clock.now()
        try:
            resolution = self._check(request, cid, now)
        except CdvError:
            # A retry gets the first reply even if its schema has been retired since: look for one before refusing.
            if request.key is None:
                raise
            reply = await self._store.find_reply(request.did, request.key, request.fingerprint, now)
            if reply is None:
                raise
            return _decode_receipt(reply)
        return await self._write(request, resolution, now, correlation_id, traceparent)

    def _check(self, request: _Request, cid: str | None, now: datetime) -> Resolution:
        resolution = self._schemas.catalogue.resolve(
            request.collection,
            request.schema_version,
            now=now,
            allow_drafts=self._policy.allow_drafts,
            reject_deprecated=self._policy.reject_deprecated,
        )
        violations = resolution.schema.violations(request.record.value)
        if violations:
            raise SchemaRejected(request.collection, resolution.schema.version, violations)
        if cid is not None and cid != request.record.cid:
            raise CidMismatch(expected=shortened(cid), actual=request.record.cid)
        return resolution

    async def _write(
        self,
        request: _Request,
        resolution: Resolution,
        now: datetime,
        correlation_id: str | None,
        traceparent: str | None,
    ) -> Receipt:
        fresh = self._ids.new(now)  # one id for the record and its event: neither exists without the other
        uri = RecordUri(request.did, request.collection, RecordKey(fresh))
        record = NewRecord(
            uri, request.record.cid, request.record.json, now, resolution.schema.version, request.created_at
        )
        receipt = Receipt(
            str(uri),
            record.cid,
            now,
            record.schema_version,
            resolution.warnings,
            resolution.deprecated_at,
            resolution.sunset,
        )
        event = record_created(record, event_id=fresh, correlation_id=correlation_id or fresh, traceparent=traceparent)
        retryable = None
        if request.key is not None:
            reply = msgspec.json.encode(
                receipt, enc_hook=str
            )  # the hook encodes identifiers, which are subtypes of str
            retryable = IdempotentReply(request.key, request.fingerprint, reply, now + IDEMPOTENCY_LIFE)
        earlier = await self._store.create(record, event, retryable)
        return receipt if earlier is None else _decode_receipt(earlier)

    async def get(self, uri: str | RecordUri, *, viewer: Did | Viewer = Viewer.THE_VAULT) -> StoredRecord:
        """Return the record at `uri`: text, as in a receipt, or a RecordUri, as in a listed record.

        Raises: InvalidField: not a record URI. TokenMissing, NotTheOwner: the collection is owner-only.
        RecordNotFound. Unavailable.
        """
        parsed = uri if isinstance(uri, RecordUri) else RecordUri.parse(uri)
        if parsed.collection in self._schemas.catalogue.owner_only:
            _require_owner(parsed.did, parsed.collection, viewer)
        found = await self._store.find(parsed)
        if found is None:
            raise RecordNotFound(str(parsed))
        return found

    async def list(
        self,
        *,
        did: str,
        collection: str | None = None,
        limit: int = PAGE_DEFAULT,
        cursor: str | None = None,
        since: str | datetime | None = None,
        until: str | datetime | None = None,
        viewer: Did | Viewer = Viewer.THE_VAULT,
    ) -> Page:
        """Return the page that `list_json` returns, decoded."""
        page = await self.list_json(
            did=did, collection=collection, limit=limit, cursor=cursor, since=since, until=until, viewer=viewer
        )
        return Page(tuple(map(read_record_json, page.records)), page.next_cursor)

    async def list_json(
        self,
        *,
        did: str,
        collection: str | None = None,
        limit: int = PAGE_DEFAULT,
        cursor: str | None = None,
        since: str | datetime | None = None,
        until: str | datetime | None = None,
        viewer: Did | Viewer = Viewer.THE_VAULT,
    ) -> JsonPage:
        """Return up to `limit` records of `did`, newest first, and a cursor if and only if more match.

        A page has fewer records if they would exceed PAGE_MAX_BYTES together. An unknown DID has no records. `since`
        and `until` (RFC 3339 or aware datetimes) bound `indexedAt`, both inclusive. For viewers other than the owner,
        records of owner-only collections are left out, and a listing of such a collection is refused.

        Raises: InvalidField. CursorInvalid. CollectionUnknown. TokenMissing, NotTheOwner. Unavailable.
        """
        catalogue = self._schemas.catalogue
        listing = _parse_listing(did, collection, limit, cursor, since, until)
        if listing.collection is not None:
            if listing.collection not in catalogue:
                raise CollectionUnknown(listing.collection)
            if listing.collection in catalogue.owner_only:
                _require_owner(listing.did, listing.collection, viewer)
        elif not _is_owner(listing.did, viewer):
            listing = replace(listing, hidden=catalogue.owner_only)
        found = await self._store.list(listing)
        return JsonPage(found.records, cursor_after(found.records[-1]) if found.more else None)


def _authorise(request: _Request, subject: Did | None) -> None:
    if subject is not None and request.did != subject:
        raise DidMismatch("did")
    author = request.record.value.get("authorDid", request.did)
    # An authorDid that is not a string cannot equal the subject; without a subject, the schema refuses it.
    if author != request.did and (subject is not None or isinstance(author, str)):
        raise DidMismatch("record/authorDid")


def _is_owner(did: Did, viewer: Did | Viewer) -> bool:
    return viewer is Viewer.THE_VAULT or viewer == did


def _require_owner(did: Did, collection: Nsid, viewer: Did | Viewer) -> None:
    if viewer is Viewer.ANONYMOUS:
        raise TokenMissing
    if not _is_owner(did, viewer):
        raise NotTheOwner(collection)


def _parse_listing(
    did: str,
    collection: str | None,
    limit: int,
    cursor: str | None,
    since: str | datetime | None,
    until: str | datetime | None,
) -> ListQuery:
    if not 1 <= limit <= PAGE_MAX:
        raise InvalidField("limit", f"must be between 1 and {PAGE_MAX}")
    listing = ListQuery(
        Did.parse(did),
        limit,
        None if collection is None else Nsid.parse(collection),
        since=None if since is None else parse_time(since, "since", round_up=True),
        until=None if until is None else parse_time(until, "until"),
        after=None if cursor is None else Cursor.decode(cursor),
    )
    if listing.since is not None and listing.until is not None and listing.since > listing.until:
        raise InvalidField("since", "must not be later than until")
    return listing


def _decode_receipt(reply: bytes) -> Receipt:
    return replace(msgspec.json.decode(reply, type=Receipt), replayed=True)
