"""Postgres: a connection pool with timeouts, the SQL that every write starts with, and schema migrations.

If the server is down, overloaded or does not respond, calls raise Unavailable within `acquire_seconds` +
`statement_seconds` + 1 s. Nothing is retried here: a failed write may or may not have been committed. Every statement
of a store is a transaction of its own: no connection is ever idle in a transaction, and the service works behind a
connection pooler in transaction mode.
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

_RETRY_AFTER_SECONDS: Final = 2  # ours: by then an exhausted pool has free connections, a restarted server is nearly up
_HANG_SECONDS: Final = 1.0  # ours: on top of the statement timeout, which a working server enforces itself
_PING_SECONDS: Final = 1.0  # ours: twice this is less than the timeout of any readiness probe
_DRAIN_INTERVAL_SECONDS: Final = 5.0  # ours: between two replacements of all connections to a read-only server
_RECONNECT_SECONDS: Final = 2.0  # ours: after this time the pool restarts its backoff, so no pause is longer
_PREPARE_AFTER: Final = 5  # psycopg's default: executions after which a statement is prepared
_MIGRATION_RESPONSE_SECONDS: Final = 4.0  # ours: for statements that neither migrate nor wait for a migration
_LOCK_MILLISECONDS: Final = 500  # ours: how long a migration may block writes per attempt
_LOCK_PAUSE_SECONDS: Final = 2.0  # ours: between two attempts
_MIGRATION_LOCK: Final = 0x0CD7_4111  # ours: any number, as long as all replicas use the same

# The DSN overrides these. The kernel detects a dead network, `_Connection` a server that does not respond.
_CONNECTION_DEFAULTS: Final[dict[str, str | int]] = {
    "application_name": "cdv",
    "client_encoding": "utf8",
    "connect_timeout": 2,  # seconds, the least that libpq takes
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 3,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,  # milliseconds
}

# Every write starts with this: create the account or, if it exists, lock its row until the commit. `WHERE false` locks
# the row without writing a new version of it. `turn` is one row that exists only once the lock is held, because an
# aggregate reads its input to the end. Every step that selects from `turn`, directly or through other steps, therefore
# runs after all earlier writes of this DID were committed. Op-log sequence numbers must be drawn in such a step.
LOCK_ACCOUNT: Final = """
account AS (
    INSERT INTO accounts (did, created_at) VALUES (%(did)s, %(occurred_at)s)
    ON CONFLICT (did) DO UPDATE SET created_at = excluded.created_at WHERE false
    RETURNING did
),
turn AS (SELECT count(*) FROM account)"""

# The caller appends the name of the step that must run first.
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
    """Pool size and timeouts.

    `acquire_seconds`: timeout for a free connection. `statement_seconds`: timeout for one statement. `lock_seconds`:
    timeout for earlier writes of the same DID. `transaction_pooler`: the server is behind a pooler in transaction mode,
    such as PgBouncer, that neither tracks prepared statements nor passes on start-up options. Then neither is used, and
    the timeouts must be set on the database role (docs/adr/003-postgres-one-statement.md).
    """

    min_size: int = 2
    max_size: int = 10
    acquire_seconds: float = 2.0
    statement_seconds: float = 3.0
    lock_seconds: float = 2.0
    transaction_pooler: bool = False

    @property
    def startup(self) -> str:
        """The start-up options that set the server's own timeouts, in milliseconds."""
        return (
            f"-c statement_timeout={self.statement_seconds * 1000:.0f} -c lock_timeout={self.lock_seconds * 1000:.0f}"
            f" -c idle_in_transaction_session_timeout={self.statement_seconds * 1000:.0f}"
        )


class _Connection(AsyncConnection[tuple[Any, ...]]):
    """A connection with a response timeout: the kernel of a stopped server process would keep it alive for ever."""

    response_seconds: float | None = _PING_SECONDS

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:  # noqa: ASYNC109
        return await super().wait(gen, interval, self.response_seconds if timeout is None else timeout)


