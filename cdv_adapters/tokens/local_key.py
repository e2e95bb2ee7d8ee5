"""The built-in issuer, for development. Its key is a file in the data directory; its tokens need no network."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from cdv_adapters.data_dir import DataDir
from cdv_adapters.tokens.ed25519 import ALGORITHM, PublicKey, UnusableKey
from cdv_adapters.tokens.jwt import JwtVerifier
from cdv_core.domain.identifiers import Did
from cdv_core.domain.tokens import base64url, read_json_object
from cdv_core.errors import InvalidField
from cdv_core.ports.clock import Clock


class LocalIssuer:
    """Signs development tokens and publishes the key that verifies them."""

    def __init__(self, key: OKPKey, *, issuer: str, audience: str) -> None:
        """`key`: a private Ed25519 key. `kid` is the key's own if it has one, otherwise its thumbprint (RFC 7638)."""
        self.name = issuer
        self.audience = audience
        self.kid = key.kid or key.thumbprint()
        self._key = key
        self._public = PublicKey.from_raw(key.public_key.public_bytes_raw())

    @classmethod
    def open(cls, data_dir: Path, *, issuer: str, audience: str) -> Self:
        """Return the issuer of this data directory. Creates its key if there is none.

        Processes that do so at the same time get the same key.

        Raises InvalidField: the directory is not writable, or the file does not hold a private Ed25519 key.
        """
        path = DataDir(data_dir).issuer_key
        try:
            if not path.exists():
                _create(path)
        except OSError as error:
            raise InvalidField(str(path), f"cannot be made: {error.strerror}") from error
        return cls.from_file(path, issuer=issuer, audience=audience)

    @classmethod
    def from_file(cls, path: Path, *, issuer: str, audience: str) -> Self:
        """Return an issuer with the key in that file: a JWK, or PKCS#8 in PEM.

        Raises InvalidField, with the path: the file cannot be read, or is not an unencrypted private Ed25519 key.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InvalidField(str(path), f"cannot be read: {error.strerror}") from error
        try:
            return cls(_read_key(content), issuer=issuer, audience=audience)
        # cryptography raises TypeError if a passphrase is needed.
        except (JoseError, ValueError, TypeError) as error:
            raise InvalidField(str(path), "no private Ed25519 key, as JWK or unencrypted PKCS#8 PEM") from error

    def jwks(self) -> dict[str, Any]:
        """Return the document for `/.well-known/jwks.json`. It contains the public key only."""
        public = {"kty": "OKP", "crv": "Ed25519", "x": base64url(self._public.raw)}
        return {"keys": [{**public, "kid": self.kid, "use": "sig", "alg": "EdDSA"}]}

    def issue(self, did: Did, ttl_seconds: int, now: datetime) -> str:
        """Return a token for `did` that is valid for `ttl_seconds` from `now` on. Raises InvalidField: not positive."""
        if ttl_seconds < 1:
            raise InvalidField("ttl", "a token lives a second at least")
        issued = int(now.timestamp())
        claims = {
            "iss": self.name,
            "aud": self.audience,
            "sub": did,
            "iat": issued,
            "exp": issued + ttl_seconds,
            "jti": secrets.token_urlsafe(16),
        }
        signing_input = ".".join(_segment(part) for part in ({"alg": "EdDSA", "kid": self.kid, "typ": "JWT"}, claims))
        return f"{signing_input}.{base64url(ALGORITHM.sign(signing_input.encode(), self._key))}"

    async def find_key(self, kid: str) -> PublicKey | None:
        return self._public if kid == self.kid else None


class LocalKeyTokenVerifier(JwtVerifier):
    """Verifies tokens of one LocalIssuer."""

    def __init__(self, issuer: LocalIssuer, clock: Clock) -> None:
        super().__init__(issuer.find_key, issuer=issuer.name, audience=issuer.audience, clock=clock)


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
    scratch = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(OKPKey.generate_key("Ed25519").as_dict(private=True), file)
            file.flush()
            os.fsync(file.fileno())
        # A hard link, unlike a rename, fails if the file exists, and it makes the file appear complete: a concurrent
        # process that is second uses the key of the first.
        with suppress(FileExistsError):
            path.hardlink_to(scratch)
    finally:
        scratch.unlink()


def _read_key(content: bytes) -> OKPKey:
    jwk: dict[str, Any] = {}
    if content.lstrip().startswith(b"{"):
        jwk = read_json_object(content)
        if (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519"):
            raise UnusableKey("not OKP Ed25519")
        # Only these members: with `use` or `key_ops` for another purpose, joserfc would refuse to sign.
        key = OKPKey.import_key({name: jwk[name] for name in ("kty", "crv", "x", "d", "kid") if name in jwk})
    else:
        key = OKPKey.import_key(content)
    if key.curve_name != "Ed25519" or not key.is_private:
        raise UnusableKey("not a private Ed25519 key")
    if jwk and jwk["x"] != base64url(key.public_key.public_bytes_raw()):
        raise UnusableKey("x is not the public key of d")
    return key


def _segment(part: dict[str, Any]) -> str:
    return base64url(json.dumps(part, separators=(",", ":")).encode())
