"""Each import contract of pyproject.toml is broken by the import it forbids, so that none is weakened unnoticed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PYPROJECT["tool"]["importlinter"]["root_packages"]
CONTRACTS = {contract["name"]: contract for contract in PYPROJECT["tool"]["importlinter"]["contracts"]}

CORE_CONTRACT = "cdv_core does no I/O, reads no clock and knows no vendor"
CORE_MAY_IMPORT = {"fastjsonschema", "libipld", "msgspec", "re2", "regex"}  # pure functions, all
# The modules with which a function of the core could do I/O, read a clock or draw random numbers.
STDLIB_WITH_EFFECTS = {
    *(
        "asyncio",
        "concurrent",
        "glob",
        "http",
        "importlib",
        "io",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "random",
    ),
    *("secrets", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "uuid"),
}

# contract → imports that break it and no other, as (importer, imported)
PLANTS = {
    "Imports point inwards: conformance > cdv_http > cdv_adapters > cdv_core": [
        ("cdv_core.domain.planted", "cdv_adapters"),
        ("cdv_adapters.planted", "cdv_http"),
        ("cdv_http.planted", "conformance"),
    ],
    CORE_CONTRACT: [("cdv_core.domain.planted", "socket"), ("cdv_core.planted", "time"), ("cdv_core.planted", "anyio")],
    "Only cdv_adapters.container names concrete adapters": [
        ("cdv_http.planted", "cdv_adapters.records.concrete"),
        ("cdv_adapters.planted", "cdv_adapters.records.concrete"),
        ("cdv_adapters.media.planted", "cdv_adapters.records.concrete"),
        ("cdv_adapters.records.planted", "cdv_adapters.records.concrete"),
        ("cdv_adapters.records.planted", "cdv_adapters.database.postgres"),
        ("cdv_adapters.records.sqlite", "cdv_adapters.database.postgres"),
        ("cdv_adapters.records.postgres", "cdv_adapters.tokens.concrete"),
        ("cdv_adapters.planted", "cdv_adapters.database.deeper.concrete"),
    ],
    "conformance.http imports nothing of ours": [
        ("conformance.http.planted", name)
        for name in ("cdv_core", "cdv_adapters", "cdv_http", "conformance.ports", "tests")
    ],
    "psycopg only in cdv_adapters.*.postgres, database.postgres_migration and dsn": [
        ("cdv_adapters.records.planted", "psycopg"),
        ("cdv_http.planted", "psycopg_pool"),
    ],
    "sqlite3 only in cdv_adapters.*.sqlite and database.sqlite_file": [("cdv_adapters.records.planted", "sqlite3")],
    "minio only in cdv_adapters.blobs, urllib3 only where an adapter speaks HTTP": [
        ("cdv_adapters.blobs.planted", "minio"),
        ("cdv_http.planted", "urllib3"),
    ],
    "nats only in cdv_adapters.events.nats": [("cdv_adapters.events.planted", "nats")],
    "opentelemetry only in cdv_adapters.spans": [("cdv_http.planted", "opentelemetry")],
    "joserfc only in cdv_adapters.tokens.*": [("cdv_http.planted", "joserfc")],
    "dependency_injector only in cdv_adapters.container": [("cdv_http.planted", "dependency_injector")],
    "pydantic and pydantic_settings only in cdv_adapters.settings, settings_checks and addresses": [
        ("cdv_adapters.planted", "pydantic"),
        ("cdv_http.planted", "pydantic_settings"),
    ],
    "ulid only in cdv_adapters.ids.ulid": [("cdv_adapters.ids.planted", "ulid")],
    "litestar only in cdv_http": [("cdv_adapters.planted", "litestar")],
    "granian only in cdv_http": [("cdv_adapters.planted", "granian")],
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The packages without their code, and their contracts, to plant imports in."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        for init in (ROOT / package).rglob("__init__.py"):
            copy = tmp_path / init.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.touch()
    return tmp_path


def plant(tree: Path, importer: str, *imported: str) -> Path:
    path = tree.joinpath(*importer.split(".")).with_suffix(".py")
    path.parent.mkdir(exist_ok=True)
    path.parent.joinpath("__init__.py").touch()
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"import {name}\n" for name in imported)
    return path


def lint(tree: Path) -> str:
    """Return what lint-imports prints about the tree."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=tree,
        env={**os.environ, "COLUMNS": "300"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) == (" 0 broken" in done.stdout), done.stdout + done.stderr
    return done.stdout


