"""The store of records."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cdv_core.domain.events import Event
from cdv_core.domain.idempotency import IdempotencyKey
from cdv_core.domain.identifiers import Did, RecordUri
from cdv_core.domain.records import ListQuery, ListResult, NewRecord, StoredRecord


@dataclass(frozen=True, slots=True)
class IdempotentReply:
    """What makes a write idempotent. `fingerprint`: 32 raw bytes. `reply`: the response to every retry, encoded."""

    key: IdempotencyKey
    fingerprint: bytes
    reply: bytes
    expires_at: datetime


class RecordStore(Protocol):
    """Stores records, their idempotent replies and their op-log entries together.

    Atomic: a write stores the record, account, op-log entry and reply, or nothing. Durable: once `create` has returned,
    no crash of this process, the machine or the database loses it. Ordered: writes of one DID commit one after the
    other, and their op-log sequences follow that order, with any number of writers on any number of nodes.
    """

    async def create(self, record: NewRecord, event: Event, retryable: IdempotentReply | None = None) -> bytes | None:
        """Store `record` and return None; or, if the key has a reply to the same request, return it and store nothing.

        A key is live while the new record's `indexed_at` is before its `expires_at`; after that it can be reused.
        Of any number of concurrent calls with one key, exactly one stores. The first write creates the account.

        Raises: IdempotencyConflict: the live key was used for another request; nothing is stored.
        IdTaken: the URI, the event's id, or `indexed_at` with rkey within the DID is in use; nothing is stored.
        Unavailable: the store could not be reached; the write may or may not have happened.
        """
        ...

    async def find_reply(self, did: Did, key: IdempotencyKey, fingerprint: bytes, now: datetime) -> bytes | None:
        """Return the reply stored under a key that is live at `now`, None if there is none.

        Raises: IdempotencyConflict: the key was used for another request. Unavailable.
        """
        ...

    async def find(self, uri: RecordUri) -> StoredRecord | None:
        """Return the record at `uri`, None if there is none. Raises: Unavailable."""
        ...

    async def list(self, listing: ListQuery) -> ListResult:
        """Return up to `limit` matching records, ordered by `indexed_at` and then `rkey`, both descending.

        Each is, byte for byte, what `record_json` (cdv_core/domain/records.py) returns; a store may build it itself.
        Fewer, but at least one, if they would exceed PAGE_MAX_BYTES together. An unknown DID has none.
        Raises: Unavailable.
        """
        ...

    def scan(self, batch_size: int = 100) -> AsyncIterator[StoredRecord]:
        """Yield every record of every DID, in any order, in bounded memory. For maintenance, not for requests."""
        ...

    async def purge_expired_replies(self, now: datetime, limit: int) -> int:
        """Delete up to `limit` replies that are no longer live at `now`; return how many.

        Safe with any number of concurrent callers.
        """
        ...
