"""HTTP at the socket: framing, partial bodies, pipelining, long headers (spec: conventions, sizes)."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.http.api import PROFILE, data, refused
from tests.http.running import Answer, RunningVault

DID = "did:example:socket"
MIB = 1024 * 1024
BODY = json.dumps({"did": DID, "collection": PROFILE, "record": {"displayName": "Ada"}}).encode()
CLOSE = b"Connection: close\r\n"
JSON = b"Content-Type: application/json\r\n"


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVault]:
    running = RunningVault(tmp_path_factory.mktemp("sockets") / "data")
    yield running
    running.kill()
    # No request has caused a defect.
    assert " 500 " not in running.log
    assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def auth(vault: RunningVault) -> bytes:
    return f"Authorization: Bearer {vault.token(DID)}\r\nContent-Type: application/json\r\n".encode()


def request(line: str, *headers: bytes, body: bytes = b"") -> bytes:
    return line.encode() + b" HTTP/1.1\r\nHost: vault\r\n" + b"".join(headers) + b"\r\n" + body


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + end


def length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


def check(answer: Any, status: int, code: str) -> None:
    refused(answer, status, code)


async def test_a_chunked_body_is_read(vault: RunningVault, auth: bytes) -> None:
    parts = [BODY[:10], BODY[10:11], BODY[11:]]
    (answer,) = vault.exchange(
        request("POST /v1/repo/record", auth, CLOSE, b"Transfer-Encoding: chunked\r\n", body=chunked(*parts))
    )
    assert data(answer)  # type: ignore[arg-type]


@pytest.mark.parametrize("megabytes", [2, 12])
@pytest.mark.parametrize("path", ["/v1/repo/record", "/v1/media/finalize"])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_refused_cleanly(
    vault: RunningVault, auth: bytes, megabytes: int, path: str, declared: bool
) -> None:
    # Like many clients, this one fails at a broken pipe: the server must read on while it sends.
    connection = http.client.HTTPConnection("127.0.0.1", vault.port, timeout=30)
    headers = dict(line.split(": ", 1) for line in auth.decode().splitlines())
    piece = b" " * 65536
    if declared:
        connection.request("POST", path, piece * 16 * megabytes, headers)
    else:
        connection.request("POST", path, (piece for _ in range(16 * megabytes)), headers, encode_chunked=True)
    check(_answer(connection), 413, "CDV_BAD_REQUEST")
    connection.close()


def _answer(connection: http.client.HTTPConnection) -> Any:
    return Answer(connection.getresponse())


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        ("POST /v1/nope", 404, "CDV_NOT_FOUND"),
        ("DELETE /v1/repo/record", 405, "CDV_BAD_REQUEST"),
        ("PUT /v1/blobs/upload/x", 403, "CDV_AUTHZ"),
    ],
)
async def test_a_client_that_is_refused_while_sending_gets_the_error(
    vault: RunningVault, line: str, status: int, code: str
) -> None:
    method, path = line.split()
    connection = http.client.HTTPConnection("127.0.0.1", vault.port, timeout=30)
    connection.request(method, path, b" " * 10 * MIB)
    check(_answer(connection), status, code)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()


async def test_a_huge_content_length_is_refused_at_once(vault: RunningVault, auth: bytes) -> None:
    (answer,) = vault.exchange(request("POST /v1/repo/record", auth, b"Content-Length: 2000000000000\r\n", body=b"{"))
    check(answer, 413, "CDV_BAD_REQUEST")


async def test_expect_100_continue_is_answered_before_the_body_is_sent(vault: RunningVault, auth: bytes) -> None:
    expect = b"Expect: 100-continue\r\n"
    (answer,) = vault.exchange(request("POST /v1/repo/record", auth, expect, b"Content-Length: 2000000\r\n"))
    check(answer, 413, "CDV_BAD_REQUEST")
    with vault.connect() as connection:
        connection.sendall(request("POST /v1/repo/record", auth, expect, CLOSE, length(BODY)))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(BODY)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


async def test_a_missing_or_invalid_token_is_refused_before_the_body_has_arrived(vault: RunningVault) -> None:
    expect = b"Expect: 100-continue\r\n"
    (answer,) = vault.exchange(request("POST /v1/repo/record", JSON, expect, length(BODY)))
    check(answer, 401, "CDV_AUTHN")
    nobody = b"Authorization: Bearer x\r\n"
    (answer,) = vault.exchange(request("POST /v1/media/finalize", JSON, nobody, expect, length(BODY)))
    check(answer, 401, "CDV_JWT_MALFORMED")
    # A chunked body may be too large, which is checked first.
    with vault.connect() as connection:
        connection.sendall(request("POST /v1/repo/record", JSON, expect, CLOSE, b"Transfer-Encoding: chunked\r\n"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Type: text/plain\r\nContent-Type: application/json\r\n",
        b"Content-Type: application/json\r\nContent-Type: application/json\r\n",
        b"Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Encoding: identity\r\n",
    ],
)
async def test_a_second_content_type_or_encoding_is_refused(vault: RunningVault, auth: bytes, headers: bytes) -> None:
    bare = auth.replace(JSON, b"")
    (answer,) = vault.exchange(request("POST /v1/repo/record", bare, headers, length(BODY), body=BODY))
    check(answer, 415, "CDV_BAD_REQUEST")


async def test_a_body_shorter_than_its_content_length_is_refused(vault: RunningVault, auth: bytes) -> None:
    declared = b"Content-Length: %d\r\n" % (len(BODY) + 1)
    (answer,) = vault.exchange(request("POST /v1/repo/record", auth, declared, body=BODY), then_close=True)
    check(answer, 400, "CDV_BAD_REQUEST")


async def test_a_body_longer_than_its_content_length_is_cut_off_there(vault: RunningVault, auth: bytes) -> None:
    declared = b"Content-Length: %d\r\n" % (len(BODY) - 1)
    first, *rest = vault.exchange(request("POST /v1/repo/record", auth, declared, CLOSE, body=BODY))
    check(first, 400, "CDV_BAD_REQUEST")
    assert not rest


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\nabc\r\n0\r\n\r\n",
        b"-1\r\n",
        b"5\r\nabc",
        b"3\r\nabcdef\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\n",
        b"5",
        b"",
    ],
)
async def test_an_invalid_chunk_is_refused(vault: RunningVault, auth: bytes, body: bytes) -> None:
    answers = vault.exchange(
        request("POST /v1/repo/record", auth, b"Transfer-Encoding: chunked\r\n", body=body), then_close=True
    )
    check(answers[0], 400, "CDV_BAD_REQUEST")


@pytest.mark.parametrize(
    "headers",
    [
        *(b"Content-Length: abc\r\n", b"Content-Length: -5\r\n", b"Content-Length: 5\r\nContent-Length: 6\r\n"),
        *(
            b"Content-Length: 99999999999999999999999\r\n",
            b"Transfer-Encoding: gzip\r\n",
            b"X: a\r\n b\r\n",
            b"X\x00: a\r\n",
        ),
        *(b"Content-Length: 1, 2\r\n", b"X : a\r\n", b": a\r\n"),
    ],
)
async def test_invalid_framing_is_refused_with_400(vault: RunningVault, auth: bytes, headers: bytes) -> None:
    answers = vault.exchange(request("POST /v1/repo/record", auth, headers, body=BODY), then_close=True)
    assert [answer.status_code for answer in answers] == [400]


async def test_a_smuggled_request_is_not_answered(vault: RunningVault, auth: bytes) -> None:
    # Both framings: the server may refuse, or read the chunks and close; it must not read the rest as a request.
    inner = request("GET /healthz")
    answers = vault.exchange(
        request(
            "POST /v1/repo/record",
            auth,
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            body=chunked(BODY) + inner,
        ),
        then_close=True,
    )
    assert len(answers) == 1


async def test_headers_over_the_limit_are_refused_with_431(vault: RunningVault) -> None:
    for line, headers in (
        ("GET /healthz", b"X: " + b"a" * 140_000 + b"\r\n"),
        ("GET /" + "a" * 140_000, b""),
        ("GET /healthz", b"".join(b"X-%d: y\r\n" % number for number in range(2000))),
    ):
        answers = vault.exchange(request(line, headers, CLOSE))
        assert [answer.status_code for answer in answers] == [431]


async def test_long_headers_within_the_limit_are_read(vault: RunningVault) -> None:
    did = "did:example:" + "x" * 2036
    token = f"Authorization: Bearer {vault.token(did)}\r\n".encode()
    (answer,) = vault.exchange(
        request(f"GET /v1/repo/listRecords?did={did}", token, b"X: " + b"a" * 40_000 + b"\r\n", CLOSE)
    )
    assert data(answer) == {"records": []}  # type: ignore[arg-type]


@pytest.mark.parametrize("sent", [b"", b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /healthz HTTP/1.1\r\n"])
async def test_a_client_that_sends_no_complete_request_head_is_disconnected(vault: RunningVault, sent: bytes) -> None:
    with vault.connect(timeout=20) as connection:
        connection.sendall(sent)
        while connection.recv(4096):
            pass


async def test_pipelined_requests_are_answered_in_order(vault: RunningVault, auth: bytes) -> None:
    answers = vault.exchange(
        request("GET /healthz")
        + request("POST /v1/repo/record", auth, length(BODY), body=BODY)
        + request("GET /v1/nope")
        + request("POST /v1/repo/record", auth, length(b"{"), body=b"{")
        + request("GET /healthz", CLOSE)
    )
    assert [answer.status_code for answer in answers] == [200, 200, 404, 400, 200]


async def test_head_sends_no_body_over_the_wire(vault: RunningVault) -> None:
    with vault.connect() as connection:
        connection.sendall(request("HEAD /docs") + request("GET /healthz", CLOSE))
        received = b""
        while part := connection.recv(65536):
            received += part
    head, _, rest = received.partition(b"\r\n\r\n")
    assert b"content-length: " in head
    assert rest.startswith(b"HTTP/1.1 200")


async def test_a_connection_stays_open_after_refusals(vault: RunningVault, auth: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", vault.port, timeout=30)
    connection.connect()
    kept = connection.sock
    headers = dict(line.split(": ", 1) for line in auth.decode().splitlines())
    for body, status in ((b"{", 400), (b"[" * 5000, 400), (b"\xff", 400), (BODY, 200), (b"{}", 400), (BODY, 200)):
        connection.request("POST", "/v1/repo/record", body, headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
    assert connection.sock is kept
    connection.close()


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00", b"HELLO\r\n\r\n", b"\x00" * 100, b"GET /\x00 HTTP/1.1\r\n\r\n"]
)
async def test_bytes_that_are_no_http_are_refused_and_do_no_harm(vault: RunningVault, junk: bytes) -> None:
    answers = vault.exchange(junk, then_close=True)
    assert [answer.status_code for answer in answers] in ([400], [])
    assert vault.exchange(request("GET /healthz", CLOSE))[0].status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/%ff", "/v1/%00", "/v1/media/%ff/meta", "/v1/blobs/upload/%ff", "/v1/é", "//v1/repo/record"),
        *("/v1/media/%2e%2e%2f/meta", "/v1/blobs/download/%0d%0a"),
    ],
)
async def test_a_hostile_path_is_refused(vault: RunningVault, path: str) -> None:
    (answer,) = vault.exchange(request(f"GET {path}", CLOSE))
    error = answer.json()["error"]
    assert answer.status_code in {400, 401, 403, 404, 405}
    assert error["correlationId"] == answer.headers["x-correlation-id"]


async def test_an_aborted_upload_leaves_no_file(vault: RunningVault, auth: bytes) -> None:
    body = json.dumps({"did": DID, "mimeType": "image/png", "size": 100}).encode()
    (ticket,) = vault.exchange(request("POST /v1/media/uploadInit", auth, CLOSE, length(body), body=body))
    url = data(ticket)["uploadUrl"]  # type: ignore[arg-type]
    path = "/v1/" + url.partition("/v1/")[2]
    (answer,) = vault.exchange(request(f"PUT {path}", b"Content-Length: 100\r\n", body=b"x" * 50), then_close=True)
    check(answer, 400, "CDV_BAD_REQUEST")
    assert not list((vault.data_dir / "media" / "incoming").iterdir())
    assert not list((vault.data_dir / "media" / "objects").rglob("*.*"))


async def test_clients_that_disconnect_before_the_response_do_no_harm(vault: RunningVault) -> None:
    for line in ("POST /v1/repo/record", "PUT /v1/blobs/upload/x", "POST /v1/media/finalize"):
        for part in (b"", b"{", b"x" * 70_000):
            with vault.connect() as connection:  # closed before the response
                connection.sendall(request(line, b"Content-Length: 100000\r\n", body=part))
    vault.exchange(request("GET /healthz", CLOSE))
    assert " 500 " not in vault.log
    assert "Traceback" not in vault.log
