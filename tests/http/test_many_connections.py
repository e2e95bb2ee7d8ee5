"""Many connections that send nothing, or do not read, do not block other clients (spec: limits)."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.http.api import PROFILE
from tests.http.running import RunningVault

IDLE = 1500  # more than the HTTP server's own default of 1024
ANSWER_SECONDS = 5  # well before the idle ones are closed


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVault]:
    running = RunningVault(tmp_path_factory.mktemp("connections") / "data")
    yield running
    running.kill()


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 2 * IDLE:
        pytest.skip(f"no more than {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * IDLE), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_idle_connections_do_not_block_other_clients(vault: RunningVault, many_files: None) -> None:
    with ExitStack() as stack:
        for number in range(IDLE):
            idle = stack.enter_context(vault.connect())
            if number % 2:
                idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: va")  # slow-loris: a head that never ends
        began = time.monotonic()
        connection = stack.enter_context(vault.connect(ANSWER_SECONDS))
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: vault\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
        assert time.monotonic() - began < ANSWER_SECONDS


def test_a_connection_with_an_incomplete_request_head_is_closed(vault: RunningVault) -> None:
    with vault.connect(30) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: va")
        began = time.monotonic()
        while connection.recv(1000):  # it may send 408 first
            pass
        assert time.monotonic() - began < 20


def test_clients_that_do_not_read_their_responses_do_not_block_others(vault: RunningVault) -> None:
    did = "did:example:reader"
    authorization = f"Authorization: Bearer {vault.token(did)}\r\n".encode()
    body = b'{"did": "%s", "collection": "%s", "record": {"displayName": "A", "x": "%s"}}' % (
        did.encode(), PROFILE.encode(), b"x" * 200_000,
    )  # fmt: skip
    head = b"POST /v1/repo/record HTTP/1.1\r\nHost: vault\r\nContent-Type: application/json\r\n" + authorization
    for _ in range(20):
        (answer,) = vault.exchange(head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert answer.status_code == 200
    listing = f"GET /v1/repo/listRecords?did={did} HTTP/1.1\r\nHost: vault\r\n\r\n".encode()
    with ExitStack() as stack:
        for _ in range(60):
            deaf = stack.enter_context(vault.connect())
            deaf.sendall(listing * 5)  # 20 MB each that nobody reads
        for _ in range(20):
            began = time.monotonic()
            (answer,) = vault.exchange(b"GET /v1/repo/listRecords?did=did:example:x HTTP/1.1\r\nHost: vault\r\n"
                                       b"Connection: close\r\n\r\n")  # fmt: skip
            assert answer.status_code == 200
            assert time.monotonic() - began < ANSWER_SECONDS
