"""`cdv schemas`: what it prints and what it exits with."""

from __future__ import annotations

import argparse
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cdv_core.domain.identifiers import RecordUri
from cdv_core.domain.records import StoredRecord
from cdv_core.errors import CdvError, CollectionUnknown, SchemaVersionUnknown
from cdv_http.commands import schemas as command
from tests.adapters.test_schemas_url import POST, catalogue_of, write
from tests.core.catalogues import entry, index_bytes


def _records(*values: tuple[str, bytes]) -> list[StoredRecord]:
    return [
        StoredRecord(
            RecordUri.parse(f"at://did:plc:a/{collection}/r{n}"), "", value, datetime(2026, 1, 1, tzinfo=UTC), "1.0.0"
        )
        for n, (collection, value) in enumerate(values)
    ]


def run(*arguments: str, specs_url: str | None = None, records: Sequence[StoredRecord] = ()) -> int:
    """Run `cdv schemas` with these arguments on these records; return the exit code."""

    async def stream() -> AsyncIterator[StoredRecord]:
        for record in records:
            yield record

    @asynccontextmanager
    async def opened() -> AsyncIterator[AsyncIterator[StoredRecord]]:
        yield stream()

    def open_records() -> AbstractAsyncContextManager[AsyncIterator[StoredRecord]]:
        return opened()

    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(), lambda: specs_url, open_records)
    parsed = parser.parse_args(["schemas", *arguments])
    code: int = parsed.run(parsed)
    return code


def _file(path: Path, document: Any) -> str:
    path.write_text(json.dumps(document))
    return str(path)


