"""Tokens of an outside issuer, verified with the keys it publishes.

What may be tried, and who stops it:

- Algorithm confusion (`none`, HMAC with the public key, another curve): `domain/tokens.py` admits two names for one
  signature, and `ed25519.py` verifies that one whatever the token or the key says.
- A key brought along (`jwk`, `jku`, `x5u`, `x5c`), extensions (`crit`, `b64`): `domain/tokens.py` refuses the token.
- `kid` as a path, a query or a command: it is a key of a dict and nothing else; it is not logged.
- Unknown `kid`s in floods, to flood the issuer: `key_set.py`, one fetch at a time and one per cool-down; tokens for
  others are refused before their key is looked up.
- Oversized, deeply nested or ambiguous tokens (repeated members, stray base64 bits): `domain/tokens.py`.
- Weak keys in the set (small order, not canonical, private half published), two keys of one name: `ed25519.py` and
  `key_set.py` leave them out.
- Forged variants of a good signature (S + L, R spelt otherwise): OpenSSL, held to it by the attack tests.
- Replayed tokens of a withdrawn key: gone with the next refresh, at most an hour later; remembered tokens ask for
  their key each time (`jwt.py`). The same token twice within its life is no attack here: bearer tokens are for that.
- Tokens for another service or of another issuer: `aud` and `iss`, compared whole.
- An issuer impersonated, or made to send us elsewhere or without end: TLS with verification, no redirect to another
  origin, time and byte limits (`JwksUrl`). Plain http:// is for development; settings refuse it elsewhere.
- An issuer that is down: keys go on for a bounded time, then all is refused with 503, never let in.
"""

from __future__ import annotations

import re
import ssl
import time
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

import urllib3
from urllib3.exceptions import HTTPError

from cdv_adapters.http_pool import http_pool
from cdv_adapters.tokens.jwt import JwtVerifier
from cdv_adapters.tokens.key_set import FetchedDocument, IssuerKeys, KeysNotFetched
from cdv_core.errors import InvalidField
from cdv_core.ports.clock import Clock

DOCUMENT_MAX_BYTES: Final = 256 * 1024  # ours: more than a thousand keys
_TIMEOUT: Final = urllib3.Timeout(connect=2, read=3)  # ours; for the head, then for each piece that arrives
_WHOLE_SECONDS: Final = 5.0  # ours: longer than IssuerKeys waits nobody needs the answer, nor its thread and connection
_CHUNK_BYTES: Final = 64 * 1024
_REDIRECTS_MAX: Final = 3
_MAX_AGE: Final = re.compile(r"(?:^|,)\s*max-age\s*=\s*\"?(\d{1,9})\"?\s*(?:,|$)", re.ASCII | re.IGNORECASE)
_NOT_KEPT: Final = re.compile(r"(?:^|,)\s*no-(?:store|cache)\s*(?:,|$)", re.IGNORECASE)


class JwksTokenVerifier(JwtVerifier):
    """Verifies the tokens of `issuer` with its `keys`, whose `check`, `state` and `aclose` are the container's."""

    def __init__(self, keys: IssuerKeys, *, issuer: str, audience: str, clock: Clock) -> None:
        super().__init__(keys.find, issuer=issuer, audience=audience, clock=clock)
        self.keys = keys


class JwksUrl:
    """Gets an issuer's key set over HTTP; what IssuerKeys calls. Blocking."""

    def __init__(self, url: str, *, ca_file: Path | None = None) -> None:
        """Trust `ca_file` (PEM) alone if given, else what the system trusts. Raises InvalidField: it cannot be read."""
        self._url = url
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise InvalidField(str(ca_file), "cannot be read as PEM certificates") from error
        self._pool = http_pool(ssl_context=context, timeout=_TIMEOUT, retries=False)

    def __call__(self) -> FetchedDocument:
        """Return the document. Raises KeysNotFetched."""
        url, deadline = self._url, time.monotonic() + _WHOLE_SECONDS
        for _ in range(_REDIRECTS_MAX + 1):
            document = self._get(url, deadline)
            if isinstance(document, FetchedDocument):
                return document
            url = document
        raise KeysNotFetched("too many redirects")

    def _get(self, url: str, deadline: float) -> FetchedDocument | str:
        """Return the document, or where the issuer sends us for it."""
        try:
            # identity: a compressed body could grow beyond any limit.
            headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
            with self._pool.request("GET", url, headers=headers, redirect=False, preload_content=False) as response:
                location = response.get_redirect_location()
                if location:
                    return self._same_origin(urljoin(url, location))
                if response.status != 200:
                    raise KeysNotFetched(f"status {response.status}")
                body = _read(response, deadline)
        except (HTTPError, ValueError) as error:  # ValueError: urljoin, on what is no address
            raise KeysNotFetched(f"{type(error).__name__}: {error}") from error
        return FetchedDocument(body, max_age_seconds(response.headers.get("Cache-Control", "")))

    def _same_origin(self, url: str) -> str:
        ours, theirs = (urllib3.util.parse_url(each) for each in (self._url, url))
        ports = [each.port or {"http": 80, "https": 443}.get(each.scheme or "") for each in (ours, theirs)]
        if (ours.scheme, ours.host, ports[0]) != (theirs.scheme, theirs.host, ports[1]):
            raise KeysNotFetched("redirected to another origin")
        return url


def _read(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """Raises KeysNotFetched: too many bytes, or too late."""
    body = bytearray()
    # What has arrived, and not a whole chunk: the clock is to be looked at even when bytes only trickle in.
    while chunk := response.read1(_CHUNK_BYTES, decode_content=False):
        body += chunk
        if len(body) > DOCUMENT_MAX_BYTES:
            raise KeysNotFetched(f"more than {DOCUMENT_MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise KeysNotFetched("too slow")
    return bytes(body)


def max_age_seconds(cache_control: str) -> int | None:
    """Return how long the header lets an answer be kept: 0 for no-store and no-cache, None if it does not say."""
    if _NOT_KEPT.search(cache_control):
        return 0
    match = _MAX_AGE.search(cache_control)
    return int(match.group(1)) if match else None
