"""With sslmode=verify-full, Postgres must present a certificate signed by the configured CA."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from cdv_adapters.database.postgres import PostgresDatabase
from cdv_adapters.database.postgres_migration import migrate
from cdv_core.errors import Unavailable
from tests.adapters.certificates import tls_server_context

_SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # PostgreSQL's protocol: SSLRequest


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


class TlsFront:
    """A TLS proxy, because the wheel's PostgreSQL is built without TLS. `received_data`: whether it did."""

    def __init__(self, dsn: str, context: ssl.SSLContext) -> None:
        self._behind = urlsplit(dsn)
        self._context = context
        self.received_data = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == _SSL_REQUEST
        writer.write(b"S")
        try:
            await writer.start_tls(self._context)
            first = await reader.readexactly(4)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            return
        self.received_data = True
        server_reader, server_writer = await asyncio.open_connection(self._behind.hostname, self._behind.port)
        server_writer.write(first)
        await asyncio.gather(_forward(reader, server_writer), _forward(server_reader, writer))


@pytest.fixture
async def front(postgres_dsn: str, tmp_path: Path) -> AsyncIterator[tuple[TlsFront, str]]:
    """A Postgres with a certificate for 127.0.0.1 signed by the CA in `ca.pem`, and the start of its DSN."""
    served = TlsFront(postgres_dsn, tls_server_context(tmp_path / "ca.pem"))
    listener = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    parts = urlsplit(postgres_dsn)
    async with listener:
        yield (
            served,
            parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}").geturl()
            + "?sslmode=verify-full&sslrootcert=",
        )


async def test_a_certificate_signed_by_the_configured_ca_is_accepted(front: tuple[TlsFront, str], tmp_path: Path):
    served, dsn = front
    await migrate(f"{dsn}{tmp_path}/ca.pem")
    async with PostgresDatabase(f"{dsn}{tmp_path}/ca.pem") as database:
        assert await database.rows("SELECT 1") == [(1,)]
    assert served.received_data


async def test_a_server_with_an_untrusted_certificate_is_sent_nothing(front: tuple[TlsFront, str], tmp_path: Path):
    served, dsn = front
    trustme.CA().cert_pem.write_to_path(tmp_path / "another.pem")
    with pytest.raises(Unavailable) as refused:
        await migrate(f"{dsn}{tmp_path}/another.pem")
    assert "certificate verify failed" in str(refused.value.__cause__)
    assert not served.received_data


async def test_a_certificate_for_another_host_is_refused(front: tuple[TlsFront, str], tmp_path: Path):
    served, dsn = front
    with pytest.raises(Unavailable) as refused:
        await migrate(f"{dsn.replace('127.0.0.1', 'localhost')}{tmp_path}/ca.pem")
    assert "does not match host name" in str(refused.value.__cause__)
    assert not served.received_data


async def test_a_server_without_tls_is_refused(postgres_dsn: str, tmp_path: Path):
    tls_server_context(tmp_path / "ca.pem")
    with pytest.raises(Unavailable) as refused:
        await migrate(f"{postgres_dsn}?sslmode=verify-full&sslrootcert={tmp_path}/ca.pem")
    assert "does not support SSL" in str(refused.value.__cause__)
