"""Owner-only collections are stored, so that no restart, new replica or incomplete index makes them public."""

from __future__ import annotations

from cdv_core.ports.schemas import SchemaSource
from cdv_core.ports.visibility import OwnerOnlyStore


async def load_restrictions(schemas: SchemaSource, store: OwnerOnlyStore) -> None:
    """Apply the stored restrictions to the current catalogue and all later ones. Raises: Unavailable."""
    schemas.restrict_to_owners(await store.owner_only())


async def sync_restrictions(schemas: SchemaSource, store: OwnerOnlyStore) -> None:
    """Apply the restrictions that other replicas have stored, and store those that the current catalogue adds.

    Writes only if something differs. Raises: Unavailable: call again.
    """
    stored = await store.owner_only()
    schemas.restrict_to_owners(stored)
    # Read the catalogue only now: restrictions stored by other replicas since override what our source last said.
    catalogue = schemas.catalogue
    added, opened = catalogue.owner_only - stored, catalogue.public & stored
    if added or opened:
        await store.note(added, opened)
        schemas.restrict_to_owners(stored - opened | added)
