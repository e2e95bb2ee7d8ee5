"""One SQLite file: a writer thread with group commit, and a pool of reader threads.

sqlite3 blocks, so it never runs on the event loop: one thread owns the only writing connection, a small pool of threads
reads. With write-ahead logging, readers and other processes on the same file continue during a write.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Self, TypeVar

from cdv_adapters.database.sqlite_file import BUSY_SECONDS, as_cannot_start, prepare_file, schema_version, transaction
from cdv_core.domain.events import Event
from cdv_core.domain.identifiers import Did
from cdv_core.errors import IdTaken, Unavailable

T = TypeVar("T")

_READERS: Final = 4  # ours: reads are short, and Python runs one at a time between two calls of SQLite
_GROUP_MAX: Final = 256  # ours: writes per commit, and so the most that fail together when the disk is full
_CHECKPOINT_BYTES: Final = 4 * 1024 * 1024  # SQLite's default, 1000 pages: size of the log at which to checkpoint
_CHECKPOINT_BUSY_MILLIS: Final = 100  # ours: how long a checkpoint may block writes while it waits for a reader
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_NOT_UNIQUE: Final = {sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE}


def to_micros(moment: datetime) -> int:
    """Return an aware datetime as whole microseconds since 1970, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the moment in UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def ensure_account(connection: sqlite3.Connection, did: Did, now: datetime) -> None:
    """Create the DID's account if this is its first write."""
    connection.execute("INSERT INTO accounts VALUES (?, ?) ON CONFLICT (did) DO NOTHING", (did, to_micros(now)))


def append_op_log(connection: sqlite3.Connection, event: Event) -> None:
    """Append an event to the op log. There is only one writer at a time, so sequence numbers follow commit order."""
    connection.execute(
        "INSERT INTO op_log (event_id, did, subject, envelope, occurred_at, traceparent) VALUES (?, ?, ?, ?, ?, ?)",
        (event.event_id, event.did, event.subject, event.envelope, to_micros(event.occurred_at), event.traceparent),
    )


@dataclass(slots=True)
class _Write:
    """A write that waits for its commit. `result`, `error`: set by running `work`. `future`: set after the commit."""

    work: Callable[[sqlite3.Connection], Any]
    future: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: Exception | None = None


class SqliteDatabase:
    """A vault's SQLite file. Opened explicitly, once; safe to share between the tasks of one event loop.

    Any number of processes on one machine may open the same file. It must not be on a network disk: WAL needs shared
    memory.

    `applied`: the names of the migrations that `open` has applied, oldest first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.applied: list[str] = []
        self._log = Path(f"{path}-wal")
        self._checkpoint_bytes = _CHECKPOINT_BYTES
        self._is_open = False
        self._connections: list[sqlite3.Connection] = []
        self._writer = ThreadPoolExecutor(1, "cdv-sqlite-writer")
        self._waiting: deque[_Write] = deque()
        self._readers = ThreadPoolExecutor(_READERS, "cdv-sqlite-reader")
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()

    async def open(self) -> None:
        """Open the file and migrate its schema. Creates the file and its directory if they do not exist.

        Raises: CannotStart: the file is not writable, damaged, locked, or written by newer code; it is left unchanged.
        """
        try:
            await asyncio.wrap_future(self._writer.submit(self._connect_all))
        except BaseException:
            await self.close()
            raise
        self._is_open = True

    async def close(self) -> None:
        """Finish the accepted writes and close the file. Closing twice is allowed."""
        self._is_open = False
        await asyncio.to_thread(self._disconnect_all)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ping(self) -> None:
        """Return when the file can be read. Raises: Unavailable."""
        await self.read(schema_version)

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of `query`. It runs on a reader thread, outside any transaction.

        Raises: Unavailable.
        """
        self._require_open()
        return await asyncio.wrap_future(self._readers.submit(self._query, query))

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of `work` once its changes are on disk. If it raises, its changes are rolled back.

        `work` runs on the writer thread, in a transaction that it may share with other writes and must not end. If the
        call is cancelled, the write is committed as a whole or not at all.

        Raises: what `work` raises. IdTaken: a unique constraint is violated. Unavailable.
        """
        self._require_open()
        write = _Write(work)
        self._waiting.append(write)
        self._writer.submit(self._commit_waiting)
        result: T = await asyncio.wrap_future(write.future)
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
        """Commit all writes that arrived during the last commit, then set their results."""
        group: list[_Write] = []
        while self._waiting and len(group) < _GROUP_MAX:
            write = self._waiting.popleft()
            if write.future.set_running_or_notify_cancel():
                group.append(write)
        if not group:
            return
        try:
            self._commit(group)
        except Exception as error:  # noqa: BLE001 - passed on to every caller of the group
            for write in group:
                write.future.set_exception(_translated(error))
            return
        for write in group:
            if write.error is None:
                write.future.set_result(write.result)
            else:
                write.future.set_exception(_translated(write.error))
        self._checkpoint_if_due()

    def _commit(self, group: list[_Write]) -> None:
        connection = self._connections[0]
        with transaction(connection):
            for write in group:
                # One savepoint per write, so that a failed write does not roll back the others.
                connection.execute("SAVEPOINT job")
                try:
                    write.result = write.work(connection)
                except Exception as error:
                    if not connection.in_transaction:
                        raise  # SQLite has rolled back the whole transaction, for example because the disk is full.
                    connection.execute("ROLLBACK TO job")
                    write.error = error
                connection.execute("RELEASE job")

    def _checkpoint_if_due(self) -> None:
        """Checkpoint: copy the write-ahead log into the database file, if the log has grown large enough.

        SQLite's automatic checkpoints run concurrently with commits of other processes. Before version 3.51.3 that
        could, very rarely, corrupt the file (https://sqlite.org/wal.html#walresetbug). A TRUNCATE checkpoint blocks
        those commits.
        """
        size = self._log.stat().st_size
        if size < self._checkpoint_bytes:
            return
        connection = self._connections[0]
        connection.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_BUSY_MILLIS}")
        try:
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.Error:
            busy = True  # For example a full disk. Nothing is lost: the changes stay in the log.
        connection.execute(f"PRAGMA busy_timeout = {round(BUSY_SECONDS * 1000)}")
        # The log cannot be truncated while a reader still uses an old snapshot: try again when it has grown further.
        self._checkpoint_bytes = size + _CHECKPOINT_BYTES if busy else _CHECKPOINT_BYTES

    def _connect_all(self) -> None:
        with as_cannot_start(self._path):
            self.applied = prepare_file(self._path, self._connect)
            for _ in range(_READERS):
                reader = self._connect()
                reader.execute("PRAGMA query_only = ON")
                self._idle.put(reader)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._connections.append(connection)
        # FULL, not NORMAL: in WAL mode only FULL syncs the log at each commit, so that acknowledged writes survive a
        # power failure and not only a crash of the process.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # on macOS, fsync alone leaves data in the drive's cache
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # see _checkpoint_if_due
        return connection

    def _disconnect_all(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        while self._connections:
            self._connections.pop().close()


def _translated(error: Exception) -> Exception:
    if not isinstance(error, sqlite3.Error):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    translated = IdTaken() if code in _NOT_UNIQUE else Unavailable("database")
    translated.__cause__ = error
    return translated
