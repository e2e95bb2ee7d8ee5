"""Who sees what (spec: authentication, reads): collections that are their owner's only."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.http.api import FLAG, PROFILE, Api, Creator, data, refused, serving


@pytest.fixture(scope="module", params=["public", "token"])
async def api(
    request: pytest.FixtureRequest, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Api]:
    """The rule holds whatever CDV_READ_AUTH says."""
    async with serving(tmp_path_factory.mktemp("vault"), read_auth=request.param) as opened:
        yield opened


async def flag(creator: Creator) -> str:
    uri: str = (await creator.created(collection=FLAG, record={"subject": "at://x", "reason": "spam"}))["uri"]
    return uri


async def anonymous(api: Api, path: str, **parameters: str) -> httpx.Response:
    return await api.http.get(path, params=parameters)


async def test_an_owner_reads_their_own(ada: Creator) -> None:
    uri = await flag(ada)
    assert data(await ada.get(uri))["uri"] == uri
    assert [each["uri"] for each in data(await ada.list(collection=FLAG))["records"]] == [uri]
    assert [each["uri"] for each in data(await ada.list())["records"]] == [uri]


async def test_another_subject_is_refused(ada: Creator, bob: Creator) -> None:
    uri = await flag(ada)
    refused(await bob.get(uri), 403, "CDV_AUTHZ")
    refused(await bob.list(did=ada.did, collection=FLAG), 403, "CDV_AUTHZ")


async def test_an_anonymous_reader_is_asked_who_they_are(api: Api, ada: Creator) -> None:
    uri = await flag(ada)
    refused(await anonymous(api, "/v1/repo/record", uri=uri), 401, "CDV_AUTHN")
    refused(await anonymous(api, "/v1/repo/listRecords", did=ada.did, collection=FLAG), 401, "CDV_AUTHN")


async def test_nobody_learns_whether_there_is_one(api: Api, ada: Creator, bob: Creator) -> None:
    uri = f"at://{ada.did}/{FLAG}/01M85VXXZ7T2JXB720KXQH381M"
    refused(await ada.get(uri), 404, "CDV_NOT_FOUND")
    refused(await bob.get(uri), 403, "CDV_AUTHZ")
    refused(await anonymous(api, "/v1/repo/record", uri=uri), 401, "CDV_AUTHN")
    refused(await bob.list(did=ada.did, collection=FLAG), 403, "CDV_AUTHZ")


async def test_if_none_match_opens_no_record_of_another(ada: Creator, bob: Creator) -> None:
    uri = await flag(ada)
    refused(await bob.get(uri, **{"If-None-Match": "*"}), 403, "CDV_AUTHZ")
    answer = await ada.get(uri)
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.headers["vary"] == "Authorization, Origin"


async def test_a_listing_without_a_collection_leaves_them_out_for_others(ada: Creator, bob: Creator) -> None:
    expected = []
    for number in range(6):
        await flag(ada)
        expected.append((await ada.created(record={"displayName": f"{number}"}))["uri"])
        await flag(ada)
    assert [each["uri"] for each in data(await bob.list(did=ada.did))["records"]] == expected[::-1]
    assert len(data(await ada.list())["records"]) == 18
    # Pages are as exact for those who see less.
    for limit in (1, 2, 3, 5, 6):
        seen: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = data(await bob.list(did=ada.did, limit=limit, **cursor))
            seen += [each["uri"] for each in page["records"]]
            if "nextCursor" not in page:
                break
            assert len(page["records"]) == limit
            cursor = {"cursor": page["nextCursor"]}
        assert seen == expected[::-1]
        assert page["records"]


async def test_an_anonymous_listing_leaves_them_out_as_well(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with serving(tmp_path_factory.mktemp("open")) as api:
        ada = api.creator()
        await flag(ada)
        uri = (await ada.created())["uri"]
        await flag(ada)
        listed = data(await anonymous(api, "/v1/repo/listRecords", did=ada.did, limit="1"))
        assert [each["uri"] for each in listed["records"]] == [uri]
        assert "nextCursor" not in listed


async def test_a_collection_that_is_public_stays_so(ada: Creator, bob: Creator) -> None:
    uri = (await ada.created())["uri"]
    await flag(ada)
    assert data(await bob.get(uri))
    assert len(data(await bob.list(did=ada.did, collection=PROFILE))["records"]) == 1


async def test_a_cursor_of_the_owner_shows_others_no_more(ada: Creator, bob: Creator) -> None:
    await ada.created()
    await flag(ada)
    await flag(ada)
    cursor = data(await ada.list(limit=1))["nextCursor"]
    page = data(await bob.list(did=ada.did, cursor=cursor))
    assert [each["uri"].split("/")[3] for each in page["records"]] == [PROFILE]
