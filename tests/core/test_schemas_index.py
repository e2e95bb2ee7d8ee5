"""Reading an index and building a catalogue from it, and every reason to refuse them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdv_core.domain.catalogue_build import build_catalogue
from cdv_core.domain.catalogue_documents import CatalogueRefused, parse_document
from cdv_core.domain.catalogue_index import DOCUMENTS_MAX, read_index
from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.versions import Version
from cdv_core.errors import InvalidField
from tests.core.catalogues import GENERATED_AT, entry, index_bytes, index_of


def _version(version: str, **more: Any) -> dict[str, Any]:
    return {"version": version, **more}


def test_the_namespace_may_be_the_whole_name_or_its_prefix():
    (long,) = read_index(index_bytes({**entry("a.b.post", ["1.0.0"]), "namespace": "a.b.post"})).collections
    (short,) = read_index(index_bytes(entry("a.b.post", ["1.0.0"]))).collections
    assert long == short


def test_versions_are_ordered_by_precedence():
    listed = ["1.10.0", "1.2.0", "1.2.0-rc.2", "1.2.0-rc.10", "1.2.0-beta", "1.2.0-1"]
    (collection,) = read_index(index_bytes(entry("a.b.post", listed, latest="1.2.0"))).collections
    assert [str(listed.version) for listed in collection.versions] == [
        "1.2.0-1",
        "1.2.0-beta",
        "1.2.0-rc.2",
        "1.2.0-rc.10",
        "1.2.0",
        "1.10.0",
    ]


def test_a_document_has_a_default_path_unless_the_index_gives_one():
    index = read_index(index_bytes(entry("a.b.post", ["1.0.0", _version("1.1.0", path="elsewhere/x.json")])))
    assert [document.path for document in index.documents()] == ["a.b.post/1.0.0.json", "elsewhere/x.json"]


def test_a_version_that_a_later_one_deprecates_is_deprecated():
    (collection,) = read_index(
        index_bytes(entry("a.b.post", ["1.0.0", "1.1.0"], latest="1.1.0", deprecates="1.0.0"))
    ).collections
    old, new = collection.versions
    assert (old.status, old.replaced_by, new.status) == ("deprecated", "1.1.0", "stable")


def test_a_collection_may_deprecate_another():
    index = read_index(
        index_bytes(entry("a.b.old", ["1.0.0"]), entry("a.b.new", ["1.0.0"], deprecates=["a.b.old@1.0.0"]))
    )
    assert [(each.versions[0].status, each.versions[0].replaced_by) for each in index.collections] == [
        ("deprecated", "a.b.new"),
        ("stable", None),
    ]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([entry("a.b.post", ["1.0"])], "must be a semantic version"),
        ([entry("a.b.post", ["1.0.0+build"])], "must be a semantic version"),
        ([entry("a.b.post", ["01.0.0"])], "must be a semantic version"),
        ([entry("a.b.post", ["1.0.0", "1.0.0"])], "lists version 1.0.0 twice"),
        ([entry("a.b.post", ["1.0.0"]), entry("a.b.post", ["1.1.0"], latest="1.1.0")], "a.b.post is listed twice"),
        ([entry("not a name", ["1.0.0"])], "must be an NSID"),
        ([entry("a.b.post", ["1.0.0"], latest="2.0.0")], "latestStable 2.0.0 is not among"),
        ([entry("a.b.post", ["1.0.0"], latest=None)], "has no latestStable"),
        ([entry("a.b.post", [])], "latestStable 1.0.0 is not among"),
        ([entry("a.b.post", [], latest=None)], "has no latestStable"),
        ([entry("a.b.post", [_version("1.0.0", status="draft")])], "latestStable 1.0.0 is draft"),
        (
            [entry("a.b.post", [_version("1.0.0", status="deprecated"), "1.1.0"])],
            "latestStable 1.0.0 is deprecated",
        ),
        ([entry("a.b.post", [_version("1.0.0", status="gone")])], "gone"),
        ([entry("a.b.post", ["1.0.0"], deprecates="0.9.0")], "deprecates 0.9.0, which is not in the index"),
        ([entry("a.b.post", ["1.0.0"], deprecates="1.0.0")], "or is this version itself"),
        ([entry("a.b.post", ["1.0.0"], deprecates=["a.b.nothing"])], "deprecates a.b.nothing"),
        ([entry("a.b.post", ["1.0.0"], replacedBy="a.b.nothing")], "replacedBy a.b.nothing"),
        ([entry("a.b.post", ["1.0.0"], replacedBy="a.b.post@3.0.0")], "replacedBy a.b.post@3.0.0"),
        ([entry("a.b.post", [_version("1.0.0", replacedBy="3.0.0")])], "replacedBy 3.0.0"),
        (
            [entry("a.b.post", [_version("1.0.0", status="stable"), "1.1.0"], latest="1.1.0", deprecates="1.0.0")],
            "is stable, and 1.1.0 deprecates it",
        ),
        ([entry("a.b.post", [_version("1.0.0", sunset="2027-01-01T00:00:00Z")])], "sunset, and is stable"),
        ([entry("a.b.post", [_version("1.0.0", status="deprecated", sunset="soon")])], "RFC 3339"),
        ([entry("a.b.post", [_version("1.0.0", path="../x.json")])], "plain names below the index"),
        ([entry("a.b.post", [_version("1.0.0", path="/etc/passwd")])], "plain names below the index"),
        ([entry("a.b.post", [_version("1.0.0", path="https://elsewhere/x.json")])], "plain names below the index"),
        ([entry("a.b.post", [_version("1.0.0", path="a/..b/x?y")])], "plain names below the index"),
        ([entry("a.b.post", [_version("1.0.0", sha256="AB")])], "64 lower-case hex"),
        (
            [entry("a.b.post", [_version("1.0.0", path="x.json"), _version("1.1.0", path="x.json")])],
            "document x.json is listed twice",
        ),
        ([entry("a.b.post", ["1.0.0"], visibility="friends")], "friends"),
        ([{**entry("a.b.post", []), "versions": [1]}], "versions"),
    ],
)
def test_an_invalid_or_inconsistent_index_is_refused(entries: list[dict[str, Any]], reason: str):
    with pytest.raises(CatalogueRefused, match=reason) as refused:
        read_index(index_bytes(*entries))
    assert {problem.document for problem in refused.value.problems} == {"SPEC_INDEX.json"}


@pytest.mark.parametrize(
    ("lexicons", "reason"),
    [
        ([{"id": "x"}], "must be an NSID"),
        ([{"id": "a.b.defs"}, {"id": "a.b.defs", "path": "y.json"}], "lexicon a.b.defs is listed twice"),
        ([{"id": "a.b.post"}], "is a collection too"),
    ],
)
def test_a_shared_lexicon_with_an_invalid_or_duplicate_id_is_refused(lexicons: list[dict[str, str]], reason: str):
    with pytest.raises(CatalogueRefused, match=reason):
        read_index(index_bytes(entry("a.b.post", ["1.0.0"]), lexicons=lexicons))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<!DOCTYPE html><html></html>",
        b"[]",
        b'{"schemas": []}',
        b'{"schemas": [], "generatedAt": "yesterday"}',
        b'{"schemas": [], "schemas": [], "generatedAt": "2026-11-24T00:00:00Z"}',
        b'{"schemas": {}, "generatedAt": "2026-11-24T00:00:00Z"}',
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"generatedAt": ' + b"9" * 5_000 + b"}",
    ],
)
def test_malformed_bytes_are_refused_as_an_index(text: bytes):
    with pytest.raises(CatalogueRefused):
        read_index(text)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_an_index_or_refused(text: bytes):
    with contextlib.suppress(CatalogueRefused):
        read_index(text)


def test_every_problem_of_an_index_is_reported():
    with pytest.raises(CatalogueRefused) as refused:
        read_index(index_bytes(entry("a.b.one", ["1"]), entry("a.b.two", ["1.0.0"], latest="9.0.0")))
    assert len(refused.value.problems) == 3


def test_an_index_with_too_many_documents_is_refused():
    versions = [f"1.0.{patch}" for patch in range(DOCUMENTS_MAX + 1)]
    with pytest.raises(CatalogueRefused, match=r"10001 documents, over the limit of 10000"):
        read_index(index_bytes(entry("a.b.post", versions)))


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "1.0",
        "1.0.0.0",
        "1.0.0-",
        "1.0.0-01",
        "v1.0.0",
        "1.0.0+x",
        " 1.0.0",
        "1.0.0\n",
        "-1.0.0",
        "1.0.0-a..b",
        "1" * 99,
    ],
)
def test_an_invalid_semantic_version_is_refused(text: str):
    with pytest.raises(InvalidField):
        Version.parse(text)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["0", "1", "10", "a", "b-c", "1a"]), max_size=3), st.integers(0, 20))
def test_a_parsed_version_formats_to_the_same_text(pre_release: list[str], number: int):
    text = f"1.{number}.0" + ("-" + ".".join(pre_release) if pre_release else "")
    assert str(Version.parse(text)) == text


# Documents


def test_a_catalogue_contains_every_listed_version():
    catalogue = build_catalogue(*index_of(entry("a.b.post", ["1.0.0", "1.1.0"])))
    assert [list(collection.versions) for collection in catalogue] == [["1.0.0", "1.1.0"]]


def test_every_invalid_document_is_reported_with_its_reason():
    index, documents = index_of(entry("a.b.post", ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]))
    documents["a.b.post/1.1.0.json"] = b'{"type": "objekt", "frobnicate": 1}'
    documents["a.b.post/1.2.0.json"] = b'{"$ref": "https://example.com/x"}'
    with pytest.raises(CatalogueRefused) as refused:
        build_catalogue(index, documents)
    assert list(map(str, refused.value.problems)) == [
        "a.b.post/1.1.0.json: /type 'objekt' is not a type",
        "a.b.post/1.1.0.json: /frobnicate is not a keyword that is enforced here",
        "a.b.post/1.2.0.json: /$ref 'https://example.com/x' leads out of the document",
    ]


def test_missing_and_malformed_documents_are_reported():
    index, documents = index_of(entry("a.b.post", ["1.0.0", "1.1.0"]))
    del documents["a.b.post/1.0.0.json"]
    documents["a.b.post/1.1.0.json"] = b'{"type": "obj'
    with pytest.raises(CatalogueRefused) as refused:
        build_catalogue(index, documents)
    missing, broken = map(str, refused.value.problems)
    assert missing == "a.b.post/1.0.0.json: is missing"
    assert broken.startswith("a.b.post/1.1.0.json: is not JSON")


def test_a_document_must_match_its_digest():
    text = json.dumps({"type": "object"}).encode()
    digest = hashlib.sha256(text).hexdigest()
    right, documents = index_of(entry("a.b.post", [_version("1.0.0", sha256=digest)]))
    assert len(build_catalogue(right, documents)) == 1
    wrong, documents = index_of(entry("a.b.post", [_version("1.0.0", sha256="0" * 64)]))
    with pytest.raises(CatalogueRefused, match="SHA-256"):
        build_catalogue(wrong, documents)


def test_unchanged_documents_are_not_compiled_again():
    name = Nsid("a.b.post")
    index, documents = index_of(entry(name, ["1.0.0", "1.1.0"]))
    first = build_catalogue(index, documents)
    pauses: list[None] = []
    second = build_catalogue(
        index,
        {**documents, "a.b.post/1.1.0.json": b'{"minProperties": 1}'},
        previous=first,
        pause=lambda: pauses.append(None),
    )
    before, after = first.collection(name).versions, second.collection(name).versions
    assert after["1.0.0"].validator is before["1.0.0"].validator
    assert after["1.1.0"].violations({}) != before["1.1.0"].violations({})
    assert len(pauses) == 1


@pytest.mark.parametrize("text", [b'{"a": NaN}', b'{"a": 1e999}', b'{"a": 1, "a": 2}', b"nul", b"\xc3", b"[" * 10**5])
def test_a_document_must_be_strict_json(text: bytes):
    with pytest.raises(ValueError, match=r".+"):
        parse_document(text)


def test_a_number_without_a_fraction_is_an_integer():
    parsed = parse_document(b'{"maxLength": 3.0, "minimum": 1.5, "big": 1e2}')
    assert repr(parsed) == "{'maxLength': 3, 'minimum': 1.5, 'big': 100}"


def test_generated_at_is_read_from_the_index():
    assert read_index(index_bytes()).generated_at.isoformat() == GENERATED_AT.replace("Z", "+00:00")