class PostgresDatabase:
    """A pool of connections to one database. Opened explicitly; shared between the tasks of one event loop.

    `password` is called for every new connection, so that a rotated password takes effect; None: use the DSN's.
    """

    def __init__(
        self, dsn: str, *, password: Password | None = None, options: PostgresOptions = PostgresOptions()
    ) -> None:
        self._options = options
        self._response_seconds = options.statement_seconds + _HANG_SECONDS
        self._next_drain_at = 0.0
        adapters = AdaptersMap(psycopg.adapters)
        adapters.register_loader("json", ByteaBinaryLoader)  # return stored JSON as bytes, undecoded
        connection_arguments = {
            "context": adapters,
            "autocommit": True,
            "prepare_threshold": None if options.transaction_pooler else _PREPARE_AFTER,
        }

        async def kwargs() -> dict[str, Any]:
            return {**connection_arguments, **await _secret(password)}

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
        """Start to connect in the background. Returns at once, even if the server is down: the pool keeps trying."""
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
        """Return when the server has responded. Raises: Unavailable: it did not within 2 seconds."""
        async with self.connection(acquire_seconds=_PING_SECONDS, response_seconds=_PING_SECONDS) as connection:
            await connection.execute("SELECT 1")

    def usage(self) -> dict[str, float]:
        """Return the number of connections and of waiting callers, and total counts and seconds of waiting so far."""
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
        """Return the statement's rows; json columns are bytes. Raises: as `connection`."""
        async with self.connection() as connection:
            return await (await connection.execute(query, parameters, binary=True)).fetchall()

    async def run(self, statement: str, parameters: Parameters = ()) -> int:
        """Return the number of rows that the statement affected. Raises: as `connection`."""
        async with self.connection() as connection:
            return (await connection.execute(statement, parameters)).rowcount

    @asynccontextmanager
    async def connection(
        self, *, acquire_seconds: float | None = None, response_seconds: float | None = None
    ) -> AsyncIterator[AsyncConnection[tuple[Any, ...]]]:
        """Check out a connection in autocommit mode.

        Raises: IdTaken: a unique constraint is violated. Unavailable: no connection was free within the timeout, or the
        server failed or did not respond; a statement in flight may or may not have been committed.
        """
        try:
            connection = await self._checkout(acquire_seconds or self._options.acquire_seconds)
            connection.response_seconds = response_seconds or self._response_seconds
            is_demoted = False
            try:
                yield connection
            except psycopg.errors.ReadOnlySqlTransaction:
                is_demoted = True
                raise
            finally:
                timed_out = connection.pgconn.transaction_status == TransactionStatus.ACTIVE
                await self._pool.putconn(connection)
                if timed_out and response_seconds is None:
                    # The pool's other connections lead to the same server: replace them all, so that other callers
                    # do not each wait for a timeout.
                    await self._pool.drain()
                elif is_demoted and monotonic() >= self._next_drain_at:
                    # They also lead to the former primary, now a standby, for as long as the pool keeps them: an hour.
                    # New connections may lead to the new primary. Not at every write, in case the server stays
                    # read-only.
                    self._next_drain_at = monotonic() + _DRAIN_INTERVAL_SECONDS
                    await self._pool.drain()
        except psycopg.errors.UniqueViolation as error:
            raise IdTaken from error
        except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction) as error:
            # Read-only: after a failover, the former primary is a standby.
            raise Unavailable("database", _RETRY_AFTER_SECONDS) from error

    async def _checkout(self, within_seconds: float) -> _Connection:
        """Take a connection from the pool; discard those that the server has closed: after a restart, all of them."""
        deadline = monotonic() + within_seconds
        while True:
            connection = await self._pool.getconn(deadline - monotonic())
            try:
                # No round trip: this reads what has arrived, without waiting. Twice, because a server that closes a
                # connection sends an error message before the end of the stream.
                connection.pgconn.consume_input()
                connection.pgconn.consume_input()
            except psycopg.OperationalError:
                await self._pool.putconn(connection)
            else:
                return connection


