"""The issuer's key set over a real connection: redirects, limits, timeouts and TLS."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from cdv_adapters.tokens import jwks
from cdv_adapters.tokens.jwks import DOCUMENT_MAX_BYTES, JwksTokenVerifier, JwksUrl, max_age_seconds
from cdv_adapters.tokens.key_set import IssuerKeys, KeysNotFetched
from cdv_adapters.tokens.local_key import LocalIssuer
from cdv_core.domain.identifiers import Did
from cdv_core.errors import InvalidField, TokenInvalid, Unavailable
from tests.adapters.certificates import tls_server_context
from tests.fakes.clock import FakeClock
from tests.fakes.s3 import Answer, ReceivedRequest, trickling_body
from tests.fakes.s3 import ScriptedS3 as ScriptedServer

PATH = "/.well-known/jwks.json"
SUBJECT = Did("did:plc:ewvi7nxzyoun6zhxrhs64oiz")
DOCUMENT = Answer(200, b'{"keys":[]}', {"Cache-Control": "public, max-age=120"})


def fetch(url: str) -> bytes:
    return JwksUrl(url)().body


def refused(url: str) -> str:
    with pytest.raises(KeysNotFetched) as caught:
        fetch(url)
    return str(caught.value)


async def test_tokens_are_verified_with_the_served_keys_and_rotation_is_followed(tmp_path: Path):
    clock = FakeClock()
    keys = [LocalIssuer.open(tmp_path / name, issuer="https://issuer.example", audience="cdv") for name in ("a", "b")]
    served = keys[:1]

    def answer(_: ReceivedRequest) -> Answer:
        body = {"data": {"keys": [jwk for key in served for jwk in key.jwks()["keys"]]}}
        return Answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    a, b = (key.issue(SUBJECT, 60, clock.now()) for key in keys)
    with ScriptedServer(answer) as server:
        source = IssuerKeys(JwksUrl(server.url + PATH))
        verifier = JwksTokenVerifier(source, issuer="https://issuer.example", audience="cdv", clock=clock)
        assert (await verifier.verify(a)).subject == SUBJECT
        served[:] = keys[1:]
        assert (await verifier.verify(b)).subject == SUBJECT
        with pytest.raises(TokenInvalid):
            await verifier.verify(a)
        assert [request.path for request in server.requests] == [PATH] * 2
    await source.aclose()


async def test_an_unreachable_issuer_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    keys = IssuerKeys(JwksUrl(f"http://127.0.0.1:{port}{PATH}"))

    with pytest.raises(Unavailable):
        await keys.check()


def test_max_age_is_read_from_the_response():
    with ScriptedServer(lambda _: DOCUMENT) as server:
        assert JwksUrl(server.url + PATH)().max_age_seconds == 120
        assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [
        ("", None),
        ("public", None),
        ("max-age=0", 0),
        ("MAX-AGE = 60", 60),
        ('private, max-age="60", immutable', 60),
        ("no-store", 0),
        ("max-age=60,no-cache", 0),
        ("s-maxage=60", None),
        ("max-age=-1", None),
        ("max-age=1.5", None),
        ("max-age=" + "9" * 100, None),
        ("max-age=60; x", None),
    ],
)
def test_cache_control_is_parsed_to_a_max_age(cache_control: str, seconds: int | None):
    assert max_age_seconds(cache_control) == seconds


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_same_origin_redirect_is_followed(status: int):
    def answer(request: ReceivedRequest) -> Answer:
        return DOCUMENT if request.path == "/moved" else Answer(status, b"", {"Location": "/moved"})

    with ScriptedServer(answer) as server:
        assert fetch(server.url + PATH) == DOCUMENT.body


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.1:{other}/", "http://localhost:{port}/", "//127.0.0.2:{port}/", "http://[", "file:///etc/passwd"],
)
def test_a_cross_origin_redirect_is_not_followed(location: str):
    with ScriptedServer(lambda _: DOCUMENT) as other:
        where = {"port": 0, "other": int(other.url.rpartition(":")[2])}
        with ScriptedServer(lambda _: Answer(302, b"", {"Location": location.format(**where)})) as server:
            where["port"] = int(server.url.rpartition(":")[2])
            refused(server.url + PATH)
            assert len(server.requests) == 1
        assert other.requests == []


def test_a_redirect_from_https_to_http_is_not_followed(tmp_path: Path):
    context = tls_server_context(tmp_path / "ca.pem")

    def answer(request: ReceivedRequest) -> Answer:
        return Answer(302, b"", {"Location": f"http://{request.headers['host']}/"})

    with (
        ScriptedServer(answer, context) as server,
        pytest.raises(KeysNotFetched, match="another origin"),
    ):
        JwksUrl(server.url + PATH, ca_file=tmp_path / "ca.pem")()


def test_a_redirect_loop_is_ended():
    with ScriptedServer(lambda request: Answer(302, b"", {"Location": request.path})) as server:
        assert refused(server.url + PATH) == "too many redirects"
        assert len(server.requests) == 4


@pytest.mark.parametrize("status", [204, 304, 400, 401, 404, 500, 503])
def test_a_status_other_than_200_is_an_error(status: int):
    with ScriptedServer(lambda _: Answer(status, b"" if status in (204, 304) else b'{"keys":[]}')) as server:
        assert refused(server.url + PATH) == f"status {status}"


def test_an_endless_document_is_cut_off():
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 65536

    with ScriptedServer(lambda _: Answer(200, endless(), {"Connection": "close"})) as server:
        assert refused(server.url + PATH) == f"more than {DOCUMENT_MAX_BYTES} bytes"
        assert server.hung_up.wait(10)
    assert sent < 1000


def test_a_document_of_the_maximum_size_is_read():
    body = b'{"keys":[]}'.ljust(DOCUMENT_MAX_BYTES)
    with ScriptedServer(lambda _: Answer(200, body)) as server:
        assert fetch(server.url + PATH) == body


def test_an_issuer_that_never_responds_times_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jwks, "_TIMEOUT", urllib3.Timeout(connect=1, read=0.05))
    release = threading.Event()

    def answer(_: ReceivedRequest) -> Answer:
        release.wait()
        return DOCUMENT

    with ScriptedServer(answer) as server:
        try:
            assert "ReadTimeoutError" in refused(server.url + PATH)
        finally:
            release.set()


def test_a_trickling_issuer_times_out_and_is_disconnected(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jwks, "_TOTAL_SECONDS", 0.1)
    with trickling_body() as server:
        assert refused(server.url + PATH) == "too slow"
        assert server.hung_up.wait(10)


def test_an_issuer_with_an_untrusted_certificate_is_refused(tmp_path: Path):
    with ScriptedServer(lambda _: DOCUMENT, tls_server_context(tmp_path / "ca.pem")) as server:
        assert "CERTIFICATE_VERIFY_FAILED" in refused(server.url + PATH)
        assert server.requests == []


def test_a_certificate_signed_by_the_configured_ca_is_accepted(tmp_path: Path):
    context = tls_server_context(tmp_path / "ca.pem")
    with ScriptedServer(lambda _: DOCUMENT, context) as server:
        assert JwksUrl(server.url + PATH, ca_file=tmp_path / "ca.pem")().body == DOCUMENT.body


def test_a_certificate_for_another_host_is_refused(tmp_path: Path):
    context = tls_server_context(tmp_path / "ca.pem", host="127.0.0.2")
    with (
        ScriptedServer(lambda _: DOCUMENT, context) as server,
        pytest.raises(KeysNotFetched, match="CERTIFICATE_VERIFY"),
    ):
        JwksUrl(server.url + PATH, ca_file=tmp_path / "ca.pem")()


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_an_unreadable_ca_file_is_named_in_the_error(tmp_path: Path, content: bytes | None):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(InvalidField, match=r"ca\.pem: cannot be read as PEM certificates"):
        JwksUrl("https://issuer.example", ca_file=path)
