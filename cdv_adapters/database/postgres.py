"""Postgres: a connection pool with timeouts, and the SQL that every write starts with.

If the server is down, overloaded or does not respond, calls raise Unavailable within `acquire_seconds` +
`statement_seconds` + 1 s. Nothing is retried here: a failed write may or may not have been committed. Every statement
of a store is a transaction of its own: no connection is ever idle in a transaction, and the service works behind a
connection pooler in transaction mode.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Self, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.types.string import ByteaBinaryLoader
from psycopg_pool import AsyncConnectionPool

from cdv_core.domain.events import Event
from cdv_core.errors import IdTaken, Unavailable

RV = TypeVar("RV")
Password = Callable[[], Awaitable[str]]
Parameters = Sequence[Any] | Mapping[str, Any]

RETRY_AFTER_SECONDS: Final = 2  # ours: by then an exhausted pool has free connections, a restarted server is nearly up
_HANG_SECONDS: Final = 1.0  # ours: on top of the statement timeout, which a working server enforces itself
_PING_SECONDS: Final = 1.0  # ours: twice this is less than the timeout of any readiness probe
_DRAIN_INTERVAL_SECONDS: Final = 5.0  # ours: between two replacements of all connections to a read-only server
_RECONNECT_SECONDS: Final = 2.0  # ours: after this time the pool restarts its backoff, so no pause is longer
_PREPARE_AFTER: Final = 5  # psycopg's default: executions after which a statement is prepared

# The DSN overrides these. The kernel detects a dead network, `Connection` a server that does not respond.
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


class Connection(AsyncConnection[tuple[Any, ...]]):
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
            return {**connection_arguments, **await password_argument(password)}

        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo(dsn, "" if options.transaction_pooler else options.startup),
            connection_class=Connection,
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
            raise Unavailable("database", RETRY_AFTER_SECONDS) from error

    async def _checkout(self, within_seconds: float) -> Connection:
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


def conninfo(dsn: str, startup: str = "") -> str:
    """Return `dsn` with defaults for what it leaves out. Its own start-up options come last and so take precedence."""
    parameters = {**_CONNECTION_DEFAULTS, **conninfo_to_dict(dsn)}
    parameters["options"] = f"{startup} {parameters.get('options') or ''}".strip() or None
    return make_conninfo("", **parameters)


async def password_argument(password: Password | None) -> dict[str, Any]:
    """Return the connection's argument `password`, read now; none if it is part of the DSN."""
    return {} if password is None else {"password": await password()}


async def _use_utc(connection: AsyncConnection[Any]) -> None:
    # Not a start-up option: poolers track this setting per client, but reject start-up options.
    await connection.execute("SET TIME ZONE 'UTC'")
