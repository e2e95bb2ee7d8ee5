"""Who may read owner-only collections (spec: authentication, reads)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.http.api import FLAG, PROFILE, Api, Creator, data, refused, serving


@pytest.fixture(scope="module", params=["public", "token"])
async def api(
    request: pytest.FixtureRequest, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Api]:
    """The rules are the same for every CDV_READ_AUTH."""
    async with serving(tmp_path_factory.mktemp("vault"), read_auth=request.param) as opened:
        yield opened


async def flag(creator: Creator) -> str:
    uri: str = (await creator.created(collection=FLAG, record={"subject": "at://x", "reason": "spam"}))["uri"]
    return uri


async def anonymous(api: Api, path: str, **parameters: str) -> httpx.Response:
    return await api.http.get(path, params=parameters)


async def test_an_owner_can_read_their_own_records(ada: Creator) -> None:
    uri = await flag(ada)
    assert data(await ada.get(uri))["uri"] == uri
    assert [each["uri"] for each in data(await ada.list(collection=FLAG))["records"]] == [uri]
    assert [each["uri"] for each in data(await ada.list())["records"]] == [uri]


async def test_another_subject_is_refused_with_403(ada: Creator, bob: Creator) -> None:
    uri = await flag(ada)
    refused(await bob.get(uri), 403, "CDV_AUTHZ")
    refused(await bob.list(did=ada.did, collection=FLAG), 403, "CDV_AUTHZ")


async def test_an_anonymous_reader_is_refused_with_401(api: Api, ada: Creator) -> None:
    uri = await flag(ada)
    refused(await anonymous(api, "/v1/repo/record", uri=uri), 401, "CDV_AUTHN")
    refused(await anonymous(api, "/v1/repo/listRecords", did=ada.did, collection=FLAG), 401, "CDV_AUTHN")


async def test_refusals_do_not_reveal_whether_a_record_exists(api: Api, ada: Creator, bob: Creator) -> None:
    uri = f"at://{ada.did}/{FLAG}/01M85VXXZ7T2JXB720KXQH381M"
    refused(await ada.get(uri), 404, "CDV_NOT_FOUND")
    refused(await bob.get(uri), 403, "CDV_AUTHZ")
    refused(await anonymous(api, "/v1/repo/record", uri=uri), 401, "CDV_AUTHN")
    refused(await bob.list(did=ada.did, collection=FLAG), 403, "CDV_AUTHZ")


async def test_if_none_match_reveals_no_record_of_another_owner(ada: Creator, bob: Creator) -> None:
    uri = await flag(ada)
    refused(await bob.get(uri, **{"If-None-Match": "*"}), 403, "CDV_AUTHZ")
    answer = await ada.get(uri)
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.headers["vary"] == "Authorization, Origin"


async def test_a_listing_without_a_collection_omits_owner_only_records_for_others(ada: Creator, bob: Creator) -> None:
    expected = []
    for number in range(6):
        await flag(ada)
        expected.append((await ada.created(record={"displayName": f"{number}"}))["uri"])
        await flag(ada)
    assert [each["uri"] for each in data(await bob.list(did=ada.did))["records"]] == expected[::-1]
    assert len(data(await ada.list())["records"]) == 18
    # Pages are full for those who may read fewer records too.
    for limit in (1, 2, 3, 5, 6):
        uris: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = data(await bob.list(did=ada.did, limit=limit, **cursor))
            uris += [each["uri"] for each in page["records"]]
            if "nextCursor" not in page:
                break
            assert len(page["records"]) == limit
            cursor = {"cursor": page["nextCursor"]}
        assert uris == expected[::-1]
        assert page["records"]


async def test_an_anonymous_listing_omits_owner_only_records(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with serving(tmp_path_factory.mktemp("open")) as api:
        ada = api.creator()
        await flag(ada)
        uri = (await ada.created())["uri"]
        await flag(ada)
        listed = data(await anonymous(api, "/v1/repo/listRecords", did=ada.did, limit="1"))
        assert [each["uri"] for each in listed["records"]] == [uri]
        assert "nextCursor" not in listed


async def test_a_public_collection_is_readable_by_others(ada: Creator, bob: Creator) -> None:
    uri = (await ada.created())["uri"]
    await flag(ada)
    assert data(await bob.get(uri))
    assert len(data(await bob.list(did=ada.did, collection=PROFILE))["records"]) == 1


async def test_a_cursor_of_the_owner_reveals_nothing_to_others(ada: Creator, bob: Creator) -> None:
    await ada.created()
    await flag(ada)
    await flag(ada)
    cursor = data(await ada.list(limit=1))["nextCursor"]
    page = data(await bob.list(did=ada.did, cursor=cursor))
    assert [each["uri"].split("/")[3] for each in page["records"]] == [PROFILE]
