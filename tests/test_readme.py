"""The README's examples work, and equal those that the server prints."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, blocks
from tests.http.running import CDV, RunningVault, environment

BASE = "http://127.0.0.1:8080"
JUDGE = "make conformance URL=http://127.0.0.1:8080"


def test_the_readme_has_an_embedding_example() -> None:
    assert len(blocks("README.md", "python")) >= 1
    assert "open_vault" in blocks("README.md", "python")[0]


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[RunningVault]:
    running = RunningVault(tmp_path / "data")
    yield running
    running.kill()


def paste(lines: str, vault: RunningVault) -> list[dict[str, Any]]:
    """Run the lines in a shell, in the folder where the server was started; return what they print, as JSON."""
    done = subprocess.run(
        ["sh", "-ec", lines],
        env=environment(vault.data_dir),
        cwd=vault.data_dir.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    decoder = json.JSONDecoder()
    found, rest = [], done.stdout.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        found.append(value)
        rest = rest[end:].strip()
    return found


@pytest.mark.skipif(shutil.which("curl") is None, reason="the lines call curl")
def test_the_printed_example_equals_the_readmes_and_works(vault: RunningVault) -> None:
    printed = [line.strip() for line in vault.log.splitlines() if line.startswith("  ")]
    assert len(printed) == 3
    shown = next(block for block in blocks("README.md", "sh") if "cdv token" in block).splitlines()
    command = re.match(r"TOKEN=\$\((CDV_DATA_DIR=\S+ \S+) token ", printed[0])  # it is not the default here
    assert command is not None
    normal = [line.replace(vault.base, BASE).replace(f"({command[1]} ", "(.venv/bin/cdv ") for line in printed]
    assert normal == shown
    written, listed = paste("\n".join(line.replace(f"({command[1]} ", f"({CDV} ") for line in printed), vault)
    (record,) = listed["data"]["records"]
    assert record["uri"] == written["data"]["uri"]
    assert record["value"] == {"displayName": "Ada"}


@pytest.mark.skipif(not (ROOT / ".venv/.installed-dev").is_file(), reason="make would install the tools first")
def test_the_conformance_suite_judges_a_served_vault_as_the_readme_shows(vault: RunningVault) -> None:
    assert f"{JUDGE}\n" in blocks("README.md", "sh")
    done = subprocess.run(
        ["sh", "-ec", f"{JUDGE.replace(BASE, vault.base)} ARGS='--only REC-001'"],
        env=environment(vault.data_dir),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_the_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in blocks("README.md", "sh"):
        for target in re.findall(r"^make ([a-z-]+)", block, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
