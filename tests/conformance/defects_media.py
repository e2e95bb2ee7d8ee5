"""Defects of media."""

from __future__ import annotations

from tests.conformance.defects_model import Defect, defect

USE_CASE = "cdv_core/use_cases/media.py"
DOMAIN = "cdv_core/domain/media.py"
FILES = "cdv_adapters/blobs/filesystem.py"
BODIES = "cdv_http/bodies.py"
BLOBS = "cdv_http/routes/blobs.py"

_AGAIN = """        if asset.state is AssetState.FINALIZED:
            return _with_checksum(asset, checksum)
        if self"""
_SERVED = "        return await self._blobs.download_url(\n            asset.final_key(self._policy.env),"
_PROVE = "        _verify(asset, blob, checksum)\n"
_CLAIM = "        claimed = await self._store.claim(asset.asset_id, checksum)\n"

MEDIA: list[Defect] = [
    defect(
        "ticket-expired-already",
        "expiresAt of an upload is its creation time.",
        "MEDIA-001",
        (BODIES, "url, format_time(upload.asset.expires_at))", "url, format_time(upload.asset.created_at))"),
    ),
    defect(
        "upload-needs-a-token",
        "The upload URL rejects requests without an Authorization header.",
        "MEDIA-002",
        (
            BLOBS,
            "    await _store_of(request).receive(",
            (
                '    if "authorization" not in request.headers:\n        raise RequestRefused(400, "no token")\n'
                "    await _store_of(request).receive("
            ),
        ),
    ),
    defect(
        "another-key-signed",
        "The upload URL is signed for another object key than the one that finalize checks.",
        "MEDIA-003",
        (USE_CASE, "upload_url(asset.staging_key, size", 'upload_url(asset.staging_key + "-1", size'),
        trap="The key that was signed differs from the key that is verified",
    ),
    defect(
        "filename-lost",
        "The filename is not returned.",
        "MEDIA-003",
        (BODIES, "        asset.filename or UNSET,", "        UNSET,"),
    ),
    defect(
        "asset-uri-elsewhere",
        "The URI of an asset has another collection.",
        "MEDIA-004",
        (DOMAIN, 'Nsid("com.registryaccord.media.asset")', 'Nsid("com.registryaccord.media.object")'),
    ),
    defect(
        "last-byte-lost",
        "The last byte of an asset is not served.",
        "MEDIA-005",
        (BLOBS, "0, content.size_bytes, 200", "0, content.size_bytes - 1, 200"),
    ),
    defect(
        "download-urls-unsigned",
        "The signatures of upload and download URLs are not verified.",
        "MEDIA-005",
        (
            "cdv_adapters/blobs/url_tokens.py",
            "if not hmac.compare_digest(signature, self._signature(payload)):",
            "if 0:",
        ),
    ),
    defect(
        "finalize-once-only",
        "Finalising an asset again is rejected as a conflict.",
        "MEDIA-006",
        (
            USE_CASE,
            _AGAIN,
            _AGAIN.replace("return _with_checksum(asset, checksum)", 'raise MediaConflict(asset.asset_id, "done")'),
        ),
    ),
    defect(
        "finalize-with-any-hash",
        "Finalising an asset again with another hash returns the first response.",
        "MEDIA-007",
        (USE_CASE, "    if asset.checksum != checksum:", "    if False:"),
    ),
    defect(
        "no-reason",
        "The error for a missing upload does not have the reason not_uploaded.",
        "MEDIA-008",
        (USE_CASE, 'raise MediaConflict(asset.asset_id, "not_uploaded")', 'raise MediaConflict(asset.asset_id, "no")'),
    ),
    defect(
        "any-checksum",
        "The checksum of finalize is not compared with the bytes.",
        "MEDIA-009",
        (USE_CASE, "    if blob.sha256 != checksum:", "    if False:"),
        trap="Without a store, any checksum is accepted",
    ),
    defect(
        "size-not-compared",
        "The declared size is not compared with the bytes.",
        "MEDIA-010",
        (FILES, "            if actual_bytes != size_bytes:", "            if False:"),
        (FILES, "                    if received_bytes > grant.size_bytes:", "                    if False:"),
        trap="The declared size is never compared",
    ),
    defect(
        "type-not-looked-at",
        "The declared type is not compared with the bytes.",
        "MEDIA-011",
        (USE_CASE, "    if detected is not None:", "    if False:"),
    ),
    defect(
        "claimed-before-proved",
        "The first hash sent to finalize is fixed before the bytes are verified, even if it is wrong.",
        "MEDIA-012",
        (USE_CASE, _PROVE + _CLAIM, _CLAIM + _PROVE),
    ),
    defect(
        "declared-hash-forgotten",
        "The sha256 of uploadInit is not compared with that of finalize.",
        "MEDIA-013",
        (USE_CASE, "    if asset.announced_checksum not in {None, checksum}:", "    if False:"),
        trap="The declared checksum is never compared",
    ),
    defect(
        "any-size",
        "The size limit of an upload is not checked.",
        "MEDIA-014",
        (USE_CASE, "        if size > self._policy.max_bytes:", "        if False:"),
    ),
    defect(
        "any-type",
        "The declared type of an upload is not checked against the allowed types.",
        "MEDIA-015",
        (USE_CASE, "        if declared not in self._policy.allowed_types:", "        if False:"),
    ),
    defect(
        "empty-uploads",
        "An upload of zero bytes is accepted.",
        "MEDIA-016",
        (USE_CASE, "        if not isinstance(size, int) or size < 1:", "        if size < 0:"),
    ),
    defect(
        "anyone-finalizes",
        "Any subject can finalise any upload.",
        "MEDIA-017",
        (USE_CASE, "        if subject is not None and asset.did != subject:", "        if False:"),
    ),
    defect(
        "unknown-asset-forbidden",
        "An unknown asset returns 403 instead of 404.",
        "MEDIA-018",
        (
            USE_CASE,
            "        if found is None:\n            raise AssetNotFound(asset_id)\n        return found",
            '        if found is None:\n            raise DidMismatch("assetId")\n        return found',
        ),
    ),
    defect(
        "meta-for-the-owner-only",
        "The metadata of a finalised asset is returned to its owner only.",
        "MEDIA-019",
        (
            USE_CASE,
            "        if asset.state is AssetState.FINALIZED:\n            return asset\n",
            "        if asset.state is AssetState.FINALIZED and viewer == asset.did:\n            return asset\n",
        ),
    ),
    defect(
        "pending-shown-to-all",
        "The metadata of a pending asset is returned to any subject.",
        "MEDIA-020",
        (USE_CASE, " or viewer not in {Viewer.THE_VAULT, asset.did}:", ":"),
    ),
    defect(
        "upload-url-still-works",
        "Content is served from the staged object, which the upload URL can still overwrite.",
        "MEDIA-021",
        (USE_CASE, _SERVED, _SERVED.replace("asset.final_key(self._policy.env)", "asset.staging_key")),
        trap="The upload URL still works after finalize",
    ),
    defect(
        "copied-unseen",
        "The bytes are not verified again while they are copied, so that a concurrent upload can replace them.",
        "MEDIA-022",
        (FILES, "            if digest.hexdigest() != sha256:", "            if False:"),
        (
            USE_CASE,
            "        copied = await self._blobs.promote(",
            '        await __import__("asyncio").sleep(0.1)\n        copied = await self._blobs.promote(',
        ),
    ),
    defect(
        "pending-served",
        "The content of a pending asset is served.",
        "MEDIA-023",
        (
            USE_CASE,
            "        if asset.state is not AssetState.FINALIZED:\n            raise AssetNotFound(asset_id)\n"
            + _SERVED,
            _SERVED.replace("asset.final_key(self._policy.env)", "asset.staging_key"),
        ),
    ),
    defect(
        "filename-as-it-comes",
        "Any filename that is not empty is accepted, even a path.",
        "MEDIA-024",
        (DOMAIN, "    if not FILENAME_SYNTAX.fullmatch(text) or _SURROGATE.search(text):", "    if not text:"),
    ),
    defect(
        "one-finalize-at-a-time",
        "Of concurrent finalisations of one asset, all but one are rejected.",
        "MEDIA-025",
        (
            USE_CASE,
            "        return await self._make_permanent(asset, checksum, correlation_id, traceparent)\n",
            """        busy = self.__dict__.setdefault("busy", set())
        if asset_id in busy:
            raise MediaConflict(asset.asset_id, "busy")
        busy.add(asset_id)
        try:
            return await self._make_permanent(asset, checksum, correlation_id, traceparent)
        finally:
            busy.discard(asset_id)
""",
        ),
    ),
    defect(
        "types-may-be-guessed",
        "Responses have no X-Content-Type-Options header.",
        "MEDIA-026",
        ("cdv_http/middleware/exchange.py", '    (b"x-content-type-options", b"nosniff"),\n', ""),
    ),
    defect(
        "documents-shown-inline",
        "Content that is not an image, audio or video is served inline.",
        "MEDIA-027",
        (DOMAIN, 'disposition = "inline" if shown else "attachment"', 'disposition = "inline"'),
        settings={"CDV_ALLOWED_MIME_TYPES": "image/png,application/pdf"},
    ),
]
