"""Provisioning creates and protects the bucket as far as the store supports it, and keeps the operator's settings."""

import base64
import hashlib
import json
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import anyio
import pytest
import urllib3
from minio.error import S3Error

from cdv_adapters.blobs.s3_bucket import Provisioned, ProvisionOutcome
from tests.adapters.s3_stores import FINAL, STAGING, etag_of, open_store, promote, request, scripted_store, stage
from tests.fakes.s3 import Answer, ReceivedRequest, refusal
from tests.servers import Bucket, S3Server, VersionedS3Server

FEATURES = ["bucket", "private", "versioning", "encryption", "lifecycle", "cors"]
ORIGINS = ["https://app.example", "https://admin.example"]


@pytest.fixture
def new_bucket(s3_server: S3Server) -> Iterator[Bucket]:
    """A bucket that does not exist yet."""
    bucket = s3_server.create_bucket()
    s3_server.client().remove_bucket(bucket.name)
    yield bucket
    s3_server.drop_bucket(bucket)


def outcomes(report: list[Provisioned]) -> dict[str, ProvisionOutcome]:
    assert [item.feature for item in report] == FEATURES
    assert all(item.detail for item in report)
    return {item.feature: item.outcome for item in report}


# A real store


async def test_provision_creates_a_new_bucket_that_is_ready(new_bucket: Bucket):
    with open_store(new_bucket.endpoint, new_bucket) as store:
        provisioned = outcomes(await store.provision([]))

        assert (provisioned["bucket"], provisioned["private"], provisioned["cors"]) == (
            ProvisionOutcome.DONE,
            ProvisionOutcome.DONE,
            ProvisionOutcome.DONE,
        )
        assert set(provisioned.values()) <= {ProvisionOutcome.DONE, ProvisionOutcome.NOT_OFFERED}
        await store.check()
        await stage(store, b"bytes")
        assert await promote(store, await etag_of(store, 5))


async def test_provision_enables_every_protection_that_a_real_store_supports(versioned_s3_server: VersionedS3Server):
    bucket = S3Server.create_bucket(versioned_s3_server)
    with open_store(bucket.endpoint, bucket) as store:
        assert set(outcomes(await store.provision(ORIGINS)).values()) == {ProvisionOutcome.DONE}
        await stage(store, b"bytes")
        assert await promote(store, await etag_of(store, 5))

    permanent = versioned_s3_server.client().stat_object(bucket.name, FINAL)
    assert permanent.metadata is not None
    assert permanent.metadata["x-amz-server-side-encryption"] == "AES256"
    assert permanent.version_id
    assert may_put(bucket, ORIGINS[0])
    assert not may_put(bucket, "https://elsewhere.example")
    versioned_s3_server.drop_bucket(bucket)


def may_put(bucket: Bucket, origin: str) -> bool:
    """Return whether the store's CORS rules let a page of `origin` upload."""
    headers = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    with urllib3.PoolManager(timeout=10, retries=False) as http:
        answer = http.request("OPTIONS", f"{bucket.endpoint}/{bucket.name}/{STAGING}", headers=headers)
    return "PUT" in answer.headers.get("Access-Control-Allow-Methods", "")


async def test_concurrent_replicas_provision_one_bucket(new_bucket: Bucket):
    reports: list[list[Provisioned]] = []

    async def start() -> None:
        with open_store(new_bucket.endpoint, new_bucket) as store:
            reports.append(await store.provision(ORIGINS))

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(start)

    assert {outcomes(report)["bucket"] for report in reports} == {ProvisionOutcome.DONE}


async def test_provision_makes_a_public_bucket_private(s3_server: S3Server, s3_bucket: Bucket):
    public = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": ["*"]},
                "Action": ["s3:GetObject"],
                "Resource": [f"arn:aws:s3:::{s3_bucket.name}/*"],
            }
        ],
    }
    try:
        s3_server.client().set_bucket_policy(s3_bucket.name, json.dumps(public))
    except S3Error as error:
        pytest.skip(f"this store has no bucket policies: {error.code}")
    anonymous = f"{s3_bucket.endpoint}/{s3_bucket.name}/{FINAL}"
    with open_store(s3_bucket.endpoint, s3_bucket) as store:
        await stage(store, b"bytes")
        assert await promote(store, await etag_of(store, 5))
        assert request("GET", anonymous).status == 200

        provisioned = outcomes(await store.provision([]))

    assert provisioned["private"] is ProvisionOutcome.DONE
    assert request("GET", anonymous).status == 403


# The settings sent to a store with every feature


