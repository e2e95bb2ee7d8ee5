"""Secrets that outlive their source's outages: who runs goes on with what was last read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from loguru import logger

from cdv_core.errors import Unavailable
from cdv_core.ports.secrets import SecretSource


class RememberedSecrets:
    """A SecretSource over another. While that one is away it gives the last value, and asks only now and then."""

    def __init__(
        self,
        source: SecretSource,
        *,
        retry_seconds: float = 5,  # ours: a new connection must not wait for a dead Vault each time
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._retry_seconds = retry_seconds
        self._monotonic = monotonic
        self._known: dict[str, str] = {}
        self._ask_at = -math.inf

    async def get(self, reference: str) -> str:
        """Raises: Unavailable: the source does not answer and never has for this reference. InvalidField."""
        if reference not in self._known:
            self._known[reference] = await self._source.get(reference)
        elif self._monotonic() >= self._ask_at:
            try:
                self._known[reference] = await self._source.get(reference)
            except Unavailable as error:
                self._ask_at = self._monotonic() + self._retry_seconds
                logger.warning("a secret cannot be read again, its last value serves: {!r}", error.__cause__)
        return self._known[reference]
