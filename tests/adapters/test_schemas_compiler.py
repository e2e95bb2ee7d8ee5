"""Compiling in a subprocess: code and refusals are returned, and without a subprocess we compile in process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cdv_adapters.schemas import compiler, url
from cdv_adapters.schemas.compiler import CompilerFailed, compile_in_subprocess
from cdv_adapters.schemas.url import UrlSchemas
from cdv_core.domain.catalogue_build import build_catalogue
from cdv_core.domain.catalogue_documents import CatalogueRefused
from cdv_core.domain.catalogue_index import read_index
from tests.adapters.test_schemas_url import POST, catalogue_of, versions, write

MANY = [f"1.{minor}.0" for minor in range(25)]


def _parts(*numbers: str, **more: Any) -> tuple[bytes, dict[str, bytes]]:
    files = catalogue_of(*numbers, **more)
    return files.pop("SPEC_INDEX.json"), files


def test_code_compiled_in_a_subprocess_validates_records():
    index, documents = _parts("1.0.0", "1.1.0", most=1)
    codes = compile_in_subprocess(index, documents)
    assert codes.keys() == documents.keys()
    schema = build_catalogue(read_index(index), documents, codes=codes).collection(POST).versions["1.0.0"]
    assert schema.validator.code is codes[f"{POST}/1.0.0.json"]
    assert schema.violations({"a": 1}) == ()
    assert [violation.rule for violation in schema.violations({"a": 1, "b": 2})] == ["maxProperties"]


def test_a_refusal_in_the_subprocess_names_document_and_reason():
    index, documents = _parts("1.0.0", "1.1.0")
    documents[f"{POST}/1.1.0.json"] = b'{"format": "odd"}'
    with pytest.raises(CatalogueRefused) as refused:
        compile_in_subprocess(index, documents)
    assert [str(problem) for problem in refused.value.problems] == [
        f"{POST}/1.1.0.json: /format 'odd' is not a format that is enforced here"
    ]


def test_a_subprocess_over_its_time_limit_is_killed(monkeypatch: pytest.MonkeyPatch):
    children = _children(monkeypatch)
    monkeypatch.setattr(compiler, "COMPILE_MAX_SECONDS", compiler._POLL_SECONDS)
    monkeypatch.setattr(compiler, "_CHILD", "import time; time.sleep(60)")
    with pytest.raises(CompilerFailed, match="longer than"):
        compile_in_subprocess(*_parts("1.0.0"))
    assert [child.poll() is not None for child in children] == [True]


def test_a_subprocess_is_killed_on_cancellation(monkeypatch: pytest.MonkeyPatch):
    children = _children(monkeypatch)
    monkeypatch.setattr(compiler, "_CHILD", "import time; time.sleep(60)")
    with pytest.raises(CompilerFailed, match="shutting down"):
        compile_in_subprocess(*_parts("1.0.0"), lambda: True)
    assert [child.poll() is not None for child in children] == [True]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise SystemExit(3)", "exited with 3"),
        ("print('no answer at all', end='')", "cannot be read"),
        (
            "import sys, msgspec; sys.stdout.buffer.write(msgspec.msgpack.encode({'codes': {'a': b'N'}}))",
            "other than code",
        ),
        (
            "import sys, msgspec; sys.stdout.buffer.write(msgspec.msgpack.encode({'codes': {'a': b''}}))",
            "cannot be read",
        ),
    ],
)
def test_an_invalid_subprocess_response_is_an_error(program: str, reason: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiler, "_CHILD", program)
    with pytest.raises(CompilerFailed, match=reason):
        compile_in_subprocess(*_parts("1.0.0"))


def test_the_subprocess_does_not_inherit_settings_with_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CDV_DB_DSN", "postgres://u:secret@h/d")
    monkeypatch.setattr(compiler, "_CHILD", "import os; raise SystemExit(7 if 'CDV_DB_DSN' in os.environ else 8)")
    with pytest.raises(CompilerFailed, match="exited with 8"):
        compile_in_subprocess(*_parts("1.0.0"))


async def test_a_large_catalogue_is_compiled_in_a_subprocess_and_a_small_change_in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[int] = []

    def spy(index: bytes, documents: dict[str, bytes], cancelled: Any) -> Any:
        calls.append(len(documents))
        return compile_in_subprocess(index, documents, cancelled)

    monkeypatch.setattr(url, "compile_in_subprocess", spy)
    source = UrlSchemas.at(write(tmp_path / "specs", catalogue_of(*MANY)), tmp_path / "data")
    await source.open()
    assert (versions(source), calls) == (MANY, [25])
    write(tmp_path / "specs", catalogue_of(*MANY, "1.25.0"))
    await source.refresh()
    assert (len(versions(source)), calls) == (26, [25])


async def test_one_large_document_is_compiled_in_a_subprocess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []

    def spy(index: bytes, documents: dict[str, bytes], cancelled: Any) -> Any:
        calls.append(len(documents))
        return compile_in_subprocess(index, documents, cancelled)

    monkeypatch.setattr(url, "compile_in_subprocess", spy)
    files = catalogue_of("1.0.0", "1.1.0")
    source = UrlSchemas.at(write(tmp_path / "specs", files), tmp_path / "data")
    await source.open()
    large = {"maxProperties": 10, "description": "x" * 40_000}
    write(tmp_path / "specs", files | {f"{POST}/1.1.0.json": json.dumps(large).encode()})
    await source.refresh()
    assert (source.state.outcome, calls) == ("updated", [2])


async def test_without_a_subprocess_the_catalogue_is_compiled_in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    source = UrlSchemas.at(write(tmp_path / "specs", catalogue_of(*MANY)), tmp_path / "data")
    await source.open()
    assert (versions(source), source.state.outcome) == (MANY, "updated")


def _children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    started: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(original(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return started


async def test_a_failed_subprocess_leaves_the_catalogue_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiler, "_CHILD", "raise SystemExit(3)")
    source = UrlSchemas.at(write(tmp_path / "specs", catalogue_of(*MANY)), tmp_path / "data")
    await source.open()
    assert (source.state.origin, source.state.outcome) == ("bundled", "failed")
    assert source.state.reason == "it exited with 3"
