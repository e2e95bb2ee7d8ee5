"""The API's reference: the OpenAPI document, and the same for people, without a script and without another host."""

from __future__ import annotations

from functools import cache
from html import escape
from typing import Any

import msgspec
from litestar import Response, get

from cdv_http.openapi import openapi_document

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1f;background:#fff}
h2{margin-top:2.5rem;font-size:1.1rem}code,pre{font:14px/1.45 ui-monospace,monospace;overflow-wrap:anywhere}
pre{background:#f4f4f7;padding:.75rem;overflow:auto;border-radius:6px}table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;border-bottom:1px solid #e3e3e8}
.method{display:inline-block;min-width:3.2rem;font-weight:700;color:#0b57d0}@media(prefers-color-scheme:dark){
body{color:#e6e6ea;background:#16161a}pre{background:#212127}td,th{border-color:#33333b}.method{color:#8ab4f8}a{color:#8ab4f8}}
"""
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"


@get("/openapi.json")
async def openapi_json() -> Response[bytes]:
    """Return the OpenAPI document."""
    return Response(_document_bytes(), media_type="application/json", headers={"Cache-Control": "public, max-age=300"})


@get("/docs")
async def reference() -> Response[str]:
    """Return the reference as a page."""
    headers = {"Content-Security-Policy": _PAGE_POLICY, "Cache-Control": "public, max-age=300"}
    return Response(_page(), media_type="text/html", headers=headers)


@cache
def _document_bytes() -> bytes:
    return msgspec.json.encode(openapi_document())


@cache
def _page() -> str:
    document = openapi_document()
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    contents = "".join(
        f"<li><a href='#{o['operationId']}'><code>{m.upper()} {escape(p)}</code></a> {escape(o['summary'])}</li>"
        for m, p, o in operations
    )
    sections = "".join(_operation(*operation) for operation in operations)
    schemas = "".join(
        f"<h2 id='{name}'>{name}</h2><pre>{escape(_pretty(schema))}</pre>"
        for name, schema in document["components"]["schemas"].items()
    )
    info = document["info"]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style>"
        f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1><p>{escape(info['description'])} "
        f"<a href='/openapi.json'>openapi.json</a></p><ul>{contents}</ul>{sections}<h1>Schemas</h1>{schemas}</html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    token = " Needs a bearer token." if operation["security"] == [{"bearer": []}] else ""
    name = operation["operationId"]
    head = (
        f"<h2 id='{name}'><span class=method>{method.upper()}</span> <code>{escape(path)}</code></h2>"
        f"<p>{escape(operation['summary'])}.{token}</p>"
    )
    parameters = "".join(
        _row(
            f"<code>{escape(parameter['name'])}</code>",
            parameter["in"] + (", required" if parameter["required"] else ""),
            escape(parameter["description"]),
        )
        for parameter in operation["parameters"]
    )
    body = operation.get("requestBody")
    request = f"<p>Body: {_schema_link(body['content'])}</p>" if body else ""
    answers = "".join(
        _row(f"<code>{status}</code>", escape(answer["description"]), _schema_link(answer.get("content", {})))
        for status, answer in operation["responses"].items()
    )
    return f"{head}<table>{parameters}</table>{request}<table>{answers}</table>"


def _row(*cells: str) -> str:
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _schema_link(content: dict[str, Any]) -> str:
    schema = content.get("application/json", {}).get("schema", {})
    reference = schema.get("$ref") or schema.get("properties", {}).get("data", {}).get("$ref", "")
    name = reference.rpartition("/")[2]
    return f"<a href='#{name}'>{name}</a>" if name else ""


def _pretty(schema: dict[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode()
