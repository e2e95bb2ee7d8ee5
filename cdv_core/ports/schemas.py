"""Where the schema catalogue comes from."""

from __future__ import annotations

from typing import Protocol

from cdv_core.domain.schemas import Catalogue


class SchemaSource(Protocol):
    """Holds the catalogue in force, replaced whole or not at all; a request reads it once and keeps what it read."""

    @property
    def catalogue(self) -> Catalogue:
        """Return the last good catalogue, without I/O."""
        ...
