"""Postgres: connections that are bounded in time, what every write begins with, and the schema's migrations.

A server that is gone, full or silent makes Unavailable within `acquire_seconds` + `statement_seconds` + 1 s. Nothing is
tried again here: of a write that failed nobody knows whether it happened. Every statement of a store commits by itself:
no connection is ever idle in a transaction, and a pooler in transaction mode may stand between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Self, TypeVar

import psycopg
from loguru import logger
from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import scalar_row
from psycopg.types.string import ByteaBinaryLoader
from psycopg_pool import AsyncConnectionPool

from cdv_adapters.database.migrations import read_migrations
from cdv_core.domain.events import Event
from cdv_core.errors import CannotStart, IdTaken, Unavailable

RV = TypeVar("RV")
Password = Callable[[], Awaitable[str]]
Parameters = Sequence[Any] | Mapping[str, Any]

_RETRY_AFTER_SECONDS: Final = 2  # ours: a pool that was exhausted has moved on, a restarted server is nearly back
_HANG_SECONDS: Final = 1.0  # ours: beyond the statement timeout, which a server that is alive keeps by itself
_PING_SECONDS: Final = 1.0  # ours: twice this is less than the patience of any readiness probe
_DRAIN_INTERVAL_SECONDS: Final = 5.0  # ours: between two times that all connections are given up for being read-only
_RECONNECT_SECONDS: Final = 2.0  # ours: then the pool begins its backoff anew, so that pauses never exceed it
_PREPARE_AFTER: Final = 5  # psycopg's default: statements that come up again and again are prepared
_MIGRATION_ANSWER_SECONDS: Final = 4.0  # ours: for what is neither a migration nor waits for one
_LOCK_MILLISECONDS: Final = 500  # ours: how long a migration may hold up writes at a time
_LOCK_PAUSE_SECONDS: Final = 2.0  # ours: then it tries again
_MIGRATION_LOCK: Final = 0x0CD7_4111  # ours: any number, as long as every replica takes the same

# Whatever DSN is given may say otherwise. A silent network is noticed by the kernel, a silent server by `_Connection`.
_CONNECTION_DEFAULTS: Final[dict[str, str | int]] = {
    "application_name": "cdv",
    "client_encoding": "utf8",
    "connect_timeout": 2,  # seconds, the least that libpq takes
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 3,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,  # milliseconds
}

# What a write begins with: make the account or, if it is there, lock its row until the commit. `WHERE false` locks
# without writing a new version of the row. `turn` is one row that exists only once the lock is held, because an
# aggregate reads its input to the end: so whatever selects from `turn`, directly or through other steps, happens after
# every earlier write of this DID was committed. Op-log sequences must be drawn there.
LOCK_ACCOUNT: Final = """
account AS (
    INSERT INTO accounts (did, created_at) VALUES (%(did)s, %(occurred_at)s)
    ON CONFLICT (did) DO UPDATE SET created_at = excluded.created_at WHERE false
    RETURNING did
),
turn AS (SELECT count(*) FROM account)"""

# To be completed by the name of the step that it comes after.
LOG_EVENT: Final = """
INSERT INTO op_log (event_id, did, subject, envelope, occurred_at, traceparent)
SELECT %(event_id)s, %(did)s, %(subject)s, %(envelope)s::json, %(occurred_at)s, %(traceparent)s FROM """


def event_parameters(event: Event) -> dict[str, Any]:
    """Return the parameters of LOCK_ACCOUNT and LOG_EVENT."""
    return {
        "event_id": event.event_id,
        "did": event.did,
        "subject": event.subject,
        "envelope": event.envelope.decode(),
        "occurred_at": event.occurred_at,
        "traceparent": event.traceparent,
    }


@dataclass(frozen=True, slots=True)
class PostgresOptions:
    """How many connections to keep and how long to wait.

    `acquire_seconds`: for a free connection. `statement_seconds`: for one statement. `lock_seconds`: for the writes of
    the same DID that came before. `transaction_pooler`: behind one, such as PgBouncer, that neither tracks prepared
    statements nor passes on start-up options: do without both, and have the role carry the timeouts
    (docs/adr/003-postgres-one-statement.md).
    """

    min_size: int = 2
    max_size: int = 10
    acquire_seconds: float = 2.0
    statement_seconds: float = 3.0
    lock_seconds: float = 2.0
    transaction_pooler: bool = False

    @property
    def startup(self) -> str:
        """The server's own timeouts, in milliseconds."""
        return (
            f"-c statement_timeout={self.statement_seconds * 1000:.0f} -c lock_timeout={self.lock_seconds * 1000:.0f}"
            f" -c idle_in_transaction_session_timeout={self.statement_seconds * 1000:.0f}"
        )


