"""Servers as pytest fixtures, started when a test first requests them; the root conftest.py loads this plugin."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from tests.servers import (
    Bucket,
    NatsServer,
    NoServer,
    PostgresServer,
    S3Server,
    Server,
    VersionedS3Server,
    describe,
    own,
    shared,
)

AnyServer = TypeVar("AnyServer", bound=Server)


def pytest_report_header() -> list[str]:
    return [f"{kind.LABEL}: {describe(kind)}" for kind in (PostgresServer, NatsServer, S3Server, VersionedS3Server)]


def running(choose: Callable[[], AnyServer]) -> Iterator[AnyServer]:
    try:
        server = choose()
    except NoServer as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL of the run: does not sync, must not be killed. `postgres_dsn` is an empty database in it."""
    yield from running(lambda: shared(PostgresServer, durable=False))


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """The NATS server of the run: does not sync, must not be killed. `nats_url` is the same server without streams."""
    yield from running(lambda: shared(NatsServer, durable=False))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The object store of the run, which must not be killed. `s3_bucket` is an empty bucket in it."""
    yield from running(lambda: shared(S3Server, durable=False))


@pytest.fixture(scope="session")
def versioned_s3_server() -> Iterator[VersionedS3Server]:
    """The object store with versions of the run, which must not be killed. `versioned_s3_bucket`: an empty bucket."""
    yield from running(lambda: shared(VersionedS3Server, durable=False))


@pytest.fixture
def postgres_dsn(postgres_server: PostgresServer) -> Iterator[str]:
    """A new, empty database."""
    dsn = postgres_server.create_database()
    yield dsn
    postgres_server.drop_database(dsn)


@pytest.fixture
def nats_url(nats_server: NatsServer) -> str:
    """The URL of a NATS server without streams."""
    nats_server.clear()
    return nats_server.url


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> Iterator[Bucket]:
    """A new, empty bucket."""
    bucket = s3_server.create_bucket()
    yield bucket
    s3_server.drop_bucket(bucket)


@pytest.fixture
def versioned_s3_bucket(versioned_s3_server: VersionedS3Server) -> Iterator[Bucket]:
    """A new, empty bucket with versions."""
    bucket = versioned_s3_server.create_bucket()
    yield bucket
    versioned_s3_server.drop_bucket(bucket)


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """A new PostgreSQL that syncs as in production; it may be killed, paused and restarted."""
    yield from running(lambda: own(PostgresServer))


@pytest.fixture
def own_nats_server() -> Iterator[NatsServer]:
    """A new NATS server that syncs each message; it may be killed, paused and restarted."""
    yield from running(lambda: own(NatsServer))


@pytest.fixture
def own_s3_server() -> Iterator[S3Server]:
    """A new object store; it may be killed, paused and restarted."""
    yield from running(lambda: own(S3Server))
