"""Compatibility: how much one version of a schema differs from the version before, by the governance rule.

patch: it accepts the same records. minor: it accepts every record that the old one accepts, and more; it may name
new optional members. major: it may refuse a record that the old one accepts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from cdv_core.domain.implication import Implication
from cdv_core.domain.json_equality import equal
from cdv_core.domain.json_schema import SchemaDocument
from cdv_core.domain.schemas import Catalogue, Schema
from cdv_core.domain.versions import Version

Change = Literal["patch", "minor", "major"]

_ORDER: Final[tuple[Change, ...]] = ("patch", "minor", "major")


@dataclass(frozen=True, slots=True)
class SchemaDifference:
    """How much changed, and why that much: a line for each reason, none for a patch.

    `added_members`: names that the new version describes and the old one left to anybody. That is a minor change by
    the rule, although a record that used the name in another way is refused from now on; rehearse before publishing.
    """

    change: Change
    reasons: tuple[str, ...] = ()
    added_members: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class BrokenPromise:
    """Two versions that follow each other, whose numbers promise less change than there is."""

    collection: str
    old: str
    new: str
    promised: Change
    difference: SchemaDifference

    def __str__(self) -> str:
        why = "; ".join(self.difference.reasons)
        return f"{self.collection} {self.new} is a {self.difference.change} change to {self.old}: {why}"


def compare(old: SchemaDocument, new: SchemaDocument) -> SchemaDifference:
    """Return how much `new` differs from `old` in what it accepts; annotations do not count.

    What cannot be proved compatible is major: the answer errs to that side only.
    """
    if equal(old.root, new.root) and equal(dict(old.refs), dict(new.refs)):
        return SchemaDifference("patch")
    forward = Implication(old, new, optional_members=True)
    if not forward.prove():
        return SchemaDifference("major", tuple(dict.fromkeys(forward.gaps)), frozenset(forward.added))
    backward = Implication(new, old, optional_members=False)
    if backward.prove() and not forward.added:
        return SchemaDifference("patch")
    added = [f"the optional member {name!r} is new" for name in sorted(forward.added)]
    loosened = [f"loosened: {reason} in the version before" for reason in dict.fromkeys(backward.gaps)]
    return SchemaDifference("minor", (*added, *loosened), frozenset(forward.added))


def promised(old: Version, new: Version) -> Change:
    """Return the most change that the step from `old` to `new` allows. Before 1.0.0 a minor step may break."""
    if new.major != old.major:
        return "major"
    if new.minor != old.minor:
        return "minor" if new.major else "major"
    return "patch"


def broken_promises(catalogue: Catalogue) -> Iterator[BrokenPromise]:
    """Iterate over the steps between neighbouring versions, drafts left out, that change more than the number says."""
    for collection in catalogue:
        published = [it for it in collection.versions.values() if it.status != "draft"]
        for old, new in pairwise(sorted(published, key=_version)):
            allowed = promised(_version(old), _version(new))
            difference = compare(old.validator.document, new.validator.document)
            if _ORDER.index(difference.change) > _ORDER.index(allowed):
                yield BrokenPromise(collection.name, old.version, new.version, allowed, difference)


def _version(schema: Schema) -> Version:
    return Version.parse(schema.version)