class _Connection(AsyncConnection[tuple[Any, ...]]):
    """A connection that is given up when no answer comes: a stopped server's kernel would keep it alive for ever."""

    answer_seconds: float | None = _PING_SECONDS

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:  # noqa: ASYNC109
        return await super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)


class PostgresDatabase:
    """A pool of connections to one database, opened explicitly, to be shared between the tasks of one event loop.

    `password` is asked at every new connection, so that a rotated one is taken up; None: the DSN's.
    """

    def __init__(
        self, dsn: str, *, password: Password | None = None, options: PostgresOptions = PostgresOptions()
    ) -> None:
        self._options = options
        self._answer_seconds = options.statement_seconds + _HANG_SECONDS
        self._next_drain_at = 0.0
        adapters = AdaptersMap(psycopg.adapters)
        adapters.register_loader("json", ByteaBinaryLoader)  # stored JSON comes back as the bytes it is
        given = {
            "context": adapters,
            "autocommit": True,
            "prepare_threshold": None if options.transaction_pooler else _PREPARE_AFTER,
        }

        async def kwargs() -> dict[str, Any]:
            return {**given, **await _secret(password)}

        self._pool: AsyncConnectionPool[_Connection] = AsyncConnectionPool(
            _conninfo(dsn, "" if options.transaction_pooler else options.startup),
            connection_class=_Connection,
            kwargs=kwargs,
            configure=_use_utc,
            min_size=options.min_size,
            max_size=options.max_size,
            timeout=options.acquire_seconds,
            reconnect_timeout=_RECONNECT_SECONDS,
            name="cdv",
            open=False,
        )

    async def open(self) -> None:
        """Begin to connect. Returns at once, also when the server is down: the pool keeps trying."""
        await self._pool.open()

    async def close(self) -> None:
        """Close every connection. Closing twice is allowed."""
        await self._pool.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ping(self) -> None:
        """Return when the server answers. Raises: Unavailable: it did not within 2 seconds."""
        async with self.connection(acquire_seconds=_PING_SECONDS, answer_seconds=_PING_SECONDS) as connection:
            await connection.execute("SELECT 1")

    def usage(self) -> dict[str, float]:
        """Return the pool's connections, who waits for one, and how often and how long that was so until now."""
        stats = self._pool.get_stats()
        idle = stats.get("pool_available", 0)
        return {
            "connections_used": stats.get("pool_size", 0) - idle,
            "connections_idle": idle,
            "connections_max": stats.get("pool_max", 0),
            "connections_waited_for": stats.get("requests_waiting", 0),
            "connection_waits": stats.get("requests_queued", 0),
            "connection_wait_seconds": stats.get("requests_wait_ms", 0) / 1000,
            "connection_wait_failures": stats.get("requests_errors", 0),
        }

    async def rows(self, query: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """Return what the statement gives; json columns are bytes. Raises: as `connection`."""
        async with self.connection() as connection:
            return await (await connection.execute(query, parameters, binary=True)).fetchall()

    async def run(self, statement: str, parameters: Parameters = ()) -> int:
        """Return how many rows the statement wrote. Raises: as `connection`."""
        async with self.connection() as connection:
            return (await connection.execute(statement, parameters)).rowcount

    @asynccontextmanager
    async def connection(
        self, *, acquire_seconds: float | None = None, answer_seconds: float | None = None
    ) -> AsyncIterator[AsyncConnection[tuple[Any, ...]]]:
        """Lend a connection in autocommit mode.

        Raises: IdTaken: a uniqueness rule is broken. Unavailable: no connection was free in time, or the server failed
        or fell silent; what was under way then may or may not have happened.
        """
        try:
            connection = await self._checkout(acquire_seconds or self._options.acquire_seconds)
            connection.answer_seconds = answer_seconds or self._answer_seconds
            is_demoted = False
            try:
                yield connection
            except psycopg.errors.ReadOnlySqlTransaction:
                is_demoted = True
                raise
            finally:
                unanswered = connection.pgconn.transaction_status == TransactionStatus.ACTIVE
                await self._pool.putconn(connection)
                if unanswered and answer_seconds is None:
                    # The others lead to the same silent server: let nobody else find that out one by one.
                    await self._pool.drain()
                elif is_demoted and monotonic() >= self._next_drain_at:
                    # As do they to a primary that became a standby, for as long as they are kept: an hour. The address
                    # may lead to the new primary by now. Not at every write, should the server be read-only to stay.
                    self._next_drain_at = monotonic() + _DRAIN_INTERVAL_SECONDS
                    await self._pool.drain()
        except psycopg.errors.UniqueViolation as error:
            raise IdTaken from error
        except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction) as error:
            # Read-only: a primary that a failover has turned into a standby.
            raise Unavailable("database", _RETRY_AFTER_SECONDS) from error

    async def _checkout(self, within_seconds: float) -> _Connection:
        """Take a connection from the pool, dropping those that the server has closed: after a restart, all of them."""
        deadline = monotonic() + within_seconds
        while True:
            connection = await self._pool.getconn(deadline - monotonic())
            try:
                # Costs no round trip: it reads what has come and never waits. Twice, for a farewell precedes the end.
                connection.pgconn.consume_input()
                connection.pgconn.consume_input()
            except psycopg.OperationalError:
                await self._pool.putconn(connection)
            else:
                return connection


