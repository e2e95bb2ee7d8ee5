"""Creates the bucket if it does not exist, and turns on each protection that the store supports.

Settings of the operator's own, such as other rules or encryption keys, are reported and never overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import Any, Final
from xml.etree import ElementTree as ET

from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.error import MinioException, S3Error
from minio.helpers import md5sum_hash
from minio.lifecycleconfig import (
    AbortIncompleteMultipartUpload,
    Expiration,
    LifecycleConfig,
    NoncurrentVersionExpiration,
    Rule,
)
from minio.sseconfig import Rule as EncryptionRule
from minio.sseconfig import SSEConfig
from minio.versioningconfig import VersioningConfig
from minio.xml import Element, SubElement, findall, findtext, getbytes

STAGING_PREFIX: Final = "uploads/"  # Asset.staging_key
_PROBE_KEY: Final = f"{STAGING_PREFIX}.encrypted"  # under the staging prefix, so that it expires if a crash leaves it
# S3 counts from the next midnight, so one day means one to two days; an upload URL expires after 15 minutes.
_STAGED_DAYS: Final = 1
_NONCURRENT_DAYS: Final = 30  # ours: the time to notice an accidental deletion
_PREFLIGHT_SECONDS: Final = 3600  # ours
_LIFECYCLE_IDS: Final = frozenset({"cdv-staging", "cdv-versions"})
_UPLOADS_ID: Final = "cdv-uploads"
_DOWNLOADS_ID: Final = "cdv-downloads"
# Error codes of S3-compatible stores for a call that they do not support.
_NOT_OFFERED: Final = frozenset({"NotImplemented", "XNotImplemented", "MethodNotAllowed", "KMSNotConfigured"})


class ProvisionOutcome(StrEnum):
    DONE = "done"
    NOT_OFFERED = "not offered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Provisioned:
    """The outcome of one feature. `detail`: a sentence for the operator."""

    feature: str
    outcome: ProvisionOutcome
    detail: str


class _LeftAlone(Exception):
    """The operator has settings of their own for this feature."""


def provision_bucket(client: Minio, bucket: str, allowed_origins: Sequence[str]) -> list[Provisioned]:
    """Set up each feature and return the outcomes, in a fixed order. Blocks.

    Idempotent, and safe from any number of processes at once. Raises what urllib3 raises if the store does not respond;
    error responses of the store are reported in the outcomes.
    """
    return [
        _attempt("bucket", lambda: _create(client, bucket)),
        _attempt("private", lambda: _remove_public_access(client, bucket)),
        _attempt("versioning", lambda: _enable_versioning(client, bucket)),
        _attempt("encryption", lambda: _enable_encryption(client, bucket)),
        _attempt("lifecycle", lambda: _set_lifecycle_rules(client, bucket)),
        _attempt("cors", lambda: _set_cors_rules(client, bucket, allowed_origins)),
    ]


def _attempt(feature: str, step: Callable[[], str]) -> Provisioned:
    try:
        return Provisioned(feature, ProvisionOutcome.DONE, step())
    except S3Error as error:
        outcome = ProvisionOutcome.NOT_OFFERED if error.code in _NOT_OFFERED else ProvisionOutcome.FAILED
        return Provisioned(feature, outcome, f"{error.code}: {error.message}")
    except (_LeftAlone, MinioException, ET.ParseError, ValueError) as error:
        return Provisioned(feature, ProvisionOutcome.FAILED, str(error))


def _create(client: Minio, bucket: str) -> str:
    if client.bucket_exists(bucket):
        return f"{bucket} exists"
    try:
        client.make_bucket(bucket)
    except S3Error as error:
        if error.code != "BucketAlreadyOwnedByYou":  # otherwise another replica was faster
            raise
    return f"{bucket} was made"


def _remove_public_access(client: Minio, bucket: str) -> str:
    try:
        policy: dict[str, Any] = json.loads(client.get_bucket_policy(bucket))
    except S3Error as error:
        if error.code != "NoSuchBucketPolicy":
            raise
        return "no policy lets anyone in"
    listed = policy.get("Statement", [])
    statements = listed if isinstance(listed, list) else [listed]
    kept = [statement for statement in statements if not _grants_public_access(statement)]
    if len(kept) == len(statements):
        return "no policy lets everyone in"
    if kept:
        client.set_bucket_policy(bucket, json.dumps({**policy, "Statement": kept}))
    else:
        client.delete_bucket_policy(bucket)
    return f"{len(statements) - len(kept)} policy statement(s) that let everyone in were removed"


def _grants_public_access(statement: dict[str, Any]) -> bool:
    principal = statement.get("Principal")
    names = principal.get("AWS", []) if isinstance(principal, dict) else principal
    everyone = names == "*" or (isinstance(names, list) and "*" in names)
    # A condition, such as a network, is the operator's deliberate restriction.
    return everyone and statement.get("Effect") == "Allow" and not statement.get("Condition")


def _enable_versioning(client: Minio, bucket: str) -> str:
    if client.get_bucket_versioning(bucket).status != ENABLED:
        client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    return "versions are kept"


def _enable_encryption(client: Minio, bucket: str) -> str:
    present = client.get_bucket_encryption(bucket)
    if present is not None:
        return f"objects are encrypted ({present.rule.sse_algorithm})"
    client.set_bucket_encryption(bucket, SSEConfig(EncryptionRule.new_sse_s3_rule()))
    try:
        # Some stores, such as SeaweedFS, accept the setting without an encryption key and then reject every upload.
        client.put_object(bucket, _PROBE_KEY, BytesIO(b"?"), 1)
    except MinioException as error:
        client.delete_bucket_encryption(bucket)
        raise _LeftAlone(f"the store writes no encrypted object, so it is not asked to: {error}") from error
    client.remove_object(bucket, _PROBE_KEY)
    return "objects are encrypted with the store's keys (SSE-S3)"


def _set_lifecycle_rules(client: Minio, bucket: str) -> str:
    present = client.get_bucket_lifecycle(bucket)
    foreign = {str(rule.rule_id) for rule in present.rules} - _LIFECYCLE_IDS if present else set()
    if foreign:
        raise _LeftAlone(
            f"the bucket has lifecycle rules of its own ({', '.join(sorted(foreign))}); add rules that expire"
            f" {STAGING_PREFIX} after {_STAGED_DAYS} day, noncurrent versions and incomplete multipart uploads"
        )
    abort = AbortIncompleteMultipartUpload(days_after_initiation=_STAGED_DAYS)
    staging = Rule(
        ENABLED,
        rule_filter=Filter(prefix=STAGING_PREFIX),
        rule_id="cdv-staging",
        expiration=Expiration(days=_STAGED_DAYS),
        noncurrent_version_expiration=NoncurrentVersionExpiration(noncurrent_days=_STAGED_DAYS),
        abort_incomplete_multipart_upload=abort,
    )
    versions = Rule(
        ENABLED,
        rule_filter=Filter(prefix=""),
        rule_id="cdv-versions",
        expiration=Expiration(expired_object_delete_marker=True),
        noncurrent_version_expiration=NoncurrentVersionExpiration(noncurrent_days=_NONCURRENT_DAYS),
        abort_incomplete_multipart_upload=abort,
    )
    client.set_bucket_lifecycle(bucket, LifecycleConfig([staging, versions]))
    return f"{STAGING_PREFIX} expires after {_STAGED_DAYS} day, noncurrent versions after {_NONCURRENT_DAYS}"


def _set_cors_rules(client: Minio, bucket: str, allowed_origins: Sequence[str]) -> str:
    if not allowed_origins:
        return "no origins are allowed, none are set"
    foreign = _cors_ids(client, bucket) - {_UPLOADS_ID, _DOWNLOADS_ID}
    if foreign:
        raise _LeftAlone(
            f"the bucket has CORS rules of its own ({', '.join(sorted(foreign))}); add one that lets"
            f" {', '.join(allowed_origins)} PUT and GET, and one that lets * GET"
        )
    root = Element("CORSConfiguration")
    _add_rule(root, _UPLOADS_ID, allowed_origins, ("PUT", "GET", "HEAD"))
    # After our redirect, the browser sends `Origin: null`. Allowing every origin is safe: the URL itself is signed.
    _add_rule(root, _DOWNLOADS_ID, ("*",), ("GET", "HEAD"))
    body = getbytes(root)
    # minio has no CORS call. Its signer is public but its HTTP method is not: using it takes the least code of our own.
    client._execute(  # noqa: SLF001
        "PUT", bucket, body=body, headers={"Content-MD5": md5sum_hash(body) or ""}, query_params={"cors": ""}
    )
    return f"{', '.join(allowed_origins)} may PUT and GET"


def _add_rule(root: ET.Element, rule_id: str, origins: Sequence[str], methods: Sequence[str]) -> None:
    rule = SubElement(root, "CORSRule")
    SubElement(rule, "ID", rule_id)
    for tag, values in (
        ("AllowedOrigin", origins),
        ("AllowedMethod", methods),
        ("AllowedHeader", ("*",)),
        ("ExposeHeader", ("ETag",)),
        ("MaxAgeSeconds", (str(_PREFLIGHT_SECONDS),)),
    ):
        for value in values:
            SubElement(rule, tag, value)


def _cors_ids(client: Minio, bucket: str) -> set[str]:
    try:
        response = client._execute("GET", bucket, query_params={"cors": ""})  # noqa: SLF001 - see above
    except S3Error as error:
        if error.code != "NoSuchCORSConfiguration":
            raise
        return set()
    rules = findall(ET.fromstring(response.data), "CORSRule")  # noqa: S314 - our own store's response
    return {findtext(rule, "ID") or "without a name" for rule in rules}