def test_without_a_subcommand_the_catalogue_is_listed(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    for specs_url in (None, write(tmp_path, catalogue_of("1.0.0"))):
        assert run("list", specs_url=specs_url) == 0
        listed = capsys.readouterr().out
        assert run(specs_url=specs_url) == 0
        assert capsys.readouterr().out == listed != ""


def test_list_marks_the_version_that_is_used(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    files = catalogue_of("1.0.0", "1.1.0")
    files["SPEC_INDEX.json"] = index_bytes(
        entry(
            POST,
            [
                {"version": "1.0.0", "status": "deprecated", "sunset": "2027-01-01T00:00:00Z", "replacedBy": "1.1.0"},
                "1.1.0",
            ],
            latest="1.1.0",
            visibility="owner",
        )
    )
    assert run("list", specs_url=write(tmp_path, files)) == 0
    only = ", readable by the owner only"
    assert capsys.readouterr().out.splitlines() == [
        "com.example.post 1.0.0  deprecated, sunset 2027-01-01T00:00:00.000000Z, replaced by 1.1.0" + only,
        "com.example.post 1.1.0* stable" + only,
    ]


def test_list_shows_the_bundled_catalogue_unless_another_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run("list") == 0
    assert "com.registryaccord.profile 1.0.0* stable" in capsys.readouterr().out
    assert run("list", "--specs-url", write(tmp_path, catalogue_of("1.0.0"))) == 0
    assert "com.registryaccord" not in capsys.readouterr().out


def test_show_prints_the_document_byte_for_byte(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path):
    files = catalogue_of("1.0.0", "1.1.0")
    url = write(tmp_path, files)
    assert run("show", POST, specs_url=url) == 0
    assert capsysbinary.readouterr().out == files[f"{POST}/1.1.0.json"]
    assert run("show", POST, "1.0.0", specs_url=url) == 0
    assert capsysbinary.readouterr().out == files[f"{POST}/1.0.0.json"]


@pytest.mark.parametrize(
    ("arguments", "error"), [(["a.b.nothing"], CollectionUnknown), ([POST, "9.0.0"], SchemaVersionUnknown)]
)
def test_show_fails_for_an_unknown_collection_or_version(arguments: list[str], error: type[CdvError], tmp_path: Path):
    with pytest.raises(error, match=arguments[-1]):  # reported by the command line, like every error
        run("show", *arguments, specs_url=write(tmp_path, catalogue_of("1.0.0")))


def test_an_invalid_collection_name_is_a_usage_error(capsys: pytest.CaptureFixture[str]):
    assert run("show", "not a name") == 2
    assert "must be an NSID" in capsys.readouterr().err


def test_validate_reports_whether_a_file_is_a_usable_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run("validate", _file(tmp_path / "good.json", {"type": "object"})) == 0
    assert "good.json: is a usable schema" in capsys.readouterr().out
    assert run("validate", _file(tmp_path / "bad.json", {"type": "objekt", "form": "x"})) == 1
    assert capsys.readouterr().err.splitlines() == [
        "cdv: /type 'objekt' is not a type",
        "cdv: /form is not a keyword that is enforced here",
    ]


def test_validate_reports_unsupported_types_in_a_lexicon(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    record = {"type": "record", "record": {"type": "object", "properties": {"a": {"type": "token"}}}}
    lexicon = {"lexicon": 1, "id": "com.example.thing", "defs": {"main": record}}
    assert run("validate", _file(tmp_path / "x.json", lexicon)) == 1
    assert "'token', which cannot be expressed" in capsys.readouterr().err


def test_validate_checks_a_record_against_a_collection(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    profile = "com.registryaccord.profile"
    assert run("validate", _file(tmp_path / "r.json", {"displayName": "Ada"}), "--collection", profile) == 0
    assert "satisfies com.registryaccord.profile 1.0.0" in capsys.readouterr().out
    assert run("validate", _file(tmp_path / "r.json", {"displayName": 1}), "--collection", profile) == 1
    assert capsys.readouterr().out == "/displayName: type: must be string\n"


def test_schema_version_without_collection_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run("validate", _file(tmp_path / "good.json", {"type": "object"}), "--schema-version", "1.0.0") == 2
    assert capsys.readouterr().err == "cdv: --schema-version: requires --collection\n"


@pytest.mark.parametrize(("text", "code"), [("{", 2), ("", 2), ('{"a": 1, "a": 1}', 2), ("\ufeff{}", 2)])
def test_a_file_that_is_not_json_is_a_usage_error(
    text: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "x.json").write_text(text)
    assert run("validate", str(tmp_path / "x.json")) == code
    assert capsys.readouterr().err.startswith("cdv: ")


def test_a_missing_file_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run("validate", str(tmp_path / "nothing.json")) == 1
    assert "nothing.json: No such file" in capsys.readouterr().err


def test_diff_reports_the_level_of_change_and_its_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    old = _file(tmp_path / "old.json", {"properties": {"text": {"maxLength": 10}}})
    new = _file(tmp_path / "new.json", {"properties": {"text": {"maxLength": 9}}})
    assert run("diff", old, new) == 0
    assert capsys.readouterr().out == "major\n  /text: maxLength is now 9, and was 10\n"
    assert run("diff", new, old) == 0
    assert capsys.readouterr().out.startswith("minor\n")
    assert run("diff", old, old) == 0
    assert capsys.readouterr().out == "patch\n"


def test_check_passes_a_catalogue_whose_version_numbers_match_its_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write(tmp_path, catalogue_of("1.0.0", "1.0.1"))
    assert run("check", str(tmp_path)) == 0
    assert "1 collections, 2 versions, no problems found" in capsys.readouterr().out


def test_check_fails_a_version_number_that_understates_its_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = catalogue_of("1.0.0", "1.1.0")
    files[f"{POST}/1.1.0.json"] = b'{"maxProperties": 9}'
    write(tmp_path, files)
    assert run("check", str(tmp_path)) == 1
    assert "com.example.post 1.1.0 is a major change to 1.0.0" in capsys.readouterr().out


def test_check_fails_a_catalogue_that_would_be_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = catalogue_of("1.0.0")
    files[f"{POST}/1.0.0.json"] = b'{"pattern": "(?=x)"}'
    write(tmp_path, files)
    assert run("check", str(tmp_path)) == 1
    assert capsys.readouterr().err.startswith(f"cdv: {POST}/1.0.0.json: /pattern look-around")


def test_rehearse_counts_refused_records_by_collection_and_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = catalogue_of("1.0.0")
    files[f"{POST}/1.0.0.json"] = b'{"required": ["text"], "properties": {"text": {"type": "string", "maxLength": 3}}}'
    records = _records(
        (POST, b'{"text":"abc"}'),
        (POST, b'{"text":"long"}'),
        (POST, b'{"text":5}'),
        (POST, b"{}"),
        (POST, b"{}"),
        ("com.example.gone", b"{}"),
    )
    assert run("rehearse", "--specs-url", write(tmp_path, files), records=records) == 1
    assert capsys.readouterr().out.splitlines() == [
        "com.example.gone: 1 would be refused",
        "  (no such collection): 1",
        "com.example.post: 4 would be refused",
        "  maxLength: 1",
        "  required: 2",
        "  type: 1",
        "6 records, 5 would be refused",
    ]


def test_rehearse_succeeds_when_every_record_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    url = write(tmp_path, catalogue_of("1.0.0"))
    assert run("rehearse", "--specs-url", url, records=_records((POST, b'{"a":1.5}'))) == 0
    assert capsys.readouterr().out == "1 records, 0 would be refused\n"


def test_rehearse_reports_its_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(command, "_PROGRESS_RECORDS", 2)
    url = write(tmp_path, catalogue_of("1.0.0"))
    run("rehearse", "--specs-url", url, records=_records(*[(POST, b"{}")] * 5))
    assert capsys.readouterr().err.splitlines() == ["2 records, 0 would be refused", "4 records, 0 would be refused"]


def test_rehearse_reports_a_collection_without_a_stable_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = catalogue_of("0.1.0")
    files["SPEC_INDEX.json"] = index_bytes(entry(POST, ["0.1.0"], latest=None, status="draft"))
    assert run("rehearse", "--specs-url", write(tmp_path, files), records=_records((POST, b"{}"))) == 1
    assert "(no stable version): 1" in capsys.readouterr().out


def test_an_unavailable_or_unsupported_source_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run("list", "--specs-url", (tmp_path / "nothing").as_uri()) == 1
    assert "No such file" in capsys.readouterr().err
    assert run("list", "--specs-url", "gopher://x") == 2
    assert "https://" in capsys.readouterr().err
