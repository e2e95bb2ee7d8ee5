"""Records: as written, as stored, as listed, and the receipt of a write."""

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
    """A record to be stored. `value_json` is its canonical JSON, `cid` the CID of that value.

    `indexed_at`: from the vault's clock; defines the order. `created_at`: as the client states it, None if absent.
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
        """The decoded value."""
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
    """Return the record as sent to clients: `{"uri", "cid", "value", "indexedAt", "schemaVersion", "createdAt"?}`."""
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
    """Return the record that `record_json` encoded."""
    record = msgspec.json.decode(encoded, type=_RecordJson)
    return StoredRecord(
        RecordUri.parse(record.uri),
        record.cid,
        bytes(record.value),
        parse_time(record.indexed_at, "indexedAt"),
        record.schema_version,
        None if isinstance(record.created_at, msgspec.UnsetType) else parse_time(record.created_at, "createdAt"),
    )


class _ListPosition(msgspec.Struct, rename="camel"):
    uri: str
    indexed_at: str


def cursor_after(encoded: bytes) -> str:
    """Return the cursor after this record, which is encoded by `record_json`."""
    position = msgspec.json.decode(encoded, type=_ListPosition)
    return encode_cursor(position.indexed_at, position.uri.rpartition("/")[2])


class Receipt(msgspec.Struct, frozen=True):
    """The response to a create, for the first request and every retry.

    `deprecated_at` and `sunset` are those of the schema version, None unless it is deprecated.
    `replayed`: this is the stored receipt of an earlier, equal request; nothing was written now.
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
    """Selects records of a DID: in `collection`, or if None in all collections except `hidden`.

    `since` and `until` bound `indexed_at`, both inclusive; `after` is where the previous page ended.
    """

    did: Did
    limit: int
    collection: Nsid | None = None
    hidden: frozenset[Nsid] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    after: Cursor | None = None


class ListResult(msgspec.Struct, frozen=True):
    """The first records that match a query, as `record_json` encodes them. `more`: whether others match after them."""

    records: list[bytes]
    more: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Records, newest first; `next_cursor` is None if and only if no more match."""

    records: tuple[StoredRecord, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class JsonPage:
    """A page of records as `record_json` encodes them, which saves decoding the stored JSON."""

    records: list[bytes]
    next_cursor: str | None
