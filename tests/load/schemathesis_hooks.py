"""What Schemathesis cannot know: who speaks, what a record looks like, and that bytes must be uploaded."""

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

from cdv_adapters.settings import LOCAL_ISSUER
from cdv_adapters.tokens.local_key import LocalIssuer
from cdv_core.domain.identifiers import Did
from cdv_core.errors import InvalidField

Case = Any  # Schemathesis' own has no useful type here
_ISSUER = LocalIssuer.from_file(Path(os.environ["SCHEMATHESIS_ISSUER_KEY"]), issuer=LOCAL_ISSUER, audience="cdv")
_ADA = "did:example:ada"
_uploaded: dict[str, tuple[str, str]] = {}  # asset id -> its owner, and the SHA-256 of the bytes uploaded for it

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
    """Speaks for the DID that the request is about, and for Ada where it is about none."""

    def get(self, case: Case, _: Any) -> str:
        did = case.body.get("did") if isinstance(case.body, dict) else None
        try:
            subject = Did.parse(did) if isinstance(did, str) else Did(_ADA)
        except InvalidField:
            subject = Did(_ADA)
        return _token(subject)

    def set(self, case: Case, token: str, _: Any) -> None:
        case.headers["Authorization"] = f"Bearer {token}"


@schemathesis.hook
def map_case(_: Any, case: Case) -> Case:
    """Make every other good body one that is accepted, so that there is something to go on with."""
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
    """Upload what was announced."""
    if case.operation.definition.raw["operationId"] == "uploadInit" and response.status_code == 200:
        ticket, size = response.json()["data"], int(case.body["size"])
        assert requests.put(ticket["uploadUrl"], b"x" * size, timeout=30).status_code == 200
        _uploaded[ticket["assetId"]] = case.body["did"], hashlib.sha256(b"x" * size).hexdigest()


@schemathesis.hook
def before_call(_: Any, case: Case, __: Any) -> None:
    """Finalise as who uploaded, with the hash of what was."""
    good = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    if good and isinstance(case.body, dict) and case.body.get("assetId") in _uploaded:
        owner, case.body["sha256"] = _uploaded[case.body["assetId"]]
        if case.headers.get("Authorization", "").startswith("Bearer ey"):  # not one that a check has taken away
            case.headers["Authorization"] = f"Bearer {_token(owner)}"


@schemathesis.check
def refused_for_a_reason_that_no_schema_says(_: Any, response: Any, case: Case) -> None:
    """A good request that is answered 400 names something that the document cannot express."""
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
    """spec: conventions. No answer but a success, a redirect or an empty HEAD is outside it, and none says more."""
    (correlation_id,) = response.headers["x-correlation-id"]
    assert correlation_id
    if response.status_code >= 400 and case.method != "HEAD":
        error = response.json()["error"]
        assert set(error) - {"details"} == {"code", "message", "correlationId"}, error
        assert error["correlationId"] == correlation_id, error
        assert "Traceback" not in error["message"], error
