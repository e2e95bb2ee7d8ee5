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
        "An error body has another correlation id than the response header.",
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
        "The client's correlation id is ignored.",
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
        "/healthz returns 401.",
        "OPS-004",
        (
            "cdv_http/routes/health.py",
            '    return success(Liveness("ok"))',
            '    return Response(b"", status_code=401, headers={"WWW-Authenticate": "Bearer"})',
        ),
    ),
    defect(
        "readiness-names-nothing",
        "/readyz lists no dependencies.",
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
        "Only requests for /metrics are counted.",
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
        "/openapi.json omits an endpoint.",
        "OPS-007",
        _described_with('del document["paths"]["/v1/media/finalize"]'),
    ),
    defect(
        "parameter-undescribed",
        "/openapi.json omits a parameter.",
        "OPS-007",
        _described_with(
            'operation = document["paths"]["/v1/repo/listRecords"]["get"]',
            'operation["parameters"] = [it for it in operation["parameters"] if it["name"] != "cursor"]',
        ),
    ),
    defect(
        "answer-undescribed",
        "/openapi.json omits a response.",
        "OPS-007",
        _described_with('del document["paths"]["/v1/media/finalize"]["post"]["responses"]["409"]'),
    ),
    defect(
        "page-of-many-hosts",
        "/docs loads a script from another host.",
        "OPS-008",
        (
            "cdv_http/routes/docs.py",
            "    return reference_page(openapi_document())",
            "    return reference_page(openapi_document()) + '<script src=\"https://cdn.example/docs.js\"></script>'",
        ),
    ),
    defect(
        "bad-traceparent-refused",
        "A request with an invalid traceparent fails.",
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
        "Every origin is allowed.",
        "CORS-001 CORS-007",
        (CORS_FILE, "if not origin or not (self._any or origin in self._allowed):", "if not origin:"),
    ),
    defect(
        "preflight-needs-a-token",
        "A preflight returns 401.",
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
        "Error responses have no CORS headers for a listed origin.",
        "CORS-003",
        (
            EXCHANGE,
            "granted(state.headers)",
            "granted(state.headers if self.status < 400 else RequestHeaders(()))",
        ),
    ),
    defect(
        "no-vary",
        "Responses have no Vary: Origin by default.",
        "CORS-004",
        (EXCHANGE, 'b"vary": b"Origin",', ""),
    ),
    defect(
        "limits-not-exposed",
        "The X-RateLimit headers are not exposed to a listed origin.",
        "CORS-005",
        (CORS_FILE, "x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, retry-after", "retry-after"),
    ),
    defect(
        "key-header-not-granted",
        "A preflight does not allow the Idempotency-Key header.",
        "CORS-006",
        (CORS_FILE, "content-type, idempotency-key, ", "content-type, "),
    ),
    defect(
        "origins-by-suffix",
        "An origin that only ends with the host of a listed one is allowed.",
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
        "Responses have no X-RateLimit headers.",
        "LIMIT-001",
        (EXCHANGE, "        if state.rate_limit is not None:", "        if False:"),
    ),
    defect(
        "nothing-counted",
        "X-RateLimit-Remaining never decreases.",
        "LIMIT-002",
        (RATES, "max(limit.amount - count, 0)", "limit.amount"),
    ),
    defect(
        "budgets-of-nobody-untold",
        "Responses to requests without a valid token have no X-RateLimit headers.",
        "LIMIT-001",
        (
            RATES,
            "        if count > limit.amount:",
            "        state.rate_limit = state.rate_limit if token else None\n        if count > limit.amount:",
        ),
    ),
    defect(
        "nobody-is-counted",
        "Each request without a valid token has a rate limit of its own.",
        "LIMIT-002",
        (RATES, 'else ("address", state.client)', 'else ("address", __import__("secrets").token_hex())'),
    ),
    defect(
        "one-budget-for-both",
        "Reads and writes share one counter.",
        "LIMIT-003",
        (RATES, 'f"{budget} {kind} {holder}"', 'f"{kind} {holder}"'),
        (RATES, "self._own[budget, kind].add", 'self._own["reads", kind].add'),
    ),
    defect(
        "one-budget-for-all",
        "All subjects share one counter.",
        "LIMIT-004",
        (RATES, '("did", token.subject) if token', '("did", "all") if token'),
    ),
    defect(
        "budgets-without-end",
        "Requests over the rate limit are accepted.",
        "LIMIT-005",
        (RATES, "        if count > limit.amount:", "        if False:"),
        settings=_FEW,
    ),
    defect(
        "limit-by-content-length",
        "The size limit of a body is compared with Content-Length only.",
        "LIMIT-006",
        (REQUESTS, "    if len(body) > max_bytes:", "    if False:"),
        (REQUESTS, " and len(grown) <= max_bytes", ""),
    ),
    defect(
        "limit-is-too-much",
        "A body of exactly the limit is rejected.",
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
        "A body that ends before its Content-Length is accepted as complete.",
        "LIMIT-007",
        (
            REQUESTS,
            "    if headers.content_length() > max_bytes:",
            "    if False:",
        ),
        (
            REQUESTS,
            '        raise RequestRefused(400, "the body ended before it was complete")',
            '        return b"", False',
        ),
    ),
    defect(
        "records-of-any-size",
        "The size limit of a record is not checked.",
        "LIMIT-008",
        (CANONICAL, "    if len(encoded) > RECORD_MAX_BYTES:", "    if False:"),
    ),
    defect(
        "small-records-only",
        "Records of more than 128 KiB are rejected.",
        "LIMIT-009",
        (CORE_LIMITS, "RECORD_MAX_BYTES: Final = 256 * 1024", "RECORD_MAX_BYTES: Final = 128 * 1024"),
    ),
    defect(
        "deep-nesting",
        "The nesting limit is a million levels instead of 32.",
        "LIMIT-010",
        (CORE_LIMITS, "RECORD_NESTING_MAX: Final = 32 ", "RECORD_NESTING_MAX: Final = 10**6 "),
    ),
    defect(
        "flat-records-only",
        "The nesting limit is 8 levels instead of 32.",
        "LIMIT-011",
        (CORE_LIMITS, "RECORD_NESTING_MAX: Final = 32 ", "RECORD_NESTING_MAX: Final = 8 "),
    ),
]
