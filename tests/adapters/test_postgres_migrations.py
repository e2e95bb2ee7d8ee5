"""Migrations are applied completely, once, and never to a newer schema."""

import asyncio
import re
from collections.abc import Iterator
from importlib.resources import files
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from cdv_adapters.database import postgres_migration
from cdv_adapters.database.migrations import read_migrations
from cdv_adapters.database.postgres import PostgresDatabase
from cdv_adapters.database.postgres_migration import migrate
from cdv_adapters.visibility.postgres import PostgresOwnerOnlyStore
from cdv_core.domain.identifiers import Nsid
from cdv_core.errors import CannotStart, Unavailable
from tests.servers import PostgresServer
from tests.servers.process import free_port
from tests.servers.proxy import FaultProxy

SCRIPTS = sorted((files("cdv_adapters.database") / "migrations" / "postgres").iterdir(), key=lambda path: path.name)
NAMES = [path.name.removesuffix(".sql") for path in SCRIPTS]


def query(dsn: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def tables(dsn: str) -> list[str]:
    found = query(dsn, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'")
    return sorted(str(name) for (name,) in found)


async def test_migrate_returns_the_applied_migrations_and_then_none(postgres_dsn: str):
    assert await migrate(postgres_dsn) == NAMES
    assert await migrate(postgres_dsn) == []
    assert query(postgres_dsn, "SELECT version, name FROM schema_migrations") == list(enumerate(NAMES, 1))


async def test_ten_concurrent_replicas_apply_each_migration_once(postgres_dsn: str):
    applied = await asyncio.gather(*(migrate(postgres_dsn) for _ in range(10)))
    assert sorted(applied) == [[]] * 9 + [NAMES]


async def test_a_schema_of_newer_code_is_refused_with_a_remedy(postgres_dsn: str):
    await migrate(postgres_dsn)
    query(postgres_dsn, f"INSERT INTO schema_migrations VALUES ({len(NAMES) + 1}, 'from the future', now())")
    with pytest.raises(CannotStart, match="newer code has migrated it") as refused:
        await migrate(postgres_dsn)
    assert refused.value.remedy == "run that code, or restore a backup"
    assert query(postgres_dsn, "SELECT max(version) FROM schema_migrations") == [(len(NAMES) + 1,)]


async def test_a_schema_of_older_code_is_migrated_only_if_upgrade_is_true(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
):
    assert await migrate(postgres_dsn, upgrade=False) == NAMES  # an empty database
    newer = [*read_migrations("postgres"), ("new", "CREATE TABLE new (id integer)")]
    monkeypatch.setattr(postgres_migration, "read_migrations", lambda _: newer)
    with pytest.raises(CannotStart, match="older code has migrated it") as refused:
        await migrate(postgres_dsn, upgrade=False)
    assert "cdv migrate" in refused.value.remedy
    assert "new" not in tables(postgres_dsn)
    assert await migrate(postgres_dsn) == ["new"]


async def test_a_failed_migration_leaves_nothing_behind(postgres_dsn: str):
    query(postgres_dsn, "CREATE TABLE stream_marks (in_the_way text)")
    with pytest.raises(CannotStart, match="already exists"):
        await migrate(postgres_dsn)
    assert tables(postgres_dsn) == ["stream_marks"]


async def test_upgrading_a_database_of_earlier_code_keeps_its_data(postgres_dsn: str):
    await migrate(postgres_dsn)
    for script in reversed(SCRIPTS[1:]):
        query(postgres_dsn, f"--{script.read_text(encoding='utf-8').partition('-- rollback:')[2]}")
    query(
        postgres_dsn,
        "INSERT INTO op_log (event_id, did, subject, envelope, occurred_at) VALUES ('E', 'd', 's', '{}', now())",
    )
    assert await migrate(postgres_dsn) == NAMES[1:]
    assert query(postgres_dsn, "SELECT event_id, traceparent, published_at FROM op_log") == [("E", None, None)]


async def test_each_migration_can_be_rolled_back(postgres_dsn: str):
    await migrate(postgres_dsn)
    for script in reversed(SCRIPTS):
        _, separator, rollback = script.read_text(encoding="utf-8").partition("-- rollback:")
        assert separator, f"{script.name} says neither how to undo it nor why it cannot be undone"
        query(postgres_dsn, f"--{rollback}")
    assert tables(postgres_dsn) == ["schema_migrations"]
    assert await migrate(postgres_dsn) == NAMES


async def test_a_database_with_sql_ascii_encoding_is_refused(postgres_server: PostgresServer):
    dsn = urlsplit(postgres_server.dsn)._replace(path="/test_ascii").geturl()
    query(postgres_server.dsn, "CREATE DATABASE test_ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(CannotStart, match="SQL_ASCII"):
            await migrate(dsn)
    finally:
        postgres_server.drop_database(dsn)


async def test_a_database_with_synchronous_commit_off_is_refused(postgres_dsn: str):
    name = urlsplit(postgres_dsn).path.removeprefix("/")
    query(postgres_dsn, f"ALTER DATABASE {name} SET synchronous_commit = off")
    with pytest.raises(CannotStart, match="synchronous_commit"):
        await migrate(postgres_dsn)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_database_with_a_stricter_default_isolation_level_is_refused(postgres_dsn: str, level: str):
    name = urlsplit(postgres_dsn).path.removeprefix("/")
    query(postgres_dsn, f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    with pytest.raises(CannotStart, match=f"{level}.*default_transaction_isolation"):
        await migrate(postgres_dsn)


@pytest.fixture
def unprivileged_dsn(postgres_dsn: str) -> Iterator[str]:
    """The same database, for a role that may read and write but not create tables."""
    parts = urlsplit(postgres_dsn)
    role = sql.Identifier(f"{parts.path.removeprefix('/')}_role")
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(role))
        connection.execute(
            sql.SQL("ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {}").format(role)
        )
        yield parts._replace(netloc=f"{role.as_string().strip(chr(34))}:secret@{parts.hostname}:{parts.port}").geturl()
        connection.execute(sql.SQL("DROP OWNED BY {}").format(role))
        connection.execute(sql.SQL("DROP ROLE {}").format(role))


async def test_migrating_as_an_unprivileged_role_is_refused(unprivileged_dsn: str):
    with pytest.raises(CannotStart, match="permission denied"):
        await migrate(unprivileged_dsn)


async def test_an_unprivileged_role_can_use_a_migrated_schema(unprivileged_dsn: str, postgres_dsn: str):
    await migrate(postgres_dsn)
    assert await migrate(unprivileged_dsn) == []


async def test_a_role_without_privileges_on_a_new_table_is_refused_with_the_needed_grant(
    unprivileged_dsn: str, postgres_dsn: str
):
    await migrate(postgres_dsn)
    role = urlsplit(unprivileged_dsn).username
    query(postgres_dsn, f"REVOKE ALL ON owner_only FROM {role}")
    async with PostgresDatabase(unprivileged_dsn) as database:
        store = PostgresOwnerOnlyStore(database)
        with pytest.raises(CannotStart, match="owner_only") as refused:
            await store.owner_only()
        with pytest.raises(CannotStart, match="owner_only"):
            await store.note([Nsid("com.example.secret")], [])
        grant = re.search("GRANT .* ON owner_only", refused.value.remedy)
        assert grant
        query(postgres_dsn, f"{grant[0]} TO {role}")
        for _ in range(2):
            await store.note([Nsid("com.example.secret")], [Nsid("com.example.opened")])
        assert await store.owner_only() == {"com.example.secret"}


async def test_an_unreachable_server_is_unavailable():
    with pytest.raises(Unavailable):
        await migrate(f"postgresql://postgres@127.0.0.1:{free_port()}/vault")


async def test_a_server_that_hangs_after_login_is_unavailable(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cdv_adapters.database.postgres_migration._RESPONSE_SECONDS", 0.2)
    with FaultProxy(postgres_dsn) as proxy:
        require_safe_settings = postgres_migration._require_safe_settings

        async def hang_after_login(connection: object) -> None:
            proxy.hang()
            await require_safe_settings(connection)  # type: ignore[arg-type]

        monkeypatch.setattr(postgres_migration, "_require_safe_settings", hang_after_login)
        async with asyncio.timeout(20):
            with pytest.raises(Unavailable):
                await migrate(proxy.url)


async def test_waiting_for_another_migration_does_not_time_out(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cdv_adapters.database.postgres_migration._RESPONSE_SECONDS", 0.2)
    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as other:
        await other.execute("SELECT pg_advisory_lock(%s)", (postgres_migration._ADVISORY_LOCK,))
        waiting = asyncio.create_task(migrate(postgres_dsn))
        assert await asyncio.wait([waiting], timeout=1) == (set(), {waiting})
        await other.execute("SELECT pg_advisory_unlock_all()")
        assert await waiting == NAMES


async def migrate_during_a_dump(dsn: str, write: str) -> list[str]:
    """Migrate while a dump reads the op log; assert that a write succeeds meanwhile; return what was applied."""
    with psycopg.connect(dsn) as dump:
        dump.execute("SELECT FROM op_log")  # its transaction stays open, like that of pg_dump
        migrating = asyncio.create_task(migrate(dsn))
        waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'op_log'::regclass"
        while not await asyncio.to_thread(query, dsn, waits):
            assert not migrating.done()
        await asyncio.to_thread(query, f"{dsn}?options=-cstatement_timeout%3D10s", write)
        assert not migrating.done()
    return await migrating


async def test_a_migration_blocked_by_a_long_reader_does_not_block_writers(postgres_dsn: str):
    await migrate(postgres_dsn)
    adds_a_column = NAMES.index("0003_published_at")
    for script in reversed(SCRIPTS[adds_a_column:]):
        query(postgres_dsn, f"--{script.read_text(encoding='utf-8').partition('-- rollback:')[2]}")
    write = "INSERT INTO op_log (event_id, did, subject, envelope, occurred_at) VALUES ('E', 'd', 's', '{}', now())"
    assert await migrate_during_a_dump(postgres_dsn, write) == NAMES[adds_a_column:]


async def test_locks_of_applied_migrations_are_released_while_the_next_one_waits(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
):
    await migrate(postgres_dsn)
    known = read_migrations("postgres")
    more = [("one", "ALTER TABLE replies ADD COLUMN one integer"), ("two", "ALTER TABLE op_log ADD COLUMN two integer")]
    monkeypatch.setattr(postgres_migration, "read_migrations", lambda _: [*known, *more])
    write = "INSERT INTO replies (did, key, fingerprint, reply, expires_at) VALUES ('d', 'k', '', '', now())"
    assert await migrate_during_a_dump(postgres_dsn, write) == ["one", "two"]
