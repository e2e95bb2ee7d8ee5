"""Creating, getting and listing records: what is checked, in which order, and what is stored."""

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from cdv_adapters.schemas.bundled import BundledSchemas
from cdv_core.domain.identifiers import Did, Nsid
from cdv_core.domain.viewers import Viewer
from cdv_core.errors import (
    CdvError,
    CidMismatch,
    CollectionUnknown,
    CursorInvalid,
    DidMismatch,
    IdempotencyConflict,
    InvalidField,
    NotTheOwner,
    RecordNotFound,
    SchemaRejected,
    SchemaVersionUnknown,
    TokenMissing,
    Unavailable,
)
from cdv_core.use_cases.records import Records, SchemaPolicy
from tests.fakes.clock import FakeClock
from tests.fakes.ids import FakeIdSource
from tests.fakes.records import FakeRecordStore

ADA, BOB = Did("did:example:ada"), Did("did:example:bob")
PROFILE, POST, FLAG = "com.registryaccord.profile", "com.registryaccord.feed.post", "com.registryaccord.moderation.flag"
PROFILE_RECORD = {"displayName": "Ada"}
FLAG_RECORD = {"subject": "at://did:example:bob/com.registryaccord.feed.post/1", "reason": "spam"}


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FakeRecordStore()
        self.records = Records(self.store, BundledSchemas(), self.clock, FakeIdSource(), SchemaPolicy())

    async def create(self, **changes):
        arguments = {"did": ADA, "collection": PROFILE, "record": PROFILE_RECORD, "subject": ADA} | changes
        receipt = await self.records.create(**arguments)
        self.clock.advance(1)
        return receipt

    @property
    def envelopes(self):
        return [json.loads(entry.event.envelope) for entry in self.store.outbox.entries.values()]


@pytest.fixture
def world() -> World:
    return World()


async def test_create_stores_the_record_and_its_event_and_returns_a_receipt(world):
    receipt = await world.create(created_at="2026-11-24T03:00:00+01:00", correlation_id="c-1")
    stored = await world.records.get(receipt.uri)
    assert stored.value == PROFILE_RECORD
    assert (stored.cid, stored.indexed_at, stored.schema_version) == (receipt.cid, receipt.indexed_at, "1.0.0")
    assert stored.created_at.isoformat() == "2026-11-24T02:00:00+00:00"
    assert not receipt.replayed
    [envelope] = world.envelopes
    assert envelope["correlationId"] == "c-1"
    assert envelope["payload"]["uri"] == receipt.uri


async def test_indexed_at_is_the_servers_time_and_not_the_clients(world):
    before = world.clock.now()
    receipt = await world.create(created_at="2001-01-01T00:00:00Z")
    assert receipt.indexed_at == before


async def test_an_event_without_a_correlation_id_gets_a_generated_one(world):
    await world.create()
    assert len(world.envelopes[0]["correlationId"]) == 26


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"did": "ada"}, "did"),
        ({"collection": "profile"}, "collection"),
        ({"record": {"displayName": "A\x00"}}, "record/displayName"),
        ({"created_at": "yesterday"}, "createdAt"),
        ({"idempotency_key": "a b"}, "idempotencyKey"),
    ],
)
async def test_the_request_shape_is_checked_before_authorization(world, changes, field):
    with pytest.raises(InvalidField) as caught:
        await world.create(**{"subject": BOB} | changes)
    assert caught.value.field == field


async def test_authorization_is_checked_before_the_schema(world):
    with pytest.raises(DidMismatch) as caught:
        await world.create(subject=BOB, collection="com.example.unknown")
    assert caught.value.field == "did"
    post = {"text": 5, "authorDid": BOB}
    with pytest.raises(DidMismatch) as caught:
        await world.create(collection=POST, record=post)
    assert caught.value.field == "record/authorDid"


@pytest.mark.parametrize("author", [5, None, True, [], [ADA], {"did": ADA}, ""])
async def test_an_invalid_author_did_is_a_did_mismatch(world, author):
    for collection, record in ((PROFILE, {"displayName": "x"}), (POST, {"text": 5})):
        with pytest.raises(DidMismatch) as caught:
            await world.create(collection=collection, record={**record, "authorDid": author})
        assert caught.value.field == "record/authorDid"


