"""The API reference as one HTML page, made from the OpenAPI document, without scripts or other hosts."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

Json = Mapping[str, Any]

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1b1b1f;--soft:#5c5c66;--paper:#fff;--well:#f4f4f7;--line:#e3e3e8;--link:#0b57d0}
@media(prefers-color-scheme:dark){
:root{--ink:#e6e6ea;--soft:#a0a0ab;--paper:#16161a;--well:#212127;--line:#33333b;--link:#8ab4f8}}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
body{color:var(--ink);background:var(--paper)}a{color:var(--link)}h1 small,.soft{color:var(--soft);font-weight:400}
h2{margin:3rem 0 0;text-transform:capitalize}h3{margin:2.5rem 0 0;font-size:1.1rem;overflow-wrap:anywhere}
h4{margin:1rem 0 0;font-size:.95rem}p{margin:.4rem 0}code{font:.875em/1.5 ui-monospace,monospace}
table{border-collapse:collapse;width:100%;margin:.2rem 0}
th,td{text-align:left;vertical-align:top;padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line)}
th{font-weight:400;white-space:nowrap;width:1%}td{overflow-wrap:anywhere}td:last-child{padding-right:0}
td.kind{white-space:nowrap;width:1%;color:var(--soft)}nav table{margin:.5rem 0 1rem}nav th{min-width:21rem}
nav a{text-decoration:none}.method{display:inline-block;min-width:3.4rem;padding:0 .4rem;border-radius:4px}
.method{text-align:center;font:700 .8em/1.7 ui-monospace,monospace;color:var(--link);background:var(--well)}
.chip{padding:0 .35rem;border-radius:4px;background:var(--well);white-space:nowrap}
@media(max-width:45rem){
table,tbody,tr,th,td,td.kind,nav th{display:block;width:auto;border:0;padding:0;white-space:normal;min-width:0}
tr{padding:.4rem 0;border-bottom:1px solid var(--line)}th{overflow-wrap:anywhere}}
"""
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "frame-ancestors 'none'"
)
_CODE: Final = re.compile(r"CDV_[A-Z_]+")
_TICKED: Final = re.compile(r"`([^`]*)`")


def reference_page(document: Json) -> str:
    """Return the HTML page that shows every operation and schema of our OpenAPI document."""
    info, schemas = document["info"], document["components"]["schemas"]
    operations: dict[str, list[tuple[str, str, Json]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            operations[operation["tags"][0]].append((method, path, operation))
    contents = "".join(
        _table((_title(m, p, f"#{o['operationId']}"), f"<td>{escape(o['summary'])}</td>") for m, p, o in its)
        for its in operations.values()
    )
    sections = "".join(
        f"<h2>{escape(tag)}</h2>{''.join(_operation(*it) for it in its)}" for tag, its in operations.items()
    )
    members = "".join(f"<h3 id='{name}'><code>{name}</code></h3>{_members(it)}" for name, it in schemas.items())
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style>"
        f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>"
        f"<p>{escape(info['description'])} This page is generated from <a href='/openapi.json'>openapi.json</a>.</p>"
        f"<nav>{contents}</nav><main>{sections}<h2>Schemas</h2>{members}</main></html>"
    )


def _operation(method: str, path: str, operation: Json) -> str:
    tokens = {0: "", 1: " Requires a bearer token.", 2: " Requires a bearer token if <code>CDV_READ_AUTH=token</code>."}
    parts = [
        f"<h3 id='{operation['operationId']}'>{_name(method, path)}</h3>",
        f"<p>{_text(operation['summary'])}.{tokens[len(operation['security'])]}</p>",
        "<h4>Parameters</h4>",
        _table(_parameter(it) for it in operation["parameters"]),
    ]
    if "requestBody" in operation:
        parts.append(f"<h4>Body</h4><p>{_content(operation['requestBody']['content'])}</p>")
    responses = ((f"<code>{status}</code>", _response(it)) for status, it in operation["responses"].items())
    return "".join([*parts, "<h4>Responses</h4>", _table(responses)])


def _title(method: str, path: str, address: str) -> str:
    return f"<a href='{address}'>{_name(method, path)}</a>"


def _name(method: str, path: str) -> str:
    return f"<span class=method>{method.upper()}</span> <code>{escape(path)}</code>"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    """Return a table with one row for each pair of a row heading and its cells."""
    return "<table>" + "".join(f"<tr><th>{heading}</th>{cells}</tr>" for heading, cells in rows) + "</table>"


def _parameter(parameter: Json) -> tuple[str, str]:
    kind = parameter["in"] + (", required" if parameter["required"] else "")
    rule = _rule(parameter["schema"])
    meaning = _text(parameter["description"]) + (f" <span class=soft>({rule})</span>" if rule else "")
    return f"<code>{escape(parameter['name'])}</code>", f"<td class=kind>{kind}</td><td>{meaning}</td>"


def _response(response: Json) -> str:
    is_error = "CDV_" in response["description"]
    content = "" if is_error else _content(response.get("content", {}))
    links = ", ".join(
        f"<a href='#{it['operationId']}'>{it['operationId']}</a>" for it in response.get("links", {}).values()
    )
    next_steps = f" <span class=soft>then {links}</span>" if links else ""
    return f"<td>{_text(response['description'])} {content}{next_steps}</td>"


def _content(content: Json) -> str:
    parts = []
    for media_type, holder in content.items():
        schema = holder["schema"]
        properties = schema.get("properties", {})
        names = [part["$ref"] for part in (schema, *properties.values()) if "$ref" in part]
        parts.append(" ".join(_reference(name) for name in names) or f"<code>{escape(media_type)}</code>")
    return " ".join(parts)


def _members(schema: Json) -> str:
    required = schema.get("required", [])
    return _table(
        (
            f"<code>{escape(name)}</code>",
            f"<td class=kind>{'required' if name in required else 'optional'}</td><td>{_type(it)}</td>",
        )
        for name, it in schema.get("properties", {}).items()
    )


def _type(schema: Json) -> str:
    if "$ref" in schema:
        return _reference(schema["$ref"])
    if "anyOf" in schema and "type" not in schema:
        return " or ".join(_type(it) for it in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    rule = _rule(schema)
    return escape(str(schema.get("type", "anything"))) + (f" <span class=soft>({rule})</span>" if rule else "")


def _rule(schema: Json) -> str:
    """Return the constraints on a value, beyond its type."""
    rules = [escape(schema["description"])] if "description" in schema else []
    rules += [f"{words} {schema[word]}" for word, words in _BOUNDS.items() if word in schema]
    if "enum" in schema:
        rules.append("one of " + " ".join(f"<code class=chip>{escape(str(it))}</code>" for it in schema["enum"]))
    if "pattern" in schema and "description" not in schema:
        rules.append(f"<code>{escape(schema['pattern'])}</code>")
    return ", ".join(rules)


_BOUNDS: Final = {
    "minimum": "at least",
    "maximum": "at most",
    "default": "default",
    "maxLength": "maximum length",
}


def _reference(reference: str) -> str:
    name = reference.rpartition("/")[2]
    return f"<a href='#{name}'><code>{name}</code></a>"


def _text(text: str) -> str:
    """Return text as HTML, with backticks and error codes turned into <code> elements."""
    ticked = _TICKED.sub(r"<code>\1</code>", escape(text))
    return _CODE.sub(lambda code: f"<code class=chip>{code[0]}</code>", ticked)
