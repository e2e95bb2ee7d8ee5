"""The relay's lease on the outbox: at most one relay publishes and updates the op log at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Final, TypeVar

from cdv_core.ports.clock import Clock
from cdv_core.ports.outbox import OpLogEntry, Outbox, Publication, StreamMark

LEASE_LIFE: Final = timedelta(seconds=15)  # ours: longer than a publish takes; a crashed relay blocks others this long
_ITEMS_BETWEEN_RENEWALS: Final = 500

Item = TypeVar("Item")


class LeaseLost(Exception):
    """Another relay has taken the lease."""


class RelayLease:
    """The lease of one relay, `owner`. The updates to the outbox that require it are methods here.

    All methods raise Unavailable when the outbox cannot be reached.
    """

    def __init__(self, outbox: Outbox, clock: Clock, owner: str) -> None:
        self._outbox = outbox
        self._clock = clock
        self._owner = owner
        self._renew_at = clock.now()

    async def acquire(self, limit: int) -> list[OpLogEntry] | None:
        """Acquire or extend the lease; return up to `limit` unpublished entries, None if another relay holds it."""
        now = self._clock.now()
        self._renew_at = now + LEASE_LIFE / 3
        return await self._outbox.lease(self._owner, limit, now=now, expires_at=now + LEASE_LIFE)

    async def renew(self) -> None:
        """Extend the lease once a third of its life has passed. Raises: LeaseLost."""
        if self._clock.now() >= self._renew_at and await self.acquire(0) is None:
            raise LeaseLost

    async def renewing(self, items: AsyncGenerator[Item]) -> AsyncGenerator[Item]:
        """Yield `items`, renewing the lease while they are consumed, however long that takes. Raises: LeaseLost."""
        async with aclosing(items):
            count = 0
            async for item in items:
                count += 1
                if count % _ITEMS_BETWEEN_RENEWALS == 0:
                    await self.renew()
                yield item

    async def release(self) -> None:
        await self._outbox.release(self._owner)

    async def mark_published(self, publications: Sequence[Publication], marks: Sequence[StreamMark] = ()) -> None:
        """Record acknowledgements, as `Outbox.mark_published` does. Raises: LeaseLost: nothing was changed."""
        if not await self._outbox.mark_published(self._owner, publications, marks):
            raise LeaseLost

    async def requeue(self, sequences: Sequence[int]) -> None:
        """Make these entries unpublished again. Raises: LeaseLost: nothing was changed."""
        if sequences and not await self._outbox.requeue(self._owner, sequences):
            raise LeaseLost
