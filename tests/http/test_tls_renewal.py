"""A certificate renewed on disk is served to new connections, and no request is lost over it."""

from __future__ import annotations

import http.client
import signal
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.http.api import PNG
from tests.http.certificates import Files, files
from tests.http.running import RunningVault

PATH = "/v1/repo/listRecords?did=did:example:ada"
REQUEST = f"GET {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
UPLOAD = b"PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
DEADLINE_SECONDS = 60


class Stream:
    """Requests until the block ends: two clients open a connection for each request, two others keep theirs.

    A kept connection is reopened only if the previous response announced its end.
    """

    def __init__(self, vault: RunningVault) -> None:
        self._vault = vault
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=send) for send in (self._send_each_on_new, self._send_all_on_one) for _ in range(2)
        ]
        self.served: Counter[bytes] = Counter()  # by the certificate presented
        self.kept = 0
        self.failed: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _send_each_on_new(self) -> None:
        while not self._ended.is_set():
            try:
                with self._vault.connect() as connection:
                    assert isinstance(connection, ssl.SSLSocket)
                    certificate = connection.getpeercert(binary_form=True)
                    assert certificate
                    connection.sendall(REQUEST)
                    answer = connection.recv(1000)
                    assert answer.startswith(b"HTTP/1.1 200 "), answer
                self.served[certificate] += 1
            except (OSError, AssertionError) as error:
                self.failed.append(repr(error))

    def _send_all_on_one(self) -> None:
        with closing(self._vault.http_connection()) as connection:
            while not self._ended.is_set():
                try:
                    connection.request("GET", PATH)
                    answer = connection.getresponse()
                    answer.read()
                    assert answer.status == 200
                    self.kept += 1
                except (OSError, http.client.HTTPException, AssertionError) as error:
                    self.failed.append(f"kept: {error!r}")
                    connection.close()


def until(holds: Callable[[], bool], vault: RunningVault) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, vault.log[-3000:]
        time.sleep(0.05)


def presented_certificate(vault: RunningVault) -> bytes | None:
    with vault.connect() as connection:
        assert isinstance(connection, ssl.SSLSocket)
        return connection.getpeercert(binary_form=True)


@pytest.fixture(params=["1", "2"], ids=["one worker", "two workers"])
def workers(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(tmp_path: Path) -> Files:
    return files(tmp_path)


@pytest.fixture
def vault(server: Files, workers: str) -> Iterator[RunningVault]:
    running = RunningVault(server.folder / "data", server.trusting(), CDV_WORKERS=workers, **server.settings)
    yield running
    running.kill()


def test_a_renewed_certificate_is_reloaded_and_no_request_fails(
    vault: RunningVault, server: Files, workers: str
) -> None:
    with httpx.Client(base_url=vault.base, verify=server.trusting()) as http:
        auth = {"Authorization": f"Bearer {vault.token('did:example:ada')}"}
        body = {"did": "did:example:ada", "mimeType": "image/png", "size": len(PNG)}
        url = http.post("/v1/media/uploadInit", json=body, headers=auth).json()["data"]["uploadUrl"]
    path = url.removeprefix(vault.base).encode()
    old = presented_certificate(vault)
    with Stream(vault) as stream, vault.connect(DEADLINE_SECONDS) as slow:
        slow.sendall(UPLOAD % (path, len(PNG)) + PNG[:10])
        until(lambda: stream.served.total() > 20, vault)
        new = server.issue()
        until(lambda: stream.served[new] > 20, vault)
        if workers == "1":  # the old worker only receives the upload; of two, one waits for the other
            until(lambda: {presented_certificate(vault) for _ in range(10)} == {new}, vault)
        slow.sendall(PNG[10:])
        assert slow.recv(1000).startswith(b"HTTP/1.1 200 ")
        until(lambda: {presented_certificate(vault) for _ in range(20)} == {new}, vault)
    assert stream.failed == []
    assert set(stream.served) == {old, new}
    assert stream.kept > 20
    assert vault.stop() == 0
    for word in ("Traceback", "ERROR", "panicked"):
        assert word not in vault.log


@pytest.mark.parametrize("workers", ["2"])
def test_sighup_reloads_the_certificate_and_repeated_signals_do_no_harm(vault: RunningVault, server: Files) -> None:
    with Stream(vault) as stream:
        for _ in range(2):
            new = server.issue()
            vault.process.send_signal(signal.SIGHUP)
            until(lambda new=new: {presented_certificate(vault) for _ in range(10)} == {new}, vault)  # type: ignore[misc]
    assert stream.failed == []
    assert vault.stop() == 0


@pytest.mark.parametrize("workers", ["1"])
def test_an_unusable_renewal_is_reported_and_the_old_certificate_stays(vault: RunningVault, server: Files) -> None:
    old, good = presented_certificate(vault), server.cert.read_bytes()
    server.cert.write_bytes(b"half of a certif")
    until(lambda: "workers are not replaced" in vault.log, vault)
    assert "CDV_TLS_CERT" in vault.log
    assert presented_certificate(vault) == old
    server.cert.write_bytes(good)
    new = server.issue()
    until(lambda: presented_certificate(vault) == new, vault)
    assert vault.stop() == 0
