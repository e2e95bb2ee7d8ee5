"""Budgets of reads and writes, per subject when a token proved one and per client address otherwise."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Final, Literal

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from litestar.types import Scope
from loguru import logger

from cdv_core.errors import CannotStart, RateLimited
from cdv_core.ports.tokens import VerifiedToken
from cdv_http.client_address import ClientAddresses
from cdv_http.metrics import rate_limited_total

Budget = Literal["reads", "writes"]

# ours: some 40 MiB. Whoever commands more addresses than this within a minute is not stopped by counting addresses.
_COUNTERS_MAX: Final = 200_000


class RateLimits:
    """Counts requests against budgets in fixed windows, in this process or in a store that several nodes share.

    A store that does not answer stops nobody: the limits protect the service, and must not take it down.
    """

    def __init__(self, *, writes: str, reads: str, storage_url: str | None, trusted_proxies: Iterable[str]) -> None:
        """Raises CannotStart: the storage's address cannot be used."""
        self._budgets: dict[Budget, RateLimitItem] = {"writes": parse(writes), "reads": parse(reads)}
        self._storage = _storage(storage_url)
        self._limiter = FixedWindowRateLimiter(self._storage)
        self._addresses = ClientAddresses(trusted_proxies)

    async def admit(self, scope: Scope, budget: Budget, token: VerifiedToken | None) -> None:
        """Count one request; leave in the request's state what its X-RateLimit headers say.

        Raises: RateLimited: the budget is spent until its window ends.
        """
        who = ("did", token.subject) if token else ("address", self._addresses.of(scope))
        limit = self._budgets[budget]
        try:
            if isinstance(self._storage, MemoryStorage) and len(self._storage.storage) >= _COUNTERS_MAX:
                await self._storage.reset()
            admitted = await self._limiter.hit(limit, budget, *who)
            window = await self._limiter.get_window_stats(limit, budget, *who)
        except StorageError as error:
            logger.opt(exception=error).warning("the store of the rate limits does not answer")
            return
        scope["state"]["rate_limit"] = (limit.amount, window.remaining, math.ceil(window.reset_time))
        if not admitted:
            rate_limited_total.labels(budget).inc()
            raise RateLimited(budget, max(math.ceil(window.reset_time - time.time()), 1))


def _storage(url: str | None) -> Storage:
    if url is None:
        return MemoryStorage()
    try:
        storage = storage_from_string(f"async+{url.removeprefix('async+')}", wrap_exceptions=True)
    except (ConfigurationError, ImportError, ValueError) as error:
        remedy = "use an address such as redis://host:6379 and install what its client needs"
        raise CannotStart("use CDV_RATE_LIMIT_STORAGE", str(error), remedy) from error
    assert isinstance(storage, Storage), "async+ gives a store of this kind"  # noqa: S101
    return storage
