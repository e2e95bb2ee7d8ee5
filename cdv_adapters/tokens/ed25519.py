"""Ed25519 public keys as JWKs, and verification with the only signature algorithm that tokens may use."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry

from cdv_core.domain.tokens import base64url

# The fully specified name (RFC 9864): neither a token nor a key can make joserfc use another algorithm.
ALGORITHM: Final = JWSRegistry(algorithms=["Ed25519"]).get_alg("Ed25519")
_FIELD_PRIME: Final = 2**255 - 19
# The y coordinates of all points whose order divides 8 (with either sign of x). RFC 8032 leaves this check to the
# application, and neither joserfc nor OpenSSL does it. With such a key, [h]A takes at most eight values whatever was
# signed, so that anyone can forge signatures; with the identity, one signature fits every message.
_SMALL_ORDER_Y: Final = frozenset(
    {
        0,
        1,
        _FIELD_PRIME - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    }
)


class UnusableKey(ValueError):
    """The JWK is not an Ed25519 public key that may verify signatures."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies tokens. `raw`: its 32 bytes; keys are equal if these are."""

    raw: bytes
    _key: OKPKey = field(compare=False, repr=False)

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any]) -> PublicKey:
        """Return the key. Raises UnusableKey: another key type, use or algorithm, a private key, or an unsafe point."""
        if (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519"):
            raise UnusableKey("not OKP Ed25519")
        if jwk.get("use", "sig") != "sig" or jwk.get("alg", "EdDSA") not in ("EdDSA", "Ed25519"):
            raise UnusableKey("for another use or algorithm")
        operations = jwk.get("key_ops", ["verify"])
        if not isinstance(operations, list) or "verify" not in operations:
            raise UnusableKey("not for verifying")
        if "d" in jwk:
            raise UnusableKey("its private half is published")
        return cls.from_raw(_raw_point(jwk.get("x")))

    @classmethod
    def from_raw(cls, raw: bytes) -> PublicKey:
        """Return the key. Raises UnusableKey: not 32 bytes, not canonically encoded, or a point of small order."""
        if len(raw) != 32:
            raise UnusableKey("not 32 bytes")
        y = int.from_bytes(raw, "little") & (2**255 - 1)  # the top bit is the sign of x
        if y >= _FIELD_PRIME:
            raise UnusableKey("not a canonical encoding")
        if y in _SMALL_ORDER_Y:
            raise UnusableKey("a point of small order")
        # Only these members: joserfc would compare others, such as alg, with the algorithm name that we pinned.
        return cls(raw, OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": base64url(raw)}))

    def verifies(self, signing_input: bytes, signature: bytes) -> bool:
        """Return whether `signature` is this key's over `signing_input`.

        OpenSSL checks the signature's form: 64 bytes, S below the group order, and R compared byte by byte with its
        canonical encoding.
        """
        return ALGORITHM.verify(signing_input, signature, self._key)


def _raw_point(x: object) -> bytes:
    if not isinstance(x, str):
        raise UnusableKey("no x")
    try:
        raw = base64.urlsafe_b64decode(x + "=" * (-len(x) % 4))
    except ValueError as error:
        raise UnusableKey("x is not base64url") from error
    if base64url(raw) != x:  # Python ignores characters outside of the alphabet
        raise UnusableKey("x is not canonical base64url")
    return raw
