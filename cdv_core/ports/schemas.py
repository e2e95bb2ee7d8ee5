"""Where the schema catalogue comes from."""

from __future__ import annotations

from typing import Protocol

from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.schemas import Catalogue


class SchemaSource(Protocol):
    """Holds the catalogue in force, replaced whole or not at all; a request reads it once and keeps what it read."""

    @property
    def catalogue(self) -> Catalogue:
        """Return the last good catalogue, without I/O."""
        ...

    def restrict_to_owners(self, collections: frozenset[Nsid]) -> None:
        """Let these be their owner's only, now and in every catalogue to come, in place of those given before.

        But for what the source has said, when it was last asked, to be public: whoever is in charge has opened it. A
        source that could not be asked opens nothing. No I/O.
        """
        ...
