"""Media assets: initialise an upload, finalise it, describe it, hand out its content, sweep what has expired.

`finalize`: verify the staged bytes → claim their hash → copy exactly those bytes → commit. A crash after any step
leaves a pending asset that can be finalised again. The claim precedes the copy so that of two concurrent finalisations
of different bytes only one ever writes to the final key: its object always matches the asset's hash.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from cdv_core.domain.events import media_finalized
from cdv_core.domain.identifiers import AssetId, Did
from cdv_core.domain.limits import DOWNLOAD_LIFE, SWEEP_GRACE, UPLOAD_LIFE
from cdv_core.domain.media import Asset, AssetState, Sha256, content_disposition, parse_filename
from cdv_core.domain.media_types import mismatched_type
from cdv_core.domain.viewers import Viewer
from cdv_core.errors import (
    AssetNotFound,
    ChecksumMismatch,
    ChecksumNotAnnounced,
    DidMismatch,
    InvalidField,
    MediaConflict,
    MediaTooLarge,
    MediaTypeMismatch,
    MediaTypeNotAllowed,
    Unavailable,
)
from cdv_core.ports.blobs import BlobStore, StagedBlob
from cdv_core.ports.clock import Clock
from cdv_core.ports.ids import IdSource
from cdv_core.ports.media import MediaStore

_SWEEP_FAILURES_MAX: Final = 3  # ours: the store is then probably down, and each call may take ten seconds to fail


@dataclass(frozen=True, slots=True)
class MediaPolicy:
    """Which uploads are accepted. `env`: the prefix of every final key."""

    env: str
    max_bytes: int
    allowed_types: Collection[str]


@dataclass(frozen=True, slots=True)
class Upload:
    """A pending asset and the URL to PUT its bytes to: absolute, or relative to the service's own address."""

    asset: Asset
    url: str


