"""Dependency failures: each row of the contract's table, with real servers that stop and start again."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest

from cdv_adapters.container import local_issuer
from cdv_adapters.settings import read_settings
from cdv_core.domain.identifiers import Did
from tests.chaos.replica import Replica
from tests.chaos.web_page import WebPages
from tests.servers import NatsServer, NoServer, PostgresServer, S3Server, own

DID = "did:example:ada"
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 100
HASH = hashlib.sha256(PNG).hexdigest()
UP = {"database": True, "object_store": True, "issuer": True, "events": True, "schemas": True}


class Stack:
    """The service with every production adapter, and its dependencies."""

    def __init__(
        self, folder: Path, postgres: PostgresServer, nats: NatsServer, s3: S3Server, issuer: WebPages, specs: WebPages
    ) -> None:
        self.postgres, self.nats, self.s3, self.issuer, self.specs = postgres, nats, s3, issuer, specs
        key = local_issuer(read_settings(data_dir=folder, jwt_issuer=issuer.url, jwt_audience="cdv"))
        issuer.pages["/.well-known/jwks.json"] = json.dumps({"data": key.jwks()}).encode()
        bucket = s3.create_bucket()
        self.settings = {
            "CDV_DATA_DIR": str(folder / "data"),
            "CDV_DB_DSN": postgres.create_database(),
            "CDV_NATS_URL": nats.url,
            "CDV_S3_ENDPOINT": s3.endpoint,
            "CDV_S3_BUCKET": bucket.name,
            "CDV_S3_ACCESS_KEY": s3.access_key,
            "CDV_S3_SECRET_KEY": s3.secret_key,
            "CDV_JWT_ISSUER": issuer.url,
            "CDV_JWT_AUDIENCE": "cdv",
            "CDV_SPECS_URL": f"{specs.url}/",
        }
        self.replica = Replica(folder, self.settings)
        self.token = key.issue(Did(DID), 3600, datetime.now(UTC))
        self.http = httpx.Client(
            base_url=self.replica.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=30
        )

    def write(self) -> httpx.Response:
        body = {"did": DID, "collection": "com.registryaccord.profile", "record": {"displayName": secrets.token_hex(4)}}
        return self.http.post("/v1/repo/record", json=body)

    def read(self) -> httpx.Response:
        return self.http.get("/v1/repo/listRecords", params={"did": DID})

    def init_upload(self) -> httpx.Response:
        return self.http.post("/v1/media/uploadInit", json={"did": DID, "mimeType": "image/png", "size": len(PNG)})

    def finalize(self, asset_id: str) -> httpx.Response:
        return self.http.post("/v1/media/finalize", json={"assetId": asset_id, "sha256": HASH})

    def uploaded(self) -> str:
        """Return the id of an asset whose bytes have been uploaded."""
        ticket = self.init_upload().json()["data"]
        httpx.put(ticket["uploadUrl"], content=PNG, timeout=30).raise_for_status()
        asset_id: str = ticket["assetId"]
        return asset_id

    def media(self) -> int:
        """Return the status with which a whole upload ends."""
        announced = self.init_upload()
        if announced.status_code != 200:
            return announced.status_code
        ticket = announced.json()["data"]
        with suppress(httpx.TransportError):  # the client cannot reach the object store either
            httpx.put(ticket["uploadUrl"], content=PNG, timeout=30).raise_for_status()
        return self.finalize(ticket["assetId"]).status_code

    def readiness(self) -> tuple[int, str, dict[str, bool]]:
        answer = self.http.get("/readyz")
        body = answer.json()
        data: dict[str, Any] = body["data"] if answer.status_code == 200 else body["error"]["details"]
        return answer.status_code, data["status"], {each["name"]: each["up"] for each in data["dependencies"]}

    def wait_for(self, expected: tuple[int, str, dict[str, bool]], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while (found := self.readiness()) != expected:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for all tests: each test restarts what it stopped."""
    with ExitStack() as opened:
        try:
            postgres = opened.enter_context(own(PostgresServer))
            nats = opened.enter_context(own(NatsServer))
            s3 = opened.enter_context(own(S3Server))
        except NoServer as error:
            pytest.skip(str(error))
        issuer, specs = opened.enter_context(WebPages({})), opened.enter_context(WebPages(_catalogue()))
        it = Stack(tmp_path_factory.mktemp("stack"), postgres, nats, s3, issuer, specs)
        opened.enter_context(it.replica)
        opened.enter_context(it.http)
        assert it.write().status_code == 200
        it.wait_for((200, "ready", UP))
        yield it


