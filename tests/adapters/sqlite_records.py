"""Writes numbered records to a SQLite file, and reads their numbers."""

from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_adapters.records.sqlite import SqliteRecordStore
from conformance.ports.stores import a_record, its_event


async def create(database: SqliteDatabase, number: int, size: int = 1) -> None:
    """Write record `number`, with a text of `size` characters."""
    record = a_record(number, value={"text": "x" * size})
    await SqliteRecordStore(database).create(record, its_event(record))


async def stored_numbers(database: SqliteDatabase) -> list[int]:
    return [int(record.uri.rkey) async for record in SqliteRecordStore(database).scan()]
