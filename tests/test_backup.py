"""`cdv backup` and `cdv restore`: whole and consistent, or nothing."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import sqlite3
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cdv_adapters import open_vault
from tests.command_line import Cli
from tests.http.running import RunningVault, environment

PNG = b"\x89PNG\r\n\x1a\n"
DID = "did:example:ada"
PROFILE = "com.registryaccord.profile"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    return Cli(monkeypatch, capfd, tmp_path)


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    """A small vault at rest: three records and two assets, one of them with a name that is not ASCII."""

    async def fill() -> None:
        async with open_vault(tmp_path / "vault") as opened:
            for number in range(3):
                record = {"displayName": f"Ada {number}", "x": 1.5}
                await opened.records.create(did=DID, collection=PROFILE, record=record)
            for name in (None, "été 🙂.png"):
                content = PNG + str(name).encode()
                await opened.media.upload(did=DID, mime_type="image/png", content=content, filename=name)

    asyncio.run(fill())
    return tmp_path / "vault"


@pytest.fixture
def archive(cli: Cli, vault: Path, tmp_path: Path) -> Path:
    assert cli("backup", tmp_path / "archive.tar", data_dir=vault)[0] == 0
    return tmp_path / "archive.tar"


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def nothing_is_left(folder: Path, *names: str) -> None:
    assert {file.name for file in folder.iterdir()} == set(names)


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    assert code == 1
    assert out == ""
    assert err.startswith("cdv: cannot ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err, err


class Writer(threading.Thread):
    """Writes until `done` is set; `records` and `media` hold what was acknowledged, in order."""

    def __init__(self, vault: RunningVault, did: str) -> None:
        super().__init__()
        self.did = did
        self.records: list[tuple[str, str]] = []
        self.media: list[tuple[str, bytes]] = []
        self.error: Exception | None = None
        self.enough = threading.Event()
        self.done = threading.Event()
        self._http = httpx.Client(
            base_url=vault.base, headers={"Authorization": f"Bearer {vault.token(did)}"}, timeout=30
        )

    def run(self) -> None:
        try:
            with self._http:
                while not self.done.is_set():
                    self._write()
                    if len(self.media) == 10:
                        self.enough.set()
        except Exception as error:
            self.error = error
            self.enough.set()

    def _write(self) -> None:
        number = len(self.records)
        record = {"collection": PROFILE, "did": self.did, "record": {"displayName": f"{number}"}}
        receipt = self._post("/v1/repo/record", record)
        self.records.append((receipt["uri"], receipt["cid"]))
        content = PNG + os.urandom(20_000)
        ticket = self._post("/v1/media/uploadInit", {"did": self.did, "mimeType": "image/png", "size": len(content)})
        assert self._http.put(ticket["uploadUrl"], content=content).status_code == 200
        sha256 = hashlib.sha256(content).hexdigest()
        self._post("/v1/media/finalize", {"assetId": ticket["assetId"], "sha256": sha256})
        self.media.append((ticket["assetId"], content))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["data"]
        return found


def test_a_backup_taken_during_writes_has_everything_acknowledged_before(cli: Cli, tmp_path: Path) -> None:
    live = RunningVault(tmp_path / "live")
    writers = [Writer(live, f"did:example:{name}") for name in ("ada", "bob")]
    try:
        for writer in writers:
            writer.start()
        assert all(writer.enough.wait(60) for writer in writers)
        while True:  # until there was a write during the backup
            (tmp_path / "archive.tar").unlink(missing_ok=True)
            before = [(writer.did, list(writer.records), list(writer.media)) for writer in writers]
            assert cli("backup", tmp_path / "archive.tar", data_dir=tmp_path / "live")[0] == 0
            if all(len(writer.records) > len(records) for writer, (_, records, _) in zip(writers, before, strict=True)):
                break
            assert [writer.error for writer in writers] == [None, None]
    finally:
        for writer in writers:
            writer.done.set()
            writer.join()
        live.kill()
    assert [writer.error for writer in writers] == [None, None]

    assert cli("restore", tmp_path / "archive.tar", data_dir=tmp_path / "again")[0] == 0
    restored = RunningVault(tmp_path / "again")
    try:
        for did, records, media in before:
            headers = {"Authorization": f"Bearer {live.token(did)}"}  # signed with the key that is restored too
            with httpx.Client(base_url=restored.base, headers=headers, follow_redirects=True) as http:
                for uri, cid in records:
                    found = http.get("/v1/repo/record", params={"uri": uri}).json()["data"]
                    assert (found["uri"], found["cid"]) == (uri, cid)
                for asset_id, content in media:
                    assert http.get(f"/v1/media/{asset_id}/content").content == content
    finally:
        restored.kill()


def test_a_restored_vault_equals_the_original(cli: Cli, vault: Path, archive: Path, tmp_path: Path) -> None:
    (vault / "issuer-key.json").write_text("{}")
    (vault / "issuer-key.json").chmod(0o600)
    (vault / "catalogue.msgpack").write_bytes(b"kept")
    archive.unlink()
    code, out, _ = cli("backup", archive, data_dir=vault)
    assert (code, out) == (0, f"{archive}: 3 records, 2 media assets, 0.1 MB\n")
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    (tmp_path / "again").mkdir()  # empty, so nothing is overwritten
    code, out, _ = cli("restore", archive, data_dir=tmp_path / "again")
    assert code == 0
    assert "3 records, 2 media assets" in out
    before, after = files(vault), files(tmp_path / "again")
    uploads = {name for name in before if name.startswith("media/objects/uploads/")}
    assert set(after) == set(before) - uploads
    for name in set(after) - {"vault.sqlite3"}:
        assert after[name] == before[name]
    for name in after:
        modes = [stat.S_IMODE((folder / name).stat().st_mode) & 0o755 for folder in (vault, tmp_path / "again")]
        assert modes[0] == modes[1], name
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "again", tmp_path / "again/media")} == {0o700}
    nothing_is_left(tmp_path, "vault", "archive.tar", "again")


def test_existing_files_and_folders_are_not_overwritten(cli: Cli, vault: Path, archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    refused(cli("backup", archive, data_dir=vault), "exists")
    assert archive.read_bytes() == content
    before = files(vault)
    refused(cli("restore", archive, data_dir=vault), "already exists", "CDV_DATA_DIR")
    assert files(vault) == before
    (tmp_path / "file").write_text("kept")
    refused(cli("restore", archive, data_dir=tmp_path / "file"), "already exists")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    refused(cli("restore", archive, data_dir=tmp_path / "link"), "already exists")
    nothing_is_left(tmp_path, "vault", "archive.tar", "file", "link")


def test_backup_and_restore_refuse_anything_but_an_embedded_vault(cli: Cli, tmp_path: Path) -> None:
    refused(cli("backup", tmp_path / "a.tar", data_dir=tmp_path / "none"), "vault.sqlite3", "CDV_DATA_DIR")
    refused(cli("restore", tmp_path / "none.tar", data_dir=tmp_path / "none"), "none.tar", "does not exist")
    refused(cli("backup", tmp_path / "no folder" / "a.tar", data_dir=tmp_path / "none"), "cannot back up")
    for command in ("backup", "restore"):
        result = cli(command, tmp_path / "a.tar", data_dir=tmp_path / "none", CDV_DB_DSN="postgresql://db/cdv")
        refused(result, "CDV_DB_DSN", "docs/backup.md")
    nothing_is_left(tmp_path)


def test_the_backup_of_a_damaged_vault_is_refused(cli: Cli, vault: Path, tmp_path: Path) -> None:
    (asset,) = (path for path in vault.rglob("*") if path.name == "media" and path.is_file())
    content = asset.read_bytes()
    asset.write_bytes(content[:-1] + b"?")
    refused(cli("backup", tmp_path / "a.tar", data_dir=vault), str(asset))
    asset.unlink()
    refused(cli("backup", tmp_path / "a.tar", data_dir=vault), str(asset))
    asset.write_bytes(content)
    with sqlite3.connect(vault / "vault.sqlite3") as connection:
        connection.execute("UPDATE records SET value = replace(value, 'Ada 1', 'Ada 9')")
    connection.close()
    refused(cli("backup", tmp_path / "a.tar", data_dir=vault), "CID", DID)
    nothing_is_left(tmp_path, "vault")


def test_a_truncated_archive_is_refused_and_leaves_nothing(cli: Cli, archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    end = content.rindex(b'"files"')  # in the manifest
    for length in {*range(0, end, 4099), *range(0, end, 512 * 23), end}:
        archive.write_bytes(content[:length])
        refused(cli("restore", archive, data_dir=tmp_path / "again"), "archive.tar")
        nothing_is_left(tmp_path, "vault", "archive.tar")


def test_a_changed_byte_of_an_archive_is_detected(cli: Cli, archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    cli("restore", archive, data_dir=tmp_path / "sound")
    sound, detected = files(tmp_path / "sound"), 0
    for position in range(0, len(content), 1021):
        archive.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        code, _, err = cli("restore", archive, data_dir=tmp_path / "again")
        if code == 0:  # it was padding
            assert files(tmp_path / "again") == sound
            (tmp_path / "again").rename(tmp_path / f"padding {position}")
        else:
            detected += 1
            assert err.startswith("cdv: cannot ")
            assert not (tmp_path / "again").exists()
    assert detected > 60


def member(name: str, **attributes: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for attribute, value in attributes.items():
        setattr(made, attribute, value)
    return made


HOSTILE = [
    member("../outside"),
    member("/tmp/outside"),
    member("media/objects/../../../outside"),
    member("media/objects//outside"),
    member("media/objects/./outside"),
    member("media/objects/dev"),
    member("media/../vault.sqlite3"),
    member("elsewhere"),
    member("media/objects"),
    member("media/objects/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    member("media/objects/link", type=tarfile.LNKTYPE, linkname="vault.sqlite3"),
    member("media/objects/pipe", type=tarfile.FIFOTYPE),
    member("media/objects/device", type=tarfile.CHRTYPE),
    member("media/objects/folder", type=tarfile.DIRTYPE),
    member("vault.sqlite3"),
    member("media/objects/dev/" + "x" * 300),
    member("media/objects/x\udcff"),
    member("media/objects/sparse", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
    member("media/objects/dev/x", pax_headers={"size": "-1"}),
]


@pytest.mark.parametrize("index", range(len(HOSTILE)))
def test_a_hostile_member_is_refused_and_leaves_nothing(cli: Cli, archive: Path, tmp_path: Path, index: int) -> None:
    """At any position, and although the manifest lists it too."""
    with tarfile.open(archive) as tar:
        sound = [(entry, (tar.extractfile(entry) or io.BytesIO()).read()) for entry in tar]
    hostile, nothing = HOSTILE[index], hashlib.sha256().hexdigest()
    for position in (0, 1, len(sound) - 1):
        manifest = json.loads(sound[-1][1])
        name = hostile.name.encode("utf-8", "replace").decode()
        manifest["files"].insert(position, {"name": name, "size": 0, "sha256": nothing})
        encoded = json.dumps(manifest).encode()
        members = [
            *sound[:position],
            (hostile, b""),
            *sound[position:-1],
            (member("manifest.json", size=len(encoded)), encoded),
        ]
        with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
            for info, content in members:
                tar.addfile(info, io.BytesIO(content))
        refused(cli("restore", archive, data_dir=tmp_path / "again"))
        nothing_is_left(tmp_path, "vault", "archive.tar")


KILLED = """
import os, signal, sys
from cdv_http.cli import main

