"""The built-in issuer: its key on disk, its tokens, and keys read from a file."""

import base64
import json
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from cdv_adapters.tokens.ed25519 import PublicKey
from cdv_adapters.tokens.local_key import LocalIssuer, LocalKeyTokenVerifier
from cdv_core.domain.identifiers import Did
from cdv_core.domain.tokens import base64url
from cdv_core.errors import InvalidField
from tests.fakes.clock import FakeClock

SUBJECT = Did("did:plc:ewvi7nxzyoun6zhxrhs64oiz")
NOW = datetime(2026, 11, 24, 2, 53, 29, 999999, tzinfo=UTC)
# The key of RFC 8037, appendix A.
RFC_JWK = {
    "kty": "OKP",
    "crv": "Ed25519",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
}
RFC_THUMBPRINT = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
RFC_SEED = base64.urlsafe_b64decode(RFC_JWK["d"] + "=")
RFC_PRIVATE = ed25519.Ed25519PrivateKey.from_private_bytes(RFC_SEED)


def pem(key: Any, encryption: KeySerializationEncryption | None = None) -> bytes:
    private: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    return private


def opened(directory: Path) -> LocalIssuer:
    return LocalIssuer.open(directory, issuer="urn:local", audience="cdv")


def read(path: Path, content: bytes) -> LocalIssuer:
    path.write_bytes(content)
    return LocalIssuer.from_file(path, issuer="urn:local", audience="cdv")


