"""Records: what is written once, what the writer is told, and what readers get."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from cdv_core.domain.cursors import Cursor, encode_cursor
from cdv_core.domain.identifiers import Did, Nsid, RecordUri
from cdv_core.domain.schemas import SchemaWarning
from cdv_core.domain.times import format_time, parse_time


class NewRecord(msgspec.Struct, frozen=True):
    """A record ready to be stored. `value_json` is its canonical JSON, `cid` the CID of that value.

    `indexed_at` is the vault's clock and decides the order; `created_at` is what the client claims, None if nothing.
    """

    uri: RecordUri
    cid: str
    value_json: bytes
    indexed_at: datetime
    schema_version: str
    created_at: datetime | None = None


class StoredRecord(NewRecord, frozen=True):
    """A record as it was stored."""

    @property
    def value(self) -> dict[str, Any]:
        """Decode the record's value, for those who want more than its bytes."""
        value: dict[str, Any] = msgspec.json.decode(self.value_json)
        return value


class _RecordJson(msgspec.Struct, rename="camel"):
    uri: str
    cid: str
    value: msgspec.Raw
    indexed_at: str
    schema_version: str
    created_at: str | msgspec.UnsetType = msgspec.UNSET


def record_json(record: StoredRecord) -> bytes:
    """Return the record as readers get it: `{"uri", "cid", "value", "indexedAt", "schemaVersion", "createdAt"?}`."""
    return msgspec.json.encode(
        _RecordJson(
            str(record.uri),
            record.cid,
            msgspec.Raw(record.value_json),
            format_time(record.indexed_at),
            record.schema_version,
            msgspec.UNSET if record.created_at is None else format_time(record.created_at),
        )
    )


def read_record_json(encoded: bytes) -> StoredRecord:
    """Return the record that `record_json` wrote."""
    it = msgspec.json.decode(encoded, type=_RecordJson)
    return StoredRecord(
        RecordUri.parse(it.uri),
        it.cid,
        bytes(it.value),
        parse_time(it.indexed_at, "indexedAt"),
        it.schema_version,
        None if isinstance(it.created_at, msgspec.UnsetType) else parse_time(it.created_at, "createdAt"),
    )


class _Place(msgspec.Struct, rename="camel"):
    uri: str
    indexed_at: str


def cursor_after(encoded: bytes) -> str:
    """Return the cursor for what follows this record, which is as `record_json` wrote it."""
    place = msgspec.json.decode(encoded, type=_Place)
    return encode_cursor(place.indexed_at, place.uri.rpartition("/")[2])


class Receipt(msgspec.Struct, frozen=True):
    """What the writer of a record is told, the first time and at every retry.

    `deprecated_at` and `sunset` are those of the schema version, None unless it is deprecated.
    `replayed`: this is the answer to an earlier, equal request; nothing was written now.
    """

    uri: str
    cid: str
    indexed_at: datetime
    schema_version: str
    warnings: tuple[SchemaWarning, ...] = ()
    deprecated_at: datetime | None = None
    sunset: datetime | None = None
    replayed: bool = False


class ListQuery(msgspec.Struct, frozen=True):
    """Which records of a DID: in all collections if `collection` is None, apart from those in `hidden`.

    `since` and `until` bound `indexed_at`, both inclusive; `after` is where the page before ended.
    """

    did: Did
    limit: int
    collection: Nsid | None = None
    hidden: frozenset[Nsid] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    after: Cursor | None = None


class ListResult(msgspec.Struct, frozen=True):
    """The first of the records that match a listing, as `record_json` writes them; `more`: others match after them."""

    records: list[bytes]
    more: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Records, newest first; `next_cursor` is None exactly when no more match."""

    records: tuple[StoredRecord, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class JsonPage:
    """A page whose records are as `record_json` writes them: what was stored as JSON is not decoded on its way out."""

    records: list[bytes]
    next_cursor: str | None
