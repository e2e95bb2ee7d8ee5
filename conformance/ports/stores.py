"""What the contracts of all stores share: a database under test, test data, and a state machine for several databases.

To test an adapter, inherit RecordStoreContract, MediaStoreContract, OutboxContract and OwnerOnlyContract and provide an
`OpenStores` as the fixture `open_stores`; test_records.py in this folder shows how.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeAlias

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine
from msgspec.structs import astuple

from cdv_core.domain.canonical import canonical_record
from cdv_core.domain.events import Event, media_finalized, record_created
from cdv_core.domain.identifiers import AssetId, Did, Nsid, RecordKey, RecordUri
from cdv_core.domain.media import Asset
from cdv_core.domain.records import ListQuery, NewRecord, StoredRecord, read_record_json, record_json
from cdv_core.errors import CdvError, Unavailable
from cdv_core.ports.media import MediaStore
from cdv_core.ports.outbox import Outbox
from cdv_core.ports.records import RecordStore
from cdv_core.ports.visibility import OwnerOnlyStore

ALICE, BOB, CAROL = Did("did:plc:alice"), Did("did:web:bob.example"), Did("did:plc:alicf")
POST, LIKE, FLAG = (
    Nsid("com.registryaccord.feed.post"),
    Nsid("com.registryaccord.feed.like"),
    Nsid("com.registryaccord.moderation.flag"),
)
START = datetime(2026, 11, 24, 2, 53, 29, 331656, tzinfo=UTC)
_TIMEOUT_SECONDS = 20  # longer than any store may take to fail or to recover
# The extent of one run of a state machine.
BOUNDED = settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# For several stores in one machine. Few examples: the contract's own test compares each store with the model already.
TOGETHER = settings(BOUNDED, max_examples=5)


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of one database. `outbox` hands out what `records` and `media` commit.

    `again`: opens another instance on the same database, as another node would; None if there can be only one.
    `away(True)` makes the server unavailable, `away(False)` makes it available again; None if there is no server.
    """

    records: RecordStore
    media: MediaStore
    outbox: Outbox
    owner_only: OwnerOnlyStore
    again: OpenStores | None = field(default=None, kw_only=True)
    away: Callable[[bool], None] | None = field(default=None, kw_only=True)


OpenStores: TypeAlias = Callable[[], AbstractAsyncContextManager[Stores]]
"""Opens a fresh, empty database at each call; leaving the context closes it."""


class DatabaseContract:
    """Fixtures shared by the contracts of the stores."""

    @pytest.fixture
    async def stores(self, open_stores: OpenStores):
        async with open_stores() as stores:
            yield stores

    @pytest.fixture
    async def nodes(self, stores: Stores):
        """Two instances on one database, to find adapters that rely on the state of one instance."""
        if stores.again is None:
            yield stores, stores
            return
        async with stores.again() as other:
            yield stores, other

    @pytest.fixture
    def again(self, stores: Stores) -> OpenStores:
        if stores.again is None:
            pytest.skip("this database cannot have a second instance")
        return stores.again

    @pytest.fixture
    def away(self, stores: Stores):
        """Makes the server unavailable. Tests request it only if they use it, because it may need a slower set-up."""
        if stores.away is None:
            pytest.skip("this database has no server that could be unavailable")
        yield stores.away
        stores.away(False)


def ulid(number: int) -> str:
    """Return a valid ULID; higher numbers sort later."""
    return f"{number:026d}"


def later(micros: int) -> datetime:
    return START + timedelta(microseconds=micros)


def a_record(
    number: int,
    did: Did = ALICE,
    collection: Nsid = POST,
    *,
    at: datetime | None = None,
    value: dict[str, Any] | None = None,
    created_at: datetime | None = None,
) -> NewRecord:
    """Return record `number`; number, DID and collection determine its URI. By default numbers are a second apart."""
    canonical = canonical_record({"number": number} if value is None else value)
    return NewRecord(
        RecordUri(did, collection, RecordKey(ulid(number))),
        canonical.cid,
        canonical.json,
        START + timedelta(seconds=number) if at is None else at,
        "1.0.0",
        created_at,
    )