def decoded(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=="))


def test_the_key_is_created_once_with_owner_only_permissions(tmp_path: Path):
    directory = tmp_path / "not" / "yet"

    first, second = opened(directory), opened(directory)

    assert first.jwks() == second.jwks()
    assert [path.name for path in directory.iterdir()] == ["issuer-key.json"]
    assert stat.S_IMODE((directory / "issuer-key.json").stat().st_mode) == 0o600


def test_concurrent_starts_create_one_key(tmp_path: Path):
    threads = 16
    start = Barrier(threads)

    def race(_: int) -> str:
        start.wait()
        return opened(tmp_path).kid

    with ThreadPoolExecutor(threads) as pool:
        kids = set(pool.map(race, range(threads)))

    assert kids == {opened(tmp_path).kid}
    assert [path.name for path in tmp_path.iterdir()] == ["issuer-key.json"]


def test_a_data_dir_that_cannot_be_created_is_named_in_the_error(tmp_path: Path):
    (tmp_path / "file").touch()

    with pytest.raises(InvalidField, match=r"file/issuer-key\.json: cannot be "):
        opened(tmp_path / "file")


def test_a_corrupt_key_file_is_reported_and_left_unchanged(tmp_path: Path):
    (tmp_path / "issuer-key.json").write_bytes(b"")

    with pytest.raises(InvalidField, match="no private Ed25519 key"):
        opened(tmp_path)
    assert (tmp_path / "issuer-key.json").read_bytes() == b""


def test_the_published_jwk_has_its_thumbprint_as_kid_and_no_private_key(tmp_path: Path):
    issuer = read(tmp_path / "key", json.dumps(RFC_JWK).encode())

    public = {"kty": "OKP", "crv": "Ed25519", "x": RFC_JWK["x"]}
    assert issuer.jwks() == {"keys": [{**public, "kid": RFC_THUMBPRINT, "use": "sig", "alg": "EdDSA"}]}


def test_an_issued_token_has_the_expected_header_and_claims(tmp_path: Path):
    issuer = opened(tmp_path)

    header, claims, _ = issuer.issue(SUBJECT, 60, NOW).split(".")

    assert decoded(header) == {"alg": "EdDSA", "kid": issuer.kid, "typ": "JWT"}
    issued = int(NOW.timestamp())
    jti = decoded(claims)["jti"]
    assert decoded(claims) == {
        "iss": "urn:local",
        "aud": "cdv",
        "sub": SUBJECT,
        "iat": issued,
        "exp": issued + 60,
        "jti": jti,
    }
    assert decoded(issuer.issue(SUBJECT, 60, NOW).split(".")[1])["jti"] != jti


@pytest.mark.parametrize("ttl_seconds", [0, -1])
def test_a_non_positive_ttl_is_refused(tmp_path: Path, ttl_seconds: int):
    with pytest.raises(InvalidField, match="ttl"):
        opened(tmp_path).issue(SUBJECT, ttl_seconds, NOW)


@pytest.mark.parametrize(
    ("content", "kid"),
    [
        pytest.param(json.dumps(RFC_JWK).encode(), RFC_THUMBPRINT, id="JWK"),
        pytest.param(json.dumps({**RFC_JWK, "kid": "mine"}, indent=2).encode(), "mine", id="JWK that has a name"),
        pytest.param(
            b"\n " + json.dumps({**RFC_JWK, "use": "sig", "alg": "EdDSA"}).encode(), RFC_THUMBPRINT, id="JWK with more"
        ),
        pytest.param(pem(RFC_PRIVATE), RFC_THUMBPRINT, id="PEM"),
    ],
)
async def test_a_key_is_read_from_a_jwk_or_pem_file(tmp_path: Path, content: bytes, kid: str):
    issuer = read(tmp_path / "key", content)

    assert issuer.kid == kid
    token = issuer.issue(SUBJECT, 60, NOW)
    assert (await LocalKeyTokenVerifier(issuer, FakeClock(NOW)).verify(token)).subject == SUBJECT
    signing_input, _, signature = token.rpartition(".")
    assert base64url(RFC_PRIVATE.sign(signing_input.encode())) == signature


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in RFC_JWK.items() if key != name}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"{", id="half a JWK"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="an empty object"),
        *(pytest.param(json.dumps(without(name)).encode(), id=f"JWK without {name}") for name in RFC_JWK),
        *(
            pytest.param(json.dumps({**RFC_JWK, name: value}).encode(), id=f"JWK with {name} {value!r}")
            for name in RFC_JWK
            for value in (None, 7, "", "é", "AAAA", RFC_JWK["d"][:-1])
        ),
        pytest.param(json.dumps({**RFC_JWK, "kid": 7}).encode(), id="JWK with a number for a name"),
        pytest.param(json.dumps({**RFC_JWK, "x": base64url(bytes(32))}).encode(), id="JWK with another key's x"),
        pytest.param(json.dumps(RFC_JWK)[:-1].encode() + b',"d":"AAAA"}', id="JWK with two private halves"),
        pytest.param(json.dumps({"keys": [RFC_JWK]}).encode(), id="a JWK set"),
        # pragma: allowlist nextline secret
        pytest.param(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", id="PEM of nothing"),
        pytest.param(pem(RFC_PRIVATE)[:80], id="half a PEM"),
        pytest.param(pem(RFC_PRIVATE, BestAvailableEncryption(b"secret")), id="PEM with a passphrase"),
        pytest.param(pem(ed448.Ed448PrivateKey.generate()), id="PEM of another curve"),
        pytest.param(pem(x25519.X25519PrivateKey.generate()), id="PEM of a curve that does not sign"),
        pytest.param(pem(rsa.generate_private_key(65537, 2048)), id="PEM of RSA"),
        pytest.param(
            RFC_PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), id="PEM, public"
        ),
    ],
)
def test_an_invalid_key_file_is_refused_without_showing_the_key(tmp_path: Path, content: bytes):
    with pytest.raises(InvalidField) as caught:
        read(tmp_path / "key", content)

    assert str(caught.value) == f"{tmp_path / 'key'}: no private Ed25519 key, as JWK or unencrypted PKCS#8 PEM"
    assert RFC_JWK["d"] not in repr(caught.value)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["absent", "a directory"])
def test_an_unreadable_key_file_is_named_in_the_error(tmp_path: Path, make: Callable[[Path], None]):
    make(tmp_path / "key")

    with pytest.raises(InvalidField, match="key: cannot be read: "):
        LocalIssuer.from_file(tmp_path / "key", issuer="urn:local", audience="cdv")


def test_the_rfc_8037_example_signature_verifies():
    key = PublicKey.from_jwk({name: RFC_JWK[name] for name in ("kty", "crv", "x")})
    signed = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"

    assert key.verifies(signed, base64.urlsafe_b64decode(signature + "=="))
    assert not key.verifies(signed + b"x", base64.urlsafe_b64decode(signature + "=="))
