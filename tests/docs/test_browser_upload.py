"""The scripts of the guide on uploads, in a real browser, on a page of another origin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdv_http.commands import doctor
from tests.browser.chromium import CHROMIUM, Chromium
from tests.browser.test_cors import origin
from tests.docs.pages import blocks
from tests.http.running import RunningVault

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
DID = "did:example:ada"


@pytest.fixture
def page() -> Iterator[str]:
    yield from origin()


def test_the_guides_scripts_upload_and_show_an_image(page: str, tmp_path: Path) -> None:
    upload, show = blocks("docs/guides/browser-upload.md", "js")
    vault = RunningVault(tmp_path / "data", CDV_CORS_ALLOWED_ORIGINS=page)
    try:
        browser = Chromium(tmp_path / "profile")
        try:
            browser.open(f"{page}/", width=1280)
            upload = upload.replace("https://vault.example.com", vault.base).replace("export ", "")
            program = f"""(async () => {{
                const token = {json.dumps(vault.token(DID))};
                {upload}
                const bytes = new Uint8Array({list(doctor._PIXEL)});
                const asset = await upload(new File([bytes], "été.png", {{type: "image/png"}}), "{DID}", token);
                const assetId = asset.assetId, image = new Image();
                {show}
                await image.decode();
                return {{filename: asset.filename, size: asset.size, sent: bytes.length, width: image.width}};
            }})()"""
            result = browser.evaluate(program)
        finally:
            browser.close()
    finally:
        vault.kill()
    assert result == {"filename": "été.png", "size": result["sent"], "sent": result["sent"], "width": 1}
