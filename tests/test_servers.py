"""The servers of the tests behave as their methods say: they keep data, crash, freeze, and fail in transit."""

import io
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import nats.errors
import psycopg
import pytest
import urllib3
from minio import Minio
from nats.aio.client import Client as NatsClient

from tests.servers import FaultProxy, NatsServer, NoServer, PostgresServer, S3Server, Server, own

NO_ANSWER_SECONDS = 0.5


@dataclass
class Subject:
    """One kind of server, with what its client does: `write` a value, `read` it back, both through `url`."""

    server: Server
    url: str
    write: Callable[[str, str], Awaitable[None]]
    read: Callable[[str], Awaitable[str]]


def postgres_subject(server: PostgresServer) -> Subject:
    async def write(url: str, value: str) -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
            await connection.execute("DELETE FROM kept")
            await connection.execute("INSERT INTO kept VALUES (%s)", [value])

    async def read(url: str) -> str:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            [value] = await (await connection.execute("SELECT value FROM kept")).fetchone() or [""]
            return str(value)

    return Subject(server, server.create_database(), write, read)


def nats_subject(server: NatsServer) -> Subject:
    async def write(url: str, value: str) -> None:
        async with nats_client(url) as client:
            await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
            await client.jetstream().publish("kept", value.encode())

    async def read(url: str) -> str:
        async with nats_client(url) as client:
            message = await client.jetstream().get_last_msg("KEPT", "kept")
            return (message.data or b"").decode()

    return Subject(server, server.url, write, read)


@asynccontextmanager
async def nats_client(url: str) -> AsyncIterator[NatsClient]:
    """A client that does not retry, and leaves no socket behind when it is cancelled while connecting."""

    async def ignore(error: Exception) -> None:
        """Do nothing: errors are raised as well."""

    client = NatsClient()
    try:
        await client.connect(url, allow_reconnect=False, max_reconnect_attempts=1, error_cb=ignore)
        yield client
    finally:
        with anyio.CancelScope(shield=True):
            await client.close()


def s3_subject(server: S3Server) -> Subject:
    bucket = server.create_bucket("kept")

    def client(url: str) -> Minio:
        http = urllib3.PoolManager(retries=False, timeout=10)
        address = url.removeprefix("http://")
        return Minio(
            address, bucket.access_key, bucket.secret_key, secure=False, region=bucket.region, http_client=http
        )

    async def write(url: str, value: str) -> None:
        data = value.encode()
        await in_thread(lambda: client(url).put_object(bucket.name, "kept", io.BytesIO(data), len(data)))

    async def read(url: str) -> str:
        response = await in_thread(lambda: client(url).get_object(bucket.name, "kept"))
        try:
            return bytes(response.data).decode()
        finally:
            response.close()

    return Subject(server, bucket.endpoint, write, read)


async def in_thread(work: Callable[[], Any]) -> Any:
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)


CLIENT_ERRORS = (psycopg.OperationalError, nats.errors.Error, urllib3.exceptions.HTTPError, OSError)


@pytest.fixture(scope="module", params=[PostgresServer, NatsServer, S3Server], ids=lambda kind: kind.LABEL)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    try:
        server: Server = own(request.param)
    except NoServer as error:
        pytest.skip(str(error))
    with server:
        match server:
            case PostgresServer():
                yield postgres_subject(server)
            case NatsServer():
                yield nats_subject(server)
            case S3Server():
                yield s3_subject(server)


@pytest.fixture
def proxy(subject: Subject) -> Iterator[FaultProxy]:
    with FaultProxy(subject.url) as proxy:
        yield proxy


async def assert_no_answer(work: Awaitable[object]) -> None:
    with pytest.raises(TimeoutError):
        with anyio.fail_after(NO_ANSWER_SECONDS):
            await work


async def test_acknowledged_writes_survive_a_kill(subject: Subject):
    await subject.write(subject.url, "before the crash")

    subject.server.kill()
    with pytest.raises(CLIENT_ERRORS):
        await subject.read(subject.url)
    subject.server.start()

    assert await subject.read(subject.url) == "before the crash"


