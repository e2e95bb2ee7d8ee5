"""An issuer's published keys: read from their document, kept while they last, asked for again with restraint."""

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

LIFETIME_MIN_SECONDS: Final = 60  # ours: an issuer that says no-store is not asked at every request
LIFETIME_MAX_SECONDS: Final = 3600  # ours: how long a withdrawn key may go on at most, the issuer being up
LIFETIME_DEFAULT_SECONDS: Final = 300  # ours: when the issuer does not say
# Ask again when this much of the lifetime is over, so that under steady traffic nobody waits for the answer.
_EARLY: Final = 0.8


@dataclass(frozen=True, slots=True)
class FetchedDocument:
    """`max_age_seconds`: how long the issuer lets it be kept, None if it does not say."""

    body: bytes
    max_age_seconds: int | None = None


class KeysNotFetched(Exception):
    """The issuer did not give a key set; the argument says why."""


# Get the document, blocking, within its own time limits. Raises KeysNotFetched.
Fetch = Callable[[], FetchedDocument]


def read_key_set(body: bytes) -> dict[str, PublicKey]:
    """Return the keys that may verify tokens, by `kid`. `body`: a JWK set, bare or wrapped in `{"data": ...}`.

    Keys of other kinds are left out, as are malformed ones and two different keys under one `kid`. No key at all is
    an answer too: the issuer has withdrawn them. Raises KeysNotFetched: it is no key set.
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
            logger.debug("a key of the issuer is left out: {}", error)
            continue
        if keys.setdefault(jwk["kid"], key) != key:
            ambiguous.add(jwk["kid"])
    return {kid: key for kid, key in keys.items() if kid not in ambiguous}


@dataclass(frozen=True, slots=True)
class KeySetState:
    """For readiness and metrics. `age_seconds`: since the keys were fetched, None if never. `failing`: the last try."""

    keys: int
    age_seconds: float | None
    failing: bool
    fetches: int
    failures: int


class IssuerKeys:
    """The issuer's keys, one set for all requests.

    Fetched when first needed, and again before their lifetime ends, in the background. One fetch at a time, which
    concurrent requests share. An unknown `kid` fetches anew, but only once per cool-down. While the issuer is down the
    last keys go on for `stale_seconds` beyond their lifetime, without anybody waiting; then everything is refused.
    Belongs to one event loop.
    """

    def __init__(
        self,
        fetch: Fetch,
        *,
        cooldown_seconds: float = 10,  # ours: how long a client may be locked out by somebody else's junk tokens
        retry_seconds: float = 5,  # ours: as soon as we can be expected to notice that the issuer is back
        stale_seconds: float = 3600,  # ours: an outage worth waking somebody for
        fetch_timeout_seconds: float = 5,  # ours: longer than a request would wait
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._cooldown_seconds = cooldown_seconds
        self._retry_seconds = retry_seconds
        self._stale_seconds = stale_seconds
        self._fetch_timeout_seconds = fetch_timeout_seconds
        self._monotonic = monotonic
        self._limiter = anyio.CapacityLimiter(1)  # not the default one, which a hanging object store may exhaust
        self._keys: Mapping[str, PublicKey] = {}
        self._flight: asyncio.Task[None] | None = None
        self._fetched_at = self._refresh_at = self._fresh_until = self._usable_until = -math.inf
        self._retry_at = self._unknown_kid_at = -math.inf
        self._failure: Exception | None = None
        self._fetches = self._failures = 0

    async def find(self, kid: str) -> PublicKey | None:
        """Return the key of that name, None if the issuer has none.

        Raises: Unavailable: no keys can be had, and none are left.
        """
        waited = await self._refresh_if_due()
        key = self._keys.get(kid)
        if key is None and not waited:
            now = self._monotonic()
            if now >= max(self._unknown_kid_at + self._cooldown_seconds, self._retry_at):
                self._unknown_kid_at = now
                self._start_fetch()
            await self._landing()
            key = self._keys.get(kid)
        if key is None and not self._keys and self._failure is not None:
            raise self._unavailable()  # none is cached: an issuer that withdrew all its keys may have new ones by now
        return key

    async def check(self) -> None:
        """Raises: Unavailable: the issuer did not answer the last time, whether or not its last keys still serve."""
        await self._refresh_if_due()
        if self._failure is not None:
            raise self._unavailable()

    @property
    def state(self) -> KeySetState:
        age = None if self._fetched_at == -math.inf else self._monotonic() - self._fetched_at
        return KeySetState(len(self._keys), age, self._failure is not None, self._fetches, self._failures)

    def readings(self) -> dict[str, float]:
        """Return the keys' age, whether the last fetch failed, and how many there were and failed until now."""
        state = self.state
        return {
            "issuer_keys_age_seconds": state.age_seconds or 0,
            "issuer_failing": state.failing,
            "issuer_fetches": state.fetches,
            "issuer_failures": state.failures,
        }

    async def aclose(self) -> None:
        """Give up a fetch under way."""
        if self._flight is not None:
            self._flight.cancel()
            await self._landing()

    async def _refresh_if_due(self) -> bool:
        """Return whether a fetch had to be waited for. Raises: Unavailable."""
        now = self._monotonic()
        if now >= max(self._refresh_at, self._retry_at):
            self._start_fetch()
        # Past their lifetime because nobody has asked for a while: a key may have been withdrawn meanwhile. Past it
        # because the issuer does not answer: nobody waits.
        idle = now >= self._fresh_until and self._failure is None
        wait = idle or now >= self._usable_until
        if wait:
            await self._landing()
            if self._monotonic() >= self._usable_until:
                raise self._unavailable()
        return wait

    def _unavailable(self) -> Unavailable:
        error = Unavailable("issuer", max(1, math.ceil(self._retry_at - self._monotonic())))
        error.__cause__ = self._failure
        return error

    def _start_fetch(self) -> None:
        if self._flight is None:
            # Set before the outcome is known, so that no outcome makes us ask more often.
            self._retry_at = self._monotonic() + self._retry_seconds
            self._flight = asyncio.create_task(self._refresh(), name="issuer keys")

    async def _landing(self) -> None:
        if self._flight is not None:
            # Not `await flight`: a request that is cancelled must not cancel the fetch that others wait for.
            await asyncio.wait([self._flight])

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
            self._flight = None

    def _accept(self, keys: Mapping[str, PublicKey], max_age_seconds: int | None) -> None:
        if self._failure is not None or keys != self._keys:
            logger.info("the issuer has {} usable keys", len(keys))
        lifetime = LIFETIME_DEFAULT_SECONDS if max_age_seconds is None else max_age_seconds
        lifetime = min(max(lifetime, LIFETIME_MIN_SECONDS), LIFETIME_MAX_SECONDS)
        self._keys = keys
        self._failure = None
        self._retry_at = -math.inf
        self._fetched_at = self._monotonic()
        self._refresh_at = self._fetched_at + lifetime * _EARLY
        self._fresh_until = self._fetched_at + lifetime
        self._usable_until = self._fresh_until + self._stale_seconds
