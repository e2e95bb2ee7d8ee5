"""The security headers of every response, whichever layer sends it (ours; spec: conventions)."""

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
async def test_responses_of_every_status_have_the_security_headers(api: Api, ada: Creator, status: int) -> None:
    answer = await ANSWERS[status](api, ada)
    assert answer.status_code == status
    values = {name: answer.headers.get_list(name) for name in answer.headers}
    assert values["x-content-type-options"] == ["nosniff"]
    assert values["x-frame-options"] == ["DENY"]
    assert values["referrer-policy"] == ["no-referrer"]
    assert values["cross-origin-resource-policy"] == ["cross-origin"]
    assert values["content-security-policy"] == ["default-src 'none'; frame-ancestors 'none'"]
    assert values["server"] == ["cdv"]
    assert values["cache-control"] == ["no-store"]
    assert "strict-transport-security" not in values  # this was plain HTTP
    assert not {"x-powered-by", "via", "x-aspnet-version"} & set(values)


@pytest.mark.parametrize(
    ("peer", "values", "secure"),
    [
        (PROXY, ["https"], True),
        (PROXY, ["http"], False),
        (PROXY, [], False),
        (PROXY, ["https", "http"], False),
        ("203.0.113.9", ["https"], False),  # not a trusted proxy
    ],
)
async def test_x_forwarded_proto_is_accepted_from_trusted_proxies_only(
    tmp_path: Path, peer: str, values: list[str], secure: bool
) -> None:
    async with serving(tmp_path, trusted_proxies=(PROXY,)) as api:
        transport = httpx.ASGITransport(api.app, client=(peer, 1))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://vault.test") as http:
            for path in ("/healthz", "/v1/nope"):
                answer = await http.get(path, headers=[("X-Forwarded-Proto", each) for each in values])
                assert ("strict-transport-security" in answer.headers) == secure
            ada = api.creator()
            body = {"did": ada.did, "mimeType": "image/png", "size": 4}
            headers = [*ada.auth.items(), *(("X-Forwarded-Proto", each) for each in values)]
            ticket = (await http.post("/v1/media/uploadInit", json=body, headers=headers)).json()["data"]
            assert ticket["uploadUrl"].startswith("https://vault.test/" if secure else "http://vault.test/")
