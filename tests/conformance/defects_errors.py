"""Defects of error responses: their form, and the order of checks."""

from __future__ import annotations

from tests.conformance.defects_model import Defect, defect

RESPONSES = "cdv_http/error_responses.py"
EDGE = "cdv_http/middleware/edge.py"
REQUESTS = "cdv_http/requests.py"
ANSWERS = "cdv_http/responses.py"
ROUTE = "cdv_http/routes/records.py"
USE_CASE = "cdv_core/use_cases/records.py"

_READ = "    try:\n        raw = await read_json(request, max_bytes)\n"
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
        "What the framework refuses is answered in its own words.",
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
        "CDV_CONFLICT has the status 400.",
        "ERR-002",
        (RESPONSES, '"CDV_CONFLICT": 409', '"CDV_CONFLICT": 400'),
        only="IDEM-005",
    ),
    defect(
        "json-called-text",
        "JSON is called text/plain.",
        "ERR-003",
        (ANSWERS, 'b"content-type", b"application/json"', 'b"content-type", b"text/plain"'),
        only="REC-001",
    ),
    defect(
        "success-without-envelope",
        "A listing is not in the envelope.",
        "ERR-004",
        (ANSWERS, """    return _JsonResponse(b'{"data":%b}' % data, headers)""", "    return _Json(data, headers)"),
        only="LIST-013",
    ),
    defect(
        "malformed-json-is-500",
        "JSON that is none makes the server fail.",
        "ERR-005 ERR-013",
        ("cdv_http/bodies.py", f"{_NOT_JSON} MalformedJson(malformed) from error", _NOT_JSON),
        only="ERR-013",
    ),
    defect(
        "long-header-is-500",
        "A header of more than 30 characters, where few have so many, makes the server fail.",
        "ERR-005",
        (
            EDGE,
            "        given = traceparent_of(state.headers)\n",
            """        if any(name in _SHORT and len(it) > 30 for name, it in scope["headers"]):
            raise RuntimeError
        given = traceparent_of(state.headers)
""",
        ),
        (EDGE, "_MEDIA: Final", '_SHORT = {b"if-none-match", b"accept", b"range"}\n_MEDIA: Final'),
    ),
    defect(
        "stack-traces-shown",
        "A refusal shows where in the code it came from.",
        "ERR-006",
        (RESPONSES, _SAID, _SAID.replace("str(error)", '"".join(__import__("traceback").format_exception(error))')),
        only="REC-011",
    ),
    defect(
        "times-in-milliseconds",
        "Times have three digits.",
        "ERR-007",
        ("cdv_core/domain/times.py", 'return f"{text}Z"', 'return f"{text[:23]}Z"'),
        only="REC-001",
    ),
    defect(
        "no-retry-after",
        "429 does not say when to come again.",
        "ERR-008",
        (RESPONSES, "    if isinstance(error, Unavailable | RateLimited):", "    if False:"),
        only="LIMIT-005",
        settings=_FEW,
    ),
    defect(
        "unknown-path-is-400",
        "An unknown path is a bad request.",
        "ERR-009",
        (RESPONSES, '    404: ("CDV_NOT_FOUND",', '    404: ("CDV_BAD_REQUEST",'),
    ),
    defect(
        "no-allow",
        "405 does not say what is allowed.",
        "ERR-010",
        (RESPONSES, '{"Allow": allowed_methods(request)} if error.status_code == 405 else {}', "{}"),
    ),
    defect(
        "any-media-type",
        "A body of any media type is read.",
        "ERR-011 ERR-014",
        (REQUESTS, "    if not _is_json(", "    if False and not _is_json("),
    ),
    defect(
        "no-charset",
        "application/json with a charset is refused.",
        "ERR-012",
        (
            REQUESTS,
            '    return media_type == "application/json" and all(',
            '    return media_type == "application/json" and not pairs and all(',
        ),
    ),
    defect(
        "token-before-the-body",
        "Who asks is looked at before size and media type.",
        "ERR-014",
        (REQUESTS, _READ, "    subject = await authenticate(request, tokens)\n" + _READ),
        (REQUESTS, _WHO, "    no_parameters(request)\n"),
    ),
    defect(
        "json-before-the-token",
        "JSON and shape are looked at before who asks.",
        "ERR-015",
        (
            REQUESTS,
            _WHO,
            '    if request.scope["path"] == "/v1/repo/record":\n'
            "        from cdv_http.bodies import CreateRecordBody, decode_body\n\n"
            "        decode_body(raw, CreateRecordBody)\n" + _WHO,
        ),
    ),
    defect(
        "did-before-the-shape",
        "Whose record it is is looked at before its shape.",
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
        "The schema is looked at before whose record it is.",
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
        "The schema is looked at before the used key.",
        "ERR-018",
        (USE_CASE, "            if request.key is None:\n                raise\n", "            raise\n"),
    ),
    defect(
        "refusals-by-chance",
        "The same request is refused now with one code, now with another.",
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
