"""Fuzz targets: each parses untrusted bytes, and may raise only what the functions it calls document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from joserfc.jwk import OKPKey

from cdv_adapters.schemas.bundled import bundled_catalogue
from cdv_adapters.tokens.local_key import LocalIssuer, LocalKeyTokenVerifier
from cdv_core.domain.canonical import canonical_record, cid_of
from cdv_core.domain.catalogue_documents import parse_document
from cdv_core.domain.cursors import Cursor
from cdv_core.domain.idempotency import IdempotencyKey
from cdv_core.domain.identifiers import AssetId, Did, Nsid
from cdv_core.domain.json_schema import SchemaRefused
from cdv_core.domain.lexicon import is_lexicon, translate
from cdv_core.domain.media import content_disposition, parse_filename
from cdv_core.domain.times import parse_time
from cdv_core.domain.validators import compile_validator
from cdv_core.errors import CdvError
from cdv_http.bodies import CreateRecordBody, FinalizeBody, UploadInitBody, decode_body, given, to_int
from tests.fakes.clock import FakeClock

_NOW: Final = datetime(2026, 11, 24, tzinfo=UTC)
_CATALOGUE: Final = bundled_catalogue()
_LOOP: Final = asyncio.new_event_loop()
_ISSUER: Final = LocalIssuer(OKPKey.generate_key("Ed25519"), issuer="urn:fuzz", audience="cdv")
_VERIFIER: Final = LocalKeyTokenVerifier(_ISSUER, FakeClock(_NOW))
GOOD_TOKEN: Final = _ISSUER.issue(Did("did:example:fuzz"), 3600, _NOW)


def body(data: bytes) -> None:
    """A request's body, up to the first call to a database."""
    for read in (_create, _init, _finalize):
        refusal = _refusal(read, data)
        assert refusal is None or (str(refusal) and isinstance(refusal.details, dict))


def _refusal(read: Callable[[bytes], None], data: bytes) -> CdvError | None:
    try:
        read(data)
    except CdvError as error:
        return error
    return None


def _create(data: bytes) -> None:
    request = decode_body(data, CreateRecordBody)
    record = canonical_record(request.record)
    assert cid_of(json.loads(record.json)) == record.cid  # spec: domain, the CID law
    if (claimed := given(request.created_at)) is not None:
        parse_time(claimed, "createdAt")
    if (key := given(request.idempotency_key)) is not None:
        IdempotencyKey.parse(key)
    Did.parse(request.did)
    collection, version = Nsid.parse(request.collection), given(request.schema_version)
    resolved = _CATALOGUE.resolve(collection, version, now=_NOW, allow_drafts=True, reject_deprecated=False)
    resolved.schema.validator.violations(record.value)


def _init(data: bytes) -> None:
    request = decode_body(data, UploadInitBody)
    to_int(request.size, "size")
    if (name := given(request.filename)) is not None:
        parse_filename(name)


def _finalize(data: bytes) -> None:
    AssetId.parse(decode_body(data, FinalizeBody).asset_id)


def cursor(data: bytes) -> None:
    """A cursor: one that is decoded is encoded to the same text."""
    text = data.decode("latin-1")
    with suppress(CdvError):
        assert Cursor.decode(text).encode() == text


def jwt(data: bytes) -> None:
    """A token: only the valid one is accepted."""
    text = data.decode("utf-8", "replace")
    assert not is_accepted(text) or text == GOOD_TOKEN


def is_accepted(token: str) -> bool:
    """Return whether the verifier accepts the token."""
    try:
        _LOOP.run_until_complete(_VERIFIER.verify(token))
    except CdvError:
        return False
    return True


def filename(data: bytes) -> None:
    """A filename, and the header that is built from it."""
    text = data.decode("utf-8", "surrogateescape")  # invalid UTF-8 becomes lone surrogates
    try:
        name = parse_filename(text)
    except CdvError:
        return
    assert name not in {"", ".", ".."}
    assert not set(name) & {"/", "\\", "\x00", "\r", "\n"}
    header = content_disposition("image/png", name)
    assert header.isascii()
    assert header.isprintable()


def schema(data: bytes) -> None:
    """A schema from outside, JSON Schema or Lexicon: refused, or able to validate any value."""
    try:
        document = parse_document(data)
    except ValueError:
        return
    try:
        if is_lexicon(document):
            document = translate(document, Nsid("com.example.fuzz"), {})
        validator = compile_validator(document)
    except SchemaRefused:
        return
    for value in (None, 0, 1.5, "", "text", [], [1, "a"], {}, {"a": {"b": [None]}}, document):
        validator.violations(value)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__: target for target in (body, cursor, jwt, filename, schema)
}
SEEDS: Final[dict[str, list[bytes]]] = {
    "body": [
        b'{"did":"did:example:a","collection":"com.registryaccord.profile","record":{"displayName":"A","x":[1.0,"\\u00e9"]}}',
        b'{"did":"did:example:a","mimeType":"image/png","size":1e2,"filename":"a.png"}',
        b'{"assetId":"01M85VXXZ7T2JXB720KXQH381M","sha256":"' + b"0" * 64 + b'"}',
    ],
    "cursor": [Cursor(_NOW, "01M85VXXZ7T2JXB720KXQH381M").encode().encode()],
    "jwt": [GOOD_TOKEN.encode()],
    "filename": [b"a.png", "é \u202e.png".encode()],
    "schema": [
        b'{"type":"object","required":["a"],"properties":{"a":{"type":"string","maxLength":3,"pattern":"^a+$"}}}',
        b'{"definitions":{"x":{"anyOf":[{"type":"integer","multipleOf":3},{"$ref":"#/definitions/x"}]}},"items":{"enum":[1]}}',
        (
            b'{"lexicon":1,"id":"com.example.fuzz","defs":{"main":{"type":"record","record":{"type":"object","properties":'
            b'{"text":{"type":"string","maxGraphemes":3}}}}}}'
        ),
    ],
}
