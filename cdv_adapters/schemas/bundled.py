"""The catalogue that is part of this package."""

from __future__ import annotations

from importlib.resources import files

from cdv_core.domain.catalogue_build import build_catalogue
from cdv_core.domain.catalogue_index import INDEX_NAME, read_index
from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.schemas import Catalogue


class BundledSchemas:
    """A SchemaSource whose catalogue never changes. It lifts no restriction that another catalogue has made."""

    def __init__(self) -> None:
        """Compile the bundled catalogue, which takes some milliseconds."""
        self._bundled = self._catalogue = bundled_catalogue()

    @property
    def catalogue(self) -> Catalogue:
        return self._catalogue

    def restrict_to_owners(self, collections: frozenset[Nsid]) -> None:
        self._catalogue = self._bundled.with_owner_only(collections)


def bundled_catalogue() -> Catalogue:
    """Return the bundled catalogue. Raises CatalogueRefused: the installed package is damaged."""
    root = files("cdv_core.catalogue")
    index = read_index(root.joinpath(INDEX_NAME).read_bytes())
    return build_catalogue(index, {it.path: root.joinpath(it.path).read_bytes() for it in index.documents()})
