"""What is its owner's only is remembered: no restart, new replica or forgetful index breaks that promise."""

from __future__ import annotations

from cdv_core.ports.schemas import SchemaSource
from cdv_core.ports.visibility import OwnerOnlyStore


async def load_restrictions(schemas: SchemaSource, store: OwnerOnlyStore) -> None:
    """Let every catalogue that `schemas` has or gets keep to what is stored. Raises: Unavailable."""
    schemas.restrict_to_owners(await store.owner_only())


async def sync_restrictions(schemas: SchemaSource, store: OwnerOnlyStore) -> None:
    """Learn what other replicas have stored, and store what the catalogue in force says beyond it.

    Nothing is written when nothing differs. Raises: Unavailable: to be done again.
    """
    stored = await store.owner_only()
    schemas.restrict_to_owners(stored)
    # Only now: what another replica has learnt since counts for more than what our source said before it failed.
    catalogue = schemas.catalogue
    promised, opened = catalogue.owner_only - stored, catalogue.public & stored
    if promised or opened:
        await store.note(promised, opened)
        schemas.restrict_to_owners(stored - opened | promised)
