"""Concurrent and killed writer processes: acknowledged writes are stored completely."""

import random
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_adapters.outbox.sqlite import SqliteOutbox
from cdv_adapters.records.sqlite import SqliteRecordStore
from conformance.ports.stores import as_stored
from tests.adapters.sqlite_writer import start_writer, write_number


async def check(path: Path, acknowledged: set[int]) -> None:
    """Assert that every acknowledged write is stored unchanged, and no write partially."""
    async with SqliteDatabase(path) as database:
        records = SqliteRecordStore(database)
        stored = {int(record.uri.rkey): record async for record in records.scan()}
        events = [entry.event for entry in await SqliteOutbox(database).read(0, 1_000_000)]
        replies = await database.read(lambda it: it.execute("SELECT key, fingerprint, reply FROM replies").fetchall())

    assert acknowledged <= set(stored)
    written = {number: write_number(number) for number in stored}
    assert stored == {number: as_stored(record) for number, (record, _, _) in written.items()}
    assert {int(event.event_id): event for event in events} == {
        number: event for number, (_, event, _) in written.items()
    }
    assert len(events) == len(stored)
    assert sorted(replies) == sorted((reply.key, reply.fingerprint, reply.reply) for _, _, reply in written.values())


def unread_messages(connection: Connection) -> Iterator[Any]:
    """Yield the messages that were sent and not yet read, except an incomplete last one."""
    with connection:
        while True:
            try:
                yield connection.recv()
            except (EOFError, OSError):
                return


async def test_concurrent_writer_processes_lose_no_write(tmp_path: Path):
    path = tmp_path / "vault.sqlite3"
    writers = [start_writer(path, 1000 * number, 150) for number in range(3)]

    acknowledged = {number for _, connection in writers for number in unread_messages(connection)} - {None}
    for process, _ in writers:
        process.join()

    assert [process.exitcode for process, _ in writers] == [0, 0, 0]
    assert len(acknowledged) == 450
    await check(path, acknowledged)


async def test_acknowledged_writes_survive_kill_9(tmp_path: Path):
    path = tmp_path / "vault.sqlite3"
    acknowledged: set[int] = set()

    for killed in range(10):
        process, connection = start_writer(path, 100_000 * killed, 100_000)
        # The first is killed while it creates the file, the others after some acknowledgements.
        received = [connection.recv() for _ in range(1 + killed * random.randint(1, 20))]
        process.kill()
        process.join()
        received += unread_messages(connection)
        acknowledged |= set(received) - {None}

    assert acknowledged
    await check(path, acknowledged)
