"""The workflows pass two linters and our own rules, and run only `make` targets that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PATHS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
WORKFLOWS: dict[str, dict[Any, Any]] = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in PATHS}
JOBS = {f"{name}: {job}": each for name, workflow in WORKFLOWS.items() for job, each in workflow["jobs"].items()}
TRIGGERS = True  # as which YAML 1.1 reads the key `on`


def steps() -> list[dict[str, Any]]:
    return [step for job in JOBS.values() for step in job.get("steps", [])]


def make_targets(workflow: str) -> set[str]:
    """Return the make targets that the workflow runs."""
    runs = "\n".join(
        step.get("run", "") for job in WORKFLOWS[workflow]["jobs"].values() for step in job.get("steps", [])
    )
    return set(re.findall(r"^\s*make ([a-z-]+)", runs, re.MULTILINE))


@pytest.mark.parametrize(
    "linter",
    [
        ["zizmor", "--offline", "--quiet", "--pedantic", "--no-config", ".github"],
        ["jactionlint", "--no-online", "--shellcheck=", "--pyflakes=", "--no-color"],
    ],
    ids=lambda command: str(command[0]),
)
def test_the_linter_reports_nothing(linter: list[str]) -> None:
    ended = subprocess.run([BIN / linter[0], *linter[1:]], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_job_has_a_timeout_and_explicit_permissions(job: dict[str, Any]) -> None:
    assert "permissions" in job
    assert "write-all" not in str(job["permissions"])
    assert "uses" in job or job["timeout-minutes"] <= 60


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_a_workflow_has_no_permissions_and_a_concurrency_group(workflow: dict[Any, Any]) -> None:
    assert workflow["permissions"] == {}
    assert workflow["concurrency"]["group"]
    assert "pull_request_target" not in workflow[TRIGGERS]


def test_actions_are_pinned_to_a_commit_with_the_version_in_a_comment() -> None:
    for path in PATHS:
        for line in path.read_text(encoding="utf-8").splitlines():
            if (used := re.search(r"uses: (\S+)(.*)", line)) and not used[1].startswith("./"):
                assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", used[1]), line
                assert re.fullmatch(r" # v\d+\.\d+\.\d+", used[2]), line


def test_checkout_does_not_persist_credentials() -> None:
    for step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_only_release_jobs_have_write_permissions_and_only_the_necessary_ones() -> None:
    assert all(set(job["permissions"].values()) == {"read"} for job in WORKFLOWS["ci"]["jobs"].values())
    writes = {
        name: {right for right, level in job["permissions"].items() if level == "write"}
        for name, job in WORKFLOWS["release"]["jobs"].items()
    }
    assert writes == {
        "ci": set(),
        "wheels": {"id-token", "attestations"},
        "image": {"packages", "id-token", "attestations"},
        "release": {"contents"},
    }


def test_every_make_target_of_the_workflows_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert make_targets("ci") | make_targets("release") <= targets
    everything = {"check", "audit", "test", "conformance", "defects", "hostile", "bench", "image", "image-test"}
    assert everything <= make_targets("ci")


def test_every_supported_python_version_is_tested() -> None:
    matrix = WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    assert {matrix["servers"][0], *(each["servers"] for each in matrix["include"])} == {"containers", "wheels"}


def test_a_release_depends_on_the_ci_jobs() -> None:
    jobs = WORKFLOWS["release"]["jobs"]
    for name in ("wheels", "image"):
        assert jobs[name]["needs"] == "ci"
    assert set(jobs["release"]["needs"]) == {"wheels", "image"}
    assert list(WORKFLOWS["release"][TRIGGERS]) == ["push"]


def test_no_file_names_a_registry() -> None:
    """Where images go is a variable of the repository."""
    for path in [*PATHS, *(ROOT / "deploy").rglob("*"), ROOT / ".github" / "dependabot.yaml"]:
        if path.is_file() and path.suffix in {".yaml", ".env", ""}:
            assert not re.search(r"ghcr\.io|docker\.io|quay\.io|gcr\.io|amazonaws", path.read_text(encoding="utf-8")), (
                path
            )
