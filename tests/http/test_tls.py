"""TLS in the service itself: 1.3 only, client certificates, refusals at the start (spec: configuration, CDV_TLS_*)."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from tests.http.api import PNG
from tests.http.certificates import Files, files
from tests.http.running import CDV, RunningVault, environment
from tests.servers.process import free_port

PROTECTED = ("/healthz", "/v1/nope", "/v1/repo/record?uri=x")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def server(folder: Path) -> Files:
    return files(folder)


@pytest.fixture(scope="module")
def vault(server: Files) -> Iterator[RunningVault]:
    running = RunningVault(server.folder / "data", server.trusting(), **server.settings)
    yield running
    running.kill()


def test_connections_use_tls_1_3(vault: RunningVault) -> None:
    with vault.connect() as connection:
        assert isinstance(connection, ssl.SSLSocket)
        assert connection.version() == "TLSv1.3"


def test_a_client_limited_to_tls_1_2_is_refused(vault: RunningVault, server: Files) -> None:
    old = server.trusting()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", vault.port), 20) as plain, pytest.raises(ssl.SSLError, match="VERSION"):
        old.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_plain_http_client_gets_no_http_response(vault: RunningVault) -> None:
    with socket.create_connection(("127.0.0.1", vault.port), 20) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in plain.recv(1000)


def test_printed_urls_and_upload_urls_are_https(vault: RunningVault, server: Files) -> None:
    assert f"open at https://127.0.0.1:{vault.port} " in vault.log
    assert "http://" not in vault.log
    with httpx.Client(base_url=vault.base, verify=server.trusting()) as http:
        auth = {"Authorization": f"Bearer {vault.token('did:example:ada')}"}
        body = {"did": "did:example:ada", "mimeType": "image/png", "size": len(PNG)}
        ticket = http.post("/v1/media/uploadInit", json=body, headers=auth).json()["data"]
        assert ticket["uploadUrl"].startswith(f"{vault.base}/v1/blobs/")
        assert http.put(ticket["uploadUrl"], content=PNG).status_code == 200


@pytest.mark.parametrize("path", PROTECTED)
def test_responses_over_tls_have_the_hsts_header(vault: RunningVault, server: Files, path: str) -> None:
    answer = httpx.get(vault.base + path, verify=server.trusting())
    assert answer.headers.get_list("strict-transport-security") == ["max-age=31536000"]


@pytest.fixture(scope="module")
def clients() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def mutual(folder: Path, server: Files, clients: trustme.CA) -> Iterator[RunningVault]:
    clients.cert_pem.write_to_path(folder / "clients.pem")
    running = RunningVault(
        folder / "mutual",
        server.trusting(clients.issue_cert("someone@example.org")),
        CDV_TLS_CLIENT_CA=str(folder / "clients.pem"),
        **server.settings,
    )
    yield running
    running.kill()


def test_a_client_with_a_certificate_of_the_client_ca_is_served(mutual: RunningVault) -> None:
    [answer] = mutual.exchange(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (answer.status_code, answer.json()) == (200, {"data": {"status": "ok"}})


@pytest.mark.parametrize("presented", ["nothing", "another authority's"])
def test_a_client_without_a_certificate_of_the_client_ca_is_refused(
    mutual: RunningVault, server: Files, presented: str
) -> None:
    context = server.trusting(None if presented == "nothing" else trustme.CA().issue_cert("someone@example.org"))
    with (
        socket.create_connection(("127.0.0.1", mutual.port), 20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        # In TLS 1.3 a client learns of the refusal when it reads.
        pytest.raises(ssl.SSLError, match=r"(?i)certificate.?required|unknown.?ca|decrypt.?error"),
    ):
        connection.recv(1000)


def refused_start(folder: Path, **settings: str) -> tuple[int, str]:
    """Return the exit code and the output."""
    ended = subprocess.run(
        [CDV, "serve", "--port", str(free_port())],
        env=environment(folder / "never", **settings),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout


P521 = ec.generate_private_key(ec.SECP521R1())
P256 = ec.generate_private_key(ec.SECP256R1())
UNUSABLE = {
    "missing certificate": ("CDV_TLS_CERT", None, "No such file"),
    "missing key": ("CDV_TLS_KEY", None, "No such file"),
    "missing authority": ("CDV_TLS_CLIENT_CA", None, "No such file"),
    "invalid certificate": ("CDV_TLS_CERT", b"junk", "PEM"),
    "empty certificate": ("CDV_TLS_CERT", b"", "PEM"),
    "invalid key": ("CDV_TLS_KEY", b"junk", "no private key in PEM"),
    "invalid authority": ("CDV_TLS_CLIENT_CA", b"junk", "PEM"),
    "another's key": (
        "CDV_TLS_KEY",
        P256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "the key is not that of the certificate",
    ),
    "encrypted key": (
        "CDV_TLS_KEY",
        P256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
        "encrypted",
    ),
    "key of an unsupported type": (
        "CDV_TLS_KEY",
        P521.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "P-256",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_tls_file_is_reported_in_one_line_at_the_start(tmp_path: Path, case: str) -> None:
    variable, content, words = UNUSABLE[case]
    path = tmp_path / "unusable.pem"
    if content is not None:
        path.write_bytes(content)
    code, printed = refused_start(tmp_path, **{**files(tmp_path).settings, variable: str(path)})
    assert code == 2
    assert printed.count("\n") == 1, printed
    assert printed.startswith("cdv: ")
    for word in (variable, str(path) if "another's" not in case else variable, words):
        assert word in printed


def test_a_certificate_without_a_key_is_reported_in_one_line_at_the_start(tmp_path: Path) -> None:
    code, printed = refused_start(tmp_path, CDV_TLS_CERT=str(files(tmp_path).cert))
    assert (code, printed) == (2, "cdv: CDV_TLS_CERT, CDV_TLS_KEY: give both or neither\n")
