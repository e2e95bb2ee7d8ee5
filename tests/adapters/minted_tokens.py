"""Hand-made tokens, valid and invalid, of an issuer that also publishes keys it should not."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc.jwk import OKPKey

from cdv_adapters.tokens.jwks import JwksTokenVerifier
from cdv_adapters.tokens.jwt import JwtVerifier
from cdv_adapters.tokens.key_set import FetchedDocument, IssuerKeys
from cdv_adapters.tokens.local_key import LocalIssuer, LocalKeyTokenVerifier
from cdv_core.domain.tokens import base64url
from tests.adapters import edwards25519 as curve
from tests.fakes.clock import FakeClock
from tests.leaks import secret

ISSUER, AUDIENCE, SUBJECT = "https://identity.example", "cdv", "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
CLOCK = FakeClock(datetime(2026, 11, 24, 2, 53, 29, tzinfo=UTC))
NOW = int(CLOCK.now().timestamp())

SEED = hashlib.sha256(b"a key for tests").digest()
PRIVATE = ed25519.Ed25519PrivateKey.from_private_bytes(SEED)
PUBLIC = PRIVATE.public_key().public_bytes_raw()
OWN = LocalIssuer(OKPKey.import_key(PRIVATE), issuer=ISSUER, audience=AUDIENCE)
KID = OWN.kid
ATTACKER = ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"another key").digest())

HEADER: dict[str, Any] = {"alg": "EdDSA", "kid": KID, "typ": "JWT"}
CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": SUBJECT, "iat": NOW, "exp": NOW + 600}

Signer = Callable[[bytes], bytes]


def okp_jwk(public: bytes, kid: str, crv: str = "Ed25519") -> dict[str, Any]:
    return {"kty": "OKP", "crv": crv, "x": base64url(public), "kid": kid}


def coordinate(value: int) -> str:
    return base64url(value.to_bytes(32, "big"))


def text(value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()


def token(header: object = HEADER, claims: object = CLAIMS, sign: Signer = PRIVATE.sign) -> str:
    """A compact JWT of that header and those claims, JSON values or the bytes themselves."""
    signing_input = f"{base64url(text(header))}.{base64url(text(claims))}"
    signature = secret(base64url(sign(signing_input.encode())), "a token")
    return f"{signing_input}.{signature}"


def without(members: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in members.items() if key != name}


# Unusable keys that the issuer of these tests publishes besides its own.
P256, RSA, ED448 = (
    ec.generate_private_key(ec.SECP256R1()),
    rsa.generate_private_key(65537, 2048),
    ed448.Ed448PrivateKey.generate(),
)
P256_POINT = P256.public_key().public_numbers()
RSA_NUMBERS = RSA.public_key().public_numbers()
OTHER_KEYS: list[Any] = [
    okp_jwk(ED448.public_key().public_bytes_raw(), "ed448", "Ed448"),
    okp_jwk(PUBLIC, "x25519", "X25519"),
    okp_jwk(PUBLIC, "crv-unknown", "Ed25519ph"),
    {"kty": "EC", "crv": "P-256", "x": coordinate(P256_POINT.x), "y": coordinate(P256_POINT.y), "kid": "p256"},
    {"kty": "RSA", "n": base64url(RSA_NUMBERS.n.to_bytes(256, "big")), "e": "AQAB", "kid": "rsa"},
    {"kty": "oct", "k": base64url(PUBLIC), "kid": "oct"},
    {**okp_jwk(PUBLIC, "for-encryption"), "use": "enc"},
    {**okp_jwk(PUBLIC, "for-signing-only"), "key_ops": ["sign"]},
    {**okp_jwk(PUBLIC, "key-ops-a-string"), "key_ops": "verify"},
    {**okp_jwk(PUBLIC, "another-alg"), "alg": "HS256"},
    {**okp_jwk(PUBLIC, "private-half-published"), "d": base64url(SEED)},
    {**okp_jwk(PUBLIC, "x-missing"), "x": None},
    {**okp_jwk(PUBLIC, "x-padded"), "x": base64url(PUBLIC) + "="},
    {**okp_jwk(PUBLIC, "x-hex"), "x": PUBLIC.hex()},
    {**okp_jwk(PUBLIC, "x-other-alphabet"), "x": "+/" + base64url(PUBLIC)[2:]},
    {**okp_jwk(PUBLIC, "x-beyond-ascii"), "x": "é" + base64url(PUBLIC)[1:]},
    {**okp_jwk(PUBLIC, "x-stray-bits"), "x": base64url(PUBLIC)[:-1] + chr(ord(base64url(PUBLIC)[-1]) + 1)},
    okp_jwk(PUBLIC[:31], "x-short"),
    okp_jwk(PUBLIC + b"\0", "x-long"),
    okp_jwk(b"", "x-empty"),
    okp_jwk(PUBLIC, "twice"),
    okp_jwk(ATTACKER.public_key().public_bytes_raw(), "twice"),
    {**okp_jwk(PUBLIC, "kid-a-number"), "kid": 7},
    without(okp_jwk(PUBLIC, "no-kid"), "kid"),
    "not an object",
    None,
]

SMALL_ORDER = sorted({*map(curve.encode, curve.small_order_points())})
# y beyond the prime, and x = 0 with a sign bit: encodings that decode to a point without being canonical.
NOT_CANONICAL = [curve.encode_y(y, sign) for y in range(curve.P, 2**255) for sign in (False, True)]
NOT_CANONICAL += [curve.encode_y(y, True) for y in (1, curve.P - 1)]
WEAK = {
    **{f"small-{n}": key for n, key in enumerate(SMALL_ORDER)},
    **{f"odd-{n}": key for n, key in enumerate(NOT_CANONICAL)},
}
OTHER_KEYS += [okp_jwk(key, kid) for kid, key in WEAK.items()]


def hmac_with(key: bytes, digest: str = "sha256") -> Signer:
    return lambda message: hmac.digest(key, message, digest)


def forge_under(weak: bytes) -> Signer:
    """Sign without a private key: R = [s]B holds if [h]A = 0, which is so for every eighth h under a weak A."""

    def sign(message: bytes) -> bytes:
        assert curve.BASE is not None
        s, r = 1, curve.BASE
        while curve.scalar(curve.encode(r), weak, message) % 8:
            s, r = s + 1, curve.add(r, curve.BASE)
        return curve.encode(r) + s.to_bytes(32, "little")

    return sign


def with_s_plus_order(message: bytes) -> bytes:
    signature = PRIVATE.sign(message)
    return signature[:32] + (int.from_bytes(signature[32:], "little") + curve.L).to_bytes(32, "little")


def with_non_canonical_r(message: bytes) -> bytes:
    """R is the identity, encoded with y = p + 1: the equation holds, but the encoding is not canonical."""
    r = curve.encode_y(curve.P + 1, False)
    s = curve.scalar(r, PUBLIC, message) * curve.secret_scalar(SEED) % curve.L
    return r + s.to_bytes(32, "little")


def raw_ecdsa(message: bytes) -> bytes:
    return P256.sign(message, ec.ECDSA(SHA256()))


DOCUMENT = text({"keys": [*OTHER_KEYS, *OWN.jwks()["keys"]]})


def _jwks_verifier() -> JwtVerifier:
    keys = IssuerKeys(lambda: FetchedDocument(DOCUMENT))
    return JwksTokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE, clock=CLOCK)


# A new verifier at each call, because verifiers cache tokens.
VERIFIERS: dict[str, Callable[[], JwtVerifier]] = {
    "local key": lambda: LocalKeyTokenVerifier(OWN, CLOCK),
    "JWKS": _jwks_verifier,
}
