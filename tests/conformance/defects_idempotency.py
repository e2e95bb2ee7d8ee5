"""Defects of idempotency keys."""

from __future__ import annotations

from tests.conformance.defects_model import Defect, defect

LIMITS = "cdv_core/domain/limits.py"
USE_CASE = "cdv_core/use_cases/records.py"
SQLITE = "cdv_adapters/records/sqlite.py"
ROUTE = "cdv_http/routes/records.py"

_LIVE = "                earlier = _live_reply(connection, did, retryable.key, retryable.fingerprint, now)\n"
_STORE = """                ensure_account(connection, did, now)
                    connection.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _row(record))
                    append_op_log(connection, event)
"""

IDEMPOTENCY: list[Defect] = [
    defect(
        "retry-answered-anew",
        "A retry returns the time of the retry as indexedAt.",
        "IDEM-001",
        (
            USE_CASE,
            "type=Receipt), replayed=True)",
            "type=Receipt), replayed=True, indexed_at=datetime.now().astimezone())",
        ),
    ),
    defect(
        "keys-ignored",
        "Idempotency keys are validated and then ignored.",
        "IDEM-001 EVENT-007",
        (
            USE_CASE,
            "        retryable = None\n        if request.key is not None:",
            "        retryable = None\n        if False:",
        ),
    ),
    defect(
        "replays-unmarked",
        "A replay has no Idempotent-Replayed header.",
        "IDEM-002",
        (ROUTE, "    if receipt.replayed:", "    if False:"),
    ),
    defect(
        "retry-stored-again",
        "A retry returns the first response, and stores the record again.",
        "IDEM-003",
        (SQLITE, "                    return earlier\n", f"    {_STORE}                    return earlier\n"),
    ),
    defect(
        "key-compares-spelling",
        "A retry with another order of members is rejected as a different request.",
        "IDEM-004",
        (USE_CASE, "            cid=self.record.cid,\n", "            cid=self.record.json.decode(),\n"),
    ),
    defect(
        "key-compares-the-record-only",
        "A retry with another createdAt or schemaVersion returns the first response.",
        "IDEM-005",
        ("cdv_core/domain/idempotency.py", "[str(collection), cid, claimed, schema_version]", "[str(collection), cid]"),
    ),
    defect(
        "conflict-after-the-insert",
        "A different request with a used key returns 409, but its record is stored.",
        "IDEM-006",
        (
            SQLITE,
            _LIVE,
            (
                f"                try:\n    {_LIVE}                except IdempotencyConflict:\n    {_STORE}"
                '                    return b"conflict"\n'
            ),
        ),
        (
            SQLITE,
            "            return None\n\n        return await self._database.write(work)\n\n    async def find_reply",
            """            return None

        reply = await self._database.write(work)
        if reply == b"conflict":
            raise IdempotencyConflict("key")
        return reply

    async def find_reply""",
        ),
        trap="A conflict found after the insert answers 409 with the record stored",
    ),
    defect(
        "keys-shared-by-all",
        "Idempotency keys are not scoped by DID.",
        "IDEM-007",
        (SQLITE, "WHERE did = ? AND key = ? AND expires_at > ?", "WHERE ? <> '' AND key = ? AND expires_at > ?"),
        trap="A key not scoped by DID",
    ),
    defect(
        "key-header-ignored",
        "The Idempotency-Key header is ignored.",
        "IDEM-008",
        (ROUTE, "    return headers[0]", "    return member"),
    ),
    defect(
        "two-keys-accepted",
        "Different keys in header and body are accepted.",
        "IDEM-009",
        (ROUTE, "    if len({*headers, *([] if member is None else [member])}) > 1:", "    if False:"),
    ),
    defect(
        "short-keys-only",
        "Keys of more than 64 characters are rejected.",
        "IDEM-010",
        (LIMITS, "IDEMPOTENCY_KEY_MAX_CHARS: Final = 255", "IDEMPOTENCY_KEY_MAX_CHARS: Final = 64"),
    ),
    defect(
        "any-key",
        "Any text that is not empty is accepted as a key.",
        "IDEM-011",
        (
            "cdv_core/domain/idempotency.py",
            "if len(text) > IDEMPOTENCY_KEY_MAX_CHARS or not IDEMPOTENCY_KEY_SYNTAX.fullmatch(text):",
            "if not text:",
        ),
    ),
    defect(
        "look-up-then-store",
        "A key is looked up outside the transaction that stores the record.",
        "IDEM-012 IDEM-013",
        (
            SQLITE,
            "retryable: IdempotentReply | None = None) -> bytes | None:\n",
            """retryable: IdempotentReply | None = None) -> bytes | None:
        if retryable is not None:
            found = await self.find_reply(record.uri.did, retryable.key, retryable.fingerprint, record.indexed_at)
            if found is not None:
                return found

""",
        ),
        (
            SQLITE,
            "            if retryable is not None:\n                earlier",
            "            if False:\n                earlier",
        ),
        trap="Look-up and store in two steps",
    ),
    defect(
        "refusals-use-keys-up",
        "The key of a rejected request cannot be used again.",
        "IDEM-014",
        (
            USE_CASE,
            "            if request.key is None:\n                raise\n",
            """            if request.key is None:
                raise
            used = self.__dict__.setdefault("used", set())
            used.add(request.key)
""",
        ),
        (
            USE_CASE,
            "        now = self._clock.now()\n        try:",
            """        now = self._clock.now()
        if request.key in self.__dict__.get("used", ()):
            raise CidMismatch(expected="unused", actual="used")
        try:""",
        ),
    ),
    defect(
        "replay-before-authorisation",
        "A replay is returned before the did is compared with the subject.",
        "IDEM-015",
        (
            USE_CASE,
            "        _authorise(request, subject)\n        now = self._clock.now()\n",
            """        now = self._clock.now()
        if request.key is not None:
            reply = await self._store.find_reply(request.did, request.key, request.fingerprint, now)
            if reply is not None:
                return _decode_receipt(reply)
        _authorise(request, subject)
""",
        ),
    ),
]
