"""Build a catalogue from its index and documents: all of it is valid, or the whole catalogue is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from types import CodeType, MappingProxyType

from cdv_core.domain.catalogue_documents import CatalogueRefused, Problem, parse_document
from cdv_core.domain.catalogue_index import CollectionEntry, DocumentRef, Index, VersionEntry
from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.json_schema import SchemaRefused
from cdv_core.domain.lexicon import is_lexicon, translate
from cdv_core.domain.schemas import Catalogue, Collection, Schema, Visibility
from cdv_core.domain.validators import Validator, compile_validator


def build_catalogue(
    index: Index,
    documents: Mapping[str, bytes],
    *,
    previous: Catalogue | None = None,
    owner_only: frozenset[Nsid] = frozenset(),
    codes: Mapping[str, CodeType] = MappingProxyType({}),
    pause: Callable[[], None] = lambda: None,
) -> Catalogue:
    """Return the catalogue that `index` describes, every schema compiled.

    `documents`: by path, as the source published them. `previous`: its schemas are reused where unchanged.
    `owner_only`: collections that are owner-only until now; they stay so unless the index lists them as public, because
    an index that omits one must not make public the records that were written under that restriction.
    `codes`: by path, code compiled elsewhere from the same documents. `pause`: called between
    documents, so that a build in a thread can give way to the event loop.

    Raises CatalogueRefused: a document is missing, does not match its digest, or is not a schema that we can enforce.
    """
    return _Build(index, documents, previous, owner_only, codes, pause).run()


class _Build:
    def __init__(
        self,
        index: Index,
        documents: Mapping[str, bytes],
        previous: Catalogue | None,
        owner_only: frozenset[Nsid],
        codes: Mapping[str, CodeType],
        pause: Callable[[], None],
    ) -> None:
        self._index = index
        self._documents = documents
        self._previous = previous
        self._owner_only = owner_only
        self._codes = codes
        self._pause = pause
        self._problems: list[Problem] = []
        self._parsed: dict[str, object] = {}

    def run(self) -> Catalogue:
        for ref in self._index.documents():
            self._parse(ref)
        self._raise_if_problems()
        shared = self._shared_lexicons()
        collections = {entry.name: self._collection(entry, shared) for entry in self._index.collections}
        self._raise_if_problems()
        public = frozenset(entry.name for entry in self._index.collections if entry.visibility == "public")
        return Catalogue(collections, self._index.generated_at, self._owner_only - collections.keys(), public)

    def _raise_if_problems(self) -> None:
        if self._problems:
            raise CatalogueRefused(self._problems)

    def _parse(self, ref: DocumentRef) -> None:
        document = self._documents.get(ref.path)
        if document is None:
            self._problems.append(Problem(ref.path, "is missing"))
        elif ref.sha256 is not None and hashlib.sha256(document).hexdigest() != ref.sha256:
            self._problems.append(Problem(ref.path, f"its SHA-256 is not {ref.sha256}"))
        else:
            try:
                self._parsed[ref.path] = parse_document(document)
            except ValueError as wrong:
                self._problems.append(Problem(ref.path, f"is not JSON: {wrong}"))

    def _shared_lexicons(self) -> dict[str, object]:
        """Return the Lexicons that others may refer to, by id: shared ones and the latest stable of each collection."""
        latest = {
            str(entry.name): self._parsed[version.document.path]
            for entry in self._index.collections
            for version in entry.versions
            if str(version.version) == entry.latest_stable
        }
        shared = {str(name): self._parsed[ref.path] for name, ref in self._index.lexicons}
        return {name: document for name, document in (latest | shared).items() if is_lexicon(document)}

    def _collection(self, entry: CollectionEntry, shared: Mapping[str, object]) -> Collection:
        versions = {}
        for version in entry.versions:
            validator = self._validator(entry, version, shared)
            if validator is not None:
                versions[str(version.version)] = self._schema(entry, version, validator)
        return Collection(entry.name, self._visibility(entry), entry.latest_stable, versions)

    def _visibility(self, entry: CollectionEntry) -> Visibility:
        return entry.visibility or ("owner" if entry.name in self._owner_only else "public")

    def _validator(
        self, entry: CollectionEntry, version: VersionEntry, shared: Mapping[str, object]
    ) -> Validator | None:
        path = version.document.path
        document = self._parsed[path]
        if not is_lexicon(document):  # a Lexicon may refer to another one that has changed
            unchanged = self._unchanged(entry, version)
            if unchanged is not None:
                return unchanged
        self._pause()
        try:
            if is_lexicon(document):
                document = translate(document, entry.name, shared)
            return compile_validator(document, self._codes.get(path))
        except SchemaRefused as refused:
            self._problems.extend(Problem(path, reason) for reason in refused.reasons)
            return None

    def _unchanged(self, entry: CollectionEntry, version: VersionEntry) -> Validator | None:
        if self._previous is None or entry.name not in self._previous:
            return None
        schema = self._previous.collection(entry.name).versions.get(str(version.version))
        if schema is None or schema.document != self._documents[version.document.path]:
            return None
        return schema.validator

    def _schema(self, entry: CollectionEntry, version: VersionEntry, validator: Validator) -> Schema:
        return Schema(
            collection=entry.name,
            version=str(version.version),
            status=version.status,
            visibility=self._visibility(entry),
            document=self._documents[version.document.path],
            validator=validator,
            deprecated_at=version.deprecated_at,
            sunset=version.sunset,
            replaced_by=version.replaced_by,
        )
