"""The store of owner-only collections, shared by all replicas."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from cdv_core.domain.identifiers import Nsid


class OwnerOnlyStore(Protocol):
    """Stores a set of collections beside the records: restrictions that applied at write time outlive any catalogue.

    Safe with any number of replicas. All methods raise Unavailable when the store cannot be reached.
    """

    async def owner_only(self) -> frozenset[Nsid]:
        """Return the collections that were added and not removed since; empty if none."""
        ...

    async def note(self, owner_only: Collection[Nsid], public: Collection[Nsid]) -> None:
        """Add `owner_only` and remove `public`, atomically; a collection in both stays owner-only.

        Idempotent: adding a present collection, or removing an absent one, has no effect.
        """
        ...
