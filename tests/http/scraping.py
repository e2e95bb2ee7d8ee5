"""A scrape of /metrics, queried by metric name and labels."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """The samples of one exposition."""

    def __init__(self, text: str) -> None:
        self.text = text
        families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of that name that have these labels, and perhaps others."""
        return sum(sample.value for sample in self.samples if sample.name == name and _has(sample.labels, labels))

    def has(self, name: str, **labels: str) -> bool:
        return any(sample.name == name and _has(sample.labels, labels) for sample in self.samples)

    def label_values(self, label: str) -> set[str]:
        """Return all values of that label, whatever the metric."""
        return {sample.labels[label] for sample in self.samples if label in sample.labels}


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())
