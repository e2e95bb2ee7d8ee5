"""`make readiness`: run the proof of each item of readiness.toml; write docs/production-readiness.md.

With `--again`, only of those that were not proved the last time, on the same commit.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from time import monotonic

import msgspec

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "production-readiness.md"
PROOFS = ROOT / "build" / "readiness.json"
_LINE_MAX = 160
_FROM_MAKE = re.compile(r"make(\[\d+\])?: ")
_HEAD = """# Production readiness

Each item has a command that proves it and what that command printed when `make readiness` last ran; that target runs
them all and writes this page. An item is proved when its command succeeds, and partly proved when some of its tests
were skipped, for want of something that the machine did not have. NOT PROVED means that the command failed in that run:
a test failed, or a measured goal was missed, perhaps because the machine was busy. Its last line is shown; the command
itself shows more.

"""


@dataclass(frozen=True)
class Item:
    """`command`: as typed in the repository."""

    section: str
    name: str
    claim: str
    command: str


@dataclass(frozen=True)
class Proof:
    item: Item
    status: str
    printed: str
    seconds: float


def items() -> list[Item]:
    """Return the items to prove, grouped by section."""
    listed = tomllib.loads((ROOT / "tests" / "readiness.toml").read_text(encoding="utf-8"))["item"]
    return [Item(entry["section"], entry["name"], entry["claim"], _command(entry["command"])) for entry in listed]


def _command(short: str) -> str:
    kind, _, rest = short.partition(" ")
    return f".venv/bin/pytest -q {rest}" if kind == "T" else f"make {rest}"


def prove(item: Item) -> Proof:
    """Run the item's command."""
    begun = monotonic()
    # Options of the calling make, such as ARGS, must not reach those that are run here.
    environment = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "ARGS"}}
    ran = subprocess.run(  # commands of our own
        item.command.split(),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # make's own lines only name its directory and repeat that it failed.
    lines = [line for line in ran.stdout.splitlines() if line.strip() and not _FROM_MAKE.match(line)]
    printed = lines or [""]
    summary = re.sub(r"=+ ?| ?=+$", "", printed[-1])[:_LINE_MAX]
    if ran.returncode != 0:
        sys.stderr.write(ran.stdout[-4000:])
        return Proof(item, "NOT PROVED", summary, monotonic() - begun)
    skipped = " skipped" in summary and "pytest" in item.command
    return Proof(item, "partly proved" if skipped else "proved", summary, monotonic() - begun)


def page(proofs: list[Proof]) -> str:
    parts = [_HEAD]
    for section, group in groupby(proofs, key=lambda proof: proof.item.section):
        parts.append(f"## {section}\n\n")
        for proof in group:
            parts.append(f"### {proof.item.name}\n\n{proof.item.claim}\n\n**{proof.status}** by\n\n")
            parts.append(f"```text\n$ {proof.item.command}\n{proof.printed}\n```\n\n")
    return "".join(parts).rstrip() + "\n"


def _read_proofs() -> dict[Item, Proof]:
    if not PROOFS.exists():
        return {}
    commit, proofs = msgspec.json.decode(PROOFS.read_bytes(), type=tuple[str, list[Proof]])
    return {proof.item: proof for proof in proofs if proof.status != "NOT PROVED"} if commit == _commit() else {}


def _commit() -> str:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return head.stdout.strip()


def main() -> int:
    every, proofs = items(), list[Proof]()
    known = _read_proofs() if "--again" in sys.argv else {}
    for number, item in enumerate(every, 1):
        proofs.append(proof := known.get(item) or prove(item))
        print(f"{number:2} of {len(every)}  {proof.status:13} {proof.seconds:4.0f} s  {item.name}", flush=True)
        PROOFS.parent.mkdir(exist_ok=True)
        PROOFS.write_bytes(msgspec.json.encode((_commit(), proofs)))
    PAGE.write_text(page(proofs), encoding="utf-8")
    unproved = [proof.item.name for proof in proofs if proof.status == "NOT PROVED"]
    print(f"wrote {PAGE.relative_to(ROOT)}; not proved: {', '.join(unproved) or 'nothing'}")
    return 1 if unproved else 0


if __name__ == "__main__":
    sys.exit(main())
