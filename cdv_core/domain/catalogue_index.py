"""The catalogue's index: the collections, their versions and statuses, and the document of each version."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from cdv_core.domain.catalogue_documents import CatalogueRefused, Problem, parse_document
from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.schemas import Status, Visibility
from cdv_core.domain.times import parse_time
from cdv_core.domain.versions import Version
from cdv_core.errors import InvalidField

INDEX_NAME: Final = "SPEC_INDEX.json"  # spec: schema catalogue
DOCUMENTS_MAX: Final = 10_000  # ours: twice the number that is guaranteed to load in half a minute

# A path relative to the index, of plain names: no scheme, no leading slash, no query, no "..".
_PATH: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class DocumentRef:
    """A document's location. `path`: relative to the index. `sha256`: 64 lower-case hex, None if not given."""

    path: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class VersionEntry:
    version: Version
    status: Status
    document: DocumentRef
    deprecated_at: datetime | None
    sunset: datetime | None
    replaced_by: str | None


@dataclass(frozen=True, slots=True)
class CollectionEntry:
    """A collection and its versions, oldest first. `visibility`: None if not given."""

    name: Nsid
    visibility: Visibility | None
    latest_stable: str | None
    versions: tuple[VersionEntry, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """A parsed, consistent index. `lexicons`: documents that others refer to, with their id."""

    generated_at: datetime
    collections: tuple[CollectionEntry, ...]
    lexicons: tuple[tuple[Nsid, DocumentRef], ...]

    def documents(self) -> Iterator[DocumentRef]:
        """Iterate over every document of the catalogue, each once."""
        for entry in self.collections:
            for version in entry.versions:
                yield version.document
        for _, document in self.lexicons:
            yield document


class _Version(msgspec.Struct, rename="camel"):
    version: str
    status: Status | None = None
    path: str | None = None
    sha256: str | None = None
    deprecated_at: str | None = None
    sunset: str | None = None
    replaced_by: str | None = None


class _Schema(msgspec.Struct, rename="camel"):
    namespace: str
    name: str
    versions: list[str | _Version]
    latest_stable: str | None = None
    status: Status = "stable"
    deprecates: str | list[str] | None = None
    replaced_by: str | None = None
    deprecated_at: str | None = None
    sunset: str | None = None
    visibility: Visibility | None = None


class _Lexicon(msgspec.Struct, rename="camel"):
    id: str
    path: str | None = None
    sha256: str | None = None


class _Index(msgspec.Struct, rename="camel"):
    schemas: list[_Schema]
    generated_at: str
    lexicons: list[_Lexicon] = []


def read_index(text: bytes) -> Index:
    """Parse the index `text`.

    Raises CatalogueRefused: not an index, ambiguous about a collection or a version, or with an unresolved reference.
    """
    try:
        raw = msgspec.convert(parse_document(text), _Index)
        generated_at = parse_time(raw.generated_at, "generatedAt")
    except (ValueError, InvalidField) as wrong:  # msgspec's errors are ValueErrors too
        raise CatalogueRefused([Problem(INDEX_NAME, str(wrong))]) from wrong
    count = sum(len(schema.versions) for schema in raw.schemas) + len(raw.lexicons)
    if count > DOCUMENTS_MAX:
        raise CatalogueRefused([Problem(INDEX_NAME, f"{count} documents, over the limit of {DOCUMENTS_MAX}")])
    reader = _Reader(raw, generated_at)
    index = reader.read()
    if reader.problems:
        raise CatalogueRefused(reader.problems)
    return index


def _listed(one_or_more: str | list[str] | None) -> list[str]:
    return [one_or_more] if isinstance(one_or_more, str) else one_or_more or []


def _name(schema: _Schema) -> str:
    """Return namespace and name, joined unless the namespace already ends in the name: both forms are in use."""
    return schema.namespace if schema.namespace.endswith(f".{schema.name}") else f"{schema.namespace}.{schema.name}"


class _Reader:
    """Reads one index, collecting every problem."""

    def __init__(self, raw: _Index, generated_at: datetime) -> None:
        self.problems: list[Problem] = []
        self._raw = raw
        self._generated_at = generated_at
        # Collection -> its versions as listed; (collection, version) that a `deprecates` names -> its replacement.
        self._named = {_name(schema): {_version_of(v) for v in schema.versions} for schema in raw.schemas}
        self._deprecated: dict[tuple[str, str], str] = {}

    def read(self) -> Index:
        for schema in self._raw.schemas:
            self._collect_deprecations(schema)
        collections = tuple(entry for entry in map(self._collection, self._raw.schemas) if entry is not None)
        lexicons = tuple(lexicon for lexicon in map(self._lexicon, self._raw.lexicons) if lexicon is not None)
        index = Index(self._generated_at, collections, lexicons)
        self._refuse_repeats([entry.name for entry in collections], "collection {} is listed twice")
        self._refuse_repeats([document.path for document in index.documents()], "document {} is listed twice")
        self._refuse_repeats([str(name) for name, _ in lexicons], "lexicon {} is listed twice")
        return index

    def _refuse(self, reason: str) -> None:
        self.problems.append(Problem(INDEX_NAME, reason))

    def _refuse_repeats(self, names: Sequence[str], reason: str) -> None:
        seen: set[str] = set()
        for name in names:
            if name in seen:
                self._refuse(reason.format(name))
            seen.add(name)

    def _collection(self, schema: _Schema) -> CollectionEntry | None:
        try:
            name = Nsid.parse(_name(schema))
        except InvalidField as wrong:
            self._refuse(f"{_name(schema)!r}: {wrong.reason}")
            return None
        entries = (self._version(schema, version) for version in schema.versions)
        versions = tuple(sorted((entry for entry in entries if entry), key=lambda entry: entry.version))
        self._refuse_repeats([str(entry.version) for entry in versions], f"{name} lists version {{}} twice")
        self._check_target(name, "replacedBy", schema.replaced_by)
        self._check_latest(name, schema.latest_stable, {str(entry.version): entry.status for entry in versions})
        return CollectionEntry(name, schema.visibility, schema.latest_stable, versions)

    def _version(self, schema: _Schema, raw: str | _Version) -> VersionEntry | None:
        given = _Version(raw) if isinstance(raw, str) else raw
        name = _name(schema)
        label = f"{name} {given.version}"
        try:
            version = Version.parse(given.version)
            inherits = given.status is None
            status = given.status or schema.status
            deprecated_at = self._time(given.deprecated_at or (schema.deprecated_at if inherits else None))
            sunset = self._time(given.sunset or (schema.sunset if inherits else None))
        except InvalidField as wrong:
            self._refuse(f"{label}: {wrong.reason}")
            return None
        replaced_by = given.replaced_by or schema.replaced_by
        self._check_target(name, f"{given.version}: replacedBy", given.replaced_by)
        if (name, given.version) in self._deprecated:
            if given.status == "stable":
                self._refuse(f"{label} is stable, and {self._deprecated[name, given.version]} deprecates it")
            status = "deprecated" if status == "stable" else status
            replaced_by = replaced_by or self._deprecated[name, given.version]
        if status != "deprecated" and (deprecated_at or sunset):
            self._refuse(f"{label} has a deprecatedAt or a sunset, and is {status}")
        if status == "deprecated":
            deprecated_at = deprecated_at or self._generated_at
        document = self._document(label, given.path or f"{name}/{given.version}.json", given.sha256)
        return VersionEntry(version, status, document, deprecated_at, sunset, replaced_by)

    def _check_latest(self, name: str, latest: str | None, statuses: dict[str, Status]) -> None:
        stable = [version for version, status in statuses.items() if status == "stable"]
        if latest is None:
            if set(statuses.values()) != {"draft"}:
                self._refuse(f"{name} has no latestStable")
        elif latest not in statuses:
            self._refuse(f"{name}: latestStable {latest} is not among its versions")
        elif statuses[latest] != "stable" and (stable or statuses[latest] == "draft"):
            # If all versions of a collection are deprecated, latestStable names the last one that was stable.
            self._refuse(f"{name}: latestStable {latest} is {statuses[latest]}")

    def _collect_deprecations(self, schema: _Schema) -> None:
        name = _name(schema)
        for target in _listed(schema.deprecates):
            collection, versions = self._resolve(name, target)
            if not versions or (collection, schema.latest_stable) == (name, target):
                self._refuse(f"{name}: deprecates {target}, which is not in the index or is this version itself")
            replacement = schema.latest_stable if collection == name else name
            for version in versions:
                self._deprecated[collection, version] = replacement or name

    def _check_target(self, name: str, member: str, target: str | None) -> None:
        if target is not None and not self._resolve(name, target)[1]:
            self._refuse(f"{name}: {member} {target}, which is not in the index")

    def _resolve(self, name: str, target: str) -> tuple[str, set[str]]:
        """Return the collection and versions that `target`, in the entry of `name`, refers to.

        `target`: VERSION, COLLECTION or COLLECTION@VERSION.
        """
        collection, at, version = target.partition("@")
        if not at and target in self._named.get(name, ()):
            return name, {target}
        known = self._named.get(collection, set())
        return collection, known & {version} if at else known

    def _lexicon(self, raw: _Lexicon) -> tuple[Nsid, DocumentRef] | None:
        try:
            name = Nsid.parse(raw.id)
        except InvalidField as wrong:
            self._refuse(f"lexicon {raw.id!r}: {wrong.reason}")
            return None
        if name in self._named:
            self._refuse(f"lexicon {name} is a collection too")
        return name, self._document(f"lexicon {name}", raw.path or f"{name}.json", raw.sha256)

    def _document(self, label: str, path: str, sha256: str | None) -> DocumentRef:
        if not _PATH.fullmatch(path) or ".." in path:
            self._refuse(f"{label}: {path!r} is not a path of plain names below the index")
        if sha256 is not None and not _SHA256.fullmatch(sha256):
            self._refuse(f"{label}: sha256 is not 64 lower-case hex characters")
        return DocumentRef(path, sha256)

    def _time(self, text: str | None) -> datetime | None:
        return None if text is None else parse_time(text, "time")


def _version_of(raw: str | _Version) -> str:
    return raw if isinstance(raw, str) else raw.version
