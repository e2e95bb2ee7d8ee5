"""Upload and download URLs that this service signs and serves itself.

A token is base64url(JSON) and, after a dot, base64url(HMAC-SHA256) of the text before it. Threats and mitigations:

- Forged or altered text: the signature is compared, in constant time, before anything is decoded.
- Another encoding of the same token: the text itself is signed, not what it decodes to.
- Use after expiry: the expiry time is part of the signed text.
- An upload token used to download, or the reverse: the purpose is part of the signed text.
- A token of another vault: each data directory has its own key.
"""

from __future__ import annotations

import fcntl
import hmac
import os
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from cdv_core.errors import BlobUrlRefused
from cdv_core.ports.clock import Clock

_KEY_BYTES: Final = 32  # RFC 2104: as long as the output of the hash


class UploadGrant(msgspec.Struct, frozen=True, tag="upload", forbid_unknown_fields=True):
    """Permission to write up to `size_bytes` bytes under `key`."""

    key: str
    size_bytes: int
    expires_at: datetime


class DownloadGrant(msgspec.Struct, frozen=True, tag="download", forbid_unknown_fields=True):
    """Permission to read the object under `key`, and the response headers to send it with."""

    key: str
    mime_type: str
    disposition: str
    expires_at: datetime


_Grant = TypeVar("_Grant", UploadGrant, DownloadGrant)


class UrlTokens:
    """Signs grants and verifies the signatures."""

    def __init__(self, key: bytes, clock: Clock) -> None:
        self._key = key
        self._clock = clock

    def sign(self, grant: UploadGrant | DownloadGrant) -> str:
        """Return the grant as a token that needs no escaping in a URL."""
        payload = urlsafe_b64encode(msgspec.json.encode(grant)).rstrip(b"=")
        return f"{payload.decode()}.{self._signature(payload).decode()}"

    def verify(self, token: str, purpose: type[_Grant]) -> _Grant:
        """Return the grant in a token that was signed for `purpose`. Raises: BlobUrlRefused."""
        payload, _, signature = token.encode(errors="replace").rpartition(b".")
        if not hmac.compare_digest(signature, self._signature(payload)):
            raise BlobUrlRefused("not_signed_by_us")
        grant = msgspec.json.decode(urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)), type=_ANY_GRANT)
        if not isinstance(grant, purpose):
            raise BlobUrlRefused("for_another_purpose")
        if grant.expires_at <= self._clock.now():
            raise BlobUrlRefused("expired")
        return grant

    def _signature(self, payload: bytes) -> bytes:
        return urlsafe_b64encode(hmac.digest(self._key, payload, "sha256")).rstrip(b"=")


_ANY_GRANT: Final = UploadGrant | DownloadGrant


def read_or_create_key(path: Path) -> bytes:
    """Return the signing key in the file at `path`. Creates it, with mode 0600, on first use. Blocks on the disk.

    Any number of processes that start together get the same key. Raises: OSError. ValueError: the file is damaged.
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # released with the descriptor, also if this process is killed
        if not path.exists():
            # Written under another name first: after a crash there is either no key or a complete one.
            unfinished = path.with_suffix(".new")
            unfinished.unlink(missing_ok=True)
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(path)
            os.fsync(directory)
    finally:
        os.close(directory)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise ValueError(f"{path} holds {len(key)} bytes, a key has {_KEY_BYTES}: remove it and a new one is made")
    return key