class Media:
    """The media assets of the vault."""

    def __init__(self, store: MediaStore, blobs: BlobStore, clock: Clock, ids: IdSource, policy: MediaPolicy) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._ids = ids
        self._policy = policy
        self._failed_deletions: set[AssetId] = set()  # of the last sweep; the next one tries these last

    async def init_upload(
        self,
        *,
        did: str,
        mime_type: str,
        size: int,
        sha256: str | None = None,
        filename: str | None = None,
        subject: Did | None = None,
    ) -> Upload:
        """Return a new pending asset and its upload URL, valid for 15 minutes. `size` is in bytes.

        Raises: InvalidField. DidMismatch: `did` is not `subject`. MediaTooLarge. MediaTypeNotAllowed. Unavailable.
        """
        owner = Did.parse(did)
        if not isinstance(size, int) or size < 1:
            raise InvalidField("size", "must be a whole number of bytes, at least 1")
        announced = None if sha256 is None else Sha256.parse(sha256)
        name = None if filename is None else parse_filename(filename)
        if subject is not None and owner != subject:
            raise DidMismatch("did")
        if size > self._policy.max_bytes:
            raise MediaTooLarge(size, self._policy.max_bytes)
        declared = mime_type.lower()
        if declared not in self._policy.allowed_types:
            raise MediaTypeNotAllowed(mime_type, tuple(sorted(self._policy.allowed_types)))
        now = self._clock.now()
        asset_id = AssetId(self._ids.new(now))
        asset = Asset(asset_id, owner, declared, size, now, now + UPLOAD_LIFE, name, announced)
        url = await self._blobs.upload_url(asset.staging_key, size_bytes=size, expires_at=asset.expires_at)
        await self._store.add(asset)
        return Upload(asset, url)

    async def finalize(
        self,
        *,
        asset_id: str,
        sha256: str,
        subject: Did | None = None,
        correlation_id: str | None = None,
        traceparent: str | None = None,
    ) -> Asset:
        """Verify the uploaded bytes and return the permanent asset; idempotent for the same hash.

        `correlation_id`: for the event; generated if None. `traceparent`: W3C trace context, for the event.

        Raises: InvalidField. AssetNotFound: unknown or expired. DidMismatch: another owner's asset. MediaConflict:
        nothing uploaded, finalised with another hash, or the bytes were replaced meanwhile. MediaSizeMismatch,
        ChecksumMismatch, MediaTypeMismatch: the asset stays pending. Unavailable: try again.
        """
        checksum = Sha256.parse(sha256)
        asset = await self._find(asset_id)
        if subject is not None and asset.did != subject:
            raise DidMismatch("assetId")
        if asset.state is AssetState.FINALIZED:
            return _with_checksum(asset, checksum)
        if self._is_expired(asset):
            raise AssetNotFound(asset_id)
        return await self._make_permanent(asset, checksum, correlation_id, traceparent)

    async def _make_permanent(
        self, asset: Asset, checksum: Sha256, correlation_id: str | None, traceparent: str | None
    ) -> Asset:
        blob = await self._blobs.inspect(asset.staging_key, size_bytes=asset.size_bytes)
        if blob is None:
            # A concurrent finalisation may have completed, and the staged object been swept: return its result.
            current = await self._store.find(asset.asset_id)
            if current is not None and current.state is AssetState.FINALIZED:
                return _with_checksum(current, checksum)
            raise MediaConflict(asset.asset_id, "not_uploaded")
        _verify(asset, blob, checksum)
        claimed = await self._store.claim(asset.asset_id, checksum)
        if claimed is None or claimed.state is AssetState.EXPIRED:
            raise AssetNotFound(asset.asset_id)
        _with_checksum(claimed, checksum)
        copied = await self._blobs.promote(
            asset.staging_key,
            blob.etag,
            asset.final_key(self._policy.env),
            mime_type=asset.mime_type,
            disposition=content_disposition(asset.mime_type, asset.filename),
        )
        if not copied and claimed.state is not AssetState.FINALIZED:
            raise MediaConflict(asset.asset_id, "changed_while_finalizing")
        now = self._clock.now()
        event_id = self._ids.new(now)
        event = media_finalized(
            asset,
            checksum=checksum,
            finalized_at=now,
            event_id=event_id,
            correlation_id=correlation_id or event_id,
            traceparent=traceparent,
        )
        finalized = await self._store.finalize(asset.asset_id, event)
        if finalized is None or finalized.state is not AssetState.FINALIZED:
            raise AssetNotFound(asset.asset_id)
        return finalized

    async def describe(self, asset_id: str, *, viewer: Did | Viewer = Viewer.THE_VAULT) -> Asset:
        """Return a finalised asset, or a pending one if `viewer` is its owner or the vault itself.

        Raises: AssetNotFound: unknown, expired, or another owner's pending asset. Unavailable.
        """
        asset = await self._find(asset_id)
        if asset.state is AssetState.FINALIZED:
            return asset
        if self._is_expired(asset) or viewer not in {Viewer.THE_VAULT, asset.did}:
            raise AssetNotFound(asset_id)
        return asset

    async def content_url(self, asset_id: str, *, head: bool = False) -> str:
        """Return a URL to GET a finalised asset's bytes, or to HEAD them if `head`; valid for 5 minutes.

        Raises: AssetNotFound: unknown or not finalised. Unavailable.
        """
        asset = await self._find(asset_id)
        if asset.state is not AssetState.FINALIZED:
            raise AssetNotFound(asset_id)
        return await self._blobs.download_url(
            asset.final_key(self._policy.env),
            mime_type=asset.mime_type,
            disposition=content_disposition(asset.mime_type, asset.filename),
            expires_at=self._clock.now() + DOWNLOAD_LIFE,
            head=head,
        )

    async def sweep(self, limit: int = 100) -> int:
        """Delete up to `limit` staged objects whose upload URL expired an hour ago, and the assets never finalised.

        Returns how many assets were swept. Safe with any number of concurrent callers and after a crash at any point:
        the next call continues. A final object is deleted only if its asset was claimed and expired, so that it was
        never announced.
        Raises: Unavailable: no object could be deleted. A single object that cannot be deleted does not block others.
        """
        swept: list[AssetId] = []
        failures: list[Unavailable] = []
        due = await self._store.expire(self._clock.now() - SWEEP_GRACE, limit)
        self._failed_deletions &= {asset.asset_id for asset in due}
        for asset in sorted(due, key=lambda asset: asset.asset_id in self._failed_deletions):
            try:
                await self._blobs.delete(asset.staging_key)
                # Never claimed, as far as this database knows: then it has copied nothing. One that was restored to an
                # earlier moment may have announced the object afterwards, and may be restored to a later one again.
                if asset.state is AssetState.EXPIRED and asset.checksum is not None:
                    await self._blobs.delete(asset.final_key(self._policy.env))
            except Unavailable as error:
                failures.append(error)
                self._failed_deletions.add(asset.asset_id)
                if len(failures) == _SWEEP_FAILURES_MAX:
                    break
            else:
                swept.append(asset.asset_id)
        await self._store.mark_swept(swept)
        if failures and not swept:
            raise failures[0]
        return len(swept)

    async def _find(self, asset_id: str) -> Asset:
        """Raises: AssetNotFound: unknown, or not a valid asset id. Unavailable."""
        try:
            found = await self._store.find(AssetId.parse(asset_id))
        except InvalidField:
            found = None
        if found is None:
            raise AssetNotFound(asset_id)
        return found

    def _is_expired(self, asset: Asset) -> bool:
        return asset.state is AssetState.EXPIRED or asset.expires_at <= self._clock.now()


def _verify(asset: Asset, blob: StagedBlob, checksum: Sha256) -> None:
    if asset.announced_checksum not in {None, checksum}:
        raise ChecksumNotAnnounced(expected=str(asset.announced_checksum), actual=checksum)
    if blob.sha256 != checksum:
        raise ChecksumMismatch(expected=checksum, actual=blob.sha256)
    detected = mismatched_type(asset.mime_type, blob.head)
    if detected is not None:
        raise MediaTypeMismatch(declared=asset.mime_type, detected=detected)


def _with_checksum(asset: Asset, checksum: Sha256) -> Asset:
    """Return `asset`. Raises: MediaConflict: its checksum is another one."""
    if asset.checksum != checksum:
        is_final = asset.state is AssetState.FINALIZED
        raise MediaConflict(asset.asset_id, "finalized_with_another_hash" if is_final else "claimed_by_another_hash")
    return asset
