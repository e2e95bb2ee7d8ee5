"""`make audit` fails on every kind of finding, and reports which checks were skipped."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import audit

Plant = Callable[[str, str], None]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Put a tracked file into an otherwise empty repository, where the audit runs."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.chdir(tmp_path)

    def put(name: str, content: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
        subprocess.run(["git", "add", "-f", name], check=True)

    put("README.md", "nothing\n")
    return put


AWS_KEY = "AKIA" + "QRSTUVWXYZ234567"
PEM = "-----BEGIN RSA " + "PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cdv_http/app.py", f'KEY = "{AWS_KEY}"\n'),
        ("tests/test_x.py", f'KEY = "{AWS_KEY}"\n'),
        ("deploy/server.key", f"{PEM}\nMIIE\n"),
        ("tests/server.key", f"{PEM}\nMIIE\n"),
        ("deploy/compose.yaml", f"      CDV_S3_SECRET_KEY: {secrets.token_hex(20)}\n"),
        ("cdv_adapters/x.py", 'DSN = "postgresql://cdv:' + 'Wq8Zt3Lm@db/cdv"\n'),
        (".env", f'CDV_NATS_PASSWORD="{secrets.token_urlsafe(30)}"\n'),
    ],
    # Not the contents, which are random: every process of a run must give a test the same id.
    ids=["key in code", "key in a test", "key file", "key file of a test", "compose", "dsn", "dotenv"],
)
def test_a_planted_secret_is_found(plant: Plant, name: str, content: str) -> None:
    assert audit.secrets().good
    plant(name, content)
    verdict = audit.secrets()
    assert not verdict.good
    assert name in verdict.message


def test_made_up_passwords_in_tests_are_ignored(plant: Plant) -> None:
    plant("tests/test_x.py", 'PASSWORD = "hunter2"\nDSN = "postgresql://u:' + 'hunter2@h/db"\n')
    assert audit.secrets().good


@pytest.mark.parametrize("path", [None, "/nonexistent"])
def test_outside_a_checkout_the_search_for_secrets_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    if path is not None:
        monkeypatch.setenv("PATH", path)
    assert audit.secrets().message.startswith("skipped: ")


def test_unsafe_code_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in audit.PRODUCT:
        plant(f"{package}/__init__.py", "")
    assert audit.code().good
    plant("cdv_http/x.py", "import subprocess\nsubprocess.run('ls', shell=True)\n")
    verdict = audit.code()
    assert not verdict.good
    assert "S602" in verdict.message


def known(name: str, *vulnerabilities: str) -> dict[str, object]:
    return {"name": name, "version": "1", "vulns": [{"id": each} for each in vulnerabilities]}


UNKNOWN = {"name": "b", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("dependencies", "good", "message"),
    [
        ([known("a"), known("b")], True, "2 dependencies"),
        ([known("a"), known("b", "CVE-1", "CVE-2")], False, "b 1: CVE-1, CVE-2"),
        ([known("a"), UNKNOWN], False, "b: unknown"),
        ([UNKNOWN, UNKNOWN], True, "skipped: not reachable"),
    ],
)
def test_vulnerable_and_unknown_dependencies_fail_the_audit(
    dependencies: list[dict[str, object]], good: bool, message: str
) -> None:
    verdict = audit.verdict_on(json.dumps({"dependencies": dependencies}), "")
    assert verdict.good == good
    assert message in verdict.message


@pytest.mark.parametrize(
    ("complaints", "good"),
    [
        ("requests.exceptions.ConnectionError: no route", True),
        ("ERROR: the lock file cannot be read", False),
        ("", False),
    ],
)
def test_only_an_unreachable_advisory_service_is_skipped(complaints: str, good: bool) -> None:
    verdict = audit.verdict_on("", complaints)
    assert verdict.good == good
    assert verdict.message.startswith("skipped: " if good else "pip-audit failed")
