"""The suite's own distribution is enough: in an environment with its requirements and nothing of ours, it judges."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conformance.judging import judge
from tests.http.running import RunningVault

ROOT = Path(__file__).parent.parent.parent
NAMES = (
    "cdv_core",
    "cdv_adapters",
    "cdv_http",
    "conformance.ports",
    "litestar",
    "psycopg",
    "minio",
    "msgspec",
    "libipld",
)

IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        print(name)
    except ImportError:
        pass
"""


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    return subprocess.run([*map(str, words)], cwd=cwd, check=True, capture_output=True, text=True).stdout


def required_by(lines: list[str]) -> set[str]:
    """The distributions that these requirements need, and those need, as far as they are installed here."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in lines]
    while waiting:
        needed = waiting.pop()
        if needed.name in found or (needed.marker and not needed.marker.evaluate({"extra": ""})):
            continue
        try:
            more = distribution(needed.name).requires or []
        except PackageNotFoundError:
            continue  # optional here
        found.add(needed.name)
        waiting += [Requirement(line) for line in more]
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel and what it requires; its folder of commands."""
    folder = tmp_path_factory.mktemp("alone")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT / "conformance")
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    binaries = folder / "venv" / "bin"
    run(
        Path(sys.executable).with_name("uv"),
        "pip",
        "install",
        "--offline",
        "--no-deps",
        "--python",
        binaries / "python",
        wheel,
    )
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # Nothing is downloaded in tests: what the wheel requires is lent from the environment that runs them.
    requires = run(
        binaries / "python", "-c", "import importlib.metadata as m; print(*m.requires('cdv-conformance'), sep='\\n')"
    )
    for name in required_by(requires.splitlines()):
        for file in distribution(name).files or ():
            top = file.parts[0]
            if top not in {"..", "__pycache__"} and not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    return binaries


def test_nothing_of_ours_is_there(alone: Path):
    assert run(alone / "python", "-c", IMPORT, *NAMES, cwd=alone) == ""
    assert run(alone / "python", "-c", IMPORT, "conformance.http.runner", cwd=alone) == "conformance.http.runner\n"


def test_it_judges_a_served_vault(alone: Path, tmp_path: Path):
    vault = RunningVault(tmp_path / "vault")
    try:
        key = str(vault.data_dir / "issuer-key.json")
        # A part of it: all of its files are imported even so, and test_own_service.py judges by the whole.
        asked = ("--issuer-key", key, "--only", "REC", "--only", "AUTH")
        judgement = judge(tmp_path, vault.base, *asked, command=[str(alone / "cdv-conformance")])
    finally:
        vault.stop()

    assert judgement.code == 0, judgement.text
    assert len(judgement.ids("passed")) > 40
    assert judgement.ids("failed") == set()
