"""HEAD of an asset's content: clients follow the redirect with a HEAD too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adapters.s3_stores import request
from tests.http.api import PNG, Creator, data, media_in, serving
from tests.servers import Bucket


async def test_a_head_is_redirected_to_a_url_that_answers_head(ada: Creator) -> None:
    asset = await ada.uploaded()
    content = await ada.api.http.head(f"/v1/media/{asset['assetId']}/content", headers=ada.auth)
    assert (content.status_code, content.content) == (307, b"")
    followed = await ada.api.http.head(content.headers["location"])
    assert (followed.status_code, followed.content) == (200, b"")
    assert followed.headers["content-length"] == str(len(PNG))


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 403)])
async def test_in_a_bucket_a_head_is_redirected_to_a_url_signed_for_head_only(
    anyio_backend: str, tmp_path: Path, s3_bucket: Bucket, method: str, status: int
) -> None:
    async with serving(tmp_path / "vault", **media_in(s3_bucket)) as api:
        ada = api.creator()
        ticket = data(await ada.init())
        assert request("PUT", ticket["uploadUrl"], body=PNG).status == 200
        data(await ada.finalize(ticket["assetId"]))
        content = await api.http.head(f"/v1/media/{ticket['assetId']}/content", headers=ada.auth)
        assert content.status_code == 307
        followed = request(method, content.headers["location"])
    assert followed.status == status
    if status == 200:
        assert followed.headers["content-length"] == str(len(PNG))
        assert followed.headers["content-type"] == "image/png"
