"""What every answer says to browsers, whoever of the layers gives it (ours; spec: conventions)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from tests.http.api import Api, Creator, serving

PROXY = "198.51.100.7"


async def unavailable(api: Api, _: Creator) -> httpx.Response:
    api.app.admission.closing = True
    try:
        return await api.http.get("/readyz")
    finally:
        api.app.admission.closing = False


ANSWERS: dict[int, Callable[[Api, Creator], Awaitable[httpx.Response]]] = {
    200: lambda _, ada: ada.create(),
    204: lambda api, _: api.http.options("/v1/repo/record"),
    400: lambda _, ada: ada.create(did="no DID"),
    401: lambda api, _: api.http.post("/v1/repo/record", json={}),
    403: lambda _, ada: ada.create(did="did:example:someone-else"),
    404: lambda api, _: api.http.get("/v1/nope"),
    405: lambda api, _: api.http.delete("/v1/repo/record"),
    413: lambda _, ada: ada.post("/v1/repo/record", b" " * (1024 * 1024 + 1)),
    415: lambda _, ada: ada.post("/v1/repo/record", b"{}", **{"Content-Type": "text/plain"}),
    503: unavailable,
}


@pytest.mark.parametrize("status", ANSWERS)
async def test_every_answer_keeps_browsers_safe(api: Api, ada: Creator, status: int) -> None:
    answer = await ANSWERS[status](api, ada)
    assert answer.status_code == status
    said = {name: answer.headers.get_list(name) for name in answer.headers}
    assert said["x-content-type-options"] == ["nosniff"]
    assert said["x-frame-options"] == ["DENY"]
    assert said["referrer-policy"] == ["no-referrer"]
    assert said["cross-origin-resource-policy"] == ["cross-origin"]
    assert said["content-security-policy"] == ["default-src 'none'; frame-ancestors 'none'"]
    assert said["server"] == ["cdv"]
    assert said["cache-control"] == ["no-store"]
    assert "strict-transport-security" not in said  # this was plain HTTP
    assert not {"x-powered-by", "via", "x-aspnet-version"} & set(said)


@pytest.mark.parametrize(
    ("peer", "said", "secure"),
    [
        (PROXY, ["https"], True),
        (PROXY, ["http"], False),
        (PROXY, [], False),
        (PROXY, ["https", "http"], False),
        ("203.0.113.9", ["https"], False),  # whoever is no proxy of ours is not believed
    ],
)
async def test_a_proxy_that_is_trusted_says_how_the_client_came(
    tmp_path: Path, peer: str, said: list[str], secure: bool
) -> None:
    async with serving(tmp_path, trusted_proxies=(PROXY,)) as api:
        transport = httpx.ASGITransport(api.app, client=(peer, 1))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://vault.test") as http:
            for path in ("/healthz", "/v1/nope"):
                answer = await http.get(path, headers=[("X-Forwarded-Proto", each) for each in said])
                assert ("strict-transport-security" in answer.headers) == secure
            ada = api.creator()
            body = {"did": ada.did, "mimeType": "image/png", "size": 4}
            headers = [*ada.auth.items(), *(("X-Forwarded-Proto", each) for each in said)]
            ticket = (await http.post("/v1/media/uploadInit", json=body, headers=headers)).json()["data"]
            assert ticket["uploadUrl"].startswith("https://vault.test/" if secure else "http://vault.test/")
