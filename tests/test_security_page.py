"""Each threat on the security page names the tests of its mitigation, and those exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
TEST = re.compile(r"`((?:tests|conformance)/[\w/]+\.py)::(\w+)`")
THREATS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.partition("## Threats")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ")
][1:]


@cache
def names_in(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_there_are_threats() -> None:
    assert len(THREATS) >= 25


@pytest.mark.parametrize("row", THREATS, ids=[row[0] for row in THREATS])
def test_every_threat_names_tests_that_exist(row: list[str]) -> None:
    threat, mitigation, shown = row
    assert threat
    assert mitigation
    named = TEST.findall(shown)
    assert named
    assert TEST.sub("", shown).strip(", |") == ""
    for file, name in named:
        assert name.startswith("test_")
        assert name in names_in(ROOT / file)
