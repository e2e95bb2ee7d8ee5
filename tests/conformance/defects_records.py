"""Defects of records."""

from __future__ import annotations

from tests.conformance.defects_model import Defect, defect

IDENTIFIERS = "cdv_core/domain/identifiers.py"
LIMITS = "cdv_core/domain/limits.py"
TIMES = "cdv_core/domain/times.py"
USE_CASE = "cdv_core/use_cases/records.py"
SQLITE = "cdv_adapters/records/sqlite.py"
ROUTE = "cdv_http/routes/records.py"
BODIES = "cdv_http/bodies.py"

# A record that its schema refuses is stored and announced nevertheless.
STORED_THOUGH_REFUSED = (
    USE_CASE,
    "        except CdvError:\n",
    """        except CdvError as refusal:
            if isinstance(refusal, SchemaRejected | CidMismatch):
                resolution = self._schemas.catalogue.resolve(
                    request.collection, None, now=now, allow_drafts=True, reject_deprecated=False
                )
                await self._write(replace(request, key=None), resolution, now, correlation_id, None)
""",
)

RECORDS: list[Defect] = [
    defect(
        "receipt-in-snake-case",
        "A receipt has the members indexed_at and schema_version instead of indexedAt and schemaVersion.",
        "REC-001",
        (BODIES, 'class RecordReceipt(msgspec.Struct, rename="camel"):', "class RecordReceipt(msgspec.Struct):"),
    ),
    defect(
        "receipt-says-more",
        "A receipt has a member that is not in the contract.",
        "REC-002",
        (
            BODIES,
            "    schema_version: _Version\n\n\nclass Warnings",
            "    schema_version: _Version\n    revision: str = ''\n\n\nclass Warnings",
        ),
        only="REC-002 REC-009 REC-027 EVENT-004",
    ),
    defect(
        "key-in-lower-case",
        "Record keys are ULIDs in lower case.",
        "REC-003",
        (USE_CASE, "fresh = self._ids.new(now)", "fresh = self._ids.new(now).lower()"),
    ),
    defect(
        "first-writes-race",
        "The existence of an account is checked before the transaction that creates it.",
        "REC-004",
        (
            SQLITE,
            "            ensure_account(connection, did, now)\n",
            """            if not known:
                connection.execute("INSERT INTO accounts VALUES (?, 0)", (did,))
""",
        ),
        (
            SQLITE,
            "retryable: IdempotentReply | None = None) -> bytes | None:\n",
            (
                "retryable: IdempotentReply | None = None) -> bytes | None:\n"
                '        known = await self._rows("SELECT 1 FROM accounts WHERE did = ?", (record.uri.did,))\n\n'
            ),
        ),
        trap="Two first writes of one DID race on the account row",
    ),
    defect(
        "indexed-when-the-client-says",
        "indexedAt is the client's createdAt.",
        "REC-005",
        (
            USE_CASE,
            "now = self._clock.now()\n        try:",
            "now = request.created_at or self._clock.now()\n        try:",
        ),
        trap="indexedAt taken from the client",
    ),
    defect(
        "offsets-dropped",
        "The offset of a time is ignored.",
        "REC-006 LIST-012",
        (TIMES, ".astimezone(UTC)\n        return", ".replace(tzinfo=UTC)\n        return"),
    ),
    defect(
        "local-times-accepted",
        "A time without an offset is accepted as UTC.",
        "REC-007 LIST-012",
        (TIMES, r"([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)", r"([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)?"),
        (TIMES, 'if offset in "Zz"', 'if offset in (None, "Z", "z")'),
    ),
    defect(
        "created-at-invented",
        "A record without createdAt gets the current time as createdAt.",
        "REC-008",
        (
            USE_CASE,
            "None if created_at is None else parse_time",
            "self._clock.now() if created_at is None else parse_time",
        ),
    ),
    defect(
        "reads-lag-behind",
        "A record cannot be read until a second after it was indexed.",
        "REC-009",
        (
            USE_CASE,
            "        if found is None:\n            raise RecordNotFound(str(parsed))",
            (
                "        if found is None or (self._clock.now() - found.indexed_at).total_seconds() < 1:\n"
                "            raise RecordNotFound(str(parsed))"
            ),
        ),
    ),
    defect(
        "null-read-as-zero",
        "A null in a record is returned as 0.",
        "REC-010 CID-008",
        (
            "cdv_core/domain/records.py",
            "msgspec.Raw(record.value_json)",
            'msgspec.Raw(record.value_json.replace(b"null", b"0"))',
        ),
    ),
    defect(
        "absent-is-a-bad-request",
        "A missing record returns 400 instead of 404.",
        "REC-011",
        (USE_CASE, "raise RecordNotFound(str(parsed))", 'raise InvalidField("uri", "no such record")'),
    ),
    defect(
        "malformed-uri-not-found",
        "A malformed URI returns 404 instead of 400.",
        "REC-012",
        (
            USE_CASE,
            "        parsed = uri if isinstance(uri, RecordUri) else RecordUri.parse(uri)\n",
            (
                "        try:\n            parsed = RecordUri.parse(uri)\n"
                "        except InvalidField:\n            raise RecordNotFound(str(uri)) from None\n"
            ),
        ),
    ),
    defect(
        "etag-without-quotes",
        "The ETag has no quotes.",
        "REC-013",
        (ROUTE, "'\"{record.cid}\"'", "'{record.cid}'"),
    ),
    defect(
        "never-304",
        "If-None-Match is ignored.",
        "REC-014",
        (ROUTE, "    if _matches(", "    if False and _matches("),
    ),
    defect(
        "weak-etags-unknown",
        "A weak validator in If-None-Match never matches.",
        "REC-015",
        (ROUTE, '.removeprefix(b"W/")', ""),
    ),
    defect(
        "unknown-members-ignored",
        "An unknown member of a create is ignored.",
        "REC-016",
        (
            BODIES,
            'class CreateRecordBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True)',
            'class CreateRecordBody(msgspec.Struct, rename="camel")',
        ),
    ),
    defect(
        "unknown-members-unnamed",
        "The error for an unknown member does not name it.",
        "REC-017",
        (
            BODIES,
            'InvalidField(shortened(unknown[1]), "is not a member of this request body")',
            'InvalidField("body", "no such member")',
        ),
    ),
    defect(
        "did-not-required",
        "A missing did in a create is replaced by a default.",
        "REC-018",
        (
            BODIES,
            'class CreateRecordBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True)',
            'class CreateRecordBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True)',
        ),
        (BODIES, "    did: _Did\n    record:", '    did: _Did = "did:example:somebody"\n    record:'),
    ),
    defect(
        "record-of-any-type",
        "The body of a create accepts a list as the record.",
        "REC-019",
        (
            BODIES,
            "record: Annotated[dict[str, Any], Meta(",
            "record: Annotated[dict[str, Any] | list[Any], Meta(",
        ),
        (
            "cdv_core/domain/canonical.py",
            """    if not isinstance(value, Mapping):
        raise InvalidField(field, "must be a JSON object")
""",
            "",
        ),
    ),
    defect(
        "any-did",
        "Any text that begins with did: is accepted as a DID.",
        "REC-020 AUTH-016",
        (IDENTIFIERS, "if not DID_SYNTAX.fullmatch(text):", 'if not text.startswith("did:"):'),
    ),
    defect(
        "collections-of-any-name",
        "A collection that is not an NSID is accepted, and its records are validated by the schema of another one.",
        "REC-021",
        (
            IDENTIFIERS,
            "if len(text) > NSID_MAX_CHARS or not NSID_SYNTAX.fullmatch(text):",
            "if len(text) > NSID_MAX_CHARS:",
        ),
        (
            "cdv_core/domain/schemas.py",
            "            raise CollectionUnknown(name, version) from None",
            "            return next(iter(self._collections.values()))",
        ),
    ),
    defect(
        "short-dids-only",
        "DIDs of more than 30 characters are rejected.",
        "REC-022",
        (LIMITS, "DID_MAX_CHARS: Final = 2048", "DID_MAX_CHARS: Final = 30"),
    ),
    defect(
        "dids-in-any-case",
        "The did of a create is compared with the subject without regard to case.",
        "REC-023",
        (
            USE_CASE,
            "    if subject is not None and request.did != subject:",
            "    if subject is not None and request.did.lower() != subject.lower():",
        ),
    ),
    defect(
        "client-cid-ignored",
        "The client's cid is not compared with the computed one.",
        "REC-024",
        (USE_CASE, "if cid is not None and cid != request.record.cid:", "if False:"),
    ),
    defect(
        "refused-and-stored",
        "A record that is rejected by its schema or its cid is stored nevertheless.",
        "REC-025",
        STORED_THOUGH_REFUSED,
    ),
    defect(
        "delete-pretends",
        "DELETE returns 204 instead of 405.",
        "REC-026",
        (
            "cdv_http/error_responses.py",
            "    code, message = _OF_FRAMEWORK_STATUS[error.status_code]\n",
            (
                '    if request.method == "DELETE" and error.status_code == 405:\n'
                '        return Response(b"", status_code=204)\n'
                "    code, message = _OF_FRAMEWORK_STATUS[error.status_code]\n"
            ),
        ),
    ),
    defect(
        "one-key-remembered",
        "A new idempotency key of a DID replaces its earlier ones.",
        "REC-027",
        (
            SQLITE,
            "                # OR REPLACE: an expired reply",
            (
                '                connection.execute("DELETE FROM replies WHERE did = ?", (did,))\n'
                "                # OR REPLACE: an expired reply"
            ),
        ),
    ),
]
