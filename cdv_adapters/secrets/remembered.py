"""A cache that keeps secrets available while their source is down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from loguru import logger

from cdv_core.errors import Unavailable
from cdv_core.ports.secrets import SecretSource


class RememberedSecrets:
    """A SecretSource that wraps another one. While that one is unavailable it returns the last value, and retries only
    every `retry_seconds`.
    """

    def __init__(
        self,
        source: SecretSource,
        *,
        retry_seconds: float = 5,  # ours: not every new connection may wait for a Vault that is down
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._retry_seconds = retry_seconds
        self._monotonic = monotonic
        self._known: dict[str, str] = {}
        self._retry_at = -math.inf

    async def get(self, reference: str) -> str:
        """Raises: Unavailable: the source is unavailable and no value of this reference is cached. InvalidField."""
        if reference not in self._known:
            self._known[reference] = await self._source.get(reference)
        elif self._monotonic() >= self._retry_at:
            try:
                self._known[reference] = await self._source.get(reference)
            except Unavailable as error:
                self._retry_at = self._monotonic() + self._retry_seconds
                logger.warning("a secret cannot be read again, its last value is used: {!r}", error.__cause__)
        return self._known[reference]
