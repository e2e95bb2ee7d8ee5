"""What the contract says about each operation, and which of it an OpenAPI document leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from conformance.http.vault import FINALIZE, INIT, LIST, RECORD

PATH = "path"  # a path parameter; its name is up to the document


class Operation(NamedTuple):
    """`parameters`: "in name". `responses`: statuses; "200|307" means that one of them is enough."""

    method: str
    path: str
    parameters: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()


# http-api §3, and §2 for 401 and 403. Statuses common to all requests, such as 413 and 429, need not be repeated here.
OPERATIONS = (
    Operation("post", RECORD, ("header idempotency-key",), ("200", "400", "401", "403", "409")),
    Operation("get", RECORD, ("query uri",), ("200", "304", "400", "401", "403", "404")),
    Operation(
        "get",
        LIST,
        ("query did", "query collection", "query limit", "query cursor", "query since", "query until"),
        ("200", "400", "401", "403"),
    ),
    Operation("post", INIT, (), ("200", "400", "401", "403")),
    Operation("post", FINALIZE, (), ("200", "400", "401", "403", "404", "409")),
    Operation("get", "/v1/media/{}/meta", (PATH,), ("200", "401", "404")),
    Operation("get", "/v1/media/{}/content", (PATH,), ("200|307", "401")),
    Operation("get", "/healthz"),
    Operation("get", "/readyz", (), ("200", "503")),
    Operation("get", "/metrics"),
    Operation("get", "/openapi.json"),
    Operation("get", "/docs"),
)


def undescribed(document: dict[str, Any]) -> list[str]:
    """Return what the document leaves out, in words; empty if nothing."""
    described = {(method, path): rest for method, path, *rest in _operations(document)}
    missing = []
    for method, path, parameters, statuses in OPERATIONS:
        name = f"{method.upper()} {path}"
        if (method, path) not in described:
            missing.append(name)
            continue
        given, responses = described[method, path]
        missing += [f"{name}: parameter {it}" for it in parameters if it not in given]
        missing += [
            f"{name}: response {it}"
            for it in statuses
            if not any(_is_described(each, responses) for each in it.split("|"))
        ]
    return missing


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, set[str], set[str]]]:
    """Yield the method, path, parameters and statuses of each operation.

    Names of path parameters are removed and names of headers are in lower case. An operation is yielded with its path
    as written and with that path under each of its servers' base paths.
    """
    for path, item in document["paths"].items():
        item = _resolved(document, item)
        for method, operation in item.items():
            if not isinstance(operation, dict):
                continue
            parameters = {
                _parameter_key(_resolved(document, it))
                for it in [*item.get("parameters", []), *operation.get("parameters", [])]
            }
            servers = operation.get("servers") or item.get("servers") or document.get("servers") or []
            for before in ["", *(urlsplit(it["url"]).path.rstrip("/") for it in servers)]:
                yield method, re.sub(r"\{[^}]*\}", "{}", before + path), parameters, {*operation.get("responses", {})}


def _parameter_key(parameter: dict[str, Any]) -> str:
    place, name = parameter["in"], parameter["name"]
    if place == PATH:
        return PATH
    return f"{place} {name.lower() if place == 'header' else name}"


def _is_described(status: str, responses: set[str]) -> bool:
    """Return whether a status is described: by itself, by its range (4XX) or, for an error, by `default`."""
    kind = f"{status[0]}XX"
    return status in responses or kind in {it.upper() for it in responses} or ("default" in responses and kind > "3XX")


def _resolved(document: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """Return the value to which a $ref within the document leads, or the value itself if it is none."""
    while isinstance(reference := value.get("$ref"), str) and reference.startswith("#/"):
        found: Any = document
        for step in unquote(reference).split("/")[1:]:
            found = found[step.replace("~1", "/").replace("~0", "~")]
        value = found
    return value
