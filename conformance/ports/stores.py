"""A database put to the test: its stores; what is written to it; and a machine that drives several.

Whoever writes an adapter gives an `OpenStores` as the fixture `open_stores` and inherits RecordStoreContract,
MediaStoreContract, OutboxContract and OwnerOnlyContract; test_records.py beside this file shows how.
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
_PATIENCE_SECONDS = 20  # more than any store should wait, and less than anybody would
# What one run of a state machine may cost.
BOUNDED = settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Of several stores at once. Few: each behaves like the model by itself already, in its contract's own test.
TOGETHER = settings(BOUNDED, max_examples=5)


@dataclass(frozen=True, slots=True)
class Stores:
    """One database. What `records` and `media` commit is what `outbox` hands out.

    `again`: opens another instance on the same database, as another node would; None where there can be no other.
    `away(True)` takes the server away and `away(False)` brings it back; None where there is nothing to take.
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
    """What the contracts of the stores stand on."""

    @pytest.fixture
    async def stores(self, open_stores: OpenStores):
        async with open_stores() as stores:
            yield stores

    @pytest.fixture
    async def nodes(self, stores: Stores):
        """Two instances on one database, so that nothing may rest on what one of them knows."""
        if stores.again is None:
            yield stores, stores
            return
        async with stores.again() as other:
            yield stores, other

    @pytest.fixture
    def again(self, stores: Stores) -> OpenStores:
        if stores.again is None:
            pytest.skip("this database has no second instance")
        return stores.again

    @pytest.fixture
    def away(self, stores: Stores):
        """The switch. Asked for by the tests that use it and by no other."""
        if stores.away is None:
            pytest.skip("this database has no server that could be away")
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
    """Return record `number`: two of one number, DID and collection have the same URI. By default one each second."""
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
    """Return the event of a record's creation or an asset's finalisation; its id is the thing's own, or `number`'s.

    Every other one was written within a trace.
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
    """See that each call works, raises Unavailable and nothing else while the server is away, and works again then."""
    for call in calls:
        await _once_available(call)  # it may still be connecting
    away(True)
    async with asyncio.timeout(_PATIENCE_SECONDS):
        refusals = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
    assert [type(it) for it in refusals] == [Unavailable] * len(calls)
    away(False)
    async with asyncio.timeout(_PATIENCE_SECONDS):
        await asyncio.gather(*map(_once_available, calls))


async def _once_available(call: Callable[[], Awaitable[Any]]) -> None:
    while True:
        try:
            await call()
        except Unavailable:
            await asyncio.sleep(0.01)  # to be asked again and again costs a store that refuses at once all its time
        else:
            return


class StoresMachine(RuleBasedStateMachine):
    """Takes one or more databases through the same steps. All must do what the model does, and so agree as well."""

    opened_by: ClassVar[tuple[OpenStores, ...]]

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._exits = AsyncExitStack()
        self.databases = [self.run(self._exits.enter_async_context(open_stores())) for open_stores in self.opened_by]

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(coroutine)

    def check(self, call: Callable[[Stores], Coroutine[Any, Any, Any]], model: Callable[[], Any]) -> Any:
        """Make the call on every database and hold it to the model's result or refusal, which is returned."""
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
    """Return the listing, decoded, once it was seen to be encoded as the domain does."""
    return (await matching(stores, listing))[0]


async def matching(stores: Stores, listing: ListQuery) -> tuple[list[StoredRecord], bool]:
    """Return the same, and whether more match."""
    told = await stores.records.list(listing)
    records = [read_record_json(it) for it in told.records]
    assert told.records == [record_json(it) for it in records]
    return records, told.more
