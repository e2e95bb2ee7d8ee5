"""The port contracts work for other adapters: the example in the docs passes, and altered ones fail."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import blocks


@pytest.mark.parametrize(
    ("right", "wrong", "outcome"),
    [
        ("", "", "3 passed"),
        ("self._last += 1", "pass", "failed"),
        ("millis << 80 | secrets.randbits(79)", "millis << 80", "failed"),
    ],
)
def test_a_correct_adapter_passes_the_port_contract_and_altered_ones_fail(
    tmp_path: Path, right: str, wrong: str, outcome: str
):
    (module,) = blocks("docs/conformance.md", "python")
    (tmp_path / "test_ids.py").write_text(module.replace(right, wrong) if right else module, encoding="utf-8")

    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "test_ids.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)

    assert outcome in done.stdout, done.stdout + done.stderr
    assert (done.returncode == 0) == (outcome == "3 passed")
