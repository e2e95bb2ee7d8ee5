"""Verifies tokens of an external issuer with the keys that it publishes.

Threats and mitigations:

- Algorithm confusion (`none`, HMAC with the public key, another curve): `domain/tokens.py` accepts two names of one
  algorithm, and `ed25519.py` uses that one whatever the token or the key says.
- A key inside the token (`jwk`, `jku`, `x5u`, `x5c`), extensions (`crit`, `b64`): `domain/tokens.py` rejects the token.
- Injection through `kid` (a path, a query, a command): it is only used as a dict key, and it is not logged.
- Many unknown `kid`s, to overload the issuer: `key_set.py` allows one fetch at a time and one per cooldown; tokens for
  other audiences are rejected before their key is looked up.
- Oversized, deeply nested or ambiguous tokens (repeated members, stray base64 bits): `domain/tokens.py`.
- Weak keys in the key set (small order, not canonical, private key published), two keys with one `kid`: `ed25519.py`
  and `key_set.py` ignore them.
- Variants of a valid signature (S + L, another encoding of R): rejected by OpenSSL, which the attack tests verify.
- Tokens signed with a withdrawn key: rejected after the next refresh, at most an hour later; cached tokens look up
  their key each time (`jwt.py`). Using a token more than once is not an attack: bearer tokens are meant for that.
- Tokens for another service or from another issuer: `aud` and `iss` are compared as whole strings.
- An impersonated issuer, redirects to elsewhere, endless responses: TLS with verification, no redirect to another
  origin, time and size limits (`JwksUrl`). Plain http:// is for development; elsewhere the settings reject it.
- An issuer that is down: its keys are used for a limited time; then every token is answered with 503, never accepted.
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

from cdv_adapters.http_pool import BodyRefused, http_pool, read_body
from cdv_adapters.tokens.jwt import JwtVerifier
from cdv_adapters.tokens.key_set import FetchedDocument, IssuerKeys, KeysNotFetched
from cdv_core.errors import InvalidField
from cdv_core.ports.clock import Clock

DOCUMENT_MAX_BYTES: Final = 256 * 1024  # ours: more than a thousand keys
_TIMEOUT: Final = urllib3.Timeout(connect=2, read=3)  # ours; for the response head, then for each chunk of the body
_TOTAL_SECONDS: Final = 5.0  # ours: as long as IssuerKeys waits; after that, free the thread and the connection
_REDIRECTS_MAX: Final = 3
_MAX_AGE: Final = re.compile(r"(?:^|,)\s*max-age\s*=\s*\"?(\d{1,9})\"?\s*(?:,|$)", re.ASCII | re.IGNORECASE)
_NO_CACHE: Final = re.compile(r"(?:^|,)\s*no-(?:store|cache)\s*(?:,|$)", re.IGNORECASE)


class JwksTokenVerifier(JwtVerifier):
    """Verifies the tokens of `issuer` with its `keys`. The caller closes `keys`."""

    def __init__(self, keys: IssuerKeys, *, issuer: str, audience: str, clock: Clock) -> None:
        super().__init__(keys.find, issuer=issuer, audience=audience, clock=clock)
        self.keys = keys


class JwksUrl:
    """Fetches an issuer's key set over HTTP. IssuerKeys calls it in a thread. Blocks."""

    def __init__(self, url: str, *, ca_file: Path | None = None) -> None:
        """Trust only `ca_file` (PEM) if given, otherwise the system's CAs. Raises InvalidField: it cannot be read."""
        self._url = url
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise InvalidField(str(ca_file), "cannot be read as PEM certificates") from error
        self._pool = http_pool(ssl_context=context, timeout=_TIMEOUT, retries=False)

    def __call__(self) -> FetchedDocument:
        """Return the document. Raises KeysNotFetched."""
        url, deadline = self._url, time.monotonic() + _TOTAL_SECONDS
        for _ in range(_REDIRECTS_MAX + 1):
            document = self._get(url, deadline)
            if isinstance(document, FetchedDocument):
                return document
            url = document
        raise KeysNotFetched("too many redirects")

    def _get(self, url: str, deadline: float) -> FetchedDocument | str:
        """Return the document, or the URL that the issuer redirects to."""
        try:
            # identity: a compressed body could exceed any size limit when it is decompressed.
            headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
            with self._pool.request("GET", url, headers=headers, redirect=False, preload_content=False) as response:
                location = response.get_redirect_location()
                if location:
                    return self._same_origin(urljoin(url, location))
                if response.status != 200:
                    raise KeysNotFetched(f"status {response.status}")
                body = read_body(response, max_bytes=DOCUMENT_MAX_BYTES, deadline=deadline)
        except BodyRefused as error:
            raise KeysNotFetched(str(error)) from error
        except (HTTPError, ValueError) as error:  # ValueError: from urljoin, for an invalid URL
            raise KeysNotFetched(f"{type(error).__name__}: {error}") from error
        return FetchedDocument(body, max_age_seconds(response.headers.get("Cache-Control", "")))

    def _same_origin(self, url: str) -> str:
        ours, theirs = (urllib3.util.parse_url(each) for each in (self._url, url))
        ports = [each.port or {"http": 80, "https": 443}.get(each.scheme or "") for each in (ours, theirs)]
        if (ours.scheme, ours.host, ports[0]) != (theirs.scheme, theirs.host, ports[1]):
            raise KeysNotFetched("redirected to another origin")
        return url


def max_age_seconds(cache_control: str) -> int | None:
    """Return how long the response may be cached: 0 for no-store and no-cache, None if the header does not say."""
    if _NO_CACHE.search(cache_control):
        return 0
    match = _MAX_AGE.search(cache_control)
    return int(match.group(1)) if match else None
