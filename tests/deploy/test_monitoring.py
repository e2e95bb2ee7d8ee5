"""Dashboard, rules and runbook use existing metrics only, and each simulated failure raises its alert."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdv_http import metrics
from cdv_http.metrics import registry

ROOT = Path(__file__).parents[2]
RULES_FILE = ROOT / "deploy/prometheus/rules.yaml"
SIMULATIONS = sorted((ROOT / "deploy/prometheus").glob("rules*_test.yaml"))
DASHBOARD = json.loads((ROOT / "deploy/grafana/cdv.json").read_text(encoding="utf-8"))
RUNBOOK = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
RULES = [rule for group in yaml.safe_load(RULES_FILE.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
FAMILIES = {
    family.name: [family.name + suffix for suffix in SUFFIXES[family.type]]
    for family in registry.collect()
    if family.name.startswith("cdv_")
}
# What neither the dashboard nor a rule shows, and why.
UNUSED: dict[str, str] = {}
SERIES = re.compile(r"\b(cdv[_:][a-z0-9_:]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
PROMETHEUS_LABELS = {"job", "instance", "le", "slo"}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (prometheus)")


def panels() -> Iterator[dict[str, Any]]:
    for panel in DASHBOARD["panels"]:
        yield panel
        yield from panel.get("panels", [])


def expressions() -> list[str]:
    """Return every PromQL expression, of rules and of panels, in a form that Prometheus accepts."""
    shown = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    queried = [
        variable["query"]["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"
    ]
    variables = [re.sub(r"label_values\((.*), \w+\)", r"\1", each) for each in queried]
    expanded = [
        each.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*") for each in shown
    ]
    return [*(rule["expr"] for rule in RULES), *expanded, *(each.replace("$job", ".*") for each in variables)]


def test_only_exported_metrics_are_queried() -> None:
    exported = {name for names in FAMILIES.values() for name in names} | RECORDED
    queried = {name for each in expressions() for name, _ in SERIES.findall(each)}
    assert queried <= exported
    assert len(queried) > 30


def test_only_labels_that_a_metric_has_are_queried() -> None:
    labels = {
        name + suffix: set(metric._labelnames)
        for metric in vars(metrics).values()
        if hasattr(metric, "_labelnames") and not metric._labelvalues
        for name, suffixes in [(metric._name, ("", "_total", "_bucket", "_sum", "_count"))]
        for suffix in suffixes
    }
    for each in expressions():
        for name, matchers in SERIES.findall(each):
            if name not in RECORDED:
                assert set(MATCHER.findall(matchers)) <= labels[name] | PROMETHEUS_LABELS, each


def test_each_metric_is_queried_or_listed_as_unused() -> None:
    queried = {name for each in expressions() for name, _ in SERIES.findall(each)}
    unqueried = {family for family, names in FAMILIES.items() if not queried & set(names)}
    assert unqueried == set(UNUSED)


def test_each_alert_has_a_severity_and_a_section_of_the_runbook() -> None:
    headings = {
        f"docs/operations.md#{heading.lower()}" for heading in re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)
    }
    assert headings == {alert["annotations"]["section"] for alert in ALERTS.values()}
    for name, alert in ALERTS.items():
        assert alert["labels"]["severity"] in {"page", "ticket"}, name
        assert alert["annotations"]["section"] == f"docs/operations.md#{name.lower()}"
        assert alert["annotations"]["summary"], name
        assert "runbook_url" not in alert["annotations"]


def test_each_alert_fires_in_a_simulation() -> None:
    tests = [test for file in SIMULATIONS for test in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]]
    fired = {
        name
        for test in tests
        for expected in test["promql_expr_test"]
        for sample in expected["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert fired == set(ALERTS)
    used = {name for test in tests for series in test["input_series"] for name, _ in SERIES.findall(series["series"])}
    assert used <= {name for names in FAMILIES.values() for name in names}


@needs_promtool
def test_the_simulated_failures_raise_their_alerts_and_no_others() -> None:
    done = subprocess.run(["promtool", "test", "rules", *SIMULATIONS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_every_expression_is_valid_promql(tmp_path: Path) -> None:
    rules = [{"record": f"x:{number}", "expr": each} for number, each in enumerate(expressions())]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run(["promtool", "check", "rules", tmp_path / "all.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_well_formed_for_grafana() -> None:
    assert DASHBOARD["id"] is None  # Grafana assigns it
    assert DASHBOARD["schemaVersion"] >= 39
    assert {"title", "uid", "panels", "templating", "time", "refresh"} <= set(DASHBOARD)
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    for panel in panels():
        assert {"type", "title", "gridPos"} <= set(panel), panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert panel["description"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert refs, panel["title"]
        assert len(refs) == len(set(refs)), panel["title"]
        assert all(target["expr"] and target["datasource"] == panel["datasource"] for target in panel["targets"])
    quoted = re.findall(r'(?:[Ll]ook at|and) "([A-Z].*?)"', RUNBOOK)
    assert len(quoted) == 3
    assert set(quoted) <= {panel["title"] for panel in panels()}
    for one, other in combinations(list(panels()), 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    assert one["x"] >= 0
    assert one["x"] + one["w"] <= 24
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )
