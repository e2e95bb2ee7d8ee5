"""The store's certificate is verified: only one signed by a trusted CA is accepted."""

import ipaddress
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from urllib3.exceptions import SSLError

from conformance.ports.blob_subject import SystemClock
from tests.adapters.s3_stores import open_store, unavailable
from tests.fakes.s3 import Answer, ScriptedS3


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = SystemClock().now()
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)  # strict since 3.13
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "store.pem"
    pkcs8, clear = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    path.write_bytes(key.private_bytes(pem, pkcs8, clear) + signed.public_bytes(pem))
    return path


@pytest.fixture
def server(certificate: Path) -> Iterator[ScriptedS3]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ScriptedS3(lambda _: Answer(200), context) as server:
        yield server


async def test_a_store_with_an_untrusted_certificate_receives_no_request(server: ScriptedS3):
    with open_store(server.url) as store:
        cause = await unavailable(store.check())

    assert "CERTIFICATE_VERIFY_FAILED" in str(cause)
    assert isinstance(getattr(cause, "reason", None), SSLError)
    assert server.requests == []


async def test_a_certificate_signed_by_the_configured_ca_is_accepted(server: ScriptedS3, certificate: Path):
    with open_store(server.url, ca_file=certificate) as store:
        await store.check()


async def test_a_certificate_for_another_host_is_refused(server: ScriptedS3, certificate: Path):
    with open_store(server.url.replace("127.0.0.1", "localhost"), ca_file=certificate) as store:
        assert "CERTIFICATE_VERIFY_FAILED" in str(await unavailable(store.check()))
