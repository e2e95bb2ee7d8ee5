"""Rehearsal: validate stored records against a new catalogue before switching to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import msgspec

from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.schemas import Catalogue

# In place of a rule, if there is no schema to validate against.
NO_COLLECTION: Final = "(no such collection)"
NO_STABLE_VERSION: Final = "(no stable version)"


@dataclass(slots=True)
class Rehearsal:
    """Validates records one by one against the latest stable schema of their collection, and counts.

    `failing`: records by collection. `broken`: by collection and rule; a record counts once per rule that it breaks.
    """

    catalogue: Catalogue
    records: int = 0
    failing: Counter[str] = field(default_factory=Counter)
    broken: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, collection: Nsid, value_json: bytes) -> None:
        """Validate one record. `value_json`: its value as stored."""
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
        return {violation.rule for violation in schema.violations(msgspec.json.decode(value_json))}
