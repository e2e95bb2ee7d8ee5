"""What the contract says of each operation, and what of that an OpenAPI document leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from conformance.http.vault import FINALIZE, INIT, LIST, RECORD

PATH = "path"  # a parameter there has the name that the document gives it


class Operation(NamedTuple):
    """`parameters`: each with its place. `answers`: by status; of those with a bar between them, one."""

    method: str
    path: str
    parameters: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


# http-api §3, and §2 for 401 and 403. What may come of any request, such as 413 or 429, may be described elsewhere.
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
    """Return what the document leaves out, in words."""
    described = {(method, path): rest for method, path, *rest in _operations(document)}
    missing = []
    for method, path, parameters, answers in OPERATIONS:
        name = f"{method.upper()} {path}"
        if (method, path) not in described:
            missing.append(name)
            continue
        given, responses = described[method, path]
        missing += [f"{name}: parameter {it}" for it in parameters if it not in given]
        missing += [
            f"{name}: answer {it}" for it in answers if not any(_is_told(each, responses) for each in it.split("|"))
        ]
    return missing


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, set[str], set[str]]]:
    """Yield each operation: its method, its path, its parameters and the statuses of its answers.

    Names in the path are left out, and so is the case of headers. Its path is also the one under its server's.
    """
    for path, item in document["paths"].items():
        item = _followed(document, item)
        for method, operation in item.items():
            if not isinstance(operation, dict):
                continue
            parameters = {
                _placed(_followed(document, it))
                for it in [*item.get("parameters", []), *operation.get("parameters", [])]
            }
            servers = operation.get("servers") or item.get("servers") or document.get("servers") or []
            for before in ["", *(urlsplit(it["url"]).path.rstrip("/") for it in servers)]:
                yield method, re.sub(r"\{[^}]*\}", "{}", before + path), parameters, {*operation.get("responses", {})}


def _placed(parameter: dict[str, Any]) -> str:
    place, name = parameter["in"], parameter["name"]
    if place == PATH:
        return PATH
    return f"{place} {name.lower() if place == 'header' else name}"


def _is_told(status: str, responses: set[str]) -> bool:
    """Tell whether an answer is described: by its status, with all of its kind, or, of a refusal, as any other."""
    kind = f"{status[0]}XX"
    return status in responses or kind in {it.upper() for it in responses} or ("default" in responses and kind > "3XX")


def _followed(document: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """Return the value that a reference within the document leads to, or the value itself."""
    while isinstance(reference := value.get("$ref"), str) and reference.startswith("#/"):
        found: Any = document
        for step in unquote(reference).split("/")[1:]:
            found = found[step.replace("~1", "/").replace("~0", "~")]
        value = found
    return value
