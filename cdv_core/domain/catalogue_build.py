"""A catalogue from its index and documents: judged as a whole, and either all of it is used or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from cdv_core.domain.catalogue_index import CollectionEntry, Index, VersionEntry
from cdv_core.domain.documents import CatalogueRefused, Problem, parse_document
from cdv_core.domain.schemas import Catalogue, Collection, Schema
from cdv_core.domain.validators import compile_validator


def build_catalogue(
    index: Index, documents: Mapping[str, bytes], *, pause: Callable[[], None] = lambda: None
) -> Catalogue:
    """Return the catalogue that `index` describes, every schema compiled.

    `documents`: by path, each what the source published. `pause` is called between two documents: whoever builds
    beside an event loop gives way there.

    Raises CatalogueRefused: a document is missing, is not what its digest says, or is no schema that we can enforce.
    """
    problems: list[Problem] = []
    collections = {}
    for entry in index.collections:
        schemas = {}
        for version in entry.versions:
            pause()
            try:
                schemas[str(version.version)] = _schema(entry, version, documents)
            except ValueError as wrong:
                problems.append(Problem(version.document.path, str(wrong)))
        collections[entry.name] = Collection(entry.name, entry.visibility, entry.latest_stable, schemas)
    if problems:
        raise CatalogueRefused(problems)
    return Catalogue(collections, index.generated_at)


def _schema(entry: CollectionEntry, version: VersionEntry, documents: Mapping[str, bytes]) -> Schema:
    document = documents.get(version.document.path)
    if document is None:
        raise ValueError("missing")
    expected = version.document.sha256
    if expected is not None and hashlib.sha256(document).hexdigest() != expected:
        raise ValueError(f"its SHA-256 is not {expected}")
    return Schema(
        entry.name,
        str(version.version),
        version.status,
        entry.visibility,
        document,
        compile_validator(parse_document(document)),
        version.deprecated_at,
        version.sunset,
        version.replaced_by,
    )
