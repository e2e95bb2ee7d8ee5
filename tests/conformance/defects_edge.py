"""Defects of operations, CORS and limits."""

from __future__ import annotations

from tests.conformance.defects_model import Defect, defect

RESPONSES = "cdv_http/error_responses.py"
EDGE = "cdv_http/middleware/edge.py"
EXCHANGE = "cdv_http/middleware/exchange.py"
CORS_FILE = "cdv_http/middleware/cors.py"
REQUESTS = "cdv_http/requests.py"
CANONICAL = "cdv_core/domain/canonical.py"
RATES = "cdv_http/rate_limits.py"
CORE_LIMITS = "cdv_core/domain/limits.py"
_REJECTS_UNCOUNTED = (RESPONSES, "        schema_rejects_total.labels(error.collection).inc()", "        pass")
_FEW = {"CDV_RATE_LIMIT_WRITES": "60/minute"}


def _described_with(*changes: str) -> tuple[str, str, str]:
    """An edit that changes /openapi.json, the `document`."""
    lines = ["document = openapi_document()", *changes, "return msgspec.json.encode(document)"]
    new = "\n".join(f"    {line}" for line in lines)
    return "cdv_http/routes/docs.py", "    return msgspec.json.encode(openapi_document())", new


OPERATIONS: list[Defect] = [
    defect(
        "two-correlation-ids",
        "An error has another correlation id than its header.",
        "OPS-001",
        (
            RESPONSES,
            "error_bytes(code, message, state.correlation_id, details)",
            'error_bytes(code, message, "c-1", details)',
        ),
        only="ERR-009",
    ),
    defect(
        "correlation-id-replaced",
        "The client's correlation id is not used.",
        "OPS-002",
        (EDGE, "fullmatch(given):\n        return given.decode()", "fullmatch(given):\n        pass"),
    ),
    defect(
        "any-correlation-id",
        "Any text is echoed as a correlation id.",
        "OPS-003",
        (EDGE, "given is not None and _CORRELATION_ID.fullmatch(given)", "given is not None"),
    ),
    defect(
        "liveness-needs-a-token",
        "/healthz answers 401 without a token.",
        "OPS-004",
        (
            "cdv_http/routes/health.py",
            '    return success(Liveness("ok"))',
            '    return Response(b"", status_code=401, headers={"WWW-Authenticate": "Bearer"})',
        ),
    ),
    defect(
        "readiness-names-nothing",
        "/readyz names no dependency.",
        "OPS-005",
        ("cdv_http/routes/health.py", "        return success(readiness)", '        return success(Liveness("ok"))'),
    ),
    defect(
        "metrics-stand-still",
        "Metrics are declared and never recorded.",
        "OPS-006",
        ("cdv_http/completed_requests.py", "    observe_requests(", "    (lambda *_: None)("),
        _REJECTS_UNCOUNTED,
        trap="Metrics declared, never recorded",
    ),
    defect(
        "only-metrics-counted",
        "Of all requests only those for /metrics are counted.",
        "OPS-006",
        (
            "cdv_http/completed_requests.py",
            "    observe_requests(requests)",
            '    observe_requests(it for it in requests if it.route == "/metrics")',
        ),
        _REJECTS_UNCOUNTED,
    ),
    defect(
        "endpoint-undescribed",
        "/openapi.json leaves an endpoint out.",
        "OPS-007",
        _described_with('del document["paths"]["/v1/media/finalize"]'),
    ),
    defect(
        "parameter-undescribed",
        "/openapi.json leaves a parameter out.",
        "OPS-007",
        _described_with(
            'operation = document["paths"]["/v1/repo/listRecords"]["get"]',
            'operation["parameters"] = [it for it in operation["parameters"] if it["name"] != "cursor"]',
        ),
    ),
    defect(
        "answer-undescribed",
        "/openapi.json leaves an answer out.",
        "OPS-007",
        _described_with('del document["paths"]["/v1/media/finalize"]["post"]["responses"]["409"]'),
    ),
    defect(
        "page-of-many-hosts",
        "/docs loads a script from elsewhere.",
        "OPS-008",
        (
            "cdv_http/routes/docs.py",
            "    return reference_page(openapi_document())",
            "    return reference_page(openapi_document()) + '<script src=\"https://cdn.example/docs.js\"></script>'",
        ),
    ),
    defect(
        "bad-traceparent-refused",
        "A traceparent that is none is an error.",
        "OPS-009",
        (
            EDGE,
            '    match = _TRACEPARENT.fullmatch(headers.only(b"traceparent") or b"")\n',
            (
                '    match = _TRACEPARENT.fullmatch(headers.only(b"traceparent") or b"")\n'
                '    if match is None and b"traceparent" in headers:\n        raise ValueError\n'
            ),
        ),
    ),
]

