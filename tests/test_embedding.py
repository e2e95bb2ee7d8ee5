"""The vault embedded in another program: no server, environment or framework (spec: architecture, embedding)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import subprocess
import sys
from enum import Enum
from pathlib import Path

import pytest

from cdv_adapters import open_vault
from cdv_adapters.service import BackgroundTask
from cdv_core.domain.identifiers import Did
from cdv_core.domain.viewers import Viewer
from cdv_core.errors import (
    AssetNotFound,
    CannotStart,
    CollectionUnknown,
    CursorInvalid,
    DidMismatch,
    IdempotencyConflict,
    InvalidField,
    MediaTooLarge,
    MediaTypeMismatch,
    MediaTypeNotAllowed,
    NotTheOwner,
    RecordNotFound,
    SchemaRejected,
)

did = "did:example:ada"
PROFILE = "com.registryaccord.profile"
FLAG = "com.registryaccord.moderation.flag"
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 20


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def test_the_example_of_the_architecture_page_runs_as_printed() -> None:
    async with open_vault("./vault") as vault:
        receipt = await vault.records.create(
            did=did, collection="com.registryaccord.profile", record={"displayName": "Ada"}
        )
        page = await vault.records.list(did=did, limit=10)
    assert [record.uri for record in page.records] == [page.records[0].uri]
    assert str(page.records[0].uri) == receipt.uri
    assert page.records[0].cid == receipt.cid
    assert page.records[0].value == {"displayName": "Ada"}
    assert page.next_cursor is None


async def test_a_reopened_vault_has_its_records_and_replays(tmp_path: Path) -> None:
    async with open_vault(tmp_path / "deep" / "er") as vault:
        receipt = await vault.records.create(
            did=did, collection=PROFILE, record={"displayName": "Ada"}, idempotency_key="k"
        )
    async with open_vault(tmp_path / "deep" / "er") as vault:
        assert (await vault.records.get(receipt.uri)).value == {"displayName": "Ada"}
        again = await vault.records.create(
            did=did, collection=PROFILE, record={"displayName": "Ada"}, idempotency_key="k"
        )
    assert again.replayed
    assert (again.uri, again.cid, again.indexed_at) == (receipt.uri, receipt.cid, receipt.indexed_at)


async def test_a_listed_record_can_be_read_by_its_uri_or_the_uris_text(tmp_path: Path) -> None:
    async with open_vault(tmp_path) as vault:
        await vault.records.create(did=did, collection=PROFILE, record={"displayName": "Ada"})
        (listed,) = (await vault.records.list(did=did)).records
        assert await vault.records.get(listed.uri) == await vault.records.get(str(listed.uri))


async def test_a_listing_is_paged_by_its_cursor() -> None:
    async with open_vault("vault") as vault:
        for number in range(5):
            await vault.records.create(did=did, collection=PROFILE, record={"displayName": f"{number}"})
        names: list[str] = []
        cursor: str | None = None
        while True:
            page = await vault.records.list(did=did, collection=PROFILE, limit=2, cursor=cursor)
            names += [record.value["displayName"] for record in page.records]
            cursor = page.next_cursor
            if cursor is None:
                break
    assert names == ["4", "3", "2", "1", "0"]


async def test_refusals_are_raised_as_typed_errors_with_their_data() -> None:
    async with open_vault("vault") as vault:
        create = vault.records.create
        with pytest.raises(InvalidField) as invalid:
            await create(did="ada", collection=PROFILE, record={"displayName": "Ada"})
        assert invalid.value.field == "did"
        with pytest.raises(CollectionUnknown):
            await create(did=did, collection="com.example.unknown", record={})
        with pytest.raises(SchemaRejected) as rejected:
            await create(did=did, collection=PROFILE, record={"bio": "x" * 257})
        assert {(each.pointer, each.rule) for each in rejected.value.violations} == {
            ("", "required"),
            ("/bio", "maxLength"),
        }
        with pytest.raises(DidMismatch):
            await create(did=did, collection=PROFILE, record={"displayName": "x"}, subject=Did("did:example:bob"))
        await create(did=did, collection=PROFILE, record={"displayName": "x"}, idempotency_key="k")
        with pytest.raises(IdempotencyConflict):
            await create(did=did, collection=PROFILE, record={"displayName": "y"}, idempotency_key="k")
        with pytest.raises(CursorInvalid):
            await vault.records.list(did=did, cursor="x")
        with pytest.raises(RecordNotFound):
            await vault.records.get(f"at://{did}/{PROFILE}/x")


async def test_string_enums_are_accepted_as_their_values() -> None:
    class Given(str, Enum):  # noqa: UP042 - str() of its members is their name
        ADA = did
        COLLECTION = PROFILE
        VERSION = "1.0.0"
        NAME = "Ada"
        KEY = "k"
        TYPE = "image/png"
        FILE = "cat.png"

    async with open_vault("vault") as vault:
        receipt, again = [
            await vault.records.create(
                did=owner, collection=collection, record={"displayName": name}, schema_version=version,
                idempotency_key=key, correlation_id=key,
            )
            for owner, collection, name, version, key in (
                (Given.ADA, Given.COLLECTION, Given.NAME, Given.VERSION, Given.KEY),
                (did, PROFILE, "Ada", "1.0.0", "k"),
            )
        ]  # fmt: skip
        assert again.replayed
        assert again.uri == receipt.uri
        (record,) = (await vault.records.list(did=Given.ADA, collection=Given.COLLECTION)).records
        assert (record.uri.did, record.uri.collection, record.value) == (did, PROFILE, {"displayName": "Ada"})
        asset = await vault.media.upload(did=Given.ADA, mime_type=Given.TYPE, content=PNG, filename=Given.FILE)
        assert await vault.media.describe(asset.asset_id) == asset
        assert (asset.did, asset.mime_type, asset.filename) == (did, "image/png", "cat.png")


async def test_the_program_reads_everything_and_may_read_as_another_viewer() -> None:
    async with open_vault("vault") as vault:
        receipt = await vault.records.create(did=did, collection=FLAG, record={"subject": "x", "reason": "y"})
        assert (await vault.records.get(receipt.uri)).cid == receipt.cid
        assert len((await vault.records.list(did=did)).records) == 1
        assert (await vault.records.list(did=did, viewer=Viewer.ANONYMOUS)).records == ()
        with pytest.raises(NotTheOwner):
            await vault.records.get(receipt.uri, viewer=Did("did:example:bob"))


async def test_media_are_uploaded_and_read_without_a_url() -> None:
    async with open_vault("vault") as vault:
        asset = await vault.media.upload(did=did, mime_type="image/png", content=PNG, filename="cat.png")
        assert (asset.did, asset.mime_type, asset.size_bytes, asset.filename) == (did, "image/png", len(PNG), "cat.png")
        assert asset.checksum == hashlib.sha256(PNG).hexdigest()
        assert await vault.media.describe(asset.asset_id) == asset
        content = await vault.media.read(asset.asset_id)
        assert (content.size_bytes, content.mime_type) == (len(PNG), "image/png")
        assert b"".join([chunk async for chunk in content.chunks()]) == PNG
        assert b"".join([chunk async for chunk in content.chunks(8, 14)]) == b"pixels"
    async with open_vault("vault") as vault:
        content = await vault.media.read(asset.asset_id)
        assert b"".join([chunk async for chunk in content.chunks()]) == PNG


async def test_media_uploads_are_validated_as_over_http() -> None:
    async with open_vault("vault") as vault:
        upload = vault.media.upload
        with pytest.raises(MediaTypeNotAllowed):
            await upload(did=did, mime_type="text/html", content=PNG)
        with pytest.raises(MediaTooLarge):
            await upload(did=did, mime_type="image/png", content=b"x" * (10 * 1024**2 + 1))
        with pytest.raises(MediaTypeMismatch):
            await upload(did=did, mime_type="image/jpeg", content=PNG)
        with pytest.raises(InvalidField):
            await upload(did=did, mime_type="image/png", content=b"")
        with pytest.raises(InvalidField):
            await upload(did=did, mime_type="image/png", content=PNG, filename="../x")
        pending = await vault.media.init_upload(did=did, mime_type="image/png", size=5)
        for unknown in ("x", pending.asset.asset_id):
            with pytest.raises(AssetNotFound):
                await vault.media.read(unknown)


async def test_a_vault_can_be_open_twice_at_the_same_time(tmp_path: Path) -> None:
    async with open_vault(tmp_path / "vault") as one, open_vault(tmp_path / "vault") as two:
        receipts = await asyncio.gather(
            *(
                vault.records.create(did=did, collection=PROFILE, record={"displayName": "x"})
                for vault in (one, two) * 10
            )
        )
        assert len({receipt.uri for receipt in receipts}) == 20
        assert len((await one.records.list(did=did)).records) == 20


async def test_an_open_vault_removes_expired_replies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_vault(tmp_path) as vault:
        await vault.records.create(did=did, collection=PROFILE, record={"displayName": "Ada"}, idempotency_key="k")
    with sqlite3.connect(tmp_path / "vault.sqlite3") as connection:
        connection.execute("UPDATE replies SET expires_at = 0")
    connection.close()

    async def at_once(_: BackgroundTask) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr("cdv_adapters.background._pause", at_once)
    async with asyncio.timeout(20), open_vault(tmp_path):
        while _replies(tmp_path):
            await asyncio.sleep(0.01)


def _replies(data_dir: Path) -> int:
    with sqlite3.connect(data_dir / "vault.sqlite3") as connection:
        count: int = connection.execute("SELECT count(*) FROM replies").fetchone()[0]
    connection.close()
    return count


async def test_environment_variables_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDV_ENV", "prod")
    monkeypatch.setenv("CDV_DATA_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("CDV_PORT", "not a port")
    async with open_vault("vault") as vault:
        await vault.records.create(did=did, collection=PROFILE, record={"displayName": "x"})
    assert not (tmp_path / "elsewhere").exists()


async def test_an_unusable_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(CannotStart) as refused:
        async with open_vault(tmp_path / "file"):
            pass
    assert str(tmp_path / "file") in str(refused.value)
    assert (tmp_path / "file").read_text() == "kept"


def test_embedding_loads_no_server_and_no_driver() -> None:
    program = """
import asyncio, sys
from cdv_adapters import open_vault
async def main():
    async with open_vault("vault") as vault:
        await vault.records.create(did="did:a:b", collection="com.registryaccord.profile", record={"displayName": "A"})
asyncio.run(main())
print([name for name in ("cdv_http", "litestar", "granian", "psycopg", "minio", "nats") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("[]\n", "", 0)
