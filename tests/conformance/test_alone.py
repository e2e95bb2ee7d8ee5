"""The suite's own distribution works without our other packages, in an environment with its requirements only."""

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
    """Return the distributions that these requirements need, transitively, as far as they are installed here."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in lines]
    while waiting:
        needed = waiting.pop()
        if needed.name in found or (needed.marker and not needed.marker.evaluate({"extra": ""})):
            continue
        try:
            more = distribution(needed.name).requires or []
        except PackageNotFoundError:
            continue  # not installed, because it is optional
        found.add(needed.name)
        waiting += [Requirement(line) for line in more]
    return found


@pytest.fixture(scope="module")
def isolated_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment with the wheel and its requirements."""
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
    # Tests download nothing: the requirements are linked from the environment that runs the tests.
    requires = run(
        binaries / "python", "-c", "import importlib.metadata as m; print(*m.requires('cdv-conformance'), sep='\\n')"
    )
    for name in required_by(requires.splitlines()):
        for file in distribution(name).files or ():
            top = file.parts[0]
            if top not in {"..", "__pycache__"} and not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    return binaries


def test_our_other_packages_are_not_installed(isolated_bin: Path):
    assert run(isolated_bin / "python", "-c", IMPORT, *NAMES, cwd=isolated_bin) == ""
    assert (
        run(isolated_bin / "python", "-c", IMPORT, "conformance.http.runner", cwd=isolated_bin)
        == "conformance.http.runner\n"
    )


def test_the_installed_suite_judges_a_served_vault(isolated_bin: Path, tmp_path: Path):
    vault = RunningVault(tmp_path / "vault")
    try:
        key = str(vault.data_dir / "issuer-key.json")
        # Some groups only: this imports all files already, and test_own_service.py runs the whole suite.
        options = ("--issuer-key", key, "--only", "REC", "--only", "AUTH")
        judgement = judge(tmp_path, vault.base, *options, command=[str(isolated_bin / "cdv-conformance")])
    finally:
        vault.stop()

    assert judgement.code == 0, judgement.text
    assert len(judgement.ids("passed")) > 40
    assert judgement.ids("failed") == set()
