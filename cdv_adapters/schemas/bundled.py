"""The catalogue that ships inside the package: enough to run, and always there."""

from __future__ import annotations

from importlib.resources import files

from cdv_core.domain.catalogue_build import build_catalogue
from cdv_core.domain.catalogue_index import INDEX_NAME, read_index
from cdv_core.domain.schemas import Catalogue


class BundledSchemas:
    """A SchemaSource that never changes."""

    def __init__(self) -> None:
        """Compile the bundled catalogue: some milliseconds, once."""
        self._catalogue = bundled_catalogue()

    @property
    def catalogue(self) -> Catalogue:
        return self._catalogue


def bundled_catalogue() -> Catalogue:
    """Raises CatalogueRefused: the installed package is damaged."""
    root = files("cdv_core.catalogue")
    index = read_index(root.joinpath(INDEX_NAME).read_bytes())
    return build_catalogue(index, {it.path: root.joinpath(it.path).read_bytes() for it in index.documents()})
