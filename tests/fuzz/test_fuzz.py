"""A short run of the targets of `make fuzz`, with the same inputs every time."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import SEEDS, TARGETS, is_accepted

ROOT = Path(__file__).parents[2]
RUNS = 2000


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_accepts_its_seeds_and_damaged_copies_of_them(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)
        for cut in range(0, len(seed), 7):
            TARGETS[name](seed[:cut])
            TARGETS[name](seed[:cut] + b"\xff" + seed[cut:])


def test_the_seed_of_the_token_target_is_a_valid_token() -> None:
    (seed,) = SEEDS["jwt"]
    assert is_accepted(seed.decode())
    assert not is_accepted(seed.decode()[:-4])


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="Atheris has no wheel for this Python or machine"
)
@pytest.mark.parametrize("name", TARGETS)
def test_fuzzing_finds_nothing(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", name, f"-runs={RUNS}", "-seed=1", "-timeout=20"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Done {RUNS} runs" in done.stderr