def _catalogue() -> dict[str, bytes]:
    root = resources.files("cdv_core.catalogue")
    pages = {"/SPEC_INDEX.json": (root / "SPEC_INDEX.json").read_bytes()}
    for collection in root.iterdir():
        if collection.is_dir() and "." in collection.name:
            for document in collection.iterdir():
                pages[f"/{collection.name}/{document.name}"] = document.read_bytes()
    return pages


def test_without_the_database_every_request_gets_503_and_readiness_fails(stack: Stack) -> None:
    asset_id = stack.uploaded()
    stack.postgres.kill()
    for answer in (stack.write(), stack.read(), stack.init_upload(), stack.finalize(asset_id)):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "CDV_UNAVAILABLE")
        assert int(answer.headers["retry-after"]) >= 1
    status, word, up = stack.readiness()
    assert (status, word, up["database"]) == (503, "unavailable", False)
    assert stack.http.get("/healthz").status_code == 200
    stack.postgres.start()
    stack.wait_for((200, "ready", UP))
    assert stack.write().status_code == stack.read().status_code == 200
    assert stack.finalize(asset_id).status_code == 200


def test_without_the_broker_requests_are_served_and_events_queue(stack: Stack) -> None:
    stack.nats.kill()
    assert (stack.write().status_code, stack.read().status_code, stack.media()) == (200, 200, 200)
    stack.wait_for((200, "degraded", {**UP, "events": False}))
    backlog = [line for line in stack.http.get("/metrics").text.splitlines() if line.startswith("cdv_oplog_backlog ")]
    assert float(backlog[0].split()[1]) >= 2
    stack.nats.start()
    stack.wait_for((200, "ready", UP))


def test_without_the_object_store_records_are_served_and_media_is_503(stack: Stack) -> None:
    asset_id = stack.uploaded()
    stack.s3.kill()
    assert (stack.write().status_code, stack.read().status_code) == (200, 200)
    assert stack.finalize(asset_id).status_code == 503
    assert stack.media() == 503
    stack.wait_for((200, "degraded", {**UP, "object_store": False}))
    stack.s3.start()
    stack.wait_for((200, "ready", UP))
    assert stack.finalize(asset_id).status_code == 200
    assert stack.media() == 200


def test_without_the_issuer_cached_keys_are_used(stack: Stack) -> None:
    stack.issuer.stop()
    assert (stack.write().status_code, stack.read().status_code, stack.media()) == (200, 200, 200)
    stack.issuer.start()


def test_without_the_issuer_from_the_start_writes_are_503_and_reads_are_served(stack: Stack) -> None:
    stack.issuer.stop()
    stack.replica.kill()
    stack.replica.start()
    stack.replica.wait_until_ready()
    refused = stack.write()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "CDV_UNAVAILABLE")
    anonymous = httpx.get(f"{stack.replica.url}/v1/repo/listRecords", params={"did": DID})
    assert (anonymous.status_code, len(anonymous.json()["data"]["records"]) >= 1) == (200, True)
    stack.wait_for((200, "degraded", {**UP, "issuer": False}))
    stack.issuer.start()
    deadline = time.monotonic() + 60
    while stack.write().status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_without_the_schema_source_the_last_good_catalogue_is_used(stack: Stack) -> None:
    stack.specs.stop()
    stack.replica.kill()
    stack.replica.start()
    stack.replica.wait_until_ready()
    assert (stack.write().status_code, stack.read().status_code, stack.media()) == (200, 200, 200)
    stack.wait_for((200, "degraded", {**UP, "schemas": False}))
    stack.specs.start()
