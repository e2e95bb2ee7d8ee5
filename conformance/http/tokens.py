"""Sources of the run's tokens: a command, or the private key of an issuer that the target trusts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import shlex
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

LIFE_SECONDS = 3600
_RENEWED_AFTER_SECONDS = 900
_COMMAND_SECONDS = 30
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+", re.ASCII)  # RFC 6750, b64token
COMMANDS_AHEAD = 3
USES_MAX = 100  # requests of one DID before a role gets another one: rate limits are per DID


class NoTokens(Exception):
    """Tokens cannot be obtained in the way that the command line says. The message is for the user."""


class Key:
    """An Ed25519 key pair. `kid`: the key id under which the issuer publishes it."""

    def __init__(self, private: Ed25519PrivateKey, kid: str = "") -> None:
        self.private = private
        self.public = private.public_key().public_bytes_raw()
        self.kid = kid or self._thumbprint()

    @classmethod
    def new(cls) -> Key:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> Key:
        """Read a private key from a JWK or PEM file. Raises NoTokens."""
        try:
            content = path.read_bytes()
            if content.lstrip().startswith(b"{"):
                jwk = json.loads(content)
                raw = base64.urlsafe_b64decode(jwk["d"] + "=" * (-len(jwk["d"]) % 4))
                return cls(Ed25519PrivateKey.from_private_bytes(raw), jwk.get("kid", ""))
            private = load_pem_private_key(content, None)
        except OSError as error:
            raise NoTokens(f"--issuer-key {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, UnsupportedAlgorithm) as error:
            raise NoTokens(
                f"--issuer-key {path}: the file holds no private Ed25519 key as JWK or unencrypted PEM"
            ) from error
        if not isinstance(private, Ed25519PrivateKey):
            raise NoTokens(f"--issuer-key {path}: the key is not an Ed25519 key")
        return cls(private)

    def jwk(self) -> dict[str, str]:
        """Return the public key as a JWK."""
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(self.public), "kid": self.kid, "use": "sig", "alg": "EdDSA"}

    def _thumbprint(self) -> str:  # RFC 7638
        members = {"crv": "Ed25519", "kty": "OKP", "x": b64(self.public)}
        return b64(hashlib.sha256(text(members)).digest())


class TokenSource:
    """A source of valid tokens, which are cached per DID until they are due for renewal."""

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[str, float]] = {}
        self._subjects: dict[str, str] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def token(self, did: str) -> str:
        """Return a token whose sub is `did`. Concurrent callers of one DID share one token; other DIDs do not wait."""
        with self._lock:
            own = self._locks.setdefault(did, threading.Lock())
        with own:
            token, made_at = self._tokens.get(did, ("", 0.0))
            if not token or time.monotonic() - made_at > _RENEWED_AFTER_SECONDS:
                token = self.make(did)
                self._tokens[did] = token, time.monotonic()
                self._subjects[f"Bearer {token}"] = did
            return token

    def subject(self, authorization: str) -> str:
        """Return the DID whose token this Authorization header carries; empty if it is none of this source's."""
        return self._subjects.get(authorization, "")

    def new_did(self) -> str:
        """Return a DID for which nothing was ever written."""
        return f"did:example:{secrets.token_hex(12)}"

    def known_did(self, role: str) -> str:
        """Return a DID that may have written before and that no other role uses; a new one where tokens are cheap."""
        return self.new_did()

    def make(self, did: str) -> str:
        raise NotImplementedError


class CommandTokens(TokenSource):
    """Tokens that a command prints; `{did}` in its arguments is replaced by the DID.

    The command may be slow, so tokens of the next new DIDs are requested in advance, and DIDs are reused.
    """

    def __init__(self, command: str) -> None:
        """Raises NoTokens."""
        super().__init__()
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise NoTokens(f"--token-command: {error}") from error
        if not self._words:
            raise NoTokens("--token-command: the command is empty")
        self._ahead: deque[tuple[str, Future[str]]] = deque()
        self._threads = ThreadPoolExecutor(COMMANDS_AHEAD)
        self._known: dict[str, str] = {}  # by role
        self._uses: Counter[str] = Counter()

    def token(self, did: str) -> str:
        with self._lock:
            self._uses[did] += 1
        return super().token(did)

    def known_did(self, role: str) -> str:
        if role not in self._known or self._uses[self._known[role]] >= USES_MAX:
            self._known[role] = self.new_did()
        return self._known[role]

    def new_did(self) -> str:
        while len(self._ahead) <= COMMANDS_AHEAD:
            did = super().new_did()
            self._ahead.append((did, self._threads.submit(self.token, did)))
        return self._ahead.popleft()[0]

    def make(self, did: str) -> str:
        """Raises NoTokens."""
        words = [word.replace("{did}", did) for word in self._words]
        try:
            done = subprocess.run(words, capture_output=True, timeout=_COMMAND_SECONDS, check=True)
        except subprocess.CalledProcessError as error:
            printed = error.stderr.decode(errors="replace").strip()
            raise NoTokens(f"--token-command: {words[0]} exited with {error.returncode}: {printed}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoTokens(f"--token-command: {words[0]} could not be run to its end: {error}") from error
        token = done.stdout.decode("ascii", errors="replace").strip()
        if not _TOKEN.fullmatch(token):
            raise NoTokens(
                f"--token-command: {words[0]} must print a token and nothing else, but printed {token[:80]!r}"
            )
        return token


class KeyTokens(TokenSource):
    """Signs valid and invalid tokens. `server_ahead_seconds`: how far the target's clock is ahead of ours."""

    def __init__(self, key: Key, *, issuer: str, audience: str) -> None:
        super().__init__()
        self.key = key
        self.issuer = issuer
        self.audience = audience
        self.server_ahead_seconds = 0.0

    def now(self) -> int:
        return int(time.time() + self.server_ahead_seconds)

    def header(self, **changes: Any) -> dict[str, Any]:
        """Return a valid header with changes; a member given as ... is left out."""
        return _changed({"alg": "EdDSA", "kid": self.key.kid, "typ": "JWT"}, changes)

    def claims(self, did: str, **changes: Any) -> dict[str, Any]:
        """Return valid claims with changes; a member given as ... is left out."""
        now = self.now()
        good = {"iss": self.issuer, "aud": self.audience, "sub": did, "iat": now, "exp": now + LIFE_SECONDS}
        return _changed(good, changes)

    def mint(
        self,
        did: str,
        header: dict[str, Any] | None = None,
        sign: Callable[[bytes], bytes] | None = None,
        **changes: Any,
    ) -> str:
        return compact(header or self.header(), self.claims(did, **changes), sign or self.key.private.sign)

    def make(self, did: str) -> str:
        return self.mint(did)


def compact(header: dict[str, Any], claims: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """Return a JWT in compact form."""
    signing_input = f"{b64(text(header))}.{b64(text(claims))}"
    return f"{signing_input}.{b64(sign(signing_input.encode()))}"


def b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def text(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _changed(good: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}
