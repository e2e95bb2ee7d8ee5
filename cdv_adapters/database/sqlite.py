"""One SQLite file: a writer that commits in groups, a few readers beside it, and the schema's migrations.

sqlite3 blocks, so nothing of it runs on the event loop: one thread owns the one writing connection, a small pool of
threads reads. Write-ahead logging lets them, and other processes on the same file, go on while someone writes.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Self, TypeVar

from cdv_adapters.database.migrations import read_migrations
from cdv_core.domain.events import Event
from cdv_core.domain.identifiers import Did
from cdv_core.errors import CannotStart, IdTaken, Unavailable

T = TypeVar("T")

_READERS: Final = 4  # ours: reads are short, and Python runs one at a time between two calls of SQLite
_BUSY_SECONDS: Final = 10.0  # ours: how long to wait for another process's transaction, which is short as well
_GROUP_MAX: Final = 256  # ours: writes that share one commit; bounds what one full disk fails
_LOG_BYTES: Final = 4 * 1024 * 1024  # SQLite's default, 1000 pages: then the log is folded into the file
_FOLD_BUSY_MILLIS: Final = 100  # ours: how long a fold may keep writes waiting for someone who reads an old state
_QUICK_CHECK_MAX_BYTES: Final = 256 * 1024 * 1024  # ours: read in well under a second
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_NOT_UNIQUE: Final = {sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE}

# What to tell the operator, by SQLite's primary result code.
_REFUSALS: Final = {
    sqlite3.SQLITE_NOTADB: ("it is not a database", "restore a backup, or move the file away to start empty"),
    sqlite3.SQLITE_CORRUPT: ("it is damaged", "restore a backup, or move the file away to start empty"),
    sqlite3.SQLITE_READONLY: ("it cannot be written", "let this user write to the file and its directory"),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "let this user read and write the file and its directory"),
    sqlite3.SQLITE_PERM: ("it cannot be opened", "let this user read and write the file and its directory"),
    sqlite3.SQLITE_FULL: ("the disk is full", "free some space"),
    sqlite3.SQLITE_BUSY: ("another process keeps it locked", "stop that process"),
}


def to_micros(moment: datetime) -> int:
    """Return an aware moment as whole microseconds since 1970, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the moment in UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def ensure_account(connection: sqlite3.Connection, did: Did, now: datetime) -> None:
    """Make the DID's account if this is its first write."""
    connection.execute("INSERT INTO accounts VALUES (?, ?) ON CONFLICT (did) DO NOTHING", (did, to_micros(now)))


def append_op_log(connection: sqlite3.Connection, event: Event) -> None:
    """Enter a committed event to be. There is one writer at a time, so sequences ascend with commits."""
    connection.execute(
        "INSERT INTO op_log (event_id, did, subject, envelope, occurred_at, traceparent) VALUES (?, ?, ?, ?, ?, ?)",
        (event.event_id, event.did, event.subject, event.envelope, to_micros(event.occurred_at), event.traceparent),
    )


@dataclass(slots=True)
class _Write:
    """A write that waits for its commit, and what came of it."""

    work: Callable[[sqlite3.Connection], Any]
    answer: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: Exception | None = None


