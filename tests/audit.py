"""Known vulnerabilities in dependencies, unsafe code, and secrets in the repository; `make audit` runs this."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BIN: Final = Path(sys.executable).parent
LOCK: Final = "requirements-dev.lock"  # holds all of requirements.lock
PRODUCT: Final = ("cdv_core", "cdv_adapters", "cdv_http", "conformance")
# Tests hold many made-up passwords and keys: there, only what looks like a real service's counts.
MADE_UP_IN: Final = ("tests/", "conformance/")
GUESSING: Final = ("KeywordDetector", "BasicAuthDetector", "Base64HighEntropyString", "HexHighEntropyString")
# No secrets: examples of our documents (a password in an address, a digest, the ULID's alphabet), references, and the
# names and modes of mounted secrets.
HARMLESS: Final = "^(password|9f86d081884c7d65.*|0123456789ABCDEFGHJKMNPQRSTVWXYZ|(file|vault|awskms):.*|cdv|0440)$"
UNREACHABLE: Final = ("ConnectionError", "Max retries exceeded", "Could not connect", "timed out", "Name or service")


@dataclass(frozen=True)
class Verdict:
    good: bool
    message: str


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def dependencies() -> Verdict:
    """Check the versions in the lock file for known vulnerabilities."""
    options = ("--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off", "--timeout", "15")
    ended = run(BIN / "pip-audit", "--requirement", LOCK, *options)
    return verdict_on(ended.stdout, ended.stderr)


def verdict_on(report: str, complaints: str) -> Verdict:
    """Return the verdict on pip-audit's report: skipped if the advisory service was not reachable."""
    try:
        found = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        if any(each in complaints for each in UNREACHABLE):
            return Verdict(True, "skipped: the advisory service is not reachable")
        return Verdict(False, f"pip-audit failed:\n{complaints}")
    unknown = [each["name"] for each in found if "skip_reason" in each]
    if unknown and len(unknown) == len(found):
        return Verdict(True, "skipped: not reachable, or no service of advisories: it knows none of our dependencies")
    vulnerable = [
        f"{each['name']} {each['version']}: {', '.join(vulnerability['id'] for vulnerability in each['vulns'])}"
        for each in found
        if each.get("vulns")
    ]
    problems = vulnerable + [f"{name}: unknown to the advisory service" for name in unknown]
    return Verdict(not problems, "\n".join(problems) or f"{len(found)} dependencies, no known vulnerability")


def code() -> Verdict:
    """Check the product with ruff's security rules."""
    ended = run(BIN / "ruff", "check", "--select", "S", "--output-format", "concise", *PRODUCT)
    return Verdict(ended.returncode == 0, ended.stdout.strip() + ended.stderr.strip())


def secrets() -> Verdict:
    """Search the tracked files for secrets."""
    try:
        listed = run("git", "ls-files", "-z")
    except FileNotFoundError:
        return Verdict(True, "skipped: no git here to tell what is tracked")
    if listed.returncode != 0:
        return Verdict(True, f"skipped: {listed.stderr.strip()}")
    tracked = listed.stdout.split("\0")[:-1]
    made_up = [name for name in tracked if name.startswith(MADE_UP_IN)]
    ours = [name for name in tracked if not name.startswith(MADE_UP_IN)]
    lenient = [option for name in GUESSING for option in ("--disable-plugin", name)]
    problems = _scan(ours) + _scan(made_up, *lenient)
    return Verdict(not problems, problems or f"{len(tracked)} files, nothing that looks like a secret")


def _scan(files: Sequence[str], *options: str) -> str:
    if not files:
        return ""
    ended = run(BIN / "detect-secrets-hook", "--no-verify", "--exclude-secrets", HARMLESS, *options, *files)
    return "" if ended.returncode == 0 else ended.stdout + ended.stderr


def main() -> int:
    checks: dict[str, Callable[[], Verdict]] = {"dependencies": dependencies, "code": code, "secrets": secrets}
    good = True
    for name, check in checks.items():
        verdict = check()
        good = good and verdict.good
        print(f"{name}: {'' if verdict.good else 'FAILED: '}{verdict.message}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
