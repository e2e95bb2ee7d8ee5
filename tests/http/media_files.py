"""Files to upload, and the assets expected of them."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.http.api import PNG, Creator

UNKNOWN = "01M85VXXZ7T2JXB720KXQH381M"
SHA = hashlib.sha256(PNG).hexdigest()
JPEG, GIF = b"\xff\xd8\xff\xe0JFIF", b"GIF89a....."
MP4 = b"\x00\x00\x00\x18ftypmp42"


def permanent(creator: Creator, asset_id: str, **more: Any) -> dict[str, Any]:
    return {
        "assetId": asset_id,
        "uri": f"at://{creator.did}/com.registryaccord.media.asset/{asset_id}",
        "mimeType": "image/png",
        "size": len(PNG),
        "checksum": SHA,
        **more,
    }


async def put(ada: Creator, ticket: dict[str, Any], content: bytes) -> int:
    return (await ada.api.http.put(ticket["uploadUrl"], content=content)).status_code