def as_stored(record: NewRecord) -> StoredRecord:
    return StoredRecord(*astuple(record))


def an_asset(
    number: int,
    did: Did = ALICE,
    *,
    expires_at: datetime = START,
    filename: str | None = None,
    announced_checksum: str | None = None,
) -> Asset:
    """Return pending asset `number`."""
    return Asset(AssetId(ulid(number)), did, "image/png", 1, START, expires_at, filename, announced_checksum)


def its_event(thing: NewRecord | Asset, number: int | None = None) -> Event:
    """Return the event of a record's creation or an asset's finalisation.

    Its id is that of the record or asset, or made from `number`. About half of the events have a trace context.
    """
    event_id = str(thing.uri.rkey) if number is None else ulid(number)
    trace = f"00-{event_id.encode().hex()[-32:]}-b7ad6b7169203331-01" if event_id[-1] in "02468ACEGJMPRTWY" else None
    if isinstance(thing, NewRecord):
        return record_created(thing, event_id=event_id, correlation_id="test", traceparent=trace)
    return media_finalized(
        thing,
        checksum="0" * 64,
        finalized_at=thing.created_at,
        event_id=event_id,
        correlation_id="test",
        traceparent=trace,
    )


async def op_log(stores: Stores) -> list[Event]:
    """Return every event committed so far, in op-log order."""
    return [entry.event for entry in await stores.outbox.read(0, 1_000_000)]


async def unavailable_until_back(away: Callable[[bool], None], *calls: Callable[[], Awaitable[Any]]) -> None:
    """Assert that each call works, raises exactly Unavailable while the server is down, and works again afterwards."""
    for call in calls:
        await _once_available(call)  # it may still be connecting
    away(True)
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        refusals = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
    assert [type(refusal) for refusal in refusals] == [Unavailable] * len(calls)
    away(False)
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        await asyncio.gather(*map(_once_available, calls))


async def _once_available(call: Callable[[], Awaitable[Any]]) -> None:
    while True:
        try:
            await call()
        except Unavailable:
            await asyncio.sleep(0.01)  # retrying without a pause would keep a store busy that fails immediately
        else:
            return


class StoresMachine(RuleBasedStateMachine):
    """Runs the same steps on one or more databases. All must behave like the model, and so like each other."""

    opened_by: ClassVar[tuple[OpenStores, ...]]

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._exits = AsyncExitStack()
        self.databases = [self.run(self._exits.enter_async_context(open_stores())) for open_stores in self.opened_by]

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(coroutine)

    def check(self, call: Callable[[Stores], Coroutine[Any, Any, Any]], model: Callable[[], Any]) -> Any:
        """Make the call on every database, assert that each gives the model's result or error, and return that."""
        try:
            expected = model()
        except CdvError as refusal:
            expected = (type(refusal), refusal.details)
        for stores in self.databases:
            assert self.run(_outcome(call(stores))) == expected
        return expected

    def teardown(self) -> None:
        self.run(self._exits.aclose())
        self._runner.close()


async def _outcome(call: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await call
    except CdvError as refusal:
        return type(refusal), refusal.details


async def listed(stores: Stores, listing: ListQuery) -> list[StoredRecord]:
    """Return the decoded records of a listing, after checking that the store encodes them as the domain does."""
    return (await matching(stores, listing))[0]


async def matching(stores: Stores, listing: ListQuery) -> tuple[list[StoredRecord], bool]:
    """Return the same as `listed`, and whether more records match."""
    page = await stores.records.list(listing)
    records = [read_record_json(record) for record in page.records]
    assert page.records == [record_json(record) for record in records]
    return records, page.more
