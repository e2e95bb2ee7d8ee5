"""Numbered records in a SQLite file: put there, and seen there."""

from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_adapters.records.sqlite import SqliteRecordStore
from cdv_core.domain.records import Listing, read_record_json
from conformance.ports.stores import ALICE, a_record, its_event


async def create(database: SqliteDatabase, number: int, size: int = 1) -> None:
    """Write record `number`, with a text of `size` characters."""
    record = a_record(number, value={"text": "x" * size})
    await SqliteRecordStore(database).create(record, its_event(record))


async def stored_numbers(database: SqliteDatabase) -> list[int]:
    newest_first = await SqliteRecordStore(database).list(Listing(ALICE, 1000))
    return [int(read_record_json(it).uri.rkey) for it in reversed(newest_first)]
