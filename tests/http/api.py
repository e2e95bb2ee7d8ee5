"""The service under test, in process: the application, clients with tokens, and checks of every response."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from dependency_injector import providers
from litestar import Litestar
from litestar.types import ASGIApp
from pydantic import SecretStr

from cdv_adapters.clock.system import SystemClock
from cdv_adapters.container import Container, local_issuer
from cdv_adapters.service import Service
from cdv_adapters.settings import Settings
from cdv_adapters.tokens.local_key import LocalIssuer
from cdv_core.domain.identifiers import Did
from cdv_core.ports.schemas import SchemaSource
from cdv_http.app import create_app
from cdv_http.app_state import app_state_of
from cdv_http.middleware.load_shedding import LoadSheddingMiddleware
from tests.fakes.clock import FakeClock
from tests.leaks import signed_url
from tests.servers import Bucket

POST = "com.registryaccord.feed.post"
PROFILE = "com.registryaccord.profile"
FLAG = "com.registryaccord.moderation.flag"
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 20
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")  # spec: conventions, times


@dataclass
class Api:
    """An HTTP client of one vault, with tokens for anyone. `clock`, if given, is the vault's."""

    app: LoadSheddingMiddleware
    http: httpx.AsyncClient
    issuer: LocalIssuer
    settings: Settings
    clock: FakeClock | None = None

    @property
    def service(self) -> Service:
        """The service that the application has opened."""
        inner: Any = self.app
        while not isinstance(inner, Litestar):
            inner = inner._app
        return app_state_of(inner).service

    def creator(self, did: str = "") -> Creator:
        """Return a creator without records, or the owner of `did`."""
        return Creator(self, did or f"did:example:{secrets.token_hex(8)}")

    def token(self, did: str, ttl_seconds: int = 3600, now: datetime | None = None) -> str:
        moment = now or (self.clock.now() if self.clock else datetime.now(UTC))
        return self.issuer.issue(Did(did), ttl_seconds, moment)


@dataclass
class Creator:
    """A client with a token for one DID."""

    api: Api
    did: str
    auth: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.auth = {"Authorization": f"Bearer {self.api.token(self.did)}"}

    def body(self, **members: Any) -> dict[str, Any]:
        """Return a valid createRecord body; a member given as ... is left out."""
        good = {"collection": PROFILE, "did": self.did, "record": {"displayName": "Ada"}}
        return {name: value for name, value in {**good, **members}.items() if value is not ...}

    async def create(self, *, headers: dict[str, str] | None = None, **members: Any) -> httpx.Response:
        return await self.api.http.post(
            "/v1/repo/record", json=self.body(**members), headers={**self.auth, **(headers or {})}
        )

    async def created(self, **members: Any) -> dict[str, Any]:
        """Create a record that must be accepted; return the response's data."""
        return data(await self.create(**members))

    async def post(self, path: str, content: bytes, **headers: str) -> httpx.Response:
        """POST bytes as JSON."""
        return await self.api.http.post(
            path, content=content, headers={**self.auth, "Content-Type": "application/json", **headers}
        )

    async def get(self, uri: str, **headers: str) -> httpx.Response:
        return await self.api.http.get("/v1/repo/record", params={"uri": uri}, headers={**self.auth, **headers})

    async def list(self, **parameters: Any) -> httpx.Response:
        return await self.api.http.get(
            "/v1/repo/listRecords", params={"did": self.did, **parameters}, headers=self.auth
        )

    async def init(self, content: bytes = PNG, **members: Any) -> httpx.Response:
        good = {"did": self.did, "mimeType": "image/png", "size": len(content)}
        body = {name: value for name, value in {**good, **members}.items() if value is not ...}
        answer = await self.api.http.post("/v1/media/uploadInit", json=body, headers=self.auth)
        if answer.status_code == 200:
            signed_url(answer.json()["data"]["uploadUrl"])
        return answer

    async def staged(self, content: bytes = PNG, **members: Any) -> dict[str, Any]:
        """Init an upload and PUT the bytes; return the ticket."""
        ticket = data(await self.init(content, **members))
        assert (await self.api.http.put(ticket["uploadUrl"], content=content)).status_code == 200
        return ticket

    async def finalize(self, asset_id: str, sha256: str = "") -> httpx.Response:
        body = {"assetId": asset_id, "sha256": sha256 or hashlib.sha256(PNG).hexdigest()}
        return await self.api.http.post("/v1/media/finalize", json=body, headers=self.auth)

    async def uploaded(self, content: bytes = PNG, **members: Any) -> dict[str, Any]:
        """Upload and finalize an asset; return it."""
        ticket = await self.staged(content, **members)
        return data(await self.finalize(ticket["assetId"], hashlib.sha256(content).hexdigest()))

    async def meta(self, asset_id: str) -> httpx.Response:
        return await self.api.http.get(f"/v1/media/{asset_id}/meta", headers=self.auth)

    async def content(self, asset_id: str) -> httpx.Response:
        answer = await self.api.http.get(f"/v1/media/{asset_id}/content", headers=self.auth)
        signed_url(answer.headers.get("location", ""))
        return answer


