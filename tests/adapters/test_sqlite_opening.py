"""A SQLite file is opened, or refused with a message of one line and left unchanged."""

import asyncio
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdv_adapters.database import sqlite, sqlite_file
from cdv_adapters.database.migrations import read_migrations
from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_adapters.outbox.sqlite import SqliteOutbox
from cdv_core.errors import CannotStart
from tests.adapters.sqlite_records import create, stored_numbers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "vault.sqlite3"


@pytest.fixture
def short_busy_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.05)


async def test_the_directory_and_the_file_are_created_and_reused(path: Path):
    async with SqliteDatabase(path) as database:
        await create(database, 1)
    async with SqliteDatabase(path) as database:
        await database.ping()
        assert await stored_numbers(database) == [1]


async def test_created_files_have_owner_only_permissions_in_a_shared_directory(path: Path):
    path.parent.mkdir(mode=0o755)
    async with SqliteDatabase(path) as database:
        await create(database, 1)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"vault.sqlite3": 0o600, "vault.sqlite3-wal": 0o600, "vault.sqlite3-shm": 0o600}


async def test_the_mode_of_an_existing_file_is_left_unchanged(path: Path):
    async with SqliteDatabase(path):
        pass
    path.chmod(0o640)
    async with SqliteDatabase(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_a_new_file_can_be_opened_concurrently(path: Path):
    databases = [SqliteDatabase(path) for _ in range(8)]
    try:
        await asyncio.gather(*(database.open() for database in databases))
        await asyncio.gather(*(create(database, number) for number, database in enumerate(databases)))
        assert await stored_numbers(databases[0]) == list(range(8))
    finally:
        await asyncio.gather(*(database.close() for database in databases))


async def test_opening_waits_for_another_connection_that_is_creating_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    path.parent.mkdir()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE made (of TEXT)")
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(time, "sleep", lambda _: other.execute("COMMIT"))

    async with SqliteDatabase(path) as database:
        await create(database, 1)
        assert await stored_numbers(database) == [1]
    other.close()


async def refusal(path: Path) -> CannotStart:
    with pytest.raises(CannotStart) as refused:
        await SqliteDatabase(path).open()
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.mark.parametrize(
    "content", [b"not a database at all, but text\n" * 100, b"\x00" * 5000, b"text"], ids=["text", "zeros", "short"]
)
async def test_a_file_that_is_not_a_database_is_refused_and_left_unchanged(path: Path, content: bytes):
    path.parent.mkdir()
    path.write_bytes(content)

    assert "not a database" in (await refusal(path)).reason

    assert path.read_bytes() == content


async def test_a_corrupt_file_is_refused_and_left_unchanged(path: Path):
    async with SqliteDatabase(path) as database:
        for number in range(200):
            await create(database, number, size=500)
    content = bytearray(path.read_bytes())
    content[20_000:60_000] = os.urandom(40_000)
    path.write_bytes(content)

    assert "damaged" in (await refusal(path)).reason

    assert path.read_bytes() == content


async def test_a_file_of_newer_code_is_refused_and_left_unchanged(path: Path):
    async with SqliteDatabase(path) as database:
        await database.write(lambda connection: connection.execute("PRAGMA user_version = 999").fetchall())
    content = path.read_bytes()

    assert "newer code" in (await refusal(path)).reason

    assert path.read_bytes() == content


async def test_a_file_in_place_of_the_directory_is_refused(path: Path):
    path.parent.write_text("in the way")

    assert str(path.parent) in (await refusal(path)).what


async def test_a_directory_in_place_of_the_file_is_refused(path: Path):
    path.mkdir(parents=True)

    assert "cannot be opened" in (await refusal(path)).reason


async def test_a_locked_file_is_refused(path: Path, short_busy_timeout: None):
    async with SqliteDatabase(path):
        pass
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert "locked" in (await refusal(path)).reason
    finally:
        other.close()


@pytest.fixture
def read_only_vault() -> Iterator[Path]:
    """A vault in a directory that this process may read but not write."""
    if not hasattr(os, "geteuid"):
        pytest.skip("file modes mean nothing here")
    directory = Path(tempfile.mkdtemp())
    path = directory / "vault.sqlite3"
    asyncio.run(open_and_close(path))
    path.chmod(0o444)
    directory.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)  # root may write everywhere
    yield path
    if is_root:
        os.seteuid(0)
    directory.chmod(0o755)
    shutil.rmtree(directory)


async def open_and_close(path: Path) -> None:
    async with SqliteDatabase(path):
        pass


async def test_a_read_only_vault_is_refused(read_only_vault: Path):
    assert "let this user" in (await refusal(read_only_vault)).remedy
    assert "let this user" in (await refusal(read_only_vault.parent / "new" / "vault.sqlite3")).remedy
    assert "let this user" in (await refusal(read_only_vault.parent / "new.sqlite3")).remedy


async def test_a_failed_migration_leaves_the_file_at_the_previous_version(path: Path, monkeypatch):
    scripts = read_migrations("sqlite")
    broken = "CREATE TABLE half (done TEXT);\nCREATE TABLE accounts (did TEXT);\n"
    monkeypatch.setattr(sqlite_file, "read_migrations", lambda _: [*scripts, ("broken", broken)])
    await refusal(path)
    whole = "-- a comment; with a semicolon\nCREATE TABLE half (done TEXT);\nALTER TABLE half ADD COLUMN too TEXT;\n"
    monkeypatch.setattr(sqlite_file, "read_migrations", lambda _: [*scripts, ("whole", whole)])

    async with SqliteDatabase(path) as database:
        rows = await database.read(lambda connection: connection.execute("SELECT done, too FROM half").fetchall())
        versions = await database.read(lambda connection: connection.execute("PRAGMA user_version").fetchone())

    assert (rows, versions) == ([], (len(scripts) + 1,))


async def test_a_file_of_earlier_code_is_migrated_and_keeps_its_data(path: Path, monkeypatch):
    scripts = read_migrations("sqlite")
    monkeypatch.setattr(sqlite_file, "read_migrations", lambda _: scripts[:1])
    async with SqliteDatabase(path) as database:

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO accounts VALUES ('did:example:ada', 0)")
            connection.execute(
                "INSERT INTO op_log (event_id, did, subject, envelope, occurred_at)"
                " VALUES ('E', 'did:example:ada', 's', x'7b7d', 1)"
            )

        await database.write(write)
    monkeypatch.undo()

    async with SqliteDatabase(path) as database:
        (entry,) = await SqliteOutbox(database).read(0, 10)
        await create(database, 1)
        (version,) = await database.read(lambda connection: connection.execute("PRAGMA user_version").fetchone())

    assert (entry.event.event_id, entry.event.envelope) == ("E", b"{}")
    assert (entry.event.traceparent, entry.published_at) == (None, None)
    assert version == len(scripts)
