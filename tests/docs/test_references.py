"""The reference pages match the code: metrics, commands, limits and reasons of refusals."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator

import pytest

from cdv_core.domain.limits import RECORD_MAX_BYTES, RECORD_NESTING_MAX
from cdv_core.domain.tokens import TOKEN_MAX_CHARS
from cdv_http.cli import _parser
from tests.docs.metrics_table import markdown_table
from tests.docs.pages import ROOT

API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", COMMANDS, re.MULTILINE | re.DOTALL))
INDEX = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield every flag and every argument's name, of subcommands too."""
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        yield next(iter(action.option_strings), None) or str(action.metavar or action.dest).upper()
    for subcommand in subparsers(parser).values():
        yield from arguments(subcommand)


def test_the_metrics_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert markdown_table() in page, "run `python -m tests.docs.metrics_table` and put its output into docs/metrics.md"


def test_the_commands_page_has_a_section_for_each_command() -> None:
    assert set(SECTIONS) == {f"cdv {name}" for name in subparsers(_parser())}


@pytest.mark.parametrize("name", subparsers(_parser()))
def test_the_section_of_a_command_lists_its_flags_and_no_others(name: str) -> None:
    command, section = subparsers(_parser())[name], SECTIONS[f"cdv {name}"]
    known = set(arguments(command))
    assert {each for each in known if not re.search(rf"{each}\b", section)} == set()
    assert set(re.findall(r"--[a-z][a-z-]*", section)) == {each for each in known if each.startswith("--")}
    for subcommand in subparsers(command):
        assert f"`cdv {name} {subcommand}" in section


def test_every_reason_of_a_refusal_is_documented() -> None:
    """Reasons that an error sets itself, and reasons that its docstring lists."""
    tree = ast.walk(ast.parse((ROOT / "cdv_core" / "errors.py").read_text(encoding="utf-8")))
    strings = [node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    reasons = [each for each in strings if each in {"cid_mismatch", "idempotency_key_reused"}]
    for each in strings:
        if each.startswith("`reason`: "):
            reasons += re.split(", or |, | or ", each.removeprefix("`reason`: ").rstrip("."))
    assert len(reasons) == 9
    assert [each for each in reasons if f"`{each}`" not in API] == []


def test_the_limits_of_a_record_and_a_token_are_documented() -> None:
    assert f"{RECORD_MAX_BYTES // 1024} KiB" in API
    assert f"{RECORD_NESTING_MAX} levels" in API
    assert f"{TOKEN_MAX_CHARS:,} characters" in API


def test_the_index_links_to_every_page_and_decision() -> None:
    docs = ROOT / "docs"
    pages = [page.relative_to(docs).as_posix() for page in sorted(docs.rglob("*.md")) if page != docs / "README.md"]
    assert [page for page in pages if f"({page})" not in INDEX] == []
