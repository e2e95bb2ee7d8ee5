"""A server that trickles its response head line by line: the total time is bounded, not only that of each read."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import stamina
import urllib3

from cdv_adapters.schemas.specs_url import FetchFailed, HttpValidators, SpecsUrl
from cdv_adapters.secrets import vault
from cdv_adapters.secrets.vault import VaultSecrets
from cdv_adapters.tokens import jwks
from cdv_adapters.tokens.jwks import JwksUrl
from cdv_adapters.tokens.key_set import KeysNotFetched
from cdv_core.errors import Unavailable
from tests.adapters.certificates import tls_server_context

TIMEOUT = urllib3.Timeout(connect=10, read=0.3)
LINES = 40  # each arrives well within the timeout, all of them together do not


class TricklingServer:
    """`hung_up`: set when the client disconnects before the head is complete."""

    def __init__(self, ca: Path | None) -> None:
        self._tls = None if ca is None else tls_server_context(ca)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if ca else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        self.hung_up = threading.Event()
        self.released = threading.Event()

    def answer(self) -> None:
        connection, _ = self._listener.accept()
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True)
        with closing(connection):
            connection.recv(65536)
            try:
                for number in range(LINES):
                    connection.sendall(b"X-%d: yes\r\n" % number if number else b"HTTP/1.1 200 OK\r\n")
                    self.released.wait(0.05)
                connection.sendall(b"Content-Length: 2\r\n\r\n{}")
            except OSError:
                self.hung_up.set()

    def close(self) -> None:
        self.released.set()
        self._listener.close()


@contextmanager
def trickling_server(ca: Path | None) -> Iterator[TricklingServer]:
    server = TricklingServer(ca)
    thread = threading.Thread(target=server.answer)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


@pytest.mark.parametrize("https", [False, True])
def test_a_trickling_jwks_response_head_times_out_and_the_server_is_disconnected(
    https: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jwks, "_TIMEOUT", TIMEOUT)
    ca = tmp_path / "ca.pem" if https else None
    with trickling_server(ca) as server:
        with pytest.raises(KeysNotFetched, match="Read timed out"):
            JwksUrl(server.url, ca_file=ca)()
        assert server.hung_up.wait(10)


async def test_a_trickling_vault_response_head_times_out_and_the_server_is_disconnected(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(vault, "_TIMEOUT", TIMEOUT)
    with trickling_server(None) as server, stamina.set_testing(True, attempts=1):
        with pytest.raises(Unavailable) as caught:
            await VaultSecrets({"VAULT_ADDR": server.url, "VAULT_TOKEN": "hvs.root"}).get("vault:kv/cdv#password")
        assert "Read timed out" in str(caught.value.__cause__)
        assert await asyncio.to_thread(server.hung_up.wait, 10)


def test_a_trickling_catalogue_response_head_times_out_and_the_server_is_disconnected():
    with trickling_server(None) as server:
        source = SpecsUrl(server.url, pause_seconds=0.3)
        with pytest.raises(FetchFailed, match="Read timed out"), closing(source):
            source.index(HttpValidators())
        assert server.hung_up.wait(10)
