"""The readiness page: its commands exist, and it shows their results."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests import readiness
from tests.readiness import ROOT, Item, Proof, items, page, prove

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("item", items(), ids=lambda item: item.name)
def test_the_command_of_every_item_exists(item: Item):
    program, *arguments = item.command.split()
    if program == "make":
        assert arguments[0] in TARGETS
    else:
        assert all((ROOT / path).exists() for path in arguments if not path.startswith("-"))


def test_a_proof_shows_the_output_and_a_failure_is_not_proved():
    item = Item("A section", "A name", "A claim.", "python3 -c print(1);print('3&passed')")
    good, bad = prove(item), prove(replace(item, command="python3 -c raise(SystemExit('no'))"))
    assert (good.status, good.printed) == ("proved", "3&passed")
    assert (bad.status, bad.printed) == ("NOT PROVED", "no")
    directed = prove(replace(item, command="printf yes\\nmake[1]:\\040Leaving"))
    assert directed.printed == "yes"
    skipping = prove(replace(item, command="echo pytest: 3 passed, 1 skipped"))
    assert skipping.status == "partly proved"
    assert "**NOT PROVED** by\n\n```text\n$ python3 -c raise" in page([good, bad])


def test_with_again_items_proved_on_the_same_commit_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    each = [
        Item("Things", "good", "A claim.", "python3 -c print('yes')"),
        Item("Things", "bad", "A claim.", "python3 -c raise(SystemExit(1))"),
    ]
    ran: list[str] = []

    def proving(item: Item) -> Proof:
        ran.append(item.name)
        return prove(item)

    monkeypatch.setattr(readiness, "items", lambda: each)
    monkeypatch.setattr(readiness, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(readiness, "PROOFS", tmp_path / "build" / "proofs.json")
    monkeypatch.setattr(readiness, "ROOT", tmp_path)
    monkeypatch.setattr(readiness, "prove", proving)
    for commit, options, names in (
        ("a", [], ["good", "bad"]),
        ("a", ["--again"], ["bad"]),
        ("b", ["--again"], ["good", "bad"]),
        ("b", [], ["good", "bad"]),
    ):
        ran.clear()
        monkeypatch.setattr(readiness, "_commit", lambda commit=commit: commit)
        monkeypatch.setattr("sys.argv", ["readiness", *options])
        assert readiness.main() == 1
        assert ran == names
    assert (tmp_path / "page.md").read_text().count("proved**") == 1


def test_the_page_contains_every_item():
    """If this fails: `make readiness`."""
    written = readiness.PAGE.read_text(encoding="utf-8")
    for item in items():
        assert f"### {item.name}\n\n{item.claim}\n\n**" in written
        assert f"$ {item.command}\n" in written


def test_options_of_the_calling_make_are_not_passed_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MAKEFLAGS", " -- ARGS=--again")
    monkeypatch.setenv("ARGS", "--again")
    for name in ("MAKEFLAGS", "ARGS"):
        assert prove(Item("Things", name, "A claim.", f"printenv {name}")).status == "NOT PROVED"
    assert prove(Item("Things", "home", "A claim.", "printenv PATH")).status == "proved"
