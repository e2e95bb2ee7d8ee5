"""Rate limits for reads and writes: per subject with a valid token, per client address otherwise."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from hashlib import blake2b
from typing import Any, Final, Literal

from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage, Storage
from limits.aio.storage.redis.redispy import RedispyBridge
from limits.errors import ConfigurationError
from limits.storage import storage_from_string
from loguru import logger

from cdv_adapters.service import Dependency
from cdv_core.errors import CannotStart, RateLimited, Unavailable
from cdv_core.ports.tokens import VerifiedToken
from cdv_http.metrics import rate_limited_total
from cdv_http.request_state import RequestState

Budget = Literal["reads", "writes"]

_COUNTERS_MAX: Final = 200_000  # ours, per budget, for subjects and for addresses separately: some 70 MiB
_STORE_SECONDS: Final = 0.25  # ours: a nearby store responds within a few milliseconds
_STORE_PAUSE_SECONDS: Final = 1.0  # ours: after a failure, no request tries the store for so long


class RateLimits:
    """Counts requests against budgets in fixed windows, in this process or in a store that several nodes share.

    While the store is unavailable, requests are still served, with hardly any delay, and each process counts locally.
    """

    def __init__(self, *, writes: str, reads: str, storage_url: str | None) -> None:
        """Raises CannotStart: `storage_url` is not usable."""
        self._budgets: dict[Budget, RateLimitItem] = {"writes": parse(writes), "reads": parse(reads)}
        self._shared = None if storage_url is None else SharedCounters(storage_url)
        # Separate, so that a client with many addresses cannot evict the counters of subjects.
        self._own = {(budget, kind): OwnCounters() for budget in self._budgets for kind in ("did", "address")}

    async def admit(self, state: RequestState, budget: Budget, token: VerifiedToken | None) -> None:
        """Count one request; set `state.rate_limit`, from which the X-RateLimit headers are made.

        Raises: RateLimited: the budget is used up until its window ends.
        """
        kind, holder = ("did", token.subject) if token else ("address", state.client)
        key = blake2b(f"{budget} {kind} {holder}".encode(), digest_size=16).digest()  # a DID may be long
        limit = self._budgets[budget]
        now = time.time()
        ends = _window_end(key, limit.get_expiry(), now)
        count = None if self._shared is None else await self._shared.add(key, ends, now)
        if count is None:
            count = self._own[budget, kind].add(key, ends)
        state.rate_limit = (limit.amount, max(limit.amount - count, 0), math.ceil(ends))
        if count > limit.amount:
            rate_limited_total.labels(budget).inc()
            raise RateLimited(budget, max(math.ceil(ends - time.time()), 1))

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()

    @property
    def dependency(self) -> Dependency | None:
        """The shared store, not critical; None without one."""
        if self._shared is None:
            return None
        return Dependency("rate_limits", critical=False, check=self._shared.check)


def _window_end(key: bytes, window_seconds: float, now: float) -> float:
    """Return when the window that contains `now` ends: the same on every node.

    Windows are offset by key, so that clients that wait for the next window do not all come back at the same time.
    """
    offset = int.from_bytes(key[:4], "big") / 2**32 * window_seconds
    return (math.floor((now - offset) / window_seconds) + 1) * window_seconds + offset


class OwnCounters:
    """Counters in this process. Beyond `max_counters`, the least recently used one is evicted.

    A flood of new addresses therefore resets no counter that is in use.
    """

    def __init__(self, max_counters: int = _COUNTERS_MAX) -> None:
        self._max_counters = max_counters
        self._counts: OrderedDict[bytes, tuple[float, int]] = OrderedDict()

    def add(self, key: bytes, ends: float) -> int:
        """Count one; return the number in the window that ends at `ends`, this one included."""
        window, count = self._counts.pop(key, (ends, 0))
        count = count + 1 if window == ends else 1
        self._counts[key] = (ends, count)
        if len(self._counts) > self._max_counters:
            self._counts.popitem(last=False)
        return count

    def __len__(self) -> int:
        return len(self._counts)


class SharedCounters:
    """Counters in a store that several nodes share: one round trip each. A failed store is retried after a pause."""

    def __init__(self, url: str) -> None:
        """Raises CannotStart: the URL is not usable."""
        self._storage = _storage(url)
        self._failing = False
        self._retry_at = 0.0

    async def add(self, key: bytes, ends: float, now: float) -> int | None:
        """As `OwnCounters.add`; None if the store is unavailable."""
        clock = time.monotonic
        if clock() < self._retry_at:
            return None
        if self._failing:  # one request tries again, and the others do not wait for it
            self._retry_at = clock() + _STORE_PAUSE_SECONDS
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                count = await self._storage.incr(f"{key.hex()}/{ends:.3f}", math.ceil(ends - now))
        except Exception as error:  # noqa: BLE001 - no error may stop a request; those of a cluster are no StorageError
            self._retry_at = clock() + _STORE_PAUSE_SECONDS
            if not self._failing:
                logger.opt(exception=error).warning(
                    "the store of the rate limits does not answer; each process counts for itself until it does"
                )
            self._failing = True
            return None
        if self._failing:
            logger.info("the store of the rate limits answers again")
        self._failing, self._retry_at = False, 0.0
        return count

    async def check(self) -> None:
        """Raises Unavailable: the store does not answer."""
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                answers = await self._storage.check()
        except Exception as error:
            raise Unavailable("rate_limits") from error
        if not answers:
            raise Unavailable("rate_limits")

    async def close(self) -> None:
        if isinstance(self._storage, RedisStorage) and isinstance(self._storage.bridge, RedispyBridge):
            client: Any = self._storage.bridge.get_connection()  # the type lacks `aclose`
            await client.aclose()


def _redis_options() -> dict[str, Any]:
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    # Besides our own timeout: redis writes with asyncio.wait_for, which before Python 3.12 may swallow a cancellation.
    return {
        "implementation": "redispy",
        "socket_timeout": _STORE_SECONDS,
        "socket_connect_timeout": _STORE_SECONDS,
        "retry": Retry(NoBackoff(), 1),  # in case the store has closed the connection
    }


def _storage(url: str) -> Storage:
    try:
        client = _redis_options() if url.removeprefix("async+").startswith("redis") else {}
        storage = storage_from_string(f"async+{url.removeprefix('async+')}", wrap_exceptions=True, **client)
    except (ConfigurationError, ImportError, ValueError):
        # The library's message contains the URL, with the password.
        reason = "it is not the URL of a store, or the store's client is not installed"
        remedy = "use a URL such as redis://host:6379 and install its client, for instance with the extra `redis`"
        raise CannotStart("use CDV_RATE_LIMIT_STORAGE", reason, remedy) from None
    assert isinstance(storage, Storage), "async+ URLs give asynchronous stores"  # noqa: S101
    return storage
