"""Test a fresh server with Schemathesis: `python -m tests.load.schemathesis_run --max-examples 100 --at-least 2000`.

Everything after `--` is passed to Schemathesis. Exits with its result, or with 1 if there were too few cases.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.http.running import RunningVault

ROOT = Path(__file__).parents[2]
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


def run(max_examples: int, at_least: int, *arguments: str) -> int:
    """Return 0 if nothing was found in `at_least` cases or more."""
    with tempfile.TemporaryDirectory() as folder:
        vault = RunningVault(Path(folder) / "data", CDV_MAX_IN_FLIGHT="10000")
        try:
            done = subprocess.run(
                [
                    *(SCHEMATHESIS, "--config-file", ROOT / "tests/load/schemathesis.toml", "run"),
                    *(f"{vault.base}/openapi.json", "--checks", "all", "--max-examples", str(max_examples)),
                    *arguments,
                ],
                cwd=ROOT,
                env={
                    **os.environ,
                    "SCHEMATHESIS_ISSUER_KEY": str(vault.data_dir / "issuer-key.json"),
                    "PYTHONPATH": str(ROOT),
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
        finally:
            vault.kill()
        print(done.stdout)
        if " 500 " in vault.log or "Traceback" in vault.log:
            print(vault.log)
            print("The service had a defect; see its log above.")
            return 1
    cases = re.search(r"(\d+) generated", done.stdout)
    if cases is None or int(cases[1]) < at_least:
        print(f"Fewer than {at_least} cases.")
        return 1
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-examples", type=int, default=100)
    parser.add_argument("--at-least", type=int, default=0)
    parser.add_argument("arguments", nargs="*")
    given = parser.parse_args()
    return run(given.max_examples, given.at_least, *given.arguments)


if __name__ == "__main__":
    sys.exit(main())