def data(response: httpx.Response) -> dict[str, Any]:
    """Assert that the response is a success and return its data."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-correlation-id"]
    assert set(response.json()) in ({"data"}, {"data", "meta"})
    found: dict[str, Any] = response.json()["data"]
    assert isinstance(found, dict)
    return found


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert that the response is this error in the envelope and return the error."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert set(error) - {"details"} == {"code", "message", "correlationId"}
    assert error["code"] == code, error
    assert error["message"]
    assert isinstance(error.get("details", {}), dict)
    assert error["correlationId"] == response.headers["x-correlation-id"]
    assert ("retry-after" in response.headers) == (status in {429, 503})
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert "Traceback" not in response.text
    return error


def media_in(bucket: Bucket) -> dict[str, Any]:
    """Return the settings that keep media in this bucket."""
    return {
        "s3_endpoint": bucket.endpoint,
        "s3_bucket": bucket.name,
        "s3_access_key": SecretStr(bucket.access_key),
        "s3_secret_key": SecretStr(bucket.secret_key),
    }


@asynccontextmanager
async def serving(
    data_dir: Path, clock: FakeClock | None = None, schemas: SchemaSource | None = None, **settings: object
) -> AsyncIterator[Api]:
    """Serve a vault in `data_dir`, with these settings and no others, until the block ends."""
    plenty = {"rate_limit_writes": "1000000/minute", "rate_limit_reads": "1000000/minute"}
    chosen = Settings.embedded(data_dir).model_copy(update={**plenty, **settings})
    app = create_app(chosen)
    async with AsyncExitStack() as stack:
        with ExitStack() as overridden:
            overridden.enter_context(Container.clock.override(providers.Object(clock or SystemClock())))
            if schemas is not None:
                overridden.enter_context(Container.schemas.override(providers.Object(schemas)))
            await stack.enter_async_context(_lifespan(app))
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]  # each has its own names for ASGI's types
        http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://vault.test"))
        yield Api(app, http, local_issuer(chosen), chosen, clock)


@asynccontextmanager
async def _lifespan(app: ASGIApp) -> AsyncIterator[None]:
    to_app: asyncio.Queue[Any] = asyncio.Queue()
    from_app: asyncio.Queue[Any] = asyncio.Queue()
    scope: Any = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    running: asyncio.Task[None] = asyncio.create_task(app(scope, to_app.get, from_app.put))  # type: ignore[arg-type]
    try:
        await to_app.put({"type": "lifespan.startup"})
        assert (started := await from_app.get())["type"] == "lifespan.startup.complete", started
        yield
    finally:
        await to_app.put({"type": "lifespan.shutdown"})
        await running
