"""Migration of a Postgres database to the schema of this code, by any number of replicas at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from loguru import logger
from psycopg.rows import scalar_row

from cdv_adapters.database.migrations import read_migrations
from cdv_adapters.database.postgres import RETRY_AFTER_SECONDS, Connection, Password, conninfo, password_argument
from cdv_core.errors import CannotStart, Unavailable

_RESPONSE_SECONDS: Final = 4.0  # ours: for statements that neither migrate nor wait for a migration
_LOCK_MILLISECONDS: Final = 500  # ours: how long a migration may block writes per attempt
_LOCK_PAUSE_SECONDS: Final = 2.0  # ours: between two attempts
_ADVISORY_LOCK: Final = 0x0CD7_4111  # ours: any number, as long as all replicas use the same


async def migrate(dsn: str, *, password: Password | None = None, upgrade: bool = True) -> list[str]:
    """Apply the missing migrations; return their names, oldest first, [] if none was missing.

    Any number of replicas may do this at once; a failed migration is rolled back. `upgrade`: False creates the schema
    in an empty database, but does not change an existing one.

    Raises: CannotStart: the schema is newer than this code; or older, and `upgrade` is False; the role lacks
    privileges; the server's settings would lose text or acknowledged writes. Unavailable: the server cannot be reached
    or does not respond.
    """
    try:
        connection = await Connection.connect(
            conninfo(dsn),
            autocommit=True,
            prepare_threshold=None,
            row_factory=scalar_row,
            **await password_argument(password),
        )
        connection.response_seconds = _RESPONSE_SECONDS
        try:
            await _require_safe_settings(connection)
            async with connection.transaction():
                return await _apply_missing(connection, upgrade=upgrade)
        finally:
            await connection.close()
    except psycopg.OperationalError as error:
        raise Unavailable("database", RETRY_AFTER_SECONDS) from error
    except psycopg.Error as error:
        remedy = "let this role create tables in its schema, or migrate as one that may"
        raise CannotStart("migrate the database", str(error), remedy) from error


async def _require_safe_settings(connection: Connection) -> None:
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


async def _apply_missing(connection: Connection, *, upgrade: bool) -> list[str]:
    # A transaction-level lock, not a session-level one: it works through a pooler and is released with the transaction.
    # There is no timeout here: a replica waits as long as the migrations of another one take.
    await connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
    with _no_response_timeout(connection):
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))
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


async def _apply(connection: Connection, missing: Sequence[tuple[int, tuple[str, str]]]) -> bool:
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
def _no_response_timeout(connection: Connection) -> Iterator[None]:
    """Wait for responses without a timeout: the kernel still detects that the server's machine is down."""
    timeout, connection.response_seconds = connection.response_seconds, None
    try:
        yield
    finally:
        connection.response_seconds = timeout


async def _scalar(connection: Connection, query: str) -> Any:  # noqa: ANN401 - of the type that the query returns
    return await (await connection.execute(query)).fetchone()