async def test_acknowledged_writes_survive_a_restart(subject: Subject):
    await subject.write(subject.url, "before the restart")

    subject.server.restart()

    assert await subject.read(subject.url) == "before the restart"


async def test_a_paused_server_does_not_respond_until_it_is_resumed(subject: Subject):
    await subject.write(subject.url, "before the pause")

    subject.server.pause()
    await assert_no_answer(subject.read(subject.url))
    subject.server.resume()

    assert await subject.read(subject.url) == "before the pause"


async def test_a_healthy_proxy_passes_data_unchanged(subject: Subject, proxy: FaultProxy):
    value = "ä" * 300_000  # more than one chunk

    await subject.write(proxy.url, value)

    assert await subject.read(proxy.url) == await subject.read(subject.url) == value


async def test_a_cut_proxy_is_an_error_for_clients_until_it_is_healed(subject: Subject, proxy: FaultProxy):
    await subject.write(proxy.url, "before the cut")

    proxy.cut()
    with pytest.raises(CLIENT_ERRORS):
        await subject.read(proxy.url)
    proxy.heal()

    assert await subject.read(proxy.url) == "before the cut"


async def test_a_hanging_proxy_does_not_respond_until_it_is_healed(subject: Subject, proxy: FaultProxy):
    await subject.write(proxy.url, "before the hang")

    proxy.hang()
    await assert_no_answer(subject.read(proxy.url))
    proxy.heal()

    assert await subject.read(proxy.url) == "before the hang"


async def test_a_proxys_delay_applies_in_both_directions(subject: Subject, proxy: FaultProxy):
    await subject.write(proxy.url, "slow")
    started = anyio.current_time()

    proxy.delay(0.1)

    assert await subject.read(proxy.url) == "slow"
    assert anyio.current_time() - started >= 0.2  # once each way


@pytest.mark.parametrize("cut", [FaultProxy.cut, FaultProxy.cut_once])
async def test_a_cut_resets_open_connections(postgres_dsn: str, cut: Callable[[FaultProxy], None]):
    with FaultProxy(postgres_dsn) as proxy:
        async with await psycopg.AsyncConnection.connect(proxy.url) as connection:
            cut(proxy)
            with pytest.raises(psycopg.OperationalError):
                await connection.execute("SELECT 1")


async def test_cut_once_lets_new_connections_through(postgres_dsn: str):
    with FaultProxy(postgres_dsn) as proxy:
        proxy.cut_once()
        async with await psycopg.AsyncConnection.connect(proxy.url) as connection:
            await connection.execute("SELECT 1")


async def test_with_hanging_replies_a_write_takes_effect_unacknowledged(postgres_dsn: str):
    acknowledged = anyio.Event()

    async def write(connection: psycopg.AsyncConnection) -> None:
        await connection.execute("CREATE TABLE deed ()")
        acknowledged.set()

    with FaultProxy(postgres_dsn) as proxy:
        async with (
            await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as witness,
            await psycopg.AsyncConnection.connect(proxy.url, autocommit=True) as writer,
            anyio.create_task_group() as tasks,
        ):
            proxy.hang_replies()
            tasks.start_soon(write, writer)
            with anyio.fail_after(30):
                while not await has_table(witness, "deed"):
                    await anyio.lowlevel.checkpoint()
            await assert_no_answer(acknowledged.wait())
            proxy.heal()
            await acknowledged.wait()


async def has_table(connection: psycopg.AsyncConnection, name: str) -> bool:
    cursor = await connection.execute("SELECT to_regclass(%s) IS NOT NULL", [name])
    return await cursor.fetchone() == (True,)


def test_clients_of_a_proxy_to_a_dead_server_are_reset():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with FaultProxy(f"tcp://127.0.0.1:{port}") as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.settimeout(10)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_proxy_passes_on_a_half_close():
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        FaultProxy(f"tcp://127.0.0.1:{listener.getsockname()[1]}") as proxy,
        socket.create_connection(("127.0.0.1", proxy.port)) as client,
    ):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        server, _ = listener.accept()
        with server, server.makefile("rb") as received:
            assert received.read() == b"question"
            server.sendall(b"answer")
        with client.makefile("rb") as received:
            assert received.read() == b"answer"
