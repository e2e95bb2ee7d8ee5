"""Fuzz one target with Atheris: `python -m tests.fuzz.run body -max_total_time=60`. The rest goes to libFuzzer."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["cdv_core", "cdv_adapters.tokens", "cdv_http.bodies"]):
    from tests.fuzz.targets import SEEDS, TARGETS


def main() -> None:
    name = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="cdv-fuzz-") as corpus:
        for number, seed in enumerate(SEEDS[name]):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        # Findings are written to the working directory as crash-...; the corpus has its own folder.
        atheris.Setup([sys.argv[0], *sys.argv[2:], corpus], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
