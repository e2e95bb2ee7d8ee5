"""The SQLite file itself: its creation, the checks before it is used, write-ahead logging and migrations."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cdv_adapters.database.migrations import read_migrations
from cdv_core.errors import CannotStart

BUSY_SECONDS: Final = 10.0  # ours: how long to wait for another process's transaction, which is short as well
_QUICK_CHECK_MAX_BYTES: Final = 256 * 1024 * 1024  # ours: read in well under a second

# What to tell the operator, by SQLite's primary result code.
_OPERATOR_HINTS: Final = {
    sqlite3.SQLITE_NOTADB: ("it is not a database", "restore a backup, or move the file away to start empty"),
    sqlite3.SQLITE_CORRUPT: ("it is damaged", "restore a backup, or move the file away to start empty"),
    sqlite3.SQLITE_READONLY: ("it cannot be written", "let this user write to the file and its directory"),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "let this user read and write the file and its directory"),
    sqlite3.SQLITE_PERM: ("it cannot be opened", "let this user read and write the file and its directory"),
    sqlite3.SQLITE_FULL: ("the disk is full", "free some space"),
    sqlite3.SQLITE_BUSY: ("another process keeps it locked", "stop that process"),
}


def prepare_file(path: Path, connect: Callable[[], sqlite3.Connection]) -> list[str]:
    """Create the file if it does not exist, and migrate it; return the names of the migrations applied, oldest first.

    `connect` returns the connection that writes. Raises: CannotStart: the file is damaged, newer code wrote it, or it
    is on a disk without shared memory; it is left unchanged.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    migrations = read_migrations("sqlite")
    _create(path)
    writer = connect()
    _require_usable(writer, path, len(migrations))
    _use_write_ahead_log(writer, path)
    return list(_migrate(writer, migrations))


def _create(path: Path) -> None:
    """Create the file, empty and with mode 0600, unless it exists. SQLite gives its files beside it the same mode."""
    if path.exists():
        return
    # Created under another name: closing a database file releases all locks that this process has on it
    # (https://sqlite.org/howtocorrupt.html).
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
    os.close(descriptor)
    try:
        with suppress(OSError):  # another process was first, or hard links are not supported: then SQLite creates it
            os.link(name, path)
    finally:
        Path(name).unlink()


def _require_usable(connection: sqlite3.Connection, path: Path, known_version: int) -> None:
    if (version := schema_version(connection)) > known_version:
        raise CannotStart(
            f"open {path}",
            f"newer code wrote it (schema {version}, known here: {known_version})",
            "run that code, or restore a backup",
        )
    if path.stat().st_size <= _QUICK_CHECK_MAX_BYTES:
        found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        if found != "ok":
            reason, remedy = _OPERATOR_HINTS[sqlite3.SQLITE_CORRUPT]
            raise CannotStart(f"open {path}", f"{reason} ({' '.join(found.split())})", remedy)


def _use_write_ahead_log(connection: sqlite3.Connection, path: Path) -> None:
    """Switch the file to WAL mode, which is persistent. SQLite's busy timeout does not apply to this statement."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            break
    if mode != "wal":
        raise CannotStart(f"open {path}", f"no write-ahead log there, only {mode}", "use a local disk")


def _migrate(connection: sqlite3.Connection, migrations: list[tuple[str, str]]) -> Iterator[str]:
    """Apply the missing migrations, each in a transaction of its own, and yield their names.

    Safe while another process does the same.
    """
    while True:
        # A write transaction even if nothing is missing: it fails here, and not at a request, if the file is read-only.
        with transaction(connection):
            version = schema_version(connection)
            if version >= len(migrations):
                return
            name, script = migrations[version]
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version + 1}")
        yield name


def _statements(script: str) -> Iterator[str]:
    """Split a script into statements, because sqlite3's executescript commits the open transaction first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def schema_version(connection: sqlite3.Connection) -> int:
    """Return how many migrations have been applied."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit at the end of the block; roll back if it raises."""
    # IMMEDIATE: wait for other processes' transactions now. SQLite cannot wait later, when a read transaction first
    # writes.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def as_cannot_start(path: Path) -> Iterator[None]:
    """Translate errors of the file system and of SQLite to CannotStart, with what the operator can do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotStart(
            f"use the data directory {path.parent}", reason, "let this user write there, or set CDV_DATA_DIR to another"
        ) from error
    except sqlite3.Error as error:
        known = _OPERATOR_HINTS.get(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF)
        reason, remedy = known or ("SQLite refuses", "see the SQLite documentation on this message")
        raise CannotStart(f"open {path}", f"{reason} ({error})", remedy) from error
