"""A database that dies, hangs or refuses: Unavailable in bounded time, nothing lost, and automatic recovery."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from itertools import count
from urllib.parse import urlsplit

import psycopg
import pytest

from cdv_adapters.database.postgres import PostgresOptions
from cdv_adapters.database.postgres_migration import migrate
from cdv_core.domain.idempotency import IdempotencyKey
from cdv_core.domain.records import ListQuery
from cdv_core.errors import Unavailable
from cdv_core.ports.records import IdempotentReply
from conformance.ports.stores import ALICE, START, Stores, a_record, its_event
from tests.adapters.postgres_stores import PostgresStores, open_postgres
from tests.servers import PostgresServer
from tests.servers.process import Process
from tests.servers.proxy import FaultProxy

# At most 2 s by these settings; the rest allows for a busy machine.
SHORT_TIMEOUTS = PostgresOptions(min_size=2, max_size=4, acquire_seconds=0.5, statement_seconds=0.5, lock_seconds=0.4)
BOUND_SECONDS = 6
RECOVERY_SECONDS = 5  # as documented


async def refusal(call: Awaitable[object]) -> Unavailable:
    """Return the Unavailable that the call raises in bounded time."""
    async with asyncio.timeout(BOUND_SECONDS):
        with pytest.raises(Unavailable) as refused:
            await call
    return refused.value


async def recovered(call: Callable[[], Awaitable[object]]) -> None:
    """Wait until the call succeeds again."""
    async with asyncio.timeout(RECOVERY_SECONDS):
        while True:
            try:
                await call()
            except Unavailable:
                continue
            return


async def create(stores: Stores, number: int) -> bytes | None:
    record = a_record(number)
    return await stores.records.create(record, its_event(record))


@pytest.fixture
async def proxied(postgres_dsn: str) -> AsyncIterator[tuple[FaultProxy, PostgresStores]]:
    """Stores that reach the database through a proxy."""
    await migrate(postgres_dsn)
    with FaultProxy(postgres_dsn) as proxy:
        async with open_postgres(proxy.url, SHORT_TIMEOUTS) as stores:
            await stores.database.ping()
            yield proxy, stores


async def test_acknowledged_writes_survive_kill_9(own_postgres_server: PostgresServer):
    dsn = own_postgres_server.create_database()
    await migrate(dsn)
    numbers, acknowledged = count(), list[int]()
    async with open_postgres(dsn, SHORT_TIMEOUTS) as stores:

        async def write_until_refused() -> None:
            while True:
                number = next(numbers)
                await create(stores, number)
                acknowledged.append(number)

        writers = [asyncio.create_task(write_until_refused()) for _ in range(4)]
        while len(acknowledged) < 50:
            await asyncio.wait(writers, timeout=0.01)
        await asyncio.to_thread(own_postgres_server.kill)
        async with asyncio.timeout(BOUND_SECONDS):
            endings = await asyncio.gather(*writers, return_exceptions=True)
        assert [type(ending) for ending in endings] == [Unavailable] * 4
        await refusal(create(stores, next(numbers)))
        await refusal(stores.database.ping())
        await asyncio.to_thread(own_postgres_server.start)
        await recovered(stores.database.ping)
        await recovered(lambda: create(stores, next(numbers)))
        kept = {int(record.uri.rkey) async for record in stores.records.scan()}
        logged = {int(entry.event.event_id) for entry in await stores.outbox.read(0, 10_000)}
    assert set(acknowledged) <= kept
    assert kept == logged


async def test_no_request_fails_on_a_connection_from_before_a_restart(own_postgres_server: PostgresServer):
    dsn = own_postgres_server.create_database()
    await migrate(dsn)
    async with open_postgres(dsn, SHORT_TIMEOUTS) as stores:
        await asyncio.gather(*(stores.database.ping() for _ in range(4)))
        await asyncio.to_thread(own_postgres_server.restart)
        for number in range(8):
            await create(stores, number)


async def test_a_paused_server_is_unavailable_until_it_resumes(own_postgres_server: PostgresServer):
    dsn = own_postgres_server.create_database()
    await migrate(dsn)
    async with open_postgres(dsn, SHORT_TIMEOUTS) as stores:
        await create(stores, 1)
        own_postgres_server.pause()
        refused = await asyncio.gather(*(refusal(create(stores, number)) for number in range(2, 10)))
        assert {error.dependency for error in refused} == {"database"}
        assert min(error.retry_after_seconds for error in refused) > 0
        await refusal(stores.database.ping())
        await asyncio.to_thread(own_postgres_server.resume)
        await recovered(lambda: create(stores, 10))


async def test_silently_dead_connections_fail_one_request_and_not_one_each(
    own_postgres_server: PostgresServer,
):
    """As when a firewall has dropped their state: they are never closed, and new connections work."""
    if not isinstance(own_postgres_server.host, Process):
        pytest.skip("the server's processes are not ours to freeze")
    dsn = own_postgres_server.create_database()
    await migrate(dsn)
    async with open_postgres(dsn, SHORT_TIMEOUTS) as stores:
        all_borrowed = asyncio.Barrier(SHORT_TIMEOUTS.max_size)

        async def freeze() -> None:
            async with stores.database.connection() as connection:
                pid = connection.info.backend_pid
                await all_borrowed.wait()
            os.kill(pid, signal.SIGSTOP)

        await asyncio.gather(*(freeze() for _ in range(SHORT_TIMEOUTS.max_size)))
        await refusal(create(stores, 0))
        for number in range(1, 2 * SHORT_TIMEOUTS.max_size):
            await create(stores, number)


async def test_a_server_that_is_down_at_startup_is_used_once_it_is_up(own_postgres_server: PostgresServer):
    dsn = own_postgres_server.create_database()
    await migrate(dsn)
    own_postgres_server.stop()
    async with open_postgres(dsn, SHORT_TIMEOUTS) as stores:
        await refusal(stores.database.ping())
        await asyncio.to_thread(own_postgres_server.start)
        await recovered(stores.database.ping)


async def test_a_hanging_network_is_unavailable_until_it_heals(proxied):
    proxy, stores = proxied
    await create(stores, 1)
    proxy.hang()
    await asyncio.gather(*(refusal(create(stores, number)) for number in range(2, 10)))
    await refusal(stores.records.list(ListQuery(ALICE, 10)))
    await refusal(stores.database.ping())
    proxy.heal()
    await recovered(lambda: create(stores, 10))


async def test_a_network_that_resets_connections_is_unavailable_until_it_heals(proxied):
    proxy, stores = proxied
    proxy.cut()
    await refusal(create(stores, 1))
    proxy.heal()
    await recovered(lambda: create(stores, 2))


async def test_after_a_long_outage_the_pool_recovers_within_seconds(proxied):
    proxy, stores = proxied
    proxy.cut()
    for _ in range(8):  # longer than any pause between attempts
        await refusal(stores.database.ping())
    proxy.heal()
    await recovered(stores.database.ping)


async def test_retrying_a_write_whose_response_was_lost_returns_the_stored_reply(proxied):
    proxy, stores = proxied
    record = a_record(1)
    retryable = IdempotentReply(IdempotencyKey("k"), b"f" * 32, b"reply", START + timedelta(days=1))
    proxy.hang_replies()
    await refusal(stores.records.create(record, its_event(record), retryable))
    proxy.heal()
    again = a_record(2)
    await recovered(stores.database.ping)
    assert await stores.records.create(again, its_event(again), retryable) == b"reply"
    assert [entry.event for entry in await stores.outbox.read(0, 10)] == [its_event(record)]


@pytest.fixture
async def stores(postgres_dsn: str) -> AsyncIterator[PostgresStores]:
    await migrate(postgres_dsn)
    async with open_postgres(postgres_dsn, SHORT_TIMEOUTS) as stores:
        yield stores


async def test_an_exhausted_pool_is_unavailable_until_a_connection_is_returned(stores: PostgresStores):
    everyone = asyncio.Barrier(SHORT_TIMEOUTS.max_size + 1)

    async def borrow() -> None:
        async with stores.database.connection():
            await everyone.wait()
            await everyone.wait()

    async with asyncio.TaskGroup() as borrowers:
        for _ in range(SHORT_TIMEOUTS.max_size):
            borrowers.create_task(borrow())
        await everyone.wait()
        await refusal(create(stores, 1))
        await everyone.wait()
    await create(stores, 1)


async def test_a_statement_over_its_timeout_is_cancelled_by_the_server(stores: PostgresStores):
    refused = await refusal(stores.database.run("SELECT pg_sleep(60)"))
    assert isinstance(refused.__cause__, psycopg.errors.QueryCanceled)


async def test_a_write_that_waits_too_long_for_the_lock_of_its_did_is_unavailable(
    stores: PostgresStores, postgres_dsn: str
):
    await create(stores, 1)
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as holder:
        await holder.execute("SELECT FROM accounts WHERE did = %s FOR UPDATE", (ALICE,))
        refused = await refusal(create(stores, 2))
    assert isinstance(refused.__cause__, psycopg.errors.LockNotAvailable)
    await create(stores, 2)


async def test_a_read_only_server_is_unavailable_for_writes(postgres_dsn: str):
    await migrate(postgres_dsn)
    async with open_postgres(postgres_dsn, replace(SHORT_TIMEOUTS, min_size=1, max_size=1)) as stores:
        await stores.database.run("SET default_transaction_read_only = on")
        refused = await refusal(create(stores, 1))
    assert isinstance(refused.__cause__, psycopg.errors.ReadOnlySqlTransaction)


async def test_writes_recover_after_a_failover_to_a_new_primary(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cdv_adapters.database.postgres._DRAIN_INTERVAL_SECONDS", 0.1)
    await migrate(postgres_dsn)
    name = urlsplit(postgres_dsn).path.removeprefix("/")
    async with (
        await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as operator,
        open_postgres(postgres_dsn, SHORT_TIMEOUTS) as stores,
    ):
        await create(stores, 1)
        await operator.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
        await operator.execute(
            b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            b" WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        while not isinstance((await refusal(create(stores, 2))).__cause__, psycopg.errors.ReadOnlySqlTransaction):
            continue
        await operator.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
        await recovered(lambda: create(stores, 3))  # would take an hour if connections to the old primary were kept


async def test_a_cancelled_caller_returns_its_connection_to_the_pool(stores: PostgresStores):
    async def patient() -> None:
        async with stores.database.connection() as connection:
            await connection.execute("SELECT pg_sleep(0.3)")

    callers = [asyncio.create_task(patient()) for _ in range(SHORT_TIMEOUTS.max_size)]
    await asyncio.wait(callers, timeout=0.1)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    await asyncio.gather(*(create(stores, number) for number in range(SHORT_TIMEOUTS.max_size)))


async def test_a_rotated_password_is_used_without_a_restart(postgres_server: PostgresServer, postgres_dsn: str):
    await migrate(postgres_dsn)
    parts = urlsplit(postgres_dsn)
    database = parts.path.removeprefix("/")
    returned: list[str] = []
    current = "first"

    async def password() -> str:
        returned.append(current)
        return current

    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as operator:
        await operator.execute(f"CREATE ROLE {database} SUPERUSER LOGIN PASSWORD 'first'".encode())
        dsn = parts._replace(netloc=f"{database}@{parts.hostname}:{parts.port}").geturl()
        try:
            async with open_postgres(dsn, SHORT_TIMEOUTS, password) as stores:
                await stores.database.ping()
                await operator.execute(f"ALTER ROLE {database} PASSWORD 'second'".encode())
                current = "second"
                await operator.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (database,)
                )
                await recovered(stores.database.ping)
                assert await migrate(dsn, password=password) == []
        finally:
            await operator.execute(f"REASSIGN OWNED BY {database} TO postgres".encode())
            await operator.execute(f"DROP ROLE {database}".encode())
    assert {"first", "second"} == set(returned)