async def migrate(dsn: str, *, password: Password | None = None, upgrade: bool = True) -> list[str]:
    """Bring the schema up to date; return the names of the migrations applied, oldest first, [] if none was missing.

    Any number of replicas may do this at once; one that fails leaves nothing behind. `upgrade`: False makes the schema
    where there is none, and leaves one of older code alone.

    Raises: CannotStart: newer code has migrated this database, or older code and `upgrade` is False; the role may not;
    the server is set up so that text or acknowledged writes would be lost. Unavailable: the server cannot be reached,
    or is silent.
    """
    try:
        connection = await _Connection.connect(
            _conninfo(dsn), autocommit=True, prepare_threshold=None, row_factory=scalar_row, **await _secret(password)
        )
        connection.answer_seconds = _MIGRATION_ANSWER_SECONDS
        try:
            await _require_safe_settings(connection)
            async with connection.transaction():
                return await _apply_missing(connection, upgrade=upgrade)
        finally:
            await connection.close()
    except psycopg.OperationalError as error:
        raise Unavailable("database", _RETRY_AFTER_SECONDS) from error
    except psycopg.Error as error:
        remedy = "let this role create tables in its schema, or migrate as one that may"
        raise CannotStart("migrate the database", str(error), remedy) from error


async def _require_safe_settings(connection: _Connection) -> None:
    if (encoding := await _scalar(connection, "SHOW server_encoding")) != "UTF8":
        reason = f"its encoding is {encoding}, which cannot keep every text"
        raise CannotStart("use the database", reason, "create one with ENCODING 'UTF8'")
    if await _scalar(connection, "SHOW synchronous_commit") == "off":
        reason = "synchronous_commit is off, and a crash would lose acknowledged writes"
        raise CannotStart("use the database", reason, "turn it on for this database and role")
    if (isolation := await _scalar(connection, "SHOW default_transaction_isolation")) != "read committed":
        reason = f"its transactions are {isolation} by default, and writes that arrive together would be refused"
        remedy = "let default_transaction_isolation be 'read committed' for this database and role"
        raise CannotStart("use the database", reason, remedy)


