"""What is asked most is answered as the framework would."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from litestar import Litestar

from cdv_core.use_cases.records import Records
from cdv_http.fast_routes import FastRoutes
from tests.http.api import Creator

_VARYING = {"date", "x-correlation-id", "x-ratelimit-remaining", "x-ratelimit-reset", "content-length", "etag"}

Question = tuple[str, str, dict[str, Any]]


async def questions(creator: Creator) -> dict[str, Question]:
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


async def asked(creator: Creator, question: Question) -> httpx.Response:
    method, path, options = question
    return await creator.api.http.request(method, path, **{"headers": creator.auth, **options})


async def asked_of_the_framework(creator: Creator, question: Question) -> httpx.Response:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FastRoutes, "_handler_of", lambda *_: None)
        return await asked(creator, question)


def alike(answer: httpx.Response) -> tuple[int, dict[str, str], Any]:
    """Return what must be the same of two answers."""
    headers = {name: value for name, value in answer.headers.items() if name not in _VARYING}
    body = answer.json() if answer.content else {}
    return answer.status_code, headers, body.get("error", {}).get("message", sorted(body))


async def test_a_direct_answer_is_the_one_that_the_framework_gives(ada: Creator) -> None:
    for name, question in (await questions(ada)).items():
        assert alike(await asked(ada, question)) == alike(await asked_of_the_framework(ada, question)), name


async def test_a_defect_is_answered_as_the_framework_answers_it(ada: Creator, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    question = (await questions(ada))["a record"]
    monkeypatch.setattr(Records, "get", fail)
    direct = await asked(ada, question)
    assert direct.status_code == 500
    assert alike(direct) == alike(await asked_of_the_framework(ada, question))


@pytest.mark.parametrize("host", ["a b", "a/b"])
async def test_a_host_that_is_none_is_refused_as_the_framework_refuses_it(ada: Creator, host: str) -> None:
    method, path, options = (await questions(ada))["a page"]
    question = (method, path, {**options, "headers": {**ada.auth, "Host": host}})
    direct = await asked(ada, question)
    assert direct.status_code == 400
    assert alike(direct) == alike(await asked_of_the_framework(ada, question))


async def test_what_is_asked_most_does_not_go_through_the_framework(
    ada: Creator, monkeypatch: pytest.MonkeyPatch
) -> None:
    app: Any = ada.api.app
    while not isinstance(app, FastRoutes):
        app = app._app
    most_asked = [it for it in (await questions(ada)).values() if it[:2] in app._handlers]
    assert {it[:2] for it in most_asked} == set(app._handlers)

    async def fail(*_: object) -> None:
        raise AssertionError("through the framework")

    monkeypatch.setattr(Litestar, "__call__", fail)
    for question in most_asked:
        assert (await asked(ada, question)).status_code < 500
