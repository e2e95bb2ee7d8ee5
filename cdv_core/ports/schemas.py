"""The source of the schema catalogue."""

from __future__ import annotations

from typing import Protocol

from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.schemas import Catalogue


class SchemaSource(Protocol):
    """Holds the current catalogue, replaced atomically; a request reads it once and uses that one throughout."""

    @property
    def catalogue(self) -> Catalogue:
        """The last valid catalogue, without I/O."""
        ...

    def restrict_to_owners(self, collections: frozenset[Nsid]) -> None:
        """Restrict these collections to their owners, in the current and all later catalogues.

        Replaces the collections of an earlier call. Excepted are those that the source explicitly listed as public
        when it was last fetched: its operator has opened them. A source that could not be fetched opens none. No I/O.
        """
        ...
