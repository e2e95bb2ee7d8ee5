"""What Schemathesis cannot know: whose token to send, valid records, and that bytes must be uploaded."""

from __future__ import annotations

import hashlib
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
import schemathesis
from schemathesis.generation import GenerationMode
from schemathesis.generation.meta import TestPhase

from cdv_adapters.settings import LOCAL_ISSUER
from cdv_adapters.tokens.local_key import LocalIssuer
from cdv_core.domain.identifiers import Did
from cdv_core.errors import InvalidField

Case = Any  # Schemathesis' own has no useful type here
_ISSUER = LocalIssuer.from_file(Path(os.environ["SCHEMATHESIS_ISSUER_KEY"]), issuer=LOCAL_ISSUER, audience="cdv")
_ADA = "did:example:ada"


class Known:
    """What the service has returned so far, since a generated name never exists."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self.cursors: list[tuple[str, str]] = []  # with the DID that it belongs to
        self.assets: list[str] = []
        self.uploads: dict[str, tuple[str, str]] = {}  # asset -> its owner, the SHA-256 of its bytes
        self.calls = 0


_known = Known()

# The members that a 400 may name although the body or the query is what the document allows.
_BEYOND_SCHEMA = {
    "collection",  # not in the catalogue
    "schemaVersion",  # not one of the collection's
    "idempotencyKey",  # not the same as the header
    "since",  # after `until`
    "filename",  # more than 255 bytes, in fewer characters
}
_OTHER_CODES = {"CDV_SCHEMA_REJECT", "CDV_CURSOR_INVALID", "CDV_MEDIA_SIZE", "CDV_MEDIA_TYPE", "CDV_MEDIA_CHECKSUM"}


def _token(subject: str) -> str:
    return _ISSUER.issue(Did(subject), 3600, datetime.now(UTC))


@schemathesis.auth(refresh_interval=None)
class TokenOfTheDid:
    """The token of the DID in the request; of Ada where there is none, and sometimes elsewhere."""

    def get(self, case: Case, _: Any) -> str:
        did = case.body.get("did") if isinstance(case.body, dict) else None
        try:
            subject = Did.parse(did) if isinstance(did, str) and len(did) % 5 else Did(_ADA)
        except InvalidField:
            subject = Did(_ADA)
        return _token(subject)

    def set(self, case: Case, token: str, _: Any) -> None:
        case.headers["Authorization"] = f"Bearer {token}"


@schemathesis.hook
def map_case(_: Any, case: Case) -> Case:
    """Make about every other valid body acceptable, so that later requests find something."""
    good = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    if good and isinstance(case.body, dict) and isinstance(case.body.get("did"), str) and len(case.body["did"]) % 2:
        name = case.operation.definition.raw["operationId"]
        if name == "createRecord":
            case.body["collection"] = "com.registryaccord.profile"
            case.body["record"] = {**case.body.get("record", {}), "displayName": "Ada"}
            for member in ("schemaVersion", "cid", "idempotencyKey"):
                case.body.pop(member, None)
        elif name == "uploadInit":
            case.body["mimeType"] = "image/png"
            case.body["size"] = 1 + int(case.body["size"]) % 100
            case.body["sha256"] = hashlib.sha256(b"x" * case.body["size"]).hexdigest()
    return case


@schemathesis.hook
def after_call(_: Any, case: Case, response: Any) -> None:
    """Remember the result, and upload the bytes of an uploadInit."""
    if response.status_code != 200:
        return
    match case.operation.definition.raw["operationId"]:
        case "createRecord":
            _known.uris.append(response.json()["data"]["uri"])
        case "listRecords" if cursor := response.json()["data"].get("nextCursor"):
            _known.cursors.append((case.query["did"], cursor))
        case "uploadInit":
            ticket, size = response.json()["data"], int(case.body["size"])
            assert requests.put(ticket["uploadUrl"], b"x" * size, timeout=30).status_code == 200
            _known.assets.append(ticket["assetId"])
            _known.uploads[ticket["assetId"]] = case.body["did"], hashlib.sha256(b"x" * size).hexdigest()


@schemathesis.hook
def before_call(_: Any, case: Case, __: Any) -> None:
    """Request what exists, every other time; finalise with the uploader's token and the hash of the uploaded bytes."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    _known.calls += 1
    if case.meta.phase.name is not TestPhase.STATEFUL and _known.calls % 2:
        _request_what_exists(case)
    if isinstance(case.body, dict) and case.body.get("assetId") in _known.uploads:
        owner, case.body["sha256"] = _known.uploads[case.body["assetId"]]
        signed = case.headers.get("Authorization", "").startswith("Bearer ey")  # no check has removed the token
        if signed and _known.calls % 5:
            case.headers["Authorization"] = f"Bearer {_token(owner)}"


def _request_what_exists(case: Case) -> None:
    match case.operation.definition.raw["operationId"]:
        case "getRecord" if _known.uris:
            case.query["uri"] = _known.uris[-1]
        case "listRecords" if _known.cursors:
            case.query["did"], case.query["cursor"] = _known.cursors[-1]
        case "listRecords" if _known.uris:
            case.query = {"did": _known.uris[-1].split("/")[2], "limit": 1}
        case "mediaMeta" | "mediaContent" if _known.assets:
            case.path_parameters["assetId"] = _known.assets[-1]
        case "finalize" if _known.assets:
            case.body["assetId"] = _known.assets[-1]


@schemathesis.check
def refused_only_for_rules_beyond_the_document(_: Any, response: Any, case: Case) -> None:
    """A valid request is refused with 400 only for a rule that the document cannot express."""
    good = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    if not good or response.status_code != 400:
        return
    error = response.json()["error"]
    field = error.get("details", {}).get("field", "")
    # A record may hold what JSON allows and we do not: U+0000, numbers beyond 64 bits, more than 32 levels.
    expected = error["code"] in _OTHER_CODES or field in _BEYOND_SCHEMA or re.match(r"record\b", field)
    assert expected, f"the document allows what the service refuses: {error}"


@schemathesis.check
def every_refusal_is_in_the_envelope(_: Any, response: Any, case: Case) -> None:
    """Every error, except of a HEAD, has the envelope and no other member (spec: conventions)."""
    (correlation_id,) = response.headers["x-correlation-id"]
    assert correlation_id
    if response.status_code >= 400 and case.method != "HEAD":
        error = response.json()["error"]
        assert set(error) - {"details"} == {"code", "message", "correlationId"}, error
        assert error["correlationId"] == correlation_id, error
        assert "Traceback" not in error["message"], error