CORS: list[Defect] = [
    defect(
        "any-origin",
        "Every origin gets itself back.",
        "CORS-001 CORS-007",
        (CORS_FILE, "if not origin or not (self._any or origin in self._allowed):", "if not origin:"),
    ),
    defect(
        "preflight-needs-a-token",
        "A preflight is answered 401.",
        "CORS-002",
        (CORS_FILE, '"status": 204, "headers": granted', '"status": 401, "headers": granted'),
        trap="Preflight refused before CORS runs",
    ),
    defect(
        "origins-not-passed-on",
        "CDV_CORS_ALLOWED_ORIGINS is read and never used.",
        "CORS-003 CORS-006",
        ("cdv_http/app.py", "AllowedOrigins(chosen.cors_allowed_origins)", "AllowedOrigins(())"),
        trap="CORS settings read but never passed on",
    ),
    defect(
        "refusals-without-cors",
        "Refusals are not marked for a listed origin.",
        "CORS-003",
        (
            EXCHANGE,
            "granted(state.headers)",
            "granted(state.headers if self.status < 400 else RequestHeaders(()))",
        ),
    ),
    defect(
        "no-vary",
        "Answers do not say that they differ by origin.",
        "CORS-004",
        (EXCHANGE, 'b"vary": b"Origin",', ""),
    ),
    defect(
        "limits-not-exposed",
        "Pages cannot read the rate limit.",
        "CORS-005",
        (CORS_FILE, "x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, retry-after", "retry-after"),
    ),
    defect(
        "key-header-not-granted",
        "Pages may not send Idempotency-Key.",
        "CORS-006",
        (CORS_FILE, "content-type, idempotency-key, ", "content-type, "),
    ),
    defect(
        "origins-by-suffix",
        "An origin that ends like a listed one is listed.",
        "CORS-007",
        (
            CORS_FILE,
            "origin in self._allowed)",
            'any(origin.endswith(it.partition(b"//")[2]) for it in self._allowed))',
        ),
    ),
]

LIMITS: list[Defect] = [
    defect(
        "budgets-untold",
        "No answer tells of budgets.",
        "LIMIT-001",
        (EXCHANGE, "        if state.rate_limit is not None:", "        if False:"),
    ),
    defect(
        "nothing-counted",
        "What remains of a budget never goes down.",
        "LIMIT-002",
        (RATES, "max(limit.amount - count, 0)", "limit.amount"),
    ),
    defect(
        "budgets-of-nobody-untold",
        "Answers to reads without a token tell of no budget.",
        "LIMIT-001",
        (
            RATES,
            "        if count > limit.amount:",
            "        state.rate_limit = state.rate_limit if token else None\n        if count > limit.amount:",
        ),
    ),
    defect(
        "nobody-is-counted",
        "Reads without a token have a whole budget each.",
        "LIMIT-002",
        (RATES, 'else ("address", state.client)', 'else ("address", __import__("secrets").token_hex())'),
    ),
    defect(
        "one-budget-for-both",
        "Reads spend the budget of writes.",
        "LIMIT-003",
        (RATES, 'f"{budget} {kind} {who}"', 'f"{kind} {who}"'),
        (RATES, "self._own[budget, kind].add", 'self._own["reads", kind].add'),
    ),
    defect(
        "one-budget-for-all",
        "All subjects have one budget.",
        "LIMIT-004",
        (RATES, '("did", token.subject) if token', '("did", "all") if token'),
    ),
    defect(
        "budgets-without-end",
        "A spent budget goes on.",
        "LIMIT-005",
        (RATES, "        if count > limit.amount:", "        if False:"),
        settings=_FEW,
    ),
    defect(
        "limit-by-content-length",
        "Only what Content-Length says is limited.",
        "LIMIT-006",
        (REQUESTS, "    if len(body) > max_bytes:", "    if False:"),
        (REQUESTS, " and len(grown) <= max_bytes", ""),
    ),
    defect(
        "limit-is-too-much",
        "A body of exactly the limit is refused.",
        "LIMIT-012",
        (REQUESTS, "    if len(body) > max_bytes:", "    if len(body) >= max_bytes:"),
    ),
    defect(
        "limit-and-a-byte",
        "A body of one byte more than the limit is accepted.",
        "LIMIT-006",
        (REQUESTS, "    if headers.content_length() > max_bytes:", "    if headers.content_length() > max_bytes + 1:"),
        (REQUESTS, "    if len(body) > max_bytes:", "    if len(body) > max_bytes + 1:"),
    ),
    defect(
        "cut-off-is-whole",
        "A body that ends before its Content-Length is taken for whole.",
        "LIMIT-007",
        (
            REQUESTS,
            "    if headers.content_length() > max_bytes:",
            "    if False:",
        ),
        (
            REQUESTS,
            '        raise RequestRefused(400, "the body ended before it was whole")',
            '        return b"", False',
        ),
    ),
    defect(
        "records-of-any-size",
        "A record may be as large as a body.",
        "LIMIT-008",
        (CANONICAL, "    if len(encoded) > RECORD_MAX_BYTES:", "    if False:"),
    ),
    defect(
        "small-records-only",
        "A record of 250 KiB is refused.",
        "LIMIT-009",
        (CORE_LIMITS, "RECORD_MAX_BYTES: Final = 256 * 1024", "RECORD_MAX_BYTES: Final = 128 * 1024"),
    ),
    defect(
        "deep-nesting",
        "Nesting has no end.",
        "LIMIT-010",
        (CORE_LIMITS, "RECORD_NESTING_MAX: Final = 32 ", "RECORD_NESTING_MAX: Final = 10**6 "),
    ),
    defect(
        "flat-records-only",
        "Nesting ends at 8 levels.",
        "LIMIT-011",
        (CORE_LIMITS, "RECORD_NESTING_MAX: Final = 32 ", "RECORD_NESTING_MAX: Final = 8 "),
    ),
]
