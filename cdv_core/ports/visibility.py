"""Which collections are their owner's only, remembered where every replica looks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from cdv_core.domain.identifiers import Nsid


class OwnerOnlyStore(Protocol):
    """Keeps a set of collections beside the records: what was written under that promise must outlive any catalogue.

    Safe with any number of replicas. All methods raise Unavailable when the store cannot be reached.
    """

    async def owner_only(self) -> frozenset[Nsid]:
        """Return all that were noted and not opened since; empty if none ever was."""
        ...

    async def note(self, owner_only: Collection[Nsid], public: Collection[Nsid]) -> None:
        """Add `owner_only` and remove `public`, at once or not at all; one that is in both stays its owner's.

        What is there already is added once, what is not there is removed all the same.
        """
        ...