async def test_without_a_subject_an_author_did_that_is_no_string_is_refused_by_the_schema(world):
    post = {"text": "x", "createdAt": "2026-11-24T02:53:29Z", "authorDid": 5}
    with pytest.raises(SchemaRejected) as caught:
        await world.create(subject=None, collection=POST, record=post)
    assert [violation.pointer for violation in caught.value.violations] == ["/authorDid"]


async def test_without_a_subject_any_did_may_write_but_the_author_did_must_match(world):
    assert await world.create(subject=None)
    with pytest.raises(DidMismatch):
        await world.create(subject=None, record={"displayName": "x", "authorDid": BOB})


async def test_a_refused_record_is_not_stored(world):
    refusals: list[tuple[dict[str, Any], type[CdvError]]] = [
        ({"collection": "com.example.unknown"}, CollectionUnknown),
        ({"schema_version": "9.9.9"}, SchemaVersionUnknown),
        ({"record": {}}, SchemaRejected),
        ({"cid": "bafyreiother"}, CidMismatch),
        ({"record": "text"}, InvalidField),
        ({"record": None}, InvalidField),
        ({"record": [{"displayName": "x"}]}, InvalidField),
    ]
    for changes, error in refusals:
        with pytest.raises(error):
            await world.create(**changes)
    assert world.store.records == {}
    assert world.envelopes == []


async def test_a_client_cid_that_matches_is_accepted(world):
    cid = (await world.create()).cid
    assert (await world.create(cid=cid)).cid == cid


async def test_a_retry_with_the_same_key_returns_the_first_receipt(world):
    first = await world.create(idempotency_key="k", correlation_id="c-1")
    again = await world.create(idempotency_key="k", record={"displayName": "Ada"}, correlation_id="c-2")
    assert again.replayed
    assert (again.uri, again.cid, again.indexed_at) == (first.uri, first.cid, first.indexed_at)
    assert len(world.store.records) == len(world.envelopes) == 1


async def test_an_idempotency_key_is_scoped_by_did(world):
    first = await world.create(idempotency_key="k")
    other = await world.create(idempotency_key="k", did=BOB, subject=BOB)
    assert other.uri != first.uri
    assert not other.replayed


