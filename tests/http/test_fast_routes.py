"""The most frequent operations bypass the framework and respond as it would."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from litestar import Litestar

from cdv_core.use_cases.records import Records
from cdv_http.fast_routes import FastRoutes
from tests.http.api import Creator

_VARYING = {"date", "x-correlation-id", "x-ratelimit-remaining", "x-ratelimit-reset", "content-length", "etag"}

Call = tuple[str, str, dict[str, Any]]


async def calls(creator: Creator) -> dict[str, Call]:
    uri = (await creator.created())["uri"]
    image = {"did": creator.did, "mimeType": "image/png", "size": 4}
    unknown = {"assetId": "01M85VXXZ7T2JXB720KXQH381M", "sha256": "0" * 64}
    return {
        "a create": ("POST", "/v1/repo/record", {"json": creator.body()}),
        "a create without a body": ("POST", "/v1/repo/record", {}),
        "a create against its schema": ("POST", "/v1/repo/record", {"json": creator.body(record={"displayName": 1})}),
        "a record": ("GET", "/v1/repo/record", {"params": {"uri": uri}}),
        "a record's head": ("HEAD", "/v1/repo/record", {"params": {"uri": uri}}),
        "a record that is none": ("GET", "/v1/repo/record", {"params": {"uri": "at://x"}}),
        "a page": ("GET", "/v1/repo/listRecords", {"params": {"did": creator.did}}),
        "a page of nobody": ("GET", "/v1/repo/listRecords", {}),
        "an upload": ("POST", "/v1/media/uploadInit", {"json": image}),
        "a finalize of what is not there": ("POST", "/v1/media/finalize", {"json": unknown}),
        "another method": ("DELETE", "/v1/repo/record", {}),
        "the methods": ("OPTIONS", "/v1/repo/record", {}),
    }


async def send(creator: Creator, call: Call) -> httpx.Response:
    method, path, options = call
    return await creator.api.http.request(method, path, **{"headers": creator.auth, **options})


async def send_through_the_framework(creator: Creator, call: Call) -> httpx.Response:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FastRoutes, "_handler_of", lambda *_: None)
        return await send(creator, call)


def comparable(answer: httpx.Response) -> tuple[int, dict[str, str], Any]:
    """Return the part of a response that must be the same from both."""
    headers = {name: value for name, value in answer.headers.items() if name not in _VARYING}
    body = answer.json() if answer.content else {}
    return answer.status_code, headers, body.get("error", {}).get("message", sorted(body))


async def test_a_fast_route_responds_as_the_framework_does(ada: Creator) -> None:
    for name, call in (await calls(ada)).items():
        assert comparable(await send(ada, call)) == comparable(await send_through_the_framework(ada, call)), name


async def test_a_fast_route_reports_a_defect_as_the_framework_does(
    ada: Creator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    call = (await calls(ada))["a record"]
    monkeypatch.setattr(Records, "get", fail)
    direct = await send(ada, call)
    assert direct.status_code == 500
    assert comparable(direct) == comparable(await send_through_the_framework(ada, call))


@pytest.mark.parametrize("host", ["a b", "a/b"])
async def test_a_fast_route_refuses_an_invalid_host_as_the_framework_does(ada: Creator, host: str) -> None:
    method, path, options = (await calls(ada))["a page"]
    call = (method, path, {**options, "headers": {**ada.auth, "Host": host}})
    direct = await send(ada, call)
    assert direct.status_code == 400
    assert comparable(direct) == comparable(await send_through_the_framework(ada, call))


async def test_fast_routes_bypass_the_framework(ada: Creator, monkeypatch: pytest.MonkeyPatch) -> None:
    app: Any = ada.api.app
    while not isinstance(app, FastRoutes):
        app = app._app
    frequent = [call for call in (await calls(ada)).values() if call[:2] in app._handlers]
    assert {call[:2] for call in frequent} == set(app._handlers)

    async def fail(*_: object) -> None:
        raise AssertionError("through the framework")

    monkeypatch.setattr(Litestar, "__call__", fail)
    for call in frequent:
        assert (await send(ada, call)).status_code < 500
