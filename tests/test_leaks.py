"""The search for secrets in logs finds every kind of leak."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.leaks import LeakSearch

ROOT = Path(__file__).parents[1]

# A statement that leaks, and what is then reported.
LEAKS = {
    "logger.debug('one {}', token())": "one <a token>",
    "logger.opt(exception=ValueError(token())).error('two')": "ValueError: <a token>",
    "set_up_logs(Settings.embedded(folder)); logger.debug('three {}', token())": "three <a token>",
    "logging.getLogger('x').warning('four %s', token())": "four <a token>",
    "logger.info(signed_url('https://s3/b?X-Amz-Signature=' + 'ab12' * 16))": "<the signature of an S3 URL>",
    "leaks.log_file(folder / 'log').write_text('five:' + secret('0123456789abcdef' * 2, 'DSN') + '@h')": "five:<DSN>@h",
    "printed('six ' + secret('fedcba9876543210', 'key'))": "six <key>",
    "logger.info('seven {}', DataDir(folder).issuer_key.read_text())": "seven",
}
MODULE = """
import logging
from datetime import UTC, datetime
from loguru import logger
from cdv_adapters.data_dir import DataDir
from cdv_adapters.settings import Settings
from cdv_adapters.tokens.local_key import LocalIssuer
from cdv_core.domain.identifiers import Did
from cdv_http.logs import set_up_logs
from tests import leaks
from tests.leaks import printed, secret, signed_url

def test_that_leaks(tmp_path):
    folder = tmp_path
    def token():
        issuer = LocalIssuer.open(folder, issuer="urn:x", audience="cdv")
        return issuer.issue(Did("did:example:ada"), 60, datetime.now(UTC))
    LEAK

def test_that_does_not():
    logger.info("nothing")
"""


def run(folder: Path, statement: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_sample.py").write_text(MODULE.replace("LEAK", statement), encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.leaks", "-p", "no:schemathesis", *options, folder],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_that_leaks_fails(tmp_path: Path, workers: str) -> None:
    ended = run(tmp_path, "; ".join(LEAKS), "-n", workers)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "2 passed, 1 error" in ended.stdout
    found = ended.stdout.partition("secrets in logs:")[2]
    for expected in LEAKS.values():
        assert expected in found
    assert "<an issuer's private key>" in found


def test_a_run_that_does_not_leak_passes(tmp_path: Path) -> None:
    ended = run(tmp_path, "token(); logger.debug('one was issued')", "-n", "0")
    assert (ended.returncode, "2 passed" in ended.stdout) == (0, True), ended.stdout + ended.stderr


def test_a_leak_is_shown_without_the_secret() -> None:
    search = LeakSearch()
    search.add("0123456789abcdef0123456789abcdef", "a password")
    search.lines += ["nothing here\n", "at postgresql://u:0123456789abcdef0123456789abcdef@h\n"]
    assert search.found() == ["at postgresql://u:<a password>@h"]
