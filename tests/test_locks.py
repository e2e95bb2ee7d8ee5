"""The lock files pin what pyproject.toml requires, and hold nothing but names, versions and hashes."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUNTIME = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["dependency-groups"]["build"]]
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
LOCKS = {
    "requirements.lock": RUNTIME,
    "requirements-dev.lock": [*RUNTIME, *PYPROJECT["dependency-groups"]["dev"]],
    # Of the image: every extra that a setting can need, and no build dependency.
    "deploy/requirements.lock": [
        *PYPROJECT["project"]["dependencies"],
        *(each for extra in ("aws", "otel", "redis") for each in EXTRAS[extra]),
    ],
}

PIN = re.compile(r"([a-z0-9-]+)(?:\[[a-z, ]+\])?==([^ ;]+)( ; [A-Za-z0-9_ ='.()<>!-]+)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


def pins(lock: str) -> dict[str, str]:
    """Version by name. The second of two pins of one name, for different platforms, wins."""
    return {
        pin[1]: pin[2]
        for line in (ROOT / lock).read_text(encoding="utf-8").splitlines()
        if (pin := PIN.fullmatch(line))
    }


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_names_versions_and_hashes_only(lock: str):
    lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if not (PIN.fullmatch(line) or HASH.fullmatch(line))] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_every_requirement(lock: str):
    """If this fails: `make lock`."""
    pinned = pins(lock)
    required = [Requirement(line) for line in LOCKS[lock]]

    assert [
        str(each) for each in required if not each.specifier.contains(pinned.get(canonicalize_name(each.name), "0"))
    ] == []


def test_the_locks_pin_the_same_versions():
    assert pins("requirements.lock").items() <= pins("requirements-dev.lock").items()
    assert pins("deploy/requirements.lock").items() <= pins("requirements-dev.lock").items()
