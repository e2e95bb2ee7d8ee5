"""An in-memory store of records."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from cdv_core.domain.events import Event
from cdv_core.domain.idempotency import IdempotencyKey
from cdv_core.domain.identifiers import Did, RecordUri
from cdv_core.domain.limits import PAGE_MAX_BYTES
from cdv_core.domain.records import ListQuery, ListResult, NewRecord, StoredRecord, record_json
from cdv_core.errors import CdvError, IdempotencyConflict, IdTaken
from cdv_core.ports.records import IdempotentReply, RecordStore
from tests.fakes.outbox import FakeOutbox


class FakeRecordStore(RecordStore):
    """`records`: by URI. `error`, if set, is raised by every method, like a database that is down.

    `outbox` holds the op log; sharing it with a FakeMediaStore makes both one database.
    """

    def __init__(self, outbox: FakeOutbox | None = None) -> None:
        self.outbox = FakeOutbox() if outbox is None else outbox
        self.records: dict[RecordUri, StoredRecord] = {}
        self.error: CdvError | None = None
        self._replies: dict[tuple[Did, IdempotencyKey], IdempotentReply] = {}

    async def create(self, record: NewRecord, event: Event, retryable: IdempotentReply | None = None) -> bytes | None:
        self._check()
        did, key = record.uri.did, _sort_key(record)
        if retryable is not None:
            earlier = self._live_reply(did, retryable.key, retryable.fingerprint, record.indexed_at)
            if earlier is not None:
                return earlier
        others = (other for other in self.records.values() if other.uri.did == did)
        if record.uri in self.records or any(_sort_key(other) == key for other in others):
            raise IdTaken
        self.outbox.append(event)
        self.records[record.uri] = StoredRecord(
            record.uri, record.cid, record.value_json, record.indexed_at, record.schema_version, record.created_at
        )
        if retryable is not None:
            self._replies[did, retryable.key] = retryable
        return None

    async def find_reply(self, did: Did, key: IdempotencyKey, fingerprint: bytes, now: datetime) -> bytes | None:
        self._check()
        return self._live_reply(did, key, fingerprint, now)

    async def find(self, uri: RecordUri) -> StoredRecord | None:
        self._check()
        return self.records.get(uri)

    async def list(self, listing: ListQuery) -> ListResult:
        self._check()
        matching = [record for record in self.records.values() if _matches(record, listing)]
        page = [record_json(record) for record in sorted(matching, key=_sort_key, reverse=True)[: listing.limit]]
        while len(page) > 1 and sum(map(len, page)) > PAGE_MAX_BYTES:
            page.pop()
        return ListResult(page, more=len(page) < len(matching))

    async def scan(self, batch_size: int = 100) -> AsyncIterator[StoredRecord]:
        self._check()
        for record in list(self.records.values()):
            yield record

    async def purge_expired_replies(self, now: datetime, limit: int) -> int:
        self._check()
        expired = [key for key, reply in self._replies.items() if reply.expires_at <= now][:limit]
        for key in expired:
            del self._replies[key]
        return len(expired)

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def _live_reply(self, did: Did, key: IdempotencyKey, fingerprint: bytes, now: datetime) -> bytes | None:
        kept = self._replies.get((did, key))
        if kept is None or kept.expires_at <= now:
            return None
        if kept.fingerprint != fingerprint:
            raise IdempotencyConflict(key)
        return kept.reply


def _sort_key(record: NewRecord) -> tuple[datetime, str]:
    return record.indexed_at, record.uri.rkey


def _matches(record: NewRecord, listing: ListQuery) -> bool:
    uri, key = record.uri, _sort_key(record)
    return (
        uri.did == listing.did
        and listing.collection in {None, uri.collection}
        and uri.collection not in listing.hidden
        and (listing.since is None or record.indexed_at >= listing.since)
        and (listing.until is None or record.indexed_at <= listing.until)
        and (listing.after is None or key < (listing.after.indexed_at, listing.after.rkey))
    )
