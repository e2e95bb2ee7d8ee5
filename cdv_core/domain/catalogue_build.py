"""A catalogue from its index and documents: judged as a whole, and either all of it is used or nothing."""

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

    `documents`: by path, each what the source published. `previous`: what it did not change is not compiled again.
    `owner_only`: collections that were their owner's only until now, and stay so unless they are said to be public:
    an index that forgets one must not show the world what was written under that promise.
    `codes`: by path, what was compiled of these very documents elsewhere. `pause` is called between two documents:
    whoever builds beside an event loop gives way there.

    Raises CatalogueRefused: a document is missing, is not what its digest says, or is no schema that we can enforce.
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
        self._refuse_if_wrong()
        shared = self._shared_lexicons()
        collections = {it.name: self._collection(it, shared) for it in self._index.collections}
        self._refuse_if_wrong()
        public = frozenset(it.name for it in self._index.collections if it.visibility == "public")
        return Catalogue(collections, self._index.generated_at, self._owner_only - collections.keys(), public)

    def _refuse_if_wrong(self) -> None:
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
        """Return what Lexicons may refer to, by id: those shared, and the latest stable one of each collection."""
        latest = {
            str(entry.name): self._parsed[version.document.path]
            for entry in self._index.collections
            for version in entry.versions
            if str(version.version) == entry.latest_stable
        }
        shared = {str(name): self._parsed[ref.path] for name, ref in self._index.lexicons}
        return {name: it for name, it in (latest | shared).items() if is_lexicon(it)}

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
        if not is_lexicon(document):  # which may refer to another that has changed
            kept = self._kept(entry, version)
            if kept is not None:
                return kept
        self._pause()
        try:
            if is_lexicon(document):
                document = translate(document, entry.name, shared)
            return compile_validator(document, self._codes.get(path))
        except SchemaRefused as refused:
            self._problems.extend(Problem(path, reason) for reason in refused.reasons)
            return None

    def _kept(self, entry: CollectionEntry, version: VersionEntry) -> Validator | None:
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
