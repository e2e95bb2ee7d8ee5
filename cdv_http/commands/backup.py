"""`cdv backup` and `cdv restore`: save the embedded vault to one file, also while it is served, and restore it.

The archive is a tar. Its last member, the manifest, lists every other member with size and SHA-256; an archive without
one is truncated. The archive has a snapshot of the database, the bytes of every asset that is final in it, the keys in
the data dir and the cached catalogue. Unfinished uploads are left out: their URLs expire within minutes.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, Protocol

import msgspec

from cdv_adapters.container import copy_database, read_database
from cdv_adapters.data_dir import DataDir
from cdv_adapters.durable_files import sync_directory
from cdv_adapters.settings import Settings
from cdv_core.domain.canonical import cid_of
from cdv_core.domain.media import Asset
from cdv_core.domain.times import format_time
from cdv_core.errors import CannotStart

# Members of the archive are named by their paths in the data directory.
_LAYOUT: Final = DataDir(Path())
_DATABASE: Final = _LAYOUT.database.as_posix()
# Each only if it exists.
_KEYS: Final = tuple(
    it.as_posix() for it in (_LAYOUT.issuer_key, _LAYOUT.media.url_signing_key, _LAYOUT.catalogue_cache)
)
_OBJECTS: Final = f"{_LAYOUT.media.objects.as_posix()}/"
_MANIFEST: Final = "manifest.json"
_FORMAT: Final = 1
_CHUNK_BYTES: Final = 1024 * 1024
_MANIFEST_MAX_BYTES: Final = 1024**3  # ours: some five million files
_PROGRESS_SECONDS: Final = 1.0


class _File(msgspec.Struct, frozen=True):
    name: str
    size: int
    sha256: str


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    format: int
    created_at: str
    records: int
    assets: int
    files: list[_File]


def add_parsers(commands: Any, settings: Callable[[], Settings]) -> None:  # noqa: ANN401 - argparse has no public name
    """Add `backup` and `restore` to the subparsers."""
    command = commands.add_parser("backup", help="write the embedded vault to one file, also while it is served")
    command.add_argument("file", type=Path, metavar="FILE", help="the file to write; it must not exist")
    command.set_defaults(run=lambda arguments: _backup(settings(), arguments.file))
    command = commands.add_parser("restore", help="restore a backup into a new or empty data dir")
    command.add_argument("file", type=Path, metavar="FILE", help="a file written by `cdv backup`")
    command.set_defaults(run=lambda arguments: _restore(settings(), arguments.file))


def _backup(settings: Settings, file: Path) -> int:
    data_dir = _embedded(settings, "back up")
    what = f"back up {data_dir} to {file}"
    if os.path.lexists(file):
        raise CannotStart(what, "the file already exists", "choose another name")
    if not (data_dir / _DATABASE).is_file():
        raise CannotStart(what, f"there is no {_DATABASE} in it", "set CDV_DATA_DIR to the vault's data dir")
    with (
        _os_errors_as_cannot_start(what),
        tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder,
    ):
        copy, archive = Path(folder) / _DATABASE, Path(folder) / "archive"
        progress = _Progress()
        copy_database(data_dir / _DATABASE, copy)
        copy.chmod((data_dir / _DATABASE).stat().st_mode & 0o777)
        contents = _read(copy, progress)
        manifest = _write(archive, copy, data_dir, settings.env, contents, progress)
        _extract(archive, None, progress)
        archive.rename(file)
        sync_directory(file.parent)
    print(f"{file}: {_summary(manifest)}")
    return 0


def _restore(settings: Settings, file: Path) -> int:
    data_dir = _embedded(settings, "restore")
    what = f"restore {file} to {data_dir}"
    if data_dir.is_symlink() or (data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir()))):
        raise CannotStart(
            what, "it already exists and is not an empty directory", "move it away, or set CDV_DATA_DIR to another"
        )
    if not file.is_file():
        raise CannotStart(what, "the file does not exist", "name a file that `cdv backup` wrote")
    parent = data_dir.absolute().parent
    with _os_errors_as_cannot_start(what):
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{data_dir.name}.", dir=parent) as folder:
            restored = Path(folder) / "data"
            restored.mkdir(mode=0o700)
            progress = _Progress()
            manifest = _extract(file, restored, progress)
            _check_media(_read(restored / _DATABASE, progress), manifest, settings.env)
            for directory, _, _ in os.walk(restored):
                sync_directory(Path(directory))
            restored.rename(data_dir)  # replaces an empty directory
            sync_directory(parent)
    print(f"{data_dir}: {_summary(manifest)}, as of {manifest.created_at}")
    return 0


def _embedded(settings: Settings, verb: str) -> Path:
    for name, value in (("CDV_DB_DSN", settings.db_dsn), ("CDV_S3_ENDPOINT", settings.s3_endpoint)):
        if value is not None:
            raise CannotStart(
                f"{verb} this vault", f"{name} is set, but this command is for embedded vaults", "see docs/backup.md"
            )
    return settings.data_dir


# The contents of a vault


@dataclass(slots=True)
class _Contents:
    records: int = 0
    assets: list[Asset] = field(default_factory=list)


def _read(database: Path, progress: _Progress) -> _Contents:
    """Return the contents of the database, after verifying every record's CID. Raises: CannotStart."""
    contents = _Contents()
    for item in read_database(database):
        if isinstance(item, Asset):
            contents.assets.append(item)
            continue
        if cid_of(item.value) != item.cid:
            raise CannotStart(f"trust {database.name}", f"{item.uri} does not match its CID", "use an earlier backup")
        contents.records += 1
        progress.say(f"{contents.records} records checked")
    return contents


