"""Laws: a law is an invariant that holds for every response of a run, whatever the request was.

Each response is checked against each law that applies to it.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from conformance.http.exchanges import Exchange

STATUS_OF_CODE: dict[str, set[int]] = {  # http-api §4
    "CDV_VALIDATION": {400},
    "CDV_BAD_REQUEST": {400, 405, 413, 415, 416, 431},  # 416: RFC 9110; 431: where the HTTP server allows it
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

Judge = Callable[[Exchange, Any], str | None]
Applies = Callable[[Exchange, Any], bool]


class Law(NamedTuple):
    """`applies`: whether a response is subject to the law. `violation`: how it breaks the law; None if it does not."""

    applies: Applies
    violation: Judge


LAWS: dict[str, Law] = {}
TESTED_TOO = {"ERR-005"}  # laws that also have tests of their own, so that --only can select them


def law(requirement: str, applies: Applies) -> Callable[[Judge], Judge]:
    """Register the decorated function as the law of a requirement, for the exchanges to which it `applies`."""

    def register(violation: Judge) -> Judge:
        LAWS[requirement] = Law(applies, violation)
        return violation

    return register


def _is_v1(exchange: Exchange, _: Any = None) -> bool:
    return "/v1/" in exchange.url.partition("?")[0]


def _is_refusal(exchange: Exchange, _: Any = None) -> bool:
    return _is_v1(exchange) and _status(exchange) >= 400


@law("ERR-001", lambda exchange, _: _is_refusal(exchange) and exchange.method != "HEAD")
def the_error_envelope(exchange: Exchange, body: Any) -> str | None:
    if not isinstance(body, dict) or set(body) != {"error"} or not isinstance(body["error"], dict):
        return "the error response is not {error: {...}}"
    error = body["error"]
    if not {"code", "message", "correlationId"} <= set(error) <= {"code", "message", "correlationId", "details"}:
        return f"the error has the members {sorted(error)}"
    if not all(isinstance(error[name], str) and error[name] for name in ("code", "message", "correlationId")):
        return "code, message and correlationId must be non-empty strings"
    return None if isinstance(error.get("details", {}), dict | list) else "details is neither an object nor a list"


@law("ERR-002", lambda exchange, body: _is_v1(exchange) and code_of(body) is not None)
def codes_and_statuses(exchange: Exchange, body: Any) -> str | None:
    code = code_of(body) or ""
    if code not in STATUS_OF_CODE:
        return f"unknown error code {code}"
    status = _status(exchange)
    return None if status in STATUS_OF_CODE[code] else f"{code} with status {status}"


@law("ERR-003", lambda exchange, body: _is_v1(exchange) and body is not None and not _is_content(exchange))
def json_is_called_json(exchange: Exchange, body: Any) -> str | None:
    kind = _header(exchange, "content-type").partition(";")[0].strip().lower()
    return None if kind == "application/json" else f"JSON with Content-Type {kind or 'missing'}"


def _is_json_success(exchange: Exchange, _: Any) -> bool:
    found = _JSON_ENDPOINT.search(exchange.url.partition("?")[0])
    return found is not None and _status(exchange) == 200 and exchange.method != "HEAD"


@law("ERR-004", _is_json_success)
def the_success_envelope(exchange: Exchange, body: Any) -> str | None:
    good = isinstance(body, dict) and {"data"} <= set(body) <= {"data", "meta"}
    if good and all(isinstance(member, dict) for member in body.values()):
        return None
    return "the successful response is not {data: {...}, meta?: {...}}"


@law("ERR-005", lambda *_: True)
def no_server_error(exchange: Exchange, body: Any) -> str | None:
    if exchange.response is None:
        return "the connection was closed without a response"
    # 502, 503 and 504 mean that something is unavailable, which proves nothing about the service.
    return f"status {_status(exchange)}" if _status(exchange) in {500, 501, 505} else None


@law("ERR-006", _is_refusal)
def no_stack_trace(exchange: Exchange, body: Any) -> str | None:
    found = _TRACE.search(exchange.response.text) if exchange.response is not None else None
    return f"the response contains a stack trace: {found.group()!r}" if found else None


@law("ERR-007", lambda exchange, body: _is_v1(exchange) and any(_times(_data(body))))
def times_are_utc_with_microseconds(exchange: Exchange, body: Any) -> str | None:
    for name, value in _times(_data(body)):
        if not isinstance(value, str) or not TIME.fullmatch(value):
            return f"{name} is {value!r}"
    return None


@law("ERR-008", lambda exchange, _: _is_v1(exchange) and _status(exchange) in {429, 503})
def retry_after(exchange: Exchange, body: Any) -> str | None:
    return None if _header(exchange, "retry-after") else f"{_status(exchange)} without Retry-After"


@law("AUTH-023", lambda exchange, _: _is_v1(exchange) and _status(exchange) == 401)
def challenges(exchange: Exchange, body: Any) -> str | None:
    found = _header(exchange, "www-authenticate")
    return None if found.split(" ")[0].lower() == "bearer" else f"401 with WWW-Authenticate: {found or 'missing'}"


@law("OPS-001", lambda exchange, _: exchange.response is not None)
def correlation(exchange: Exchange, body: Any) -> str | None:
    found = exchange.response.headers.get_list("x-correlation-id") if exchange.response is not None else []
    if len(found) != 1 or not CORRELATION_ID.fullmatch(found[0]):
        return f"X-Correlation-Id is {found}"
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict) and "correlationId" in error and error["correlationId"] != found[0]:
        return f"X-Correlation-Id is {found[0]}, correlationId in the error is {error['correlationId']}"
    return None


class Findings:
    """How many responses each law was checked on, and the first violation of each. Thread-safe."""

    def __init__(self) -> None:
        self.checked: Counter[str] = Counter()
        self.violations: dict[str, tuple[str, Exchange]] = {}
        self._lock = threading.Lock()

    def judge(self, exchange: Exchange) -> None:
        body = _json(exchange)
        if _is_from_proxy(exchange, body):
            return
        with self._lock:
            for requirement, each in LAWS.items():
                if not each.applies(exchange, body):
                    continue
                self.checked[requirement] += 1
                violation = each.violation(exchange, body)
                if violation and requirement not in self.violations:
                    self.violations[requirement] = violation, exchange


def code_of(body: Any) -> str | None:
    """Return the code of an error envelope; None if there is none."""
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else None


def _times(data: Any) -> Iterator[tuple[str, Any]]:
    """Yield the times that the service itself sets, without those in a record's value, which the creator wrote."""
    if isinstance(data, dict):
        yield from ((name, data[name]) for name in sorted(_TIMES & set(data)))
        records = data.get("records")
        for record in records if isinstance(records, list) else []:
            yield from _times(record)


def _json(exchange: Exchange) -> Any:
    try:
        return json.loads(exchange.response.content) if exchange.response is not None else None
    except ValueError:
        return None


def _data(body: Any) -> Any:
    return body.get("data") if isinstance(body, dict) else None


def _is_from_proxy(exchange: Exchange, body: Any) -> bool:
    """Return whether a proxy in front of the vault reported it unavailable: the contract does not bind proxies."""
    if _status(exchange) == 503:
        return code_of(body) is None and not _header(exchange, "x-correlation-id")
    return _status(exchange) in {502, 504}


def _is_content(exchange: Exchange) -> bool:
    return exchange.url.partition("?")[0].endswith("/content") and _status(exchange) == 200


def _status(exchange: Exchange) -> int:
    return exchange.response.status_code if exchange.response is not None else 0


def _header(exchange: Exchange, name: str) -> str:
    return str(exchange.response.headers.get(name, "")) if exchange.response is not None else ""
