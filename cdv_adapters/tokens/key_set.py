"""An issuer's published keys: parsed, cached for their lifetime, and fetched again with rate limits."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.to_thread
from loguru import logger

from cdv_adapters.tokens.ed25519 import PublicKey, UnusableKey
from cdv_adapters.tracing import span
from cdv_core.domain.tokens import read_json_object
from cdv_core.errors import Unavailable

LIFETIME_MIN_SECONDS: Final = 60  # ours: even with no-store, the keys are not fetched for every request
LIFETIME_MAX_SECONDS: Final = 3600  # ours: how long a withdrawn key may be accepted at most, if the issuer is up
LIFETIME_DEFAULT_SECONDS: Final = 300  # ours: if the issuer does not say
# Refresh after this share of the lifetime, so that under steady traffic no request waits for a fetch.
_REFRESH_AT: Final = 0.8
_COOLDOWN_SECONDS: Final = 10  # ours: how long others' invalid tokens can delay the first token of a new key
_STALE_SECONDS: Final = 3600  # ours: an outage long enough to page an operator


@dataclass(frozen=True, slots=True)
class FetchedDocument:
    """A fetched key set. `max_age_seconds`: how long it may be cached, None if the issuer does not say."""

    body: bytes
    max_age_seconds: int | None = None


class KeysNotFetched(Exception):
    """The issuer did not return a key set; the argument says why."""


# Returns the document. Blocks, within time limits of its own. Raises KeysNotFetched.
Fetch = Callable[[], FetchedDocument]


def read_key_set(body: bytes) -> dict[str, PublicKey]:
    """Return the keys that may verify tokens, by `kid`. `body`: a JWK set, bare or wrapped in `{"data": ...}`.

    Ignores keys of other types, malformed keys, and different keys with the same `kid`. An empty set is valid: the
    issuer has withdrawn all keys. Raises KeysNotFetched: the body is not a key set.
    """
    try:
        document = read_json_object(body)
    except ValueError as error:
        raise KeysNotFetched("not a JSON object") from error
    if "keys" not in document and isinstance(document.get("data"), dict):
        document = document["data"]
    if not isinstance(document.get("keys"), list):
        raise KeysNotFetched("no list of keys")
    keys: dict[str, PublicKey] = {}
    ambiguous: set[str] = set()
    for jwk in document["keys"]:
        if not isinstance(jwk, dict) or not isinstance(jwk.get("kid"), str):
            continue
        try:
            key = PublicKey.from_jwk(jwk)
        except UnusableKey as error:
            logger.debug("a key of the issuer is ignored: {}", error)
            continue
        if keys.setdefault(jwk["kid"], key) != key:
            ambiguous.add(jwk["kid"])
    return {kid: key for kid, key in keys.items() if kid not in ambiguous}


@dataclass(frozen=True, slots=True)
class KeySetState:
    """For readiness and metrics. `age_seconds`: since the last successful fetch, None if never. `failing`: whether the
    last fetch failed.
    """

    keys: int
    age_seconds: float | None
    failing: bool
    fetches: int
    failures: int


class IssuerKeys:
    """The issuer's keys, one set for all requests.

    They are fetched when first needed, and refreshed in the background before their lifetime ends. There is one fetch
    at a time, shared by concurrent requests. An unknown `kid` causes a fetch, but only once per cooldown. While the
    issuer is down, the last keys are used for up to an hour beyond their lifetime, and no request waits; after that
    every token is rejected. Must be used from one event loop only.
    """

    def __init__(
        self,
        fetch: Fetch,
        *,
        retry_seconds: float = 5,  # ours: how soon an issuer that is up again is noticed
        fetch_timeout_seconds: float = 5,  # ours: no request would wait longer
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._retry_seconds = retry_seconds
        self._fetch_timeout_seconds = fetch_timeout_seconds
        self._monotonic = monotonic
        self._limiter = anyio.CapacityLimiter(1)  # not the default limiter, which a hanging object store may exhaust
        self._keys: Mapping[str, PublicKey] = {}
        self._fetch_task: asyncio.Task[None] | None = None
        self._fetched_at = self._refresh_at = self._fresh_until = self._usable_until = -math.inf
        self._retry_at = self._unknown_kid_at = -math.inf
        self._failure: Exception | None = None
        self._fetches = self._failures = 0

    async def find(self, kid: str) -> PublicKey | None:
        """Return the key with that `kid`, None if the issuer has none.

        Raises: Unavailable: the keys cannot be fetched, and the last ones are too old.
        """
        waited = await self._refresh_if_due()
        key = self._keys.get(kid)
        if key is None and not waited:
            now = self._monotonic()
            if now >= max(self._unknown_kid_at + _COOLDOWN_SECONDS, self._retry_at):
                self._unknown_kid_at = now
                self._start_fetch()
            await self._wait_for_fetch()
            key = self._keys.get(kid)
        if key is None and not self._keys and self._failure is not None:
            raise self._unavailable()  # no keys are cached: an issuer that withdrew all its keys may have new ones now
        return key

    async def check(self) -> None:
        """Raises: Unavailable: the last fetch failed, even if the last keys are still used."""
        await self._refresh_if_due()
        if self._failure is not None:
            raise self._unavailable()

    @property
    def state(self) -> KeySetState:
        age = None if self._fetched_at == -math.inf else self._monotonic() - self._fetched_at
        return KeySetState(len(self._keys), age, self._failure is not None, self._fetches, self._failures)

    def readings(self) -> dict[str, float]:
        """Return the keys' age, whether the last fetch failed, and the total numbers of fetches and failures."""
        state = self.state
        return {
            "issuer_keys_age_seconds": state.age_seconds or 0,
            "issuer_failing": state.failing,
            "issuer_fetches": state.fetches,
            "issuer_failures": state.failures,
        }

    async def aclose(self) -> None:
        """Cancel a fetch in progress."""
        if self._fetch_task is not None:
            self._fetch_task.cancel()
            await self._wait_for_fetch()

    async def _refresh_if_due(self) -> bool:
        """Fetch the keys if they are due; return whether this call waited for a fetch. Raises: Unavailable."""
        now = self._monotonic()
        if now >= max(self._refresh_at, self._retry_at):
            self._start_fetch()
        # Expired because there were no requests for a while: wait, because a key may have been withdrawn since then.
        # Expired because the issuer is down: do not wait.
        idle = now >= self._fresh_until and self._failure is None
        wait = idle or now >= self._usable_until
        if wait:
            await self._wait_for_fetch()
            if self._monotonic() >= self._usable_until:
                raise self._unavailable()
        return wait

    def _unavailable(self) -> Unavailable:
        error = Unavailable("issuer", max(1, math.ceil(self._retry_at - self._monotonic())))
        error.__cause__ = self._failure
        return error

    def _start_fetch(self) -> None:
        if self._fetch_task is None:
            # Set before the outcome is known, so that fetches are never more frequent than this.
            self._retry_at = self._monotonic() + self._retry_seconds
            self._fetch_task = asyncio.create_task(self._refresh(), name="issuer keys")

    async def _wait_for_fetch(self) -> None:
        if self._fetch_task is not None:
            # Not `await self._fetch_task`: a cancelled request must not cancel the fetch that others wait for.
            await asyncio.wait([self._fetch_task])

    async def _refresh(self) -> None:
        self._fetches += 1
        try:
            with span("fetch the issuer's keys", "client"), anyio.fail_after(self._fetch_timeout_seconds):
                document = await anyio.to_thread.run_sync(self._fetch, abandon_on_cancel=True, limiter=self._limiter)
            keys = read_key_set(document.body)
        except (KeysNotFetched, TimeoutError) as error:
            self._failures += 1
            self._failure = error
            logger.warning("the issuer's keys cannot be fetched: {!r}", error)
        else:
            self._accept(keys, document.max_age_seconds)
        finally:
            self._fetch_task = None

    def _accept(self, keys: Mapping[str, PublicKey], max_age_seconds: int | None) -> None:
        if self._failure is not None or keys != self._keys:
            logger.info("the issuer has {} usable keys", len(keys))
        lifetime = LIFETIME_DEFAULT_SECONDS if max_age_seconds is None else max_age_seconds
        lifetime = min(max(lifetime, LIFETIME_MIN_SECONDS), LIFETIME_MAX_SECONDS)
        self._keys = keys
        self._failure = None
        self._retry_at = -math.inf
        self._fetched_at = self._monotonic()
        self._refresh_at = self._fetched_at + lifetime * _REFRESH_AT
        self._fresh_until = self._fetched_at + lifetime
        self._usable_until = self._fresh_until + _STALE_SECONDS
