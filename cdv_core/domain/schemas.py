"""Schemas: the catalogue, the version that applies to a write, and whether its status allows the write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.times import format_time
from cdv_core.domain.validators import Validator
from cdv_core.errors import CollectionUnknown, SchemaVersionRefused, SchemaVersionUnknown, Violation

Status = Literal["draft", "stable", "deprecated", "retired"]
Visibility = Literal["public", "owner"]


@dataclass(frozen=True, slots=True)
class SchemaWarning:
    """A warning about an accepted write. `code` is stable, `message` is readable text."""

    code: str
    message: str
    collection: str
    schema_version: str
    sunset: datetime | None = None
    replaced_by: str | None = None

    @property
    def as_json(self) -> dict[str, Any]:
        """The warning as an entry of the response's `meta.warnings`; members that do not apply are absent."""
        entry = {
            "code": self.code,
            "message": self.message,
            "collection": str(self.collection),  # an Nsid, which encoders do not support
            "schemaVersion": self.schema_version,
            "sunset": format_time(self.sunset) if self.sunset else None,
            "replacedBy": self.replaced_by,
        }
        return {name: value for name, value in entry.items() if value is not None}


@dataclass(frozen=True, slots=True, eq=False)
class Schema:
    """One version of one collection's schema, compiled.

    `deprecated_at` is set exactly when the status is deprecated; `sunset`, if set, is the time from which a
    deprecated version is refused. `document`: byte for byte as the catalogue published it.
    """

    collection: Nsid
    version: str
    status: Status
    visibility: Visibility
    document: bytes
    validator: Validator
    deprecated_at: datetime | None = None
    sunset: datetime | None = None
    replaced_by: str | None = None

    def violations(self, value: object) -> tuple[Violation, ...]:
        """Return every rule that `value` violates, in schema order; () if it is valid. Does not modify `value`."""
        return self.validator.violations(value)


@dataclass(frozen=True, slots=True)
class Resolution:
    """The schema to validate against, and warnings for the writer."""

    schema: Schema
    warnings: tuple[SchemaWarning, ...] = ()

    @property
    def deprecated_at(self) -> datetime | None:
        """When the version was deprecated: the Deprecation header. None if it is not."""
        return self.schema.deprecated_at

    @property
    def sunset(self) -> datetime | None:
        """When the version will be refused: the Sunset header. None if no such time is set."""
        return self.schema.sunset if self.schema.status == "deprecated" else None


@dataclass(frozen=True, slots=True, eq=False)
class Collection:
    """A collection's versions, oldest first. `latest_stable` is None while there are only drafts."""

    name: Nsid
    visibility: Visibility
    latest_stable: str | None
    versions: Mapping[str, Schema]


class Catalogue:
    """Every collection that may be written. Immutable, built by cdv_core/domain/catalogue_build.py.

    `owner_only`: collections whose records only their owner may read, including some that are no longer listed.
    `public`: collections that the index explicitly lists as public, which overrides an earlier restriction.
    """

    def __init__(
        self,
        collections: Mapping[Nsid, Collection],
        generated_at: datetime,
        owner_only_before: frozenset[Nsid] = frozenset(),
        public: frozenset[Nsid] = frozenset(),
    ) -> None:
        """`owner_only_before`: owner-only collections that are no longer among `collections`."""
        self.generated_at = generated_at
        self.owner_only = owner_only_before | {name for name, it in collections.items() if it.visibility == "owner"}
        self.public = public
        self._collections = dict(collections)

    def with_owner_only(self, collections: Iterable[Nsid]) -> Catalogue:
        """Return this catalogue with these collections owner-only too."""
        owner_only = self.owner_only.union(collections)
        return Catalogue(self._collections, self.generated_at, owner_only, self.public - owner_only)

    def __contains__(self, collection: object) -> bool:
        return collection in self._collections

    def __iter__(self) -> Iterator[Collection]:
        """Iterate over the collections, by name."""
        return iter(sorted(self._collections.values(), key=lambda collection: collection.name))

    def __len__(self) -> int:
        return len(self._collections)

    def collection(self, name: Nsid, version: str | None = None) -> Collection:
        """Return the collection. `version`: the requested one, for the error. Raises CollectionUnknown."""
        try:
            return self._collections[name]
        except KeyError:
            raise CollectionUnknown(name, version) from None

    def resolve(
        self, collection: Nsid, version: str | None, *, now: datetime, allow_drafts: bool, reject_deprecated: bool
    ) -> Resolution:
        """Return the named version of the collection's schema, or the latest stable one if `version` is None.

        Raises CollectionUnknown: the catalogue has no such collection. SchemaVersionUnknown: the collection has no
        such version, or none was named and none is stable. SchemaVersionRefused: its status forbids writing at `now`.
        """
        entry = self.collection(collection, version)
        wanted = entry.latest_stable if version is None else version
        schema = None if wanted is None else entry.versions.get(wanted)
        if schema is None:
            raise SchemaVersionUnknown(collection, wanted)
        reason = _refusal(schema, now, allow_drafts=allow_drafts, reject_deprecated=reject_deprecated)
        if reason:
            raise SchemaVersionRefused(collection, schema.version, reason)
        return Resolution(schema, (_deprecation(schema),) if schema.status == "deprecated" else ())


def _refusal(schema: Schema, now: datetime, *, allow_drafts: bool, reject_deprecated: bool) -> str | None:
    if schema.status == "draft" and not allow_drafts:
        return "a draft, which only a development vault accepts"
    if schema.status == "retired":
        return "retired"
    if schema.status == "deprecated":
        if schema.sunset is not None and now >= schema.sunset:
            return f"past its sunset ({format_time(schema.sunset)})"
        if reject_deprecated:
            return "deprecated, and this vault refuses deprecated schemas"
    return None


def _deprecation(schema: Schema) -> SchemaWarning:
    message = f"{schema.collection} {schema.version} is deprecated"
    if schema.sunset is not None:
        message += f" and will be refused from {format_time(schema.sunset)}"
    if schema.replaced_by is not None:
        message += f"; use {schema.replaced_by}"
    return SchemaWarning(
        "schema_deprecated", message, schema.collection, schema.version, schema.sunset, schema.replaced_by
    )