command, archive, folder = sys.argv[1:]
for last in range(1, 1000):
    if not (child := os.fork()):
        seen = 0
        def hook(event, arguments):
            global seen
            if event != "import" and folder in repr(arguments):
                seen += 1
                if seen == last:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        try:
            main([command, archive])
        finally:
            sys.stdout.flush()
    _, status = os.waitpid(child, 0)
    print(last, os.WIFSIGNALED(status), flush=True)
    sys.stdin.readline()
    if not os.WIFSIGNALED(status):
        break
"""


def killed_at_every_point(
    command: str, archive: Path, data_dir: Path, check: Callable[[], None], environ: dict[str, str]
) -> int:
    """Run the command repeatedly, killed before each of its calls that touch a file; check the outcome of each."""
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, command, str(archive), str(archive.parent)],
        env={**environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    kills = 0
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        for line in child.stdout:
            words = line.split()
            if words[-1] not in {"True", "False"}:
                continue  # what the command printed
            check()
            kills += words[-1] == "True"
            child.stdin.write("\n")
            child.stdin.flush()
    assert child.returncode == 0
    return kills


def test_a_killed_backup_leaves_no_file_or_a_whole_one(cli: Cli, vault: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    target, found = folder / "a.tar", []

    def check() -> None:
        found.append(target.exists())
        if target.exists():
            again = tmp_path / f"again {len(found)}"
            assert cli("restore", target, data_dir=again)[0] == 0
            target.unlink()

    kills = killed_at_every_point("backup", target, vault, check, environment(vault))
    assert kills > 10
    assert found[0] is False
    assert found[-1] is True


def test_a_killed_restore_leaves_no_vault_or_a_whole_one(cli: Cli, archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    moved = archive.rename(folder / "a.tar")
    target, found = folder / "vault", []
    assert cli("restore", moved, data_dir=tmp_path / "sound")[0] == 0
    sound = files(tmp_path / "sound")

    def check() -> None:
        found.append(target.exists())
        if target.exists():
            assert files(target) == sound
            target.rename(tmp_path / f"again {len(found)}")

    kills = killed_at_every_point("restore", moved, target, check, environment(target))
    assert kills > 20
    assert found[0] is False
    assert found[-1] is True
