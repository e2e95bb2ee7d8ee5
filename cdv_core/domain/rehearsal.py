"""Rehearsal: what a catalogue would say of records that are stored already, before anybody switches to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import msgspec

from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.schemas import Catalogue

# What takes the place of a rule when there is no schema to break.
NO_COLLECTION: Final = "(no such collection)"
NO_STABLE_VERSION: Final = "(no stable version)"


@dataclass(slots=True)
class Rehearsal:
    """Judges records one by one by the latest stable schema of their collection, and counts.

    `failing`: by collection. `broken`: by collection and rule, a record counted once for each rule that it breaks.
    """

    catalogue: Catalogue
    records: int = 0
    failing: Counter[str] = field(default_factory=Counter)
    broken: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, collection: Nsid, value_json: bytes) -> None:
        """Judge one record. `value_json`: its value as stored."""
        self.records += 1
        rules = self._rules_broken(collection, value_json)
        if rules:
            self.failing[collection] += 1
            self.broken.update((str(collection), rule) for rule in rules)

    def _rules_broken(self, collection: Nsid, value_json: bytes) -> set[str]:
        if collection not in self.catalogue:
            return {NO_COLLECTION}
        entry = self.catalogue.collection(collection)
        schema = entry.versions.get(entry.latest_stable or "")
        if schema is None:
            return {NO_STABLE_VERSION}
        return {it.rule for it in schema.violations(msgspec.json.decode(value_json))}