def _check_media(contents: _Contents, manifest: _Manifest, env: str) -> None:
    """Raises: CannotStart: the bytes of an asset are missing from the archive, or differ."""
    kept = {it.name: it for it in manifest.files}
    for asset in contents.assets:
        found = kept.get(_object_name(asset, env))
        if found is None or (found.size, found.sha256) != (asset.size_bytes, asset.checksum):
            raise CannotStart(
                "trust the archive", f"the bytes of {asset.uri} are missing or wrong", "use another backup"
            )


def _object_name(asset: Asset, env: str) -> str:
    return f"{_OBJECTS}{asset.final_key(env)}"


def _summary(manifest: _Manifest) -> str:
    size = sum(it.size for it in manifest.files)
    return f"{manifest.records} records, {manifest.assets} media assets, {size / 1e6:.1f} MB"


# The archive


def _write(archive: Path, copy: Path, data_dir: Path, env: str, contents: _Contents, progress: _Progress) -> _Manifest:
    files: list[_File] = []
    with archive.open("xb") as raw:
        os.fchmod(raw.fileno(), 0o600)  # it holds keys
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
            files.append(_add_file(tar, copy, _DATABASE))
            files += [_add_file(tar, data_dir / name, name) for name in _KEYS if (data_dir / name).is_file()]
            for number, asset in enumerate(contents.assets, 1):
                name = _object_name(asset, env)
                files.append(_add_file(tar, data_dir / name, name))
                if (files[-1].size, files[-1].sha256) != (asset.size_bytes, asset.checksum):
                    raise CannotStart(
                        f"trust {data_dir / name}", "its bytes are not those that were uploaded", "restore the file"
                    )
                progress.say(f"{number} of {len(contents.assets)} media assets, {raw.tell() / 1e6:.1f} MB")
            manifest = _Manifest(_FORMAT, format_time(datetime.now(UTC)), contents.records, len(contents.assets), files)
            encoded = msgspec.json.encode(manifest)
            tar.addfile(_member(_MANIFEST, len(encoded), 0o600), io.BytesIO(encoded))
        raw.flush()
        os.fsync(raw.fileno())
    return manifest


def _add_file(tar: tarfile.TarFile, path: Path, name: str) -> _File:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        digest = hashlib.sha256()
        tar.addfile(_member(name, status.st_size, status.st_mode & 0o777), _Hashing(file, digest))
    return _File(name, status.st_size, digest.hexdigest())


def _member(name: str, size: int, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, mode, int(time.time())
    return member


def _extract(archive: Path, target: Path | None, progress: _Progress) -> _Manifest:
    """Verify the archive and return its manifest; extract its members to `target`, unless that is None.

    Raises: CannotStart: it is damaged, or has a member that `cdv backup` does not write.
    """
    what = f"read {archive.name}"
    extracted: list[_File] = []
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if not _is_ours(member):
                    raise CannotStart(
                        what, f"{member.name[:100]!r} is not part of a vault", "use a file that `cdv backup` wrote"
                    )
                content = tar.extractfile(member)
                if content is None:
                    raise tarfile.ReadError("a member without content")
                if member.name == _MANIFEST:
                    manifest = msgspec.json.decode(content.read(_MANIFEST_MAX_BYTES), type=_Manifest)
                    break
                extracted.append(_extract_member(content, member, target))
                progress.say(f"{len(extracted)} files read")
            else:
                raise tarfile.ReadError("it has no manifest")
    except (tarfile.TarError, EOFError, UnicodeError, ValueError, msgspec.DecodeError) as error:
        raise CannotStart(what, f"it is damaged or truncated ({error})", "use another backup") from error
    if manifest.format != _FORMAT:
        raise CannotStart(
            what, f"format {manifest.format} is newer than this version supports", "restore with a newer version"
        )
    if extracted != manifest.files or not extracted or extracted[0].name != _DATABASE:
        raise CannotStart(what, "its files do not match its manifest", "use another backup")
    return manifest


def _extract_member(content: IO[bytes], member: tarfile.TarInfo, target: Path | None) -> _File:
    path = Path(os.devnull)
    if target is not None:
        path = target / member.name
        for directory in reversed(path.relative_to(target).parents[:-1]):
            (target / directory).mkdir(mode=0o700, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with path.open("wb" if target is None else "xb") as file:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
        if target is not None:
            os.fchmod(file.fileno(), member.mode & 0o755)
            file.flush()
            os.fsync(file.fileno())
    return _File(member.name, size, digest.hexdigest())


def _is_ours(member: tarfile.TarInfo) -> bool:
    """Return whether it is a regular file with a name that `cdv backup` writes: no link, device or path traversal."""
    name = member.name
    if member.type not in {tarfile.REGTYPE, tarfile.AREGTYPE} or member.sparse is not None or member.size < 0:
        return False
    if name in {_DATABASE, _MANIFEST, *_KEYS}:
        return True
    return name.startswith(_OBJECTS) and all(part.strip(".") and "\0" not in part for part in name.split("/"))


# Files and progress


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


class _Hashing(io.RawIOBase):
    """A file that hashes what is read from it."""

    def __init__(self, file: IO[bytes], digest: _Digest) -> None:
        self._file = file
        self._digest = digest

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self._digest.update(chunk)
        return chunk


class _Progress:
    """Prints a progress line to standard error, at most once a second."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _PROGRESS_SECONDS

    def say(self, line: str) -> None:
        if time.monotonic() >= self._next:
            print(f"cdv: {line}", file=sys.stderr, flush=True)
            self._next = time.monotonic() + _PROGRESS_SECONDS


@contextmanager
def _os_errors_as_cannot_start(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
        raise CannotStart(what, reason, "free some space, or let this user read and write there") from error