async def migrate(dsn: str, *, password: Password | None = None, upgrade: bool = True) -> list[str]:
    """Apply the missing migrations; return their names, oldest first, [] if none was missing.

    Any number of replicas may do this at once; a failed migration is rolled back. `upgrade`: False creates the schema
    in an empty database, but does not change an existing one.

    Raises: CannotStart: the schema is newer than this code; or older, and `upgrade` is False; the role lacks
    privileges; the server's settings would lose text or acknowledged writes. Unavailable: the server cannot be reached
    or does not respond.
    """
    try:
        connection = await _Connection.connect(
            _conninfo(dsn), autocommit=True, prepare_threshold=None, row_factory=scalar_row, **await _secret(password)
        )
        connection.response_seconds = _MIGRATION_RESPONSE_SECONDS
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
        reason = f"its transactions are {isolation} by default, and concurrent writes would fail"
        remedy = "set default_transaction_isolation to 'read committed' for this database and role"
        raise CannotStart("use the database", reason, remedy)


async def _apply_missing(connection: _Connection, *, upgrade: bool) -> list[str]:
    # A transaction-level lock, not a session-level one: it works through a pooler and is released with the transaction.
    # There is no timeout here: a replica waits as long as the migrations of another one take.
    await connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
    with _no_response_timeout(connection):
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
    # The pauses below happen within the transaction, so it needs a longer idle timeout than others.
    await connection.execute(
        f"SET LOCAL lock_timeout = {_LOCK_MILLISECONDS};"
        f" SET LOCAL idle_in_transaction_session_timeout = {_LOCK_PAUSE_SECONDS * 5_000:.0f}".encode()
    )
    missing = list(enumerate(migrations[version:], version + 1))
    while not await _apply(connection, missing):
        logger.warning("a migration waits for other transactions that use its tables, such as a dump")
        await asyncio.sleep(_LOCK_PAUSE_SECONDS)
    return [name for _, (name, _) in missing]


async def _apply(connection: _Connection, missing: Sequence[tuple[int, tuple[str, str]]]) -> bool:
    """Apply all missing migrations and return True, or none and return False if a table they change is locked.

    Locks are released in between: a migration that waits for a table lock blocks all later statements on that table, so
    while a dump runs, every write would wait.
    """
    try:
        async with connection.transaction():
            for number, (name, script) in missing:
                with _no_response_timeout(connection):
                    await connection.execute(script.encode())
                await connection.execute("INSERT INTO schema_migrations VALUES (%s, %s, now())", (number, name))
    except psycopg.errors.LockNotAvailable:
        return False
    return True


@contextmanager
def _no_response_timeout(connection: _Connection) -> Iterator[None]:
    """Wait for responses without a timeout: the kernel still detects that the server's machine is down."""
    timeout, connection.response_seconds = connection.response_seconds, None
    try:
        yield
    finally:
        connection.response_seconds = timeout


async def _scalar(connection: _Connection, query: str) -> Any:  # noqa: ANN401 - of the type that the query returns
    return await (await connection.execute(query)).fetchone()


def _conninfo(dsn: str, startup: str = "") -> str:
    """Return `dsn` with defaults for what it leaves out. Its own start-up options come last and so take precedence."""
    parameters = {**_CONNECTION_DEFAULTS, **conninfo_to_dict(dsn)}
    parameters["options"] = f"{startup} {parameters.get('options') or ''}".strip() or None
    return make_conninfo("", **parameters)


async def _secret(password: Password | None) -> dict[str, Any]:
    return {} if password is None else {"password": await password()}


async def _use_utc(connection: AsyncConnection[Any]) -> None:
    # Not a start-up option: poolers track this setting per client, but reject start-up options.
    await connection.execute("SET TIME ZONE 'UTC'")