class SqliteDatabase:
    """A vault's SQLite file. Opened explicitly, once; safe to share between the tasks of one event loop.

    Any number of processes may have the same file open, on one machine: WAL needs shared memory, so no network disks.

    `applied`: the names of the migrations that opening it has applied, in order.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.applied: list[str] = []
        self._log = Path(f"{path}-wal")
        self._log_limit = _LOG_BYTES
        self._is_open = False
        self._connections: list[sqlite3.Connection] = []
        self._writer = ThreadPoolExecutor(1, "cdv-sqlite-writer")
        self._waiting: deque[_Write] = deque()
        self._readers = ThreadPoolExecutor(_READERS, "cdv-sqlite-reader")
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()

    async def open(self) -> None:
        """Open the file, having made it and its directory if need be, and bring its schema up to date.

        Raises: CannotStart: not writable, damaged, locked, or written by newer code; the file is as it was.
        """
        try:
            await asyncio.wrap_future(self._writer.submit(self._connect_all))
        except BaseException:
            await self.close()
            raise
        self._is_open = True

    async def close(self) -> None:
        """Finish the writes that were accepted and close the file. Closing twice is allowed."""
        self._is_open = False
        await asyncio.to_thread(self._disconnect_all)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ping(self) -> None:
        """Return when the file can be read. Raises: Unavailable."""
        await self.read(_schema_version)

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `query` returns. It runs on a reader's thread, outside any transaction.

        Raises: Unavailable.
        """
        self._require_open()
        return await asyncio.wrap_future(self._readers.submit(self._query, query))

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `work` returns, once all that it wrote is on disk; if it raises, nothing of it remains.

        `work` runs on the writer's thread, in a transaction that it may share with other writes; it must not end it.
        When cancelled, the write happens whole or not at all.

        Raises: what `work` raises. IdTaken: a uniqueness rule is broken. Unavailable.
        """
        self._require_open()
        write = _Write(work)
        self._waiting.append(write)
        self._writer.submit(self._commit_waiting)
        result: T = await asyncio.wrap_future(write.answer)
        return result

    def _require_open(self) -> None:
        if not self._is_open:
            raise Unavailable("database") from RuntimeError("the vault is not open")

    def _query(self, query: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._idle.get()
        try:
            return query(connection)
        except sqlite3.Error as error:
            raise Unavailable("database") from error
        finally:
            self._idle.put(connection)

    def _commit_waiting(self) -> None:
        """Commit all that has arrived while the last commit was on its way to the disk, and only then answer."""
        group: list[_Write] = []
        while self._waiting and len(group) < _GROUP_MAX:
            write = self._waiting.popleft()
            if write.answer.set_running_or_notify_cancel():
                group.append(write)
        if not group:
            return
        try:
            self._commit(group)
        except Exception as error:  # noqa: BLE001 - whatever it was, those who wait are told
            for write in group:
                write.answer.set_exception(_translated(error))
            return
        for write in group:
            if write.error is None:
                write.answer.set_result(write.result)
            else:
                write.answer.set_exception(_translated(write.error))
        self._fold_log()

    def _commit(self, group: list[_Write]) -> None:
        connection = self._connections[0]
        with _transaction(connection):
            for write in group:
                # A savepoint for each: one that fails takes nothing of the others with it.
                connection.execute("SAVEPOINT job")
                try:
                    write.result = write.work(connection)
                except Exception as error:
                    if not connection.in_transaction:
                        raise  # SQLite itself has undone the whole group, on a full disk for example.
                    connection.execute("ROLLBACK TO job")
                    write.error = error
                connection.execute("RELEASE job")

    def _fold_log(self) -> None:
        """Move the write-ahead log's content into the file, if it has grown enough.

        SQLite would do so by itself, beside other processes' commits. Before its version 3.51.3 that could corrupt the
        file, though very rarely (https://sqlite.org/wal.html#walresetbug). In this mode they wait meanwhile.
        """
        size = self._log.stat().st_size
        if size < self._log_limit:
            return
        connection = self._connections[0]
        connection.execute(f"PRAGMA busy_timeout = {_FOLD_BUSY_MILLIS}")
        try:
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.Error:
            busy = True  # A full disk, say. Nothing is lost: the log keeps what the file lacks.
        connection.execute(f"PRAGMA busy_timeout = {round(_BUSY_SECONDS * 1000)}")
        # While someone goes on reading an old state, the log cannot be emptied: try again when it has grown further.
        self._log_limit = size + _LOG_BYTES if busy else _LOG_BYTES

    def _connect_all(self) -> None:
        with _refusals(self._path):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            migrations = read_migrations("sqlite")
            _make(self._path)
            writer = self._connect()
            if (version := _schema_version(writer)) > len(migrations):
                raise CannotStart(
                    f"open {self._path}",
                    f"newer code wrote it (schema {version}, known here: {len(migrations)})",
                    "run that code, or restore a backup",
                )
            if self._path.stat().st_size <= _QUICK_CHECK_MAX_BYTES:
                found = str(writer.execute("PRAGMA quick_check(1)").fetchone()[0])
                if found != "ok":
                    reason, remedy = _REFUSALS[sqlite3.SQLITE_CORRUPT]
                    raise CannotStart(f"open {self._path}", f"{reason} ({' '.join(found.split())})", remedy)
            _use_write_ahead_log(writer, self._path)
            self.applied = list(_migrate(writer, migrations))
            for _ in range(_READERS):
                reader = self._connect()
                reader.execute("PRAGMA query_only = ON")
                self._idle.put(reader)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._connections.append(connection)
        # FULL, not NORMAL: in WAL mode only FULL syncs the log at each commit, so that what was acknowledged survives
        # the loss of power and not just the death of the process.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # where fsync alone leaves data in the drive's cache: macOS
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # see _fold_log
        return connection

    def _disconnect_all(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        while self._connections:
            self._connections.pop().close()


def _make(path: Path) -> None:
    """Make the file, empty and for its owner alone, unless there is one. SQLite's files beside it get the same mode."""
    if path.exists():
        return
    # Under another name, for closing it would take away the locks that others in this process have on it by then
    # (https://sqlite.org/howtocorrupt.html).
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
    os.close(descriptor)
    try:
        with suppress(OSError):  # somebody was first, or there are no hard links here: then SQLite makes it
            os.link(name, path)
    finally:
        Path(name).unlink()


def _translated(error: Exception) -> Exception:
    if not isinstance(error, sqlite3.Error):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    translated = IdTaken() if code in _NOT_UNIQUE else Unavailable("database")
    translated.__cause__ = error
    return translated


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    # IMMEDIATE: wait for other processes now, while waiting is still possible, and not at the first write.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Say on one line why the file cannot be used."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotStart(
            f"use the data directory {path.parent}", reason, "let this user write there, or set CDV_DATA_DIR to another"
        ) from error
    except sqlite3.Error as error:
        known = _REFUSALS.get(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF)
        reason, remedy = known or ("SQLite refuses", "see the SQLite documentation on this message")
        raise CannotStart(f"open {path}", f"{reason} ({error})", remedy) from error


def _use_write_ahead_log(connection: sqlite3.Connection, path: Path) -> None:
    """Switch the journal, a lasting property of the file. SQLite's own waiting does not cover this statement."""
    deadline = time.monotonic() + _BUSY_SECONDS
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


def _schema_version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _migrate(connection: sqlite3.Connection, migrations: list[tuple[str, str]]) -> Iterator[str]:
    """Apply what is missing, each script in its own transaction, and yield the names of those.

    Another process may be doing the same.
    """
    while True:
        # Entered even if nothing is missing: a file that cannot be written is found out here and not at a request.
        with _transaction(connection):
            version = _schema_version(connection)
            if version >= len(migrations):
                return
            name, script = migrations[version]
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version + 1}")
        yield name


def _statements(script: str) -> Iterator[str]:
    """Split a script, because sqlite3's executescript would commit before it begins."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
