"""AWS KMS over HTTP with AWS's client: decryption, refusals and outages."""

import base64
import sys
from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from cdv_adapters.secrets.aws_kms import KmsSecrets, encryption_context
from cdv_core.errors import InvalidField, Unavailable
from cdv_core.ports.secrets import UnusableSecret
from conformance.ports.secrets import loggable_text
from tests.adapters.kms import KmsServer
from tests.fakes.s3 import Answer
from tests.fakes.s3 import ScriptedS3 as ScriptedServer
from tests.servers import FaultProxy


@pytest.fixture(scope="module")
def kms() -> Iterator[KmsServer]:
    with KmsServer() as server:
        yield server


@pytest.fixture
def proxy(kms: KmsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(kms.url) as proxy:
        kms.point_to(monkeypatch, proxy.url)
        yield proxy


async def cause(source: KmsSecrets, reference: str) -> BaseException:
    with pytest.raises(Unavailable) as caught:
        await source.get(reference)
    assert caught.value.__cause__ is not None
    return caught.value.__cause__


async def test_a_ciphertext_decrypts_in_its_own_environment_only(kms: KmsServer, proxy: FaultProxy):
    reference = kms.encrypted("hunter2", "staging")

    assert await KmsSecrets(encryption_context("staging")).get(reference) == "hunter2"
    error = await cause(KmsSecrets(encryption_context("prod")), reference)

    assert isinstance(error, ClientError)
    assert error.response["Error"]["Code"] == "InvalidCiphertextException"


async def test_an_invalid_ciphertext_is_unavailable(proxy: FaultProxy):
    reference = "awskms:" + base64.b64encode(b"junk" * 40).decode()

    assert isinstance(await cause(KmsSecrets(encryption_context("staging")), reference), ClientError)


async def test_a_secret_that_is_not_utf_8_is_refused_without_being_shown(kms: KmsServer, proxy: FaultProxy):
    reference = kms.encrypted(b"hunter2\xff", "staging")

    with pytest.raises(Unavailable) as caught:
        await KmsSecrets(encryption_context("staging")).get(reference)

    assert isinstance(caught.value.__cause__, UnusableSecret)
    assert caught.value.__context__ is None
    assert "hunter2" not in loggable_text(caught.value)


async def test_a_decrypted_secret_is_cached_during_an_outage(kms: KmsServer, proxy: FaultProxy):
    source = KmsSecrets(encryption_context("staging"), attempts=1)
    first, second = kms.encrypted("first", "staging"), kms.encrypted("second", "staging")
    assert await source.get(first) == "first"

    proxy.cut()

    assert await source.get(first) == "first"
    with pytest.raises(Unavailable):
        await source.get(second)
    proxy.heal()
    assert await source.get(second) == "second"


async def test_a_failing_request_is_retried_a_bounded_number_of_times(kms: KmsServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    body = b'{"__type":"KMSInternalException","message":"away"}'
    with ScriptedServer(lambda _: Answer(500, body, {"Content-Type": "application/x-amz-json-1.1"})) as broken:
        kms.point_to(monkeypatch, broken.url)
        error = await cause(KmsSecrets(encryption_context("staging")), "awskms:AAAA")
        assert len(broken.requests) == 3

    assert isinstance(error, ClientError)
    assert broken.requests[0].headers["x-amz-target"] == "TrentService.Decrypt"
    assert broken.requests[0].headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=test/")


async def test_an_unreachable_kms_is_unavailable(kms: KmsServer, monkeypatch: pytest.MonkeyPatch):
    with FaultProxy(kms.url) as gone:
        pass
    kms.point_to(monkeypatch, gone.url)

    assert isinstance(await cause(KmsSecrets({}, attempts=1), "awskms:AAAA"), EndpointConnectionError)


async def test_missing_aws_credentials_are_unavailable_with_the_cause(
    kms: KmsServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    assert isinstance(await cause(KmsSecrets({}, attempts=1), "awskms:AAAA"), NoCredentialsError)


async def test_the_region_is_required_and_may_be_set_by_either_variable(
    kms: KmsServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(InvalidField, match="region"):
        KmsSecrets({})

    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert await KmsSecrets(encryption_context("staging")).get(kms.encrypted("hunter2", "staging")) == "hunter2"


def test_a_missing_botocore_is_reported_with_the_install_command(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "botocore"]:
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(InvalidField, match="pip install botocore"):
        KmsSecrets({})
