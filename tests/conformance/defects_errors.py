"""Defects of error responses: their form, and the order of checks."""

from __future__ import annotations

from tests.conformance.defects_model import Defect, defect

RESPONSES = "cdv_http/error_responses.py"
EDGE = "cdv_http/middleware/edge.py"
REQUESTS = "cdv_http/requests.py"
AUTHENTICATION = "cdv_http/auth.py"
ANSWERS = "cdv_http/responses.py"
ROUTE = "cdv_http/routes/records.py"
USE_CASE = "cdv_core/use_cases/records.py"

_READ = "    try:\n        require_json(headers, max_bytes)\n"
_WHO = "    subject = await authenticate(request, tokens)\n    no_parameters(request)\n"
_BODY = "    body = decode_body(raw, CreateRecordBody)\n"
_NOT_JSON = (
    "    except msgspec.DecodeError as error:\n"
    "        if (malformed := _malformed(raw)) is not None:\n            raise"
)
_SAID = "_response(request, status, error.code, str(error), error.details, headers)"
_FEW = {"CDV_RATE_LIMIT_WRITES": "60/minute"}

ERRORS: list[Defect] = [
    defect(
        "refusals-of-the-framework",
        "Errors of the framework are returned without the error envelope.",
        "ERR-001",
        (
            RESPONSES,
            "    return _response(request, error.status_code, code, message, None, headers)",
            '    return Response(b\'{"detail": "no"}\', status_code=error.status_code, media_type="application/json")',
        ),
        only="ERR-009",
    ),
    defect(
        "conflicts-are-400",
        "CDV_CONFLICT is returned with status 400.",
        "ERR-002",
        (RESPONSES, '"CDV_CONFLICT": 409', '"CDV_CONFLICT": 400'),
        only="IDEM-005",
    ),
    defect(
        "json-called-text",
        "Successful JSON responses have the content type text/plain.",
        "ERR-003",
        (ANSWERS, 'b"content-type", b"application/json"', 'b"content-type", b"text/plain"'),
        only="REC-001",
    ),
    defect(
        "success-without-envelope",
        "A listing is returned without the envelope.",
        "ERR-004",
        (
            ANSWERS,
            """    return _JsonResponse(b'{"data":%b}' % data, headers)""",
            "    return _JsonResponse(data, headers)",
        ),
        only="LIST-013",
    ),
    defect(
        "malformed-json-is-500",
        "Malformed JSON causes an internal error.",
        "ERR-005 ERR-013",
        ("cdv_http/bodies.py", f"{_NOT_JSON} MalformedJson(malformed) from error", _NOT_JSON),
        only="ERR-013",
    ),
    defect(
        "long-header-is-500",
        "A request with an If-None-Match, Accept or Range header of more than 30 characters fails.",
        "ERR-005",
        (
            EDGE,
            "        given = traceparent_of(state.headers)\n",
            """        if any(name in _SHORT and len(it) > 30 for name, it in scope["headers"]):
            raise RuntimeError
        given = traceparent_of(state.headers)
""",
        ),
        (EDGE, "_BLOBS_PREFIX: Final", '_SHORT = {b"if-none-match", b"accept", b"range"}\n_BLOBS_PREFIX: Final'),
    ),
    defect(
        "stack-traces-shown",
        "Error messages contain a stack trace.",
        "ERR-006",
        (RESPONSES, _SAID, _SAID.replace("str(error)", '"".join(__import__("traceback").format_exception(error))')),
        only="REC-011",
    ),
    defect(
        "times-in-milliseconds",
        "Times have three fractional digits instead of six.",
        "ERR-007",
        ("cdv_core/domain/times.py", 'return f"{text}Z"', 'return f"{text[:23]}Z"'),
        only="REC-001",
    ),
    defect(
        "no-retry-after",
        "429 responses have no Retry-After header.",
        "ERR-008",
        (RESPONSES, "    if isinstance(error, Unavailable | RateLimited):", "    if False:"),
        only="LIMIT-005",
        settings=_FEW,
    ),
    defect(
        "unknown-path-is-400",
        "An unknown path returns the code CDV_BAD_REQUEST.",
        "ERR-009",
        (RESPONSES, '    404: ("CDV_NOT_FOUND",', '    404: ("CDV_BAD_REQUEST",'),
    ),
    defect(
        "no-allow",
        "405 responses have no Allow header.",
        "ERR-010",
        (RESPONSES, '{"Allow": allowed_methods(request)} if error.status_code == 405 else {}', "{}"),
    ),
    defect(
        "any-media-type",
        "The media type of a body is not checked.",
        "ERR-011 ERR-014",
        (REQUESTS, "    if not _is_json(", "    if False and not _is_json("),
    ),
    defect(
        "no-charset",
        "application/json with a charset is rejected.",
        "ERR-012",
        (
            REQUESTS,
            '    return media_type == "application/json" and all(',
            '    return media_type == "application/json" and not pairs and all(',
        ),
    ),
    defect(
        "token-before-the-body",
        "The token is checked before size and media type.",
        "ERR-014",
        (AUTHENTICATION, _READ, "    subject = await authenticate(request, tokens)\n" + _READ),
        (AUTHENTICATION, _WHO, "    no_parameters(request)\n"),
    ),
    defect(
        "json-before-the-token",
        "The JSON and the shape of a create are checked before the token.",
        "ERR-015",
        (
            AUTHENTICATION,
            _WHO,
            '    if request.scope["path"] == "/v1/repo/record":\n'
            "        from cdv_http.bodies import CreateRecordBody, decode_body\n\n"
            "        decode_body(raw, CreateRecordBody)\n" + _WHO,
        ),
    ),
    defect(
        "did-before-the-shape",
        "The did of a create is compared with the subject before the shape is checked.",
        "ERR-016",
        (
            ROUTE,
            _BODY,
            '    if __import__("json").loads(raw).get("did") != subject:\n'
            '        raise __import__("cdv_core.errors").errors.DidMismatch("did")\n' + _BODY,
        ),
    ),
    defect(
        "schema-before-the-did",
        "The schema is checked before the did is compared with the subject.",
        "ERR-017",
        (USE_CASE, "        _authorise(request, subject)\n        now", "        now"),
        (
            USE_CASE,
            "        return await self._write(",
            "        _authorise(request, subject)\n        return await self._write(",
        ),
    ),
    defect(
        "schema-before-the-key",
        "The schema is checked before the idempotency key.",
        "ERR-018",
        (USE_CASE, "            if request.key is None:\n                raise\n", "            raise\n"),
    ),
    defect(
        "refusals-by-chance",
        "A request that is rejected with 400 gets one of two error codes at random.",
        "ERR-019",
        (
            RESPONSES,
            _SAID,
            _SAID.replace(
                "error.code",
                '__import__("random").choice([error.code, "CDV_BAD_REQUEST"]) if status == 400 else error.code',
            ),
        ),
    ),
]
