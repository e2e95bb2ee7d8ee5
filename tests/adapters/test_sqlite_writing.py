"""Writes to a SQLite file: synced, grouped and atomic; and concurrent readers."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdv_adapters.database import sqlite, sqlite_file
from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_adapters.outbox.sqlite import SqliteOutbox
from cdv_core.errors import IdTaken, Unavailable
from tests.adapters.sqlite_records import create, stored_numbers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "vault.sqlite3"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[SqliteDatabase]:
    async with SqliteDatabase(path) as database:
        yield database


@pytest.fixture
def short_busy_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.05)


@contextmanager
def writer_blocked(database: SqliteDatabase) -> Iterator[None]:
    """Block the writer's thread, so that the writes queued meanwhile are committed as one group."""
    release = threading.Event()
    database._writer.submit(release.wait)
    try:
        yield
    finally:
        release.set()


async def execute_as_one_group(database: SqliteDatabase, *writes: Coroutine[Any, Any, Any]) -> list[Any]:
    """Execute the writes as one group; return the result or error of each."""
    with writer_blocked(database):
        tasks = [asyncio.create_task(write) for write in writes]
        await asyncio.sleep(0)
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_every_commit_is_synced_to_the_disk(database: SqliteDatabase):
    def settings(connection: sqlite3.Connection):
        names = ("journal_mode", "synchronous", "fullfsync", "foreign_keys")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert await database.write(settings) == ["wal", 2, 1, 1]


async def test_writes_that_arrive_together_share_one_commit(database: SqliteDatabase):
    statements: list[str] = []
    await database.write(lambda connection: connection.set_trace_callback(statements.append))

    await execute_as_one_group(database, *(create(database, number) for number in range(20)))

    assert await stored_numbers(database) == list(range(20))
    # The first is that of the write that set the trace.
    assert statements.count("COMMIT") == 2


async def test_a_failed_write_does_not_affect_the_others_of_its_group(database: SqliteDatabase):
    await create(database, 1)

    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM records")
        raise ZeroDivisionError

    results = await execute_as_one_group(
        database,
        create(database, 2),
        create(database, 1),
        create(database, 3),
        database.write(broken),
        create(database, 4),
    )

    assert [type(result) for result in results] == [type(None), IdTaken, type(None), ZeroDivisionError, type(None)]
    assert await stored_numbers(database) == [1, 2, 3, 4]


async def test_no_write_of_a_group_is_acknowledged_when_its_commit_fails(database: SqliteDatabase):
    def fail_at_commit(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA defer_foreign_keys = ON")
        connection.execute("INSERT INTO replies VALUES ('did:plc:nobody', 'key', x'', x'', 0)")

    results = await execute_as_one_group(
        database, create(database, 1), database.write(fail_at_commit), create(database, 2)
    )

    assert [type(result) for result in results] == [Unavailable] * 3
    assert await stored_numbers(database) == []
    await create(database, 1)
    assert await stored_numbers(database) == [1]


async def test_a_write_cancelled_while_queued_is_not_executed(database: SqliteDatabase):
    with writer_blocked(database):
        task = asyncio.create_task(create(database, 1))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
    await create(database, 2)

    assert task.cancelled()
    assert await stored_numbers(database) == [2]


async def test_closing_completes_accepted_writes(path: Path):
    database = SqliteDatabase(path)
    await database.open()
    with writer_blocked(database):
        tasks = [asyncio.create_task(create(database, number)) for number in range(20)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(database.close())
        await asyncio.sleep(0)
    await asyncio.gather(closing, *tasks)

    async with SqliteDatabase(path) as database:
        assert await stored_numbers(database) == list(range(20))


async def test_a_database_that_is_not_open_is_unavailable(path: Path):
    database = SqliteDatabase(path)
    with pytest.raises(Unavailable):
        await database.ping()
    await database.open()
    await database.close()
    await database.close()
    with pytest.raises(Unavailable):
        await create(database, 1)


async def test_a_full_disk_is_unavailable_and_corrupts_nothing(database: SqliteDatabase, path: Path):
    async def allow_pages(more: int) -> None:
        def work(connection: sqlite3.Connection) -> None:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages + more}").fetchone()

        await database.write(work)

    await create(database, 0)
    await allow_pages(20)

    results = await execute_as_one_group(database, *(create(database, number, size=30_000) for number in range(1, 10)))

    assert {type(result) for result in results} - {type(None)} == {Unavailable}
    kept = [0, *(number for number, result in enumerate(results, 1) if result is None)]
    assert await stored_numbers(database) == kept
    await allow_pages(10_000)
    await create(database, 20, size=30_000)
    assert await stored_numbers(database) == [*kept, 20]
    assert len(await SqliteOutbox(database).read(0, 100)) == len(kept) + 1


async def test_a_file_locked_by_another_connection_is_unavailable_until_released(path: Path, short_busy_timeout: None):
    async with SqliteDatabase(path) as database:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await create(database, 1)
        assert await stored_numbers(database) == []
        other.execute("ROLLBACK")
        other.close()

        await create(database, 1)

        assert await stored_numbers(database) == [1]


async def test_the_wal_is_checkpointed_when_it_exceeds_its_limit(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sqlite, "_CHECKPOINT_BYTES", 200_000)
    log = Path(f"{path}-wal")

    async with SqliteDatabase(path) as database:
        sizes = []
        for number in range(30):
            await create(database, number, size=20_000)
            sizes.append(log.stat().st_size)

        assert max(sizes) < 300_000
        assert path.stat().st_size > 300_000
        assert await stored_numbers(database) == list(range(30))


async def test_a_reader_of_an_old_snapshot_only_delays_the_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sqlite, "_CHECKPOINT_BYTES", 100_000)
    monkeypatch.setattr(sqlite, "_CHECKPOINT_BUSY_MILLIS", 1)
    log = Path(f"{path}-wal")

    async with SqliteDatabase(path) as database:
        await create(database, 0)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM records").fetchone() == (1,)
        for number in range(1, 20):
            await create(database, number, size=20_000)
        assert log.stat().st_size > 300_000
        assert other.execute("SELECT count(*) FROM records").fetchone() == (1,)
        other.close()
        for number in range(20, 30):
            await create(database, number, size=20_000)
        await database.write(lambda connection: None)

        assert log.stat().st_size < 200_000
        assert await stored_numbers(database) == list(range(30))


async def test_readers_cannot_write(database: SqliteDatabase):
    with pytest.raises(Unavailable) as raised:
        await database.read(lambda connection: connection.execute("DELETE FROM records"))

    assert isinstance(raised.value.__cause__, sqlite3.Error)


async def test_reads_are_not_blocked_by_a_slow_write(database: SqliteDatabase):
    await create(database, 1)
    begun, finish = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM records")
        begun.set()
        finish.wait()
        raise ZeroDivisionError

    writing = asyncio.create_task(database.write(slow))
    await asyncio.to_thread(begun.wait)
    try:
        assert await stored_numbers(database) == [1]
    finally:
        finish.set()
    with pytest.raises(ZeroDivisionError):
        await writing
