"""An in-memory store of owner-only collections."""

from __future__ import annotations

from collections.abc import Collection

from cdv_core.domain.identifiers import Nsid
from cdv_core.errors import CdvError
from cdv_core.ports.visibility import OwnerOnlyStore


class FakeOwnerOnlyStore(OwnerOnlyStore):
    """`kept`: the set. `notes`: how often it was written. `error`, if set, is raised, like a database that is down."""

    def __init__(self) -> None:
        self.kept: frozenset[Nsid] = frozenset()
        self.notes = 0
        self.error: CdvError | None = None

    async def owner_only(self) -> frozenset[Nsid]:
        self._check()
        return self.kept

    async def note(self, owner_only: Collection[Nsid], public: Collection[Nsid]) -> None:
        self._check()
        self.notes += 1
        self.kept = self.kept.difference(public).union(owner_only)

    def _check(self) -> None:
        if self.error is not None:
            raise self.error