class ConfigurableS3:
    """A store that supports every feature, none of them configured. `settings`: those put, by query name."""

    def __init__(self, **settings: str | Answer) -> None:
        self.settings: dict[str, bytes | Answer] = {
            name: value if isinstance(value, Answer) else value.encode() for name, value in settings.items()
        }
        self.refused: dict[str, Answer] = {}

    def __call__(self, request: ReceivedRequest) -> Answer:
        name = next((name for name in request.query if name != "location"), "bucket")
        if request.path.count("/") > 1:
            name = "object"
        if name in self.refused:
            return self.refused[name]
        if name == "object":
            return Answer(200, b"", {"ETag": '"abc"'})
        if request.method == "PUT":
            self.settings[name] = request.body
            return Answer(200)
        if request.method == "DELETE":
            del self.settings[name]
            return Answer(204)
        default = {
            "policy": refusal(404, "NoSuchBucketPolicy"),
            "versioning": Answer(200, b"<VersioningConfiguration/>"),
            "encryption": refusal(404, "ServerSideEncryptionConfigurationNotFoundError"),
            "lifecycle": refusal(404, "NoSuchLifecycleConfiguration"),
            "cors": refusal(404, "NoSuchCORSConfiguration"),
            "bucket": refusal(404, "NoSuchBucket"),
        }[name]
        value = self.settings.get(name, default)
        return value if isinstance(value, Answer) else Answer(200, value)

    def text(self, name: str) -> str:
        value = self.settings[name]
        assert isinstance(value, bytes)
        return value.decode()


def rules(xml: str, tag: str) -> list[list[tuple[str, str]]]:
    """Return each rule as the names and texts of its leaf elements, in order."""
    return [
        [(leaf.tag.rpartition("}")[2], leaf.text or "") for leaf in rule.iter() if len(leaf) == 0]
        for rule in ET.fromstring(xml)
        if rule.tag.rpartition("}")[2] == tag
    ]


async def provision(s3: ConfigurableS3) -> list[Provisioned]:
    with scripted_store(s3) as (store, _):
        return await store.provision(ORIGINS)


async def test_provision_configures_every_supported_feature():
    s3 = ConfigurableS3()

    report = await provision(s3)

    assert set(outcomes(report).values()) == {ProvisionOutcome.DONE}
    assert "Enabled" in s3.text("versioning")
    assert "AES256" in s3.text("encryption")
    assert rules(s3.text("lifecycle"), "Rule") == [
        [
            ("Status", "Enabled"),
            ("Prefix", "uploads/"),
            ("ID", "cdv-staging"),
            ("DaysAfterInitiation", "1"),
            ("Days", "1"),
            ("NoncurrentDays", "1"),
        ],
        [
            ("Status", "Enabled"),
            ("Prefix", ""),
            ("ID", "cdv-versions"),
            ("DaysAfterInitiation", "1"),
            ("ExpiredObjectDeleteMarker", "true"),
            ("NoncurrentDays", "30"),
        ],
    ]
    assert rules(s3.text("cors"), "CORSRule") == [
        [
            ("ID", "cdv-uploads"),
            ("AllowedOrigin", "https://app.example"),
            ("AllowedOrigin", "https://admin.example"),
            ("AllowedMethod", "PUT"),
            ("AllowedMethod", "GET"),
            ("AllowedMethod", "HEAD"),
            ("AllowedHeader", "*"),
            ("ExposeHeader", "ETag"),
            ("MaxAgeSeconds", "3600"),
        ],
        # A browser that follows our redirect there sends `Origin: null`.
        [
            ("ID", "cdv-downloads"),
            ("AllowedOrigin", "*"),
            ("AllowedMethod", "GET"),
            ("AllowedMethod", "HEAD"),
            ("AllowedHeader", "*"),
            ("ExposeHeader", "ETag"),
            ("MaxAgeSeconds", "3600"),
        ],
    ]
    assert "policy" not in s3.settings


async def test_cors_and_lifecycle_rules_are_sent_with_a_content_md5():
    s3 = ConfigurableS3()
    with scripted_store(s3) as (store, server):
        await store.provision(ORIGINS)

    for received in server.requests:
        if received.method == "PUT" and received.query.keys() & {"cors", "lifecycle"}:
            digest = hashlib.md5(received.body, usedforsecurity=False).digest()
            assert received.headers["content-md5"] == base64.b64encode(digest).decode()


async def test_no_lifecycle_rule_expires_permanent_objects():
    s3 = ConfigurableS3()
    await provision(s3)

    expiring = [rule for rule in rules(s3.text("lifecycle"), "Rule") if "Days" in dict(rule)]

    assert [dict(rule)["Prefix"] for rule in expiring] == ["uploads/"]


async def test_provisioning_again_changes_nothing():
    s3 = ConfigurableS3()
    first = await provision(s3)
    settings = dict(s3.settings)
    s3.settings["bucket"] = Answer(200)

    second = await provision(s3)

    assert outcomes(second) == outcomes(first)
    assert {**s3.settings, "bucket": settings["bucket"]} == settings


