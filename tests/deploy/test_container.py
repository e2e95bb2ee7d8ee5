"""Rules for the Dockerfile; tests/deploy/test_container_image.py tests the built image."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.http.certificates import files
from tests.http.running import RunningVault
from tests.servers.process import free_port

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
HEALTHCHECK = ROOT / "deploy" / "healthcheck.py"
STAGES = re.split(r"^FROM ", DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", ""), flags=re.MULTILINE)[1:]
FINAL = STAGES[-1].splitlines()


def arguments_of(instruction: str) -> list[str]:
    """Return the arguments of each such instruction in the last stage."""
    return [line.removeprefix(f"{instruction} ") for line in FINAL if line.startswith(f"{instruction} ")]


def healthy(**settings: str) -> bool:
    environment = {"PATH": os.defpath, **settings}
    return subprocess.run([sys.executable, HEALTHCHECK], env=environment, capture_output=True).returncode == 0


def test_hadolint_reports_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


def test_the_image_runs_as_a_high_uid_and_gid() -> None:
    (user,) = arguments_of("USER")
    uid, gid = map(int, user.split(":"))
    assert uid >= 10000
    assert gid >= 10000


def test_signals_reach_the_service_and_not_a_shell() -> None:
    assert [json.loads(each) for each in arguments_of("ENTRYPOINT") + arguments_of("CMD")] == [["cdv"], ["serve"]]
    assert arguments_of("STOPSIGNAL") == ["SIGTERM"]


def test_pip_installs_only_hashed_locks_and_local_wheels() -> None:
    installs = re.findall(r"/pip (?:--python \S+ )?install (.*?)(?: && |$)", "\n".join(STAGES), re.MULTILINE)
    assert len(installs) == 3
    for options in installs:
        locked = {"--require-hashes", "--no-deps", "--only-binary=:all:"} <= set(options.split())
        assert locked or options.startswith("--no-deps --no-index /wheels/")
    assert "apt-get" not in DOCKERFILE.read_text(encoding="utf-8")


def test_the_build_context_is_an_allow_list_of_existing_paths() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert rules[0] == "*"
    for rule in rules[1:]:
        assert rule == "**/__pycache__" or (ROOT / rule.removeprefix("!")).exists(), rule


@pytest.mark.parametrize("kind", ["plain", "tls", "mutual tls"])
def test_the_health_check_passes_while_the_service_runs_and_fails_afterwards(tmp_path: Path, kind: str) -> None:
    settings, tls = {}, None
    if kind == "tls":
        made = files(tmp_path)
        settings, tls = made.settings, made.trusting()
    if kind == "mutual tls":
        made = files(tmp_path)
        authority = tmp_path / "ca.pem"
        made.authority.cert_pem.write_to_path(authority)
        settings = {**made.settings, "CDV_TLS_CLIENT_CA": str(authority)}
        tls = made.trusting(made.authority.issue_cert("client@example.com"))
    vault = RunningVault(tmp_path / "data", tls, **settings)
    try:
        assert healthy(CDV_PORT=str(vault.port), **settings)
        assert healthy(PORT=str(vault.port), **settings)
    finally:
        vault.kill()
    # Its worker is killed with it, perhaps a moment later.
    assert any(not healthy(CDV_PORT=str(vault.port), **settings) for _ in range(50))


def test_the_health_check_fails_without_a_service_or_with_the_wrong_protocol(tmp_path: Path) -> None:
    assert not healthy(CDV_PORT=str(free_port()))
    made = files(tmp_path)
    vault = RunningVault(tmp_path / "data", made.trusting(), **made.settings)
    try:
        assert not healthy(CDV_PORT=str(vault.port))  # plain HTTP to a port that speaks TLS
    finally:
        vault.kill()
