"""The vault that `cdv doctor` examines: in this process, with the adapters that would serve it, or at a URL."""

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

COLLECTION: Final = "com.registryaccord.profile"
RECORD: Final = {"displayName": "cdv doctor"}
_SOCKET_SECONDS: Final = 5.0  # ours: less than a step's time limit, so that no thread outlives its step by much
_RESPONSE_MAX_BYTES: Final = 1024 * 1024


class UnexpectedResponse(Exception):
    """A dependency did not respond as expected, or not at all. `dependency`: which one, if known."""

    def __init__(self, reason: str, dependency: str | None = None) -> None:
        super().__init__(reason)
        self.dependency = dependency


class ExaminedVault(Protocol):
    """The operations on a vault; each call is one step."""

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
    """A vault in this process. `assets`: those that were announced."""

    def __init__(self, service: Service, did: Did) -> None:
        self._service = service
        self._vault = service.vault
        self._did = did
        self._http = HttpClient(service.settings.s3_ca)
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
            await self._http.expect("PUT", url, content, dependency="object_store")
        else:
            await self._service.served_blobs.receive(url.rpartition("/")[2], _whole(content))

    async def finalize(self, asset_id: str, sha256: str) -> None:
        await self._vault.media.finalize(asset_id=asset_id, sha256=sha256)

    async def content(self, asset_id: str) -> bytes:
        url = await self._vault.media.content_url(asset_id)
        if self._service.served_blobs is None:
            return (await self._http.expect("GET", url, dependency="object_store"))[1]
        blob = await self._service.served_blobs.open(url.rpartition("/")[2])
        return b"".join([chunk async for chunk in blob.chunks()])


class ServedVault:
    """A vault at a URL, called with a token of `did`. `published`: the URIs of acknowledged records and assets."""

    def __init__(self, base: str, did: Did, token: str) -> None:
        self._base = base.rstrip("/")
        self._did = did
        self._headers = {"Authorization": f"Bearer {token}"}
        self._http = HttpClient(None)
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
        await self._http.expect("PUT", urljoin(self._base, url), content, dependency="object_store")

    async def finalize(self, asset_id: str, sha256: str) -> None:
        asset = await self._call("POST", "/v1/media/finalize", {"assetId": asset_id, "sha256": sha256})
        self.published.add(asset["uri"])

    async def content(self, asset_id: str) -> bytes:
        url = f"{self._base}/v1/media/{asset_id}/content"
        location, content = await self._http.expect("GET", url, headers=self._headers, dependency="service")
        if location is None:
            return content
        # Without our token: the URL is signed, and the store must not see the token.
        return (await self._http.expect("GET", urljoin(url, location), dependency="object_store"))[1]

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        encoded = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, "Content-Type": "application/json"}
        _, content = await self._http.expect(method, self._base + path, encoded, headers=headers, dependency="service")
        try:
            data: dict[str, Any] = json.loads(content)["data"]
        except (ValueError, KeyError, TypeError):
            raise UnexpectedResponse(
                f"{path.partition('?')[0]}: the response is not that of a vault", "service"
            ) from None
        return data


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


class HttpClient:
    """Blocking HTTP calls in threads, each with a timeout."""

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
        """Return the response's Location, if it is a redirect, and its content.

        Raises: UnexpectedResponse: an error response, or none.
        """
        request = Request(url, body, dict(headers or {}), method=method)  # noqa: S310 - settings and signed URLs
        try:
            status, location, content = await asyncio.to_thread(self._send, request)
        except OSError as error:
            raise UnexpectedResponse(str(error), dependency) from error
        if status >= 400:
            raise _error_of(status, content, dependency)
        return location, content

    def _send(self, request: Request) -> tuple[int, str | None, bytes]:
        try:
            with self._opener.open(request, timeout=_SOCKET_SECONDS) as response:
                return response.status, None, response.read(_RESPONSE_MAX_BYTES)
        except HTTPError as error:
            with error:
                return error.code, error.headers.get("Location"), error.read(_RESPONSE_MAX_BYTES)


def _error_of(status: int, content: bytes, dependency: str) -> UnexpectedResponse:
    try:
        error = json.loads(content)["error"]
        named = error.get("details", {}).get("dependency", dependency)
        return UnexpectedResponse(f"{status} {error['code']}: {error['message']}", str(named))
    except (ValueError, KeyError, TypeError, AttributeError):
        return UnexpectedResponse(f"responded with status {status}", dependency)


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content