def broken(report: str) -> set[str]:
    return set(re.findall(r"^(.+) BROKEN$", report, flags=re.MULTILINE))


def links(report: str) -> set[tuple[str, str]]:
    return set(re.findall(r"([\w.]+) -> ([\w.]+) \(l\.", report))


def test_every_contract_has_a_planted_import():
    assert set(PLANTS) == set(CONTRACTS)


@pytest.mark.parametrize("contract", PLANTS)
def test_forbidden_imports_break_their_contract_and_no_other(tree: Path, contract: str):
    for importer, imported in PLANTS[contract]:
        plant(tree, importer, imported)
        if imported.startswith("cdv_adapters."):
            plant(tree, imported)

    report = lint(tree)

    assert broken(report) == {contract}
    assert links(report) == set(PLANTS[contract])


def test_the_core_may_import_no_module_with_effects_and_only_its_own_vendors(tree: Path):
    distributions = {Requirement(line).name for line in PYPROJECT["project"]["dependencies"]}
    importable = packages_distributions().items()
    vendors = {name for name, owners in importable if distributions & set(owners) and not name.startswith("_")}
    assert {"psycopg", "nats", "dependency_injector"} <= vendors
    forbidden = (STDLIB_WITH_EFFECTS | vendors) - CORE_MAY_IMPORT
    plant(tree, "cdv_core.domain.planted", *forbidden)

    assert {imported for _, imported in links(lint(tree))} == forbidden


def test_imports_that_the_architecture_allows_break_no_contract(tree: Path):
    plant(
        tree,
        "cdv_core.domain.planted",
        "msgspec",
        "fastjsonschema",
        "libipld",
        "re",
        "hashlib",
        "datetime",
        "urllib.parse",
    )
    plant(tree, "cdv_adapters.container", "dependency_injector", "cdv_adapters.records.postgres")
    plant(tree, "cdv_adapters.database.postgres", "psycopg", "psycopg_pool")
    plant(tree, "cdv_adapters.database.sqlite", "sqlite3")
    plant(tree, "cdv_adapters.records.postgres", "cdv_adapters.database.postgres", "psycopg")
    plant(tree, "cdv_adapters.records.sqlite", "cdv_adapters.database.sqlite", "sqlite3")
    plant(tree, "cdv_adapters.tokens.jwks", "cdv_adapters.tokens.planted", "joserfc")
    plant(tree, "cdv_adapters.tokens.planted", "joserfc")
    plant(tree, "cdv_http.planted", "cdv_adapters.container", "cdv_core.domain", "litestar", "granian")
    plant(tree, "conformance.ports.planted", "cdv_adapters.records.sqlite")
    plant(tree, "conformance.http.planted", "httpx")

    assert broken(lint(tree)) == set()


def test_ruff_bans_clocks_and_urllib_request_in_the_core(tree: Path):
    planted = plant(tree, "cdv_core.planted", "datetime", "urllib.request")
    with planted.open("a", encoding="utf-8") as file:
        file.write(
            "datetime.datetime.now()\ndatetime.datetime.utcnow()\ndatetime.datetime.today()\ndatetime.date.today()\n"
        )

    ruff = [str(Path(sys.executable).with_name("ruff")), "check", "--no-cache", "--output-format=concise", str(planted)]
    report = subprocess.run(ruff, cwd=tree, capture_output=True, text=True).stdout

    assert set(re.findall(r"TID251 `([\w.]+)` is banned", report)) == {
        *(
            "urllib.request",
            "datetime.datetime.now",
            "datetime.datetime.utcnow",
            "datetime.datetime.today",
            "datetime.date.today",
        ),
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_a_py_typed_marker(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file(), "without the marker, type checkers take all of the package for Any"