async def _apply_missing(connection: _Connection, *, upgrade: bool) -> list[str]:
    # The lock is the transaction's and not the session's: it works through a pooler and ends with its holder. Whoever
    # waits here waits as long as the others take.
    await connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
    with _patience(connection):
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
    if await _scalar(connection, "SELECT to_regclass('schema_migrations')") is None:
        await connection.execute(
            "CREATE TABLE schema_migrations"
            " (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL)"
        )
    version = await _scalar(connection, "SELECT coalesce(max(version), 0) FROM schema_migrations")
    migrations = read_migrations("postgres")
    if version > len(migrations):
        reason = f"newer code has migrated it (schema {version}, known here: {len(migrations)})"
        raise CannotStart("use the database", reason, "run that code, or restore a backup")
    if 0 < version < len(migrations) and not upgrade:
        reason = f"older code has migrated it (schema {version}, known here: {len(migrations)})"
        raise CannotStart("use the database", reason, "run `cdv migrate` when the service is to be upgraded")
    # It pauses within its transaction, longer than any other may.
    await connection.execute(
        f"SET LOCAL lock_timeout = {_LOCK_MILLISECONDS};"
        f" SET LOCAL idle_in_transaction_session_timeout = {_LOCK_PAUSE_SECONDS * 5_000:.0f}".encode()
    )
    missing = list(enumerate(migrations[version:], version + 1))
    while not await _apply(connection, missing):
        logger.warning("a migration waits for others who use its tables, such as a dump")
        await asyncio.sleep(_LOCK_PAUSE_SECONDS)
    return [name for _, (name, _) in missing]


async def _apply(connection: _Connection, missing: Sequence[tuple[int, tuple[str, str]]]) -> bool:
    """Apply all of them, or none because others use their tables: then every lock is let go.

    Whoever waits for a table's lock holds up all who come later: while a dump runs, every write would wait for both.
    """
    try:
        async with connection.transaction():
            for number, (name, script) in missing:
                with _patience(connection):
                    await connection.execute(script.encode())
                await connection.execute("INSERT INTO schema_migrations VALUES (%s, %s, now())", (number, name))
    except psycopg.errors.LockNotAvailable:
        return False
    return True


@contextmanager
def _patience(connection: _Connection) -> Iterator[None]:
    """Wait for an answer as long as it takes: the kernel notices when the server's machine is gone."""
    bound, connection.answer_seconds = connection.answer_seconds, None
    try:
        yield
    finally:
        connection.answer_seconds = bound


async def _scalar(connection: _Connection, query: str) -> Any:  # noqa: ANN401 - whatever the query gives
    return await (await connection.execute(query)).fetchone()


def split_password(dsn: str) -> tuple[str, str | None]:
    """Return the connection string without its password, and the password, None if it has none.

    Raises: CannotStart: it cannot be read.
    """
    try:
        parameters = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # Not from the error: it quotes what it could not read, and that may be the password.
        raise CannotStart("read the connection string", "it is not one", "correct CDV_DB_DSN") from None
    password = parameters.pop("password", None)
    return make_conninfo("", **parameters), None if password is None else str(password)


def _conninfo(dsn: str, startup: str = "") -> str:
    """Return `dsn` with what it leaves unsaid. Its own start-up options come last and win."""
    parameters = {**_CONNECTION_DEFAULTS, **conninfo_to_dict(dsn)}
    parameters["options"] = f"{startup} {parameters.get('options') or ''}".strip() or None
    return make_conninfo("", **parameters)


async def _secret(password: Password | None) -> dict[str, Any]:
    return {} if password is None else {"password": await password()}


async def _use_utc(connection: AsyncConnection[Any]) -> None:
    # Not a start-up option, because poolers keep track of this one setting and refuse others.
    await connection.execute("SET TIME ZONE 'UTC'")
