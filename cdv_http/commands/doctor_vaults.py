"""The vault that `cdv doctor` examines: in this process, through the very adapters that would serve, or at a URL."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.error import HTTPError
from urllib.parse import quote, urljoin
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from cdv_adapters.service import Service
from cdv_core.domain.identifiers import Did
from cdv_core.domain.media import Asset
from cdv_core.errors import Unavailable

COLLECTION: Final = "com.registryaccord.profile"
RECORD: Final = {"displayName": "cdv doctor"}
_SOCKET_SECONDS: Final = 5.0  # ours: less than a step's time, so that no thread outlives its step by much
_ANSWER_MAX_BYTES: Final = 1024 * 1024


class Wrong(Exception):
    """An answer came, and it is not what it should be. `dependency`: what has gone wrong, if that can be told."""

    def __init__(self, reason: str, dependency: str | None = None) -> None:
        super().__init__(reason)
        self.dependency = dependency


class ExaminedVault(Protocol):
    """What is done with a vault, and how: each call is one step."""

    async def write(self, key: str) -> tuple[str, str]:
        """Write RECORD under that idempotency key; return its URI and CID."""
        ...

    async def list(self) -> list[tuple[str, str]]:
        """Return the URI and the CID of each record of the DID."""
        ...

    async def announce(self, mime_type: str, size: int) -> tuple[str, str]:
        """Return a new asset's id and its upload URL."""
        ...

    async def upload(self, url: str, content: bytes) -> None: ...

    async def finalize(self, asset_id: str, sha256: str) -> None: ...

    async def content(self, asset_id: str) -> bytes: ...


class OpenedVault:
    """A vault in this process. `assets`: what was announced."""

    def __init__(self, service: Service, did: Did) -> None:
        self._service = service
        self._vault = service.vault
        self._did = did
        self._web = Web(service.settings.s3_ca)
        self.assets: list[Asset] = []

    async def write(self, key: str) -> tuple[str, str]:
        receipt = await self._vault.records.create(
            did=self._did, collection=COLLECTION, record=RECORD, idempotency_key=key
        )
        return receipt.uri, receipt.cid

    async def list(self) -> list[tuple[str, str]]:
        page = await self._vault.records.list(did=self._did)
        return [(str(record.uri), record.cid) for record in page.records]

    async def announce(self, mime_type: str, size: int) -> tuple[str, str]:
        upload = await self._vault.media.init_upload(did=self._did, mime_type=mime_type, size=size)
        self.assets.append(upload.asset)
        return upload.asset.asset_id, upload.url

    async def upload(self, url: str, content: bytes) -> None:
        if self._service.served_blobs is None:
            await self._web.expect("PUT", url, content, dependency="object store")
        else:
            await self._service.served_blobs.receive(url.rpartition("/")[2], _whole(content))

    async def finalize(self, asset_id: str, sha256: str) -> None:
        await self._vault.media.finalize(asset_id=asset_id, sha256=sha256)

    async def content(self, asset_id: str) -> bytes:
        url = await self._vault.media.content_url(asset_id)
        if self._service.served_blobs is None:
            return (await self._web.expect("GET", url, dependency="object store"))[1]
        blob = await self._service.served_blobs.open(url.rpartition("/")[2])
        return b"".join([chunk async for chunk in blob.chunks()])


class ServedVault:
    """A vault at a URL, spoken to with a token of `did`. `published`: the URIs of what was acknowledged."""

    def __init__(self, base: str, did: Did, token: str) -> None:
        self._base = base.rstrip("/")
        self._did = did
        self._headers = {"Authorization": f"Bearer {token}"}
        self._web = Web(None)
        self.published: set[str] = set()

    async def write(self, key: str) -> tuple[str, str]:
        body = {"did": self._did, "collection": COLLECTION, "record": RECORD, "idempotencyKey": key}
        receipt = await self._call("POST", "/v1/repo/record", body)
        self.published.add(receipt["uri"])
        return receipt["uri"], receipt["cid"]

    async def list(self) -> list[tuple[str, str]]:
        page = await self._call("GET", f"/v1/repo/listRecords?did={quote(self._did, safe='')}")
        return [(record["uri"], record["cid"]) for record in page["records"]]

    async def announce(self, mime_type: str, size: int) -> tuple[str, str]:
        ticket = await self._call(
            "POST", "/v1/media/uploadInit", {"did": self._did, "mimeType": mime_type, "size": size}
        )
        return ticket["assetId"], ticket["uploadUrl"]

    async def upload(self, url: str, content: bytes) -> None:
        await self._web.expect("PUT", urljoin(self._base, url), content, dependency="object store")

    async def finalize(self, asset_id: str, sha256: str) -> None:
        asset = await self._call("POST", "/v1/media/finalize", {"assetId": asset_id, "sha256": sha256})
        self.published.add(asset["uri"])

    async def content(self, asset_id: str) -> bytes:
        url = f"{self._base}/v1/media/{asset_id}/content"
        location, content = await self._web.expect("GET", url, headers=self._headers, dependency="service")
        if location is None:
            return content
        # Without our token: the URL is signed, and the store is not to see it.
        return (await self._web.expect("GET", urljoin(url, location), dependency="object store"))[1]

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        encoded = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, "Content-Type": "application/json"}
        _, content = await self._web.expect(method, self._base + path, encoded, headers=headers, dependency="service")
        try:
            data: dict[str, Any] = json.loads(content)["data"]
        except (ValueError, KeyError, TypeError):
            raise Wrong(f"{path.partition('?')[0]}: the answer is none of a vault's", "service") from None
        return data


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


class Web:
    """Blocking HTTP in threads, each call bounded in time."""

    def __init__(self, ca_file: Path | None) -> None:
        trust = ssl.create_default_context(cafile=ca_file)
        self._opener: OpenerDirector = build_opener(_NoRedirect, HTTPHandler(), HTTPSHandler(context=trust))

    async def expect(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        dependency: str,
    ) -> tuple[str | None, bytes]:
        """Return where the answer redirects to, if it does, and its content.

        Raises: Wrong: it is a refusal. Unavailable: of `dependency`, there was none.
        """
        request = Request(url, body, dict(headers or {}), method=method)  # noqa: S310 - settings and signed URLs
        try:
            status, location, content = await asyncio.to_thread(self._ask, request)
        except OSError as error:
            raise Unavailable(dependency) from error
        if status >= 400:
            raise _refusal(status, content, dependency)
        return location, content

    def _ask(self, request: Request) -> tuple[int, str | None, bytes]:
        try:
            with self._opener.open(request, timeout=_SOCKET_SECONDS) as answer:
                return answer.status, None, answer.read(_ANSWER_MAX_BYTES)
        except HTTPError as answer:
            with answer:
                return answer.code, answer.headers.get("Location"), answer.read(_ANSWER_MAX_BYTES)


def _refusal(status: int, content: bytes, dependency: str) -> Wrong:
    try:
        error = json.loads(content)["error"]
        named = error.get("details", {}).get("dependency", dependency)
        return Wrong(f"{status} {error['code']}: {error['message']}", str(named))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Wrong(f"answered {status}", dependency)


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content
