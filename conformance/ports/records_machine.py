"""A state machine for record stores: any sequence of operations, compared with an in-memory model."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, invariant, rule

from cdv_core.domain.cursors import Cursor
from cdv_core.domain.events import Event
from cdv_core.domain.idempotency import IdempotencyKey
from cdv_core.domain.identifiers import Did, RecordUri
from cdv_core.domain.records import ListQuery, NewRecord, StoredRecord
from cdv_core.errors import IdempotencyConflict, IdTaken
from cdv_core.ports.records import IdempotentReply
from conformance.ports.stores import (
    ALICE,
    BOB,
    CAROL,
    FLAG,
    LIKE,
    POST,
    OpenStores,
    Stores,
    StoresMachine,
    a_record,
    as_stored,
    its_event,
    later,
    listed,
    matching,
    op_log,
    ulid,
)

# Few values of each, so that steps often use the same ones.
DIDS = st.sampled_from([ALICE, BOB, CAROL])
COLLECTIONS = st.sampled_from([POST, LIKE, FLAG])
NUMBERS = st.integers(0, 30)
MOMENTS = st.integers(-2, 12).map(later)
KEYS = st.sampled_from(["k", "K", "!~"]).map(IdempotencyKey)
FINGERPRINTS = st.sampled_from([b"\x00" * 32, bytes(range(32))])


class RecordsModel:
    """The model: what a record store must hold, as lists and dictionaries."""

    def __init__(self) -> None:
        self.records: dict[RecordUri, StoredRecord] = {}
        self.replies: dict[tuple[Did, IdempotencyKey], IdempotentReply] = {}
        self.op_log: list[Event] = []

    def create(self, record: NewRecord, event: Event, retryable: IdempotentReply | None) -> bytes | None:
        did = record.uri.did
        if retryable is not None:
            reply = self.find_reply(did, retryable.key, retryable.fingerprint, record.indexed_at)
            if reply is not None:
                return reply
        keys = {(record.uri.did, record.indexed_at, record.uri.rkey) for record in self.records.values()}
        if (
            record.uri in self.records
            or (did, record.indexed_at, record.uri.rkey) in keys
            or event.event_id in {logged.event_id for logged in self.op_log}
        ):
            raise IdTaken
        self.records[record.uri] = as_stored(record)
        self.op_log.append(event)
        if retryable is not None:
            self.replies[did, retryable.key] = retryable
        return None

    def find_reply(self, did: Did, key: IdempotencyKey, fingerprint: bytes, now: datetime) -> bytes | None:
        kept = self.replies.get((did, key))
        if kept is None or not now < kept.expires_at:
            return None
        if kept.fingerprint != fingerprint:
            raise IdempotencyConflict(key)
        return kept.reply

    def list(self, listing: ListQuery) -> tuple[list[StoredRecord], bool]:
        found = [record for record in self.records.values() if record.uri.did == listing.did]
        if listing.collection is not None:
            found = [record for record in found if record.uri.collection == listing.collection]
        found = [record for record in found if record.uri.collection not in listing.hidden]
        if listing.since is not None:
            found = [record for record in found if not record.indexed_at < listing.since]
        if listing.until is not None:
            found = [record for record in found if not record.indexed_at > listing.until]
        found.sort(key=lambda record: (record.indexed_at, record.uri.rkey), reverse=True)
        if listing.after is not None:
            after = (listing.after.indexed_at, listing.after.rkey)
            found = [record for record in found if (record.indexed_at, record.uri.rkey) < after]
        return found[: listing.limit], len(found) > listing.limit

    def purge(self, now: datetime) -> int:
        expired = [key for key, reply in self.replies.items() if not now < reply.expires_at]
        for key in expired:
            del self.replies[key]
        return len(expired)


class RecordStoreMachine(StoresMachine):
    uris = Bundle("uris")

    def __init__(self) -> None:
        super().__init__()
        self.model = RecordsModel()

    # Numbers, times and event ids come from small ranges, so that some are already taken.
    @rule(
        target=uris,
        did=DIDS,
        collection=COLLECTIONS,
        number=NUMBERS,
        at=MOMENTS,
        event=st.integers(0, 300),
        created_at=st.none() | MOMENTS,
        retry=st.none() | st.tuples(KEYS, FINGERPRINTS, st.integers(1, 6)),
    )
    def create(self, did, collection, number, at, event, created_at, retry):
        record = a_record(number, did, collection, at=at, created_at=created_at)
        retryable = None
        if retry is not None:
            key, fingerprint, life = retry
            reply = f"{record.uri} {event}".encode()
            retryable = IdempotentReply(key, fingerprint, reply, at + timedelta(microseconds=life))
        created = its_event(record, event)
        self.check(
            lambda stores: stores.records.create(record, created, retryable),
            lambda: self.model.create(record, created, retryable),
        )
        return record.uri

    @rule(uri=uris)
    def find(self, uri):
        self.check(lambda stores: stores.records.find(uri), lambda: self.model.records.get(uri))

    @rule(did=DIDS, key=KEYS, fingerprint=FINGERPRINTS, now=MOMENTS)
    def find_reply(self, did, key, fingerprint, now):
        self.check(
            lambda stores: stores.records.find_reply(did, key, fingerprint, now),
            lambda: self.model.find_reply(did, key, fingerprint, now),
        )

    @rule(
        did=DIDS,
        limit=st.integers(1, 6),
        collection=st.none() | COLLECTIONS,
        hidden=st.frozensets(COLLECTIONS, max_size=2),
        since=st.none() | MOMENTS,
        until=st.none() | MOMENTS,
        after=st.none() | st.builds(Cursor, MOMENTS, NUMBERS.map(ulid)),
    )
    def list(self, did, limit, collection, hidden, since, until, after):
        listing = ListQuery(did, limit, collection, hidden, since, until, after)
        self.check(lambda stores: matching(stores, listing), lambda: self.model.list(listing))

    @rule(did=DIDS, collection=st.none() | COLLECTIONS, limit=st.integers(1, 4))
    def walk(self, did, collection, limit):
        async def pages(stores: Stores):
            after, walked = None, []
            while page := await listed(stores, ListQuery(did, limit, collection, after=after)):
                walked += page
                assert len(walked) <= len(self.model.records)
                after = Cursor(page[-1].indexed_at, page[-1].uri.rkey)
            return walked

        self.check(pages, lambda: self.model.list(ListQuery(did, 1000, collection))[0])

    @rule(batch_size=st.integers(1, 5))
    def scan(self, batch_size):
        async def everything(stores: Stores):
            found = []
            async for record in stores.records.scan(batch_size):
                found.append(record)
                assert len(found) <= len(self.model.records)
            return sorted(found, key=lambda record: str(record.uri))

        self.check(everything, lambda: sorted(self.model.records.values(), key=lambda record: str(record.uri)))

    @rule(now=MOMENTS, limit=st.integers(1, 3))
    def purge(self, now, limit):
        before = len(self.model.replies)

        async def in_batches(stores: Stores):
            purged = 0
            while batch := await stores.records.purge_expired_replies(now, limit):
                assert 0 < batch <= limit
                purged += batch
                assert purged <= before
            return purged

        self.check(in_batches, lambda: self.model.purge(now))

    @invariant()
    def the_op_log_holds_each_write_once_in_order(self):
        self.check(op_log, lambda: self.model.op_log)


def record_machine(*opened_by: OpenStores) -> type[RecordStoreMachine]:
    """Return a state machine for these databases, to be passed to `run_state_machine_as_test`."""
    return type("RecordStoreMachine", (RecordStoreMachine,), {"opened_by": opened_by})
