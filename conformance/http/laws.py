"""What holds for every answer whatever was asked: each answer of the run is put to each law."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from conformance.http.exchanges import Exchange

STATUS_OF_CODE: dict[str, set[int]] = {  # http-api §4
    "CDV_VALIDATION": {400},
    "CDV_BAD_REQUEST": {400, 405, 413, 415, 416, 431},  # 416 is RFC 9110's, 431 where the server lets us
    "CDV_SCHEMA_REJECT": {400},
    "CDV_CURSOR_INVALID": {400},
    "CDV_AUTHN": {401},
    "CDV_JWT_MALFORMED": {401},
    "CDV_JWT_EXPIRED": {401},
    "CDV_JWT_INVALID": {401},
    "CDV_AUTHZ": {403},
    "CDV_DID_MISMATCH": {403},
    "CDV_NOT_FOUND": {404},
    "CDV_CONFLICT": {409},
    "CDV_MEDIA_CHECKSUM": {400},
    "CDV_MEDIA_SIZE": {400},
    "CDV_MEDIA_TYPE": {400},
    "CDV_RATE_LIMIT": {429},
    "CDV_INTERNAL": {500},
    "CDV_UNAVAILABLE": {503},
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
CORRELATION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_TRACE = re.compile(
    r"Traceback \(most recent|\n[ \t]+at [\w.$]+\(|File \\?\"[^\"]+\", line \d+|\.py:\d+|goroutine \d+ \["
)
_JSON_ENDPOINT = re.compile(r"/v1/(repo/(record|listRecords)|media/(uploadInit|finalize|[^/]+/meta))$")
_TIMES = {"indexedAt", "createdAt", "expiresAt"}

Law = Callable[[Exchange, Any], str | None]
LAWS: dict[str, Law] = {}


def law(requirement: str) -> Callable[[Law], Law]:
    """Judge a requirement by every answer. A law returns what is wrong, None if nothing is."""

    def register(judge: Law) -> Law:
        LAWS[requirement] = judge
        return judge

    return register


@law("ERR-001")
def the_error_envelope(exchange: Exchange, body: Any) -> str | None:
    if not (_is_v1(exchange) and _status(exchange) >= 400) or exchange.method == "HEAD":
        return None
    if not isinstance(body, dict) or set(body) != {"error"} or not isinstance(body["error"], dict):
        return "a refusal that is not {error: {...}}"
    error = body["error"]
    if not {"code", "message", "correlationId"} <= set(error) <= {"code", "message", "correlationId", "details"}:
        return f"an error with the members {sorted(error)}"
    if not all(isinstance(error[name], str) and error[name] for name in ("code", "message", "correlationId")):
        return "code, message and correlationId must be texts that say something"
    return None if isinstance(error.get("details", {}), dict | list) else "details that are no object or list"


@law("ERR-002")
def codes_and_statuses(exchange: Exchange, body: Any) -> str | None:
    code = code_of(body)
    if not _is_v1(exchange) or code is None:
        return None
    if code not in STATUS_OF_CODE:
        return f"an unknown code: {code}"
    status = _status(exchange)
    return None if status in STATUS_OF_CODE[code] else f"{code} with status {status}"


@law("ERR-003")
def json_is_called_json(exchange: Exchange, body: Any) -> str | None:
    if not _is_v1(exchange) or body is None or _is_content(exchange):
        return None
    kind = _header(exchange, "content-type").partition(";")[0].strip().lower()
    return None if kind == "application/json" else f"JSON called {kind or 'nothing'}"


@law("ERR-004")
def the_success_envelope(exchange: Exchange, body: Any) -> str | None:
    if (
        not _JSON_ENDPOINT.search(exchange.url.partition("?")[0])
        or _status(exchange) != 200
        or exchange.method == "HEAD"
    ):
        return None
    good = isinstance(body, dict) and {"data"} <= set(body) <= {"data", "meta"}
    if good and all(isinstance(member, dict) for member in body.values()):
        return None
    return "a success that is not {data: {...}, meta?: {...}}"


@law("ERR-005")
def no_server_error(exchange: Exchange, body: Any) -> str | None:
    if exchange.answer is None:
        return "the connection was closed without an answer"
    # 502, 503 and 504 say that something is down, which is no verdict on the service.
    return f"status {_status(exchange)}" if _status(exchange) in {500, 501, 505} else None


@law("ERR-006")
def no_stack_trace(exchange: Exchange, body: Any) -> str | None:
    if not _is_v1(exchange) or _status(exchange) < 400 or exchange.answer is None:
        return None
    found = _TRACE.search(exchange.answer.text)
    return f"the answer shows {found.group()!r}" if found else None


@law("ERR-007")
def times_are_utc_with_microseconds(exchange: Exchange, body: Any) -> str | None:
    if not isinstance(body, dict) or not _is_v1(exchange):
        return None
    for name, value in _times(body.get("data")):
        if not isinstance(value, str) or not TIME.fullmatch(value):
            return f"{name} is {value!r}"
    return None


@law("ERR-008")
def retry_after(exchange: Exchange, body: Any) -> str | None:
    if not _is_v1(exchange) or _status(exchange) not in {429, 503}:
        return None
    return None if _header(exchange, "retry-after") else f"{_status(exchange)} without Retry-After"


@law("AUTH-023")
def challenges(exchange: Exchange, body: Any) -> str | None:
    if not _is_v1(exchange) or _status(exchange) != 401:
        return None
    found = _header(exchange, "www-authenticate")
    return None if found.split(" ")[0].lower() == "bearer" else f"401 with WWW-Authenticate: {found or 'missing'}"


@law("OPS-001")
def correlation(exchange: Exchange, body: Any) -> str | None:
    if exchange.answer is None:
        return None
    found = exchange.answer.headers.get_list("x-correlation-id")
    if len(found) != 1 or not CORRELATION_ID.fullmatch(found[0]):
        return f"X-Correlation-Id is {found}"
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict) and "correlationId" in error and error["correlationId"] != found[0]:
        return f"X-Correlation-Id is {found[0]}, correlationId in the error is {error['correlationId']}"
    return None


class Findings:
    """How often each law was put to the question, and the first answer that broke it."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.broken: dict[str, tuple[str, Exchange]] = {}
        self._lock = threading.Lock()

    def judge(self, exchange: Exchange) -> None:
        body = _json(exchange)
        with self._lock:
            for requirement, judged in LAWS.items():
                self.asked[requirement] += 1
                wrong = judged(exchange, body)
                if wrong and requirement not in self.broken:
                    self.broken[requirement] = wrong, exchange


def code_of(body: Any) -> str | None:
    """Return an envelope's code."""
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else None


def _times(data: Any) -> Iterator[tuple[str, Any]]:
    """Yield the times that the service itself says; a record's value is the creator's."""
    if isinstance(data, dict):
        yield from ((name, data[name]) for name in sorted(_TIMES & set(data)))
        records = data.get("records")
        for record in records if isinstance(records, list) else []:
            yield from _times(record)


def _json(exchange: Exchange) -> Any:
    try:
        return json.loads(exchange.answer.content) if exchange.answer is not None else None
    except ValueError:
        return None


def _is_v1(exchange: Exchange) -> bool:
    return "/v1/" in exchange.url.partition("?")[0]


def _is_content(exchange: Exchange) -> bool:
    return exchange.url.partition("?")[0].endswith("/content") and _status(exchange) == 200


def _status(exchange: Exchange) -> int:
    return exchange.answer.status_code if exchange.answer is not None else 0


def _header(exchange: Exchange, name: str) -> str:
    return str(exchange.answer.headers.get(name, "")) if exchange.answer is not None else ""