async def test_a_different_request_with_a_live_key_conflicts_and_stores_nothing(world):
    await world.create(idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        await world.create(idempotency_key="k", record={"displayName": "Eve"})
    assert len(world.store.records) == 1


async def test_an_idempotency_key_expires_after_24_hours(world):
    first = await world.create(idempotency_key="k")
    world.clock.moment = first.indexed_at + timedelta(hours=24) - timedelta(microseconds=1)
    assert (await world.create(idempotency_key="k")).replayed
    world.clock.moment = first.indexed_at + timedelta(hours=24)
    assert not (await world.create(idempotency_key="k", record={"displayName": "Eve"})).replayed


async def test_a_replay_is_returned_before_the_schema_is_checked(world):
    class Moving(BundledSchemas):
        catalogue = BundledSchemas().catalogue

    schemas = Moving()
    records = Records(world.store, schemas, world.clock, FakeIdSource(100), SchemaPolicy())
    world.records = records
    first = await world.create(idempotency_key="k")
    schemas.catalogue = type(schemas.catalogue)({}, schemas.catalogue.generated_at)
    again = await world.create(idempotency_key="k")
    assert again.replayed
    assert again.uri == first.uri
    with pytest.raises(IdempotencyConflict):
        await world.create(idempotency_key="k", record={"displayName": "Eve"})
    with pytest.raises(CollectionUnknown):
        await world.create(idempotency_key="other")


async def test_an_unavailable_database_is_reported_as_unavailable(world):
    world.store.error = Unavailable("database")
    with pytest.raises(Unavailable):
        await world.create()
    with pytest.raises(Unavailable):
        await world.records.get(f"at://{ADA}/{PROFILE}/x")
    with pytest.raises(Unavailable):
        await world.records.list(did=ADA)


async def test_an_unknown_record_is_not_found(world):
    with pytest.raises(RecordNotFound):
        await world.records.get(f"at://{ADA}/{PROFILE}/nobody")
    with pytest.raises(InvalidField):
        await world.records.get("nobody")


async def test_a_cursor_is_returned_exactly_when_more_records_match(world):
    receipts = [await world.create(record={"displayName": str(number)}) for number in range(4)]
    newest_first = [receipt.uri for receipt in reversed(receipts)]
    for limit in range(1, 6):
        listed, cursor, pages = [], None, 0
        while True:
            page = await world.records.list(did=ADA, limit=limit, cursor=cursor)
            listed += [str(record.uri) for record in page.records]
            pages += 1
            cursor = page.next_cursor
            if cursor is None:
                break
            assert len(page.records) == limit
        assert listed == newest_first
        assert pages == -(-4 // limit)


async def test_an_unknown_did_has_an_empty_page(world):
    page = await world.records.list(did=BOB)
    assert page.records == ()
    assert page.next_cursor is None


async def test_times_may_be_given_as_datetimes(world):
    claimed = datetime(2026, 11, 24, 3, tzinfo=timezone(timedelta(hours=1)))
    receipt = await world.create(created_at=claimed)
    page = await world.records.list(did=ADA, since=receipt.indexed_at, until=receipt.indexed_at)
    assert [record.created_at for record in page.records] == [claimed]


async def test_since_and_until_are_inclusive(world):
    receipts = [await world.create() for _ in range(3)]
    middle = receipts[1].indexed_at.isoformat()
    page = await world.records.list(did=ADA, since=middle, until=middle)
    assert [str(record.uri) for record in page.records] == [receipts[1].uri]
    assert len((await world.records.list(did=ADA, since=middle)).records) == 2
    assert len((await world.records.list(did=ADA, until=middle)).records) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "field"),
    [
        ({"limit": 0}, InvalidField, "limit"),
        ({"limit": 101}, InvalidField, "limit"),
        ({"did": "x"}, InvalidField, "did"),
        ({"collection": "x"}, InvalidField, "collection"),
        ({"since": "2026"}, InvalidField, "since"),
        ({"until": "2026"}, InvalidField, "until"),
        ({"since": "2026-01-01T00:00:01Z", "until": "2026-01-01T00:00:00Z"}, InvalidField, "since"),
        ({"collection": "com.example.unknown"}, CollectionUnknown, None),
        ({"cursor": "x"}, CursorInvalid, None),
    ],
)
async def test_an_invalid_listing_is_refused(world, arguments, error, field):
    with pytest.raises(error) as caught:
        await world.records.list(**{"did": ADA} | arguments)
    assert field is None or caught.value.field == field


async def test_a_listing_with_equal_since_and_until_is_accepted(world):
    moment = "2026-01-01T00:00:00Z"
    assert (await world.records.list(did=ADA, since=moment, until=moment, limit=100)).records == ()


async def test_an_owner_only_collection_is_readable_by_its_owner_and_the_vault_only(world):
    flag = await world.create(collection=FLAG, record=FLAG_RECORD)
    profile = await world.create()
    for viewer in (ADA, Viewer.THE_VAULT):
        assert (await world.records.get(flag.uri, viewer=viewer)).cid == flag.cid
        assert len((await world.records.list(did=ADA, viewer=viewer)).records) == 2
        assert len((await world.records.list(did=ADA, collection=FLAG, viewer=viewer)).records) == 1
    for viewer, error in ((Viewer.ANONYMOUS, TokenMissing), (BOB, NotTheOwner)):
        with pytest.raises(error):
            await world.records.get(flag.uri, viewer=viewer)
        with pytest.raises(error):
            await world.records.list(did=ADA, collection=FLAG, viewer=viewer)
        page = await world.records.list(did=ADA, viewer=viewer)
        assert [str(record.uri) for record in page.records] == [profile.uri]
        assert (await world.records.list(did=ADA, collection=PROFILE, viewer=viewer)).records == page.records


async def test_hidden_records_do_not_shorten_a_page(world):
    for _ in range(3):
        await world.create(collection=FLAG, record=FLAG_RECORD)
        await world.create()
    page = await world.records.list(did=ADA, limit=3, viewer=Viewer.ANONYMOUS)
    assert len(page.records) == 3
    assert page.next_cursor is None
    assert {record.uri.collection for record in page.records} == {Nsid(PROFILE)}
