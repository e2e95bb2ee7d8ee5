"""The table of docs/metrics.md, from the definitions themselves: `python -m tests.docs.metrics_table` prints it."""

from __future__ import annotations

from prometheus_client.metrics import MetricWrapperBase

from cdv_http import metrics

_ENDINGS = {"counter": "_total"}


def markdown_table() -> str:
    """Return a line for each metric: the name as it is scraped, type, labels, help."""
    rows = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            name = family.name + _ENDINGS.get(family.type, "")
            rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(markdown_table(), end="")
