"""Which origins' pages may call the API (spec: rate limits, sizes, CORS)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.http.api import Api, data, refused, serving

APP = "https://app.example.com"
OTHER = "http://localhost:3000"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}


@pytest.fixture(scope="module")
async def listed(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """A vault that allows two origins."""
    async with serving(tmp_path_factory.mktemp("listed"), cors_allowed_origins=(APP, OTHER)) as opened:
        yield opened


def words(header: str) -> set[str]:
    return {word.strip().lower() for word in header.split(",")}


def cors(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("path", ["/v1/repo/record", "/v1/repo/listRecords?did=did:example:a", "/healthz", "/v1/nope"])
@pytest.mark.parametrize("origin", [APP, "null", "https://evil.example"])
async def test_by_default_every_origin_is_denied(api: Api, path: str, origin: str) -> None:
    for answer in (
        await api.http.get(path, headers={"Origin": origin}),
        await api.http.post(path, headers={"Origin": origin}),
        await api.http.options(path, headers={"Origin": origin, **PREFLIGHT}),
    ):
        assert cors(answer) == {}


@pytest.mark.parametrize("origin", [APP, OTHER])
async def test_a_listed_origin_may_read_every_response(listed: Api, origin: str) -> None:
    creator, http = listed.creator(), listed.http
    for answer in (
        await creator.create(headers={"Origin": origin}),
        await http.get("/v1/nope", headers={"Origin": origin}),
        await http.delete("/v1/repo/record", headers={"Origin": origin}),
        await http.post("/v1/repo/record", headers={"Origin": origin}),
        await http.get(f"/v1/repo/listRecords?did={creator.did}", headers={"Origin": origin}),
    ):
        assert answer.headers["access-control-allow-origin"] == origin
        assert "origin" in words(answer.headers["vary"])
        exposed = words(answer.headers["access-control-expose-headers"])
        assert exposed >= {"x-correlation-id", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}
        assert exposed >= {"retry-after", "etag", "idempotent-replayed"}
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "https://evil.example",
            f"{APP}.evil.example",
            f"{APP}/",
            f"{APP}:443",
            "http://app.example.com",
            "null",
            "*",
        ),
        *("https://APP.example.com", "https://sub.app.example.com", "app.example.com", f"{APP}, {OTHER}", f" {APP}x"),
    ],
)
async def test_an_origin_that_is_not_listed_exactly_is_denied(listed: Api, origin: str) -> None:
    for answer in (
        await listed.http.get("/healthz", headers={"Origin": origin}),
        await listed.http.options("/v1/repo/record", headers={"Origin": origin, **PREFLIGHT}),
    ):
        assert answer.status_code in {200, 204}
        assert cors(answer) == {}
        assert "origin" in words(answer.headers["vary"])


@pytest.mark.parametrize("path", ["/v1/repo/record", "/v1/media/finalize", "/v1/blobs/upload/x", "/v1/nope"])
async def test_a_preflight_is_answered_without_authentication(listed: Api, path: str) -> None:
    answer = await listed.http.options(path, headers={"Origin": APP, **PREFLIGHT})
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == APP
    assert words(answer.headers["access-control-allow-methods"]) >= {"get", "post", "put"}
    allowed = words(answer.headers["access-control-allow-headers"])
    assert allowed >= {"authorization", "content-type", "idempotency-key", "x-correlation-id", "traceparent"}
    assert int(answer.headers["access-control-max-age"]) > 0
    assert answer.headers["x-correlation-id"]
    assert "x-ratelimit-limit" not in answer.headers


async def test_options_without_preflight_headers_returns_the_allowed_methods(listed: Api) -> None:
    answer = await listed.http.options("/v1/repo/record", headers={"Origin": APP})
    assert answer.status_code == 204
    assert words(answer.headers["allow"]) == {"get", "head", "options", "post"}


async def test_a_response_that_varies_by_authorization_also_varies_by_origin(listed: Api) -> None:
    creator = listed.creator()
    uri = (await creator.created())["uri"]
    for headers in ({}, {"Origin": APP}):
        assert words((await creator.get(uri, **headers)).headers["vary"]) == {"authorization", "origin"}


async def test_in_development_any_origin_may_be_allowed(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with serving(tmp_path_factory.mktemp("any"), cors_allowed_origins=("*",)) as api:
        answer = await api.creator().create(headers={"Origin": "https://anything.example"})
        assert data(answer)
        assert answer.headers["access-control-allow-origin"] == "*"
        refused(await api.http.get("/v1/nope", headers={"Origin": "null"}), 404, "CDV_NOT_FOUND")
