"""Behind PgBouncer in transaction mode, where each transaction may use another server session."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from pydantic import SecretStr

from cdv_adapters.bootstrap import open_service
from cdv_adapters.database.postgres import PostgresOptions
from cdv_adapters.database.postgres_migration import migrate
from cdv_adapters.settings import Settings
from cdv_core.domain.idempotency import IdempotencyKey
from cdv_core.domain.records import ListQuery, record_json
from cdv_core.ports.records import IdempotentReply
from conformance.ports.media_machine import media_machine
from conformance.ports.outbox_machine import outbox_machine
from conformance.ports.records_machine import record_machine
from conformance.ports.stores import ALICE, BOUNDED, START, OpenStores, Stores, a_record, as_stored, its_event
from tests.adapters.postgres_stores import open_postgres
from tests.servers import PostgresServer
from tests.servers.process import Process, free_port, new_directory, unprivileged

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")

BEHIND_POOLER = PostgresOptions(transaction_pooler=True)


@pytest.fixture(scope="module")
def pooler(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """The run's Postgres behind a PgBouncer that has two server sessions per database."""
    identity = unprivileged()  # it refuses to run as root
    directory = new_directory("cdv-pgbouncer-", durable=False, owner=identity)
    server, port = urlsplit(postgres_server.dsn), free_port()
    configuration = directory / "pgbouncer.ini"
    configuration.write_text(
        f"""
        [databases]
        * = host={server.hostname} port={server.port} user={server.username} password={server.password}
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = any
        pool_mode = transaction
        default_pool_size = 2
        """
    )
    configuration.chmod(0o644)
    process = Process([str(PGBOUNCER), configuration], port=port, directory=directory, identity=identity)
    dsn = server._replace(netloc=f"{server.username}@127.0.0.1:{port}").geturl()
    with PostgresServer(process, dsn) as pooler:
        yield pooler


@pytest.fixture
def pooled_dsn(pooler: PostgresServer, postgres_dsn: str) -> str:
    """`postgres_dsn`, through the pooler."""
    return urlsplit(pooler.dsn)._replace(path=urlsplit(postgres_dsn).path).geturl()


@pytest.fixture
async def stores(pooled_dsn: str) -> AsyncIterator[Stores]:
    await migrate(pooled_dsn)
    async with open_postgres(pooled_dsn, BEHIND_POOLER) as stores:
        yield stores


@pytest.fixture
def open_stores(pooler: PostgresServer, postgres_server: PostgresServer) -> OpenStores:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Stores]:
        dsn = postgres_server.create_database()
        pooled = urlsplit(pooler.dsn)._replace(path=urlsplit(dsn).path).geturl()
        await migrate(pooled)
        async with open_postgres(pooled, BEHIND_POOLER) as stores:
            yield stores
        postgres_server.drop_database(dsn)

    return opened


@pytest.mark.parametrize("machine", [record_machine, media_machine, outbox_machine])
def test_the_stores_match_their_models_behind_pgbouncer(open_stores: OpenStores, machine):
    run_state_machine_as_test(machine(open_stores), settings=settings(BOUNDED, max_examples=8))


async def test_concurrent_replicas_migrate_once(pooled_dsn: str):
    applied = await asyncio.gather(*(migrate(pooled_dsn) for _ in range(5)))
    (once,) = [names for names in applied if names]
    assert once == sorted(set(once))


async def test_concurrent_writes_of_two_replicas_share_two_server_sessions(stores: Stores, pooled_dsn: str):
    retryable = IdempotentReply(IdempotencyKey("k"), b"f" * 32, b"reply", START + timedelta(days=1))
    records = [a_record(number) for number in range(40)]
    async with open_postgres(pooled_dsn, BEHIND_POOLER) as replica:
        plain = [stores.records.create(record, its_event(record)) for record in records[:20]]
        keyed = [replica.records.create(record, its_event(record), retryable) for record in records[20:]]
        answers = await asyncio.gather(*plain, *keyed)
        assert answers[:20] == [None] * 20
        assert sorted(answers[20:], key=str) == [None] + [b"reply"] * 19
        assert len((await replica.records.list(ListQuery(ALICE, 100))).records) == 21


async def test_times_round_trip_in_another_database_time_zone(postgres_dsn: str, pooled_dsn: str):
    name = urlsplit(postgres_dsn).path.removeprefix("/")
    with psycopg.connect(postgres_dsn, autocommit=True) as operator:
        operator.execute(f"ALTER DATABASE {name} SET timezone = 'Pacific/Kiritimati'".encode())
    await migrate(pooled_dsn)
    extremes = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
    records = [a_record(number, created_at=moment) for number, moment in enumerate(extremes)]
    async with open_postgres(pooled_dsn, BEHIND_POOLER) as stores:
        for record in records:
            await stores.records.create(record, its_event(record))
        reads = [stores.records.list(ListQuery(ALICE, 10)) for _ in range(10)]
        for found in await asyncio.gather(*reads):
            assert found.records == [record_json(as_stored(record)) for record in reversed(records)]


async def test_a_service_configured_for_a_transaction_pooler_works_behind_pgbouncer(pooled_dsn: str, tmp_path: Path):
    overrides = {"db_dsn": SecretStr(pooled_dsn), "db_transaction_pooler": True}
    async with open_service(Settings.embedded(tmp_path).model_copy(update=overrides)) as service:
        profile = {"displayName": "Alice"}
        # More executions than psycopg's threshold for preparing a statement.
        for _ in range(12):
            await service.vault.records.create(did=ALICE, collection="com.registryaccord.profile", record=profile)
        assert len((await service.vault.records.list(did=ALICE)).records) == 12