async def test_unsupported_and_forbidden_features_are_reported_and_the_rest_is_configured():
    s3 = ConfigurableS3()
    s3.refused = {
        "versioning": refusal(501, "NotImplemented"),
        "lifecycle": refusal(403, "AccessDenied"),
        "encryption": Answer(405, b"no", {"Content-Type": "text/plain"}),
    }

    report = await provision(s3)

    assert outcomes(report) == {
        "bucket": ProvisionOutcome.DONE,
        "private": ProvisionOutcome.DONE,
        "versioning": ProvisionOutcome.NOT_OFFERED,
        "encryption": ProvisionOutcome.FAILED,
        "lifecycle": ProvisionOutcome.FAILED,
        "cors": ProvisionOutcome.DONE,
    }
    details = {item.feature: item.detail for item in report}
    assert details["lifecycle"] == "AccessDenied: told to"
    assert "405" in details["encryption"]


async def test_encryption_is_removed_again_if_the_store_then_fails_to_write():
    s3 = ConfigurableS3()

    def answer(request: ReceivedRequest) -> Answer:
        if request.path.count("/") > 1 and "encryption" in s3.settings:
            return refusal(500, "InternalError")
        return s3(request)

    with scripted_store(answer) as (store, _):
        report = await store.provision(ORIGINS)

    assert outcomes(report)["encryption"] is ProvisionOutcome.FAILED
    assert "encryption" not in s3.settings
    assert "writes no encrypted object" in next(item.detail for item in report if item.feature == "encryption")


@pytest.mark.parametrize(
    ("code", "outcome"),
    [("BucketAlreadyExists", ProvisionOutcome.FAILED), ("BucketAlreadyOwnedByYou", ProvisionOutcome.DONE)],
)
async def test_a_bucket_of_another_account_fails_and_one_of_our_own_is_accepted(code: str, outcome: ProvisionOutcome):
    s3 = ConfigurableS3()

    def answer(request: ReceivedRequest) -> Answer:
        return refusal(409, code) if request.method == "PUT" and not request.query else s3(request)

    with scripted_store(answer) as (store, _):
        assert outcomes(await store.provision([]))["bucket"] is outcome


LIFECYCLE = """<LifecycleConfiguration><Rule><ID>theirs</ID><Status>Enabled</Status><Filter>
<Prefix>logs/</Prefix></Filter><Expiration><Days>3</Days></Expiration></Rule></LifecycleConfiguration>"""
CORS = """<CORSConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><CORSRule><AllowedOrigin>https://x.example
</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>"""


async def test_lifecycle_and_cors_rules_of_the_operator_are_left_unchanged_and_reported():
    s3 = ConfigurableS3(lifecycle=LIFECYCLE, cors=CORS)

    report = await provision(s3)

    assert (s3.text("lifecycle"), s3.text("cors")) == (LIFECYCLE, CORS)
    details = {item.feature: (item.outcome, item.detail) for item in report}
    assert details["lifecycle"][0] is details["cors"][0] is ProvisionOutcome.FAILED
    assert "theirs" in details["lifecycle"][1]
    assert "https://app.example" in details["cors"][1]


async def test_encryption_configured_by_the_operator_is_left_unchanged():
    kms = (
        "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>aws:kms"
        "</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>"
    )
    s3 = ConfigurableS3(encryption=kms)

    report = await provision(s3)

    assert s3.text("encryption") == kms
    assert Provisioned("encryption", ProvisionOutcome.DONE, "objects are encrypted (aws:kms)") in report


def statement(effect: str, principal: object, **more: object) -> dict[str, object]:
    return {"Effect": effect, "Principal": principal, "Action": "s3:GetObject", "Resource": "*", **more}


PUBLIC = [
    statement("Allow", "*"),
    statement("Allow", {"AWS": "*"}),
    statement("Allow", {"AWS": ["arn:aws:iam::1:root", "*"]}),
]
NOT_PUBLIC = [
    statement("Deny", "*"),
    statement("Allow", {"AWS": "arn:aws:iam::1:root"}),
    statement("Allow", {"Service": "logging.s3.amazonaws.com"}),
    statement("Allow", "*", Condition={"StringEquals": {"aws:SourceVpce": "vpce-1"}}),
]


async def test_only_public_statements_are_removed_from_a_policy():
    s3 = ConfigurableS3(policy=json.dumps({"Version": "2012-10-17", "Statement": [*PUBLIC, *NOT_PUBLIC]}))

    report = await provision(s3)

    assert json.loads(s3.text("policy")) == {"Version": "2012-10-17", "Statement": NOT_PUBLIC}
    assert (
        Provisioned("private", ProvisionOutcome.DONE, "3 policy statement(s) that let everyone in were removed")
        in report
    )


async def test_a_policy_of_only_public_statements_is_deleted():
    s3 = ConfigurableS3(policy=json.dumps({"Statement": PUBLIC[0]}))

    assert outcomes(await provision(s3))["private"] is ProvisionOutcome.DONE

    assert "policy" not in s3.settings


async def test_an_invalid_policy_is_reported_as_failed():
    s3 = ConfigurableS3(policy="{")

    assert outcomes(await provision(s3))["private"] is ProvisionOutcome.FAILED
