"""Vault: logins, retries, refusals, and secrets that are never shown."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina
import urllib3
from loguru import logger
from urllib3.exceptions import NewConnectionError, ReadTimeoutError, SSLError

from cdv_adapters.secrets import vault as vault_module
from cdv_adapters.secrets.vault import VaultRefused, VaultSecrets
from cdv_core.errors import InvalidField, Unavailable
from conformance.ports.secrets import loggable_text
from tests.adapters.certificates import tls_server_context
from tests.fakes.s3 import Answer, ReceivedRequest, trickling_body
from tests.fakes.s3 import ScriptedS3 as ScriptedServer
from tests.fakes.vault import FakeVault

PASSWORD = "vault:kv/cdv/db#password"
APPROLE = {"VAULT_ROLE_ID": "role-1234", "VAULT_SECRET_ID": "secret-id-1234"}


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=9, cap=True):
        yield


@pytest.fixture
def vault() -> FakeVault:
    vault = FakeVault()
    vault.secrets["", "kv", "cdv/db"] = {"password": "hunter2", "port": 5432, "empty": ""}
    vault.approles["role-1234"] = "secret-id-1234"
    return vault


@pytest.fixture
def server(vault: FakeVault) -> Iterator[ScriptedServer]:
    with ScriptedServer(vault.answer) as server:
        yield server


def to(server: ScriptedServer, environ: dict[str, str], **options: Any) -> VaultSecrets:
    return VaultSecrets({"VAULT_ADDR": server.url, **environ}, **options)


class FakeMonotonic:
    now: float = 0

    def __call__(self) -> float:
        return self.now


async def refusal(source: VaultSecrets, reference: str = PASSWORD) -> BaseException:
    """Return the cause of the secret's unavailability."""
    with pytest.raises(Unavailable) as caught:
        await source.get(reference)
    assert caught.value.__cause__ is not None
    return caught.value.__cause__


async def test_a_token_reads_a_field_of_the_latest_version(vault: FakeVault, server: ScriptedServer):
    source = to(server, {"VAULT_TOKEN": "hvs.root", "VAULT_ADDR": server.url + "/"})

    assert await source.get(PASSWORD) == "hunter2"
    (request,) = vault.requests
    assert (request.method, request.path) == ("GET", "/v1/kv/data/cdv/db")
    assert request.headers["x-vault-request"] == "true"
    assert "x-vault-namespace" not in request.headers


async def test_every_request_carries_the_namespace(vault: FakeVault, server: ScriptedServer):
    vault.secrets["team", "kv", "cdv/db"] = {"password": "theirs"}
    source = to(server, {**APPROLE, "VAULT_NAMESPACE": "team"})

    assert await source.get(PASSWORD) == "theirs"
    assert [request.headers["x-vault-namespace"] for request in vault.requests] == ["team", "team"]


async def test_a_path_is_percent_encoded(vault: FakeVault, server: ScriptedServer):
    with pytest.raises(Unavailable):
        await to(server, {"VAULT_TOKEN": "hvs.root"}).get("vault:kv/a?list=true&x=%2e%2e/é#password")

    assert vault.requests[0].path == "/v1/kv/data/a%3Flist%3Dtrue%26x%3D%252e%252e/%C3%A9"
    assert vault.requests[0].query == {}


async def test_an_approle_logs_in_once_and_again_before_its_token_expires(vault: FakeVault, server: ScriptedServer):
    monotonic = FakeMonotonic()
    source = to(server, APPROLE, monotonic=monotonic)
    for monotonic.now in (0, 1, 500, 959):
        assert await source.get(PASSWORD) == "hunter2"
    assert vault.logins == 1
    assert (vault.requests[0].method, vault.requests[0].path) == ("POST", "/v1/auth/approle/login")
    assert json.loads(vault.requests[0].body) == {"role_id": "role-1234", "secret_id": "secret-id-1234"}
    assert "x-vault-token" not in vault.requests[0].headers

    for monotonic.now in (961, 1500):
        assert await source.get(PASSWORD) == "hunter2"
    assert vault.logins == 2


async def test_a_token_without_expiry_is_kept(vault: FakeVault, server: ScriptedServer):
    vault.lease_seconds = 0
    monotonic = FakeMonotonic()
    source = to(server, APPROLE, monotonic=monotonic)
    for monotonic.now in (0, 10**9):
        await source.get(PASSWORD)

    assert vault.logins == 1


async def test_a_revoked_token_is_replaced_by_a_new_login(vault: FakeVault, server: ScriptedServer):
    source = to(server, APPROLE)
    await source.get(PASSWORD)
    vault.tokens.clear()

    assert await source.get(PASSWORD) == "hunter2"
    assert vault.logins == 2


async def test_a_kubernetes_login_uses_the_current_service_account_token(
    vault: FakeVault, server: ScriptedServer, tmp_path: Path
):
    vault.service_accounts["cdv"] = "first.jwt.token"
    (tmp_path / "token").write_text("first.jwt.token\n")
    source = to(server, {"VAULT_K8S_ROLE": "cdv"}, service_account_token=tmp_path / "token")
    assert await source.get(PASSWORD) == "hunter2"
    assert vault.requests[0].path == "/v1/auth/kubernetes/login"
    assert json.loads(vault.requests[0].body) == {"role": "cdv", "jwt": "first.jwt.token"}

    vault.tokens.clear()
    vault.service_accounts["cdv"] = "second.jwt.token"
    (tmp_path / "token").write_text("second.jwt.token\n")
    assert await source.get(PASSWORD) == "hunter2"


async def test_a_missing_service_account_token_is_unavailable_with_the_cause(server: ScriptedServer, tmp_path: Path):
    source = to(server, {"VAULT_K8S_ROLE": "cdv"}, service_account_token=tmp_path / "absent")

    assert isinstance(await refusal(source), FileNotFoundError)


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({**APPROLE, "VAULT_APPROLE_MOUNT": "approle-eu"}, "/v1/auth/approle-eu/login"),
        ({"VAULT_K8S_ROLE": "cdv", "VAULT_K8S_MOUNT": "k8s/eu"}, "/v1/auth/k8s/eu/login"),
    ],
)
async def test_the_mount_of_a_login_is_configurable(
    vault: FakeVault, server: ScriptedServer, tmp_path: Path, environ: dict[str, str], path: str
):
    (tmp_path / "token").write_text("jwt")
    vault.service_accounts["cdv"] = "jwt"

    assert await to(server, environ, service_account_token=tmp_path / "token").get(PASSWORD) == "hunter2"
    assert vault.requests[0].path == path


@pytest.mark.parametrize(
    ("environ", "reference", "cause"),
    [
        ({"VAULT_TOKEN": "wrong"}, PASSWORD, "reading kv/cdv/db: status 403"),
        ({**APPROLE, "VAULT_SECRET_ID": "wrong"}, PASSWORD, "logging in at approle: status 400"),
        ({"VAULT_ROLE_ID": "role-1234"}, PASSWORD, "logging in at approle: status 400"),
        ({"VAULT_K8S_ROLE": "cdv"}, PASSWORD, "logging in at kubernetes: status 403"),
        ({"VAULT_TOKEN": "hvs.root"}, "vault:kv/absent#x", "reading kv/absent: status 404"),
        (
            {"VAULT_TOKEN": "hvs.root"},
            "vault:kv/cdv/db#absent",
            f"reading {PASSWORD[:-8]}absent: no such field, or no text in it",
        ),
        (
            {"VAULT_TOKEN": "hvs.root"},
            "vault:kv/cdv/db#port",
            f"reading {PASSWORD[:-8]}port: no such field, or no text in it",
        ),
        (
            {"VAULT_TOKEN": "hvs.root"},
            "vault:kv/cdv/db#empty",
            f"reading {PASSWORD[:-8]}empty: no such field, or no text in it",
        ),
    ],
)
async def test_a_refusal_names_the_request_and_is_not_retried(
    vault: FakeVault, server: ScriptedServer, tmp_path: Path, environ: dict[str, str], reference: str, cause: str
):
    (tmp_path / "token").write_text("jwt")

    error = await refusal(to(server, environ, service_account_token=tmp_path / "token"), reference)

    assert str(error) == cause
    assert isinstance(error, VaultRefused)
    assert len(vault.requests) == 1


async def test_a_forbidden_read_logs_in_again_once_and_is_then_refused(vault: FakeVault, server: ScriptedServer):
    source = to(server, APPROLE)
    await source.get(PASSWORD)
    vault.requests.clear()
    real = vault._read
    vault._read = lambda request, parts: Answer(403, b'{"errors":["permission denied"]}')  # type: ignore[method-assign]

    assert str(await refusal(source)) == "reading kv/cdv/db: status 403"
    assert [request.method for request in vault.requests] == ["GET", "POST", "GET"]
    vault._read = real  # type: ignore[method-assign]
    assert await source.get(PASSWORD) == "hunter2"


async def test_a_missing_secret_causes_no_new_login(vault: FakeVault, server: ScriptedServer):
    assert str(await refusal(to(server, APPROLE), "vault:kv/absent#x")) == "reading kv/absent: status 404"
    assert [request.method for request in vault.requests] == ["POST", "GET"]


@pytest.mark.parametrize("status", [412, 429, 500, 502, 503, 504])
async def test_a_transient_status_is_tried_three_times(vault: FakeVault, server: ScriptedServer, status: int):
    source = to(server, APPROLE)
    vault.override = Answer(status, b'{"errors":["Vault is sealed"]}')

    assert str(await refusal(source)) == f"logging in at approle: status {status}"
    assert len(vault.requests) == 3
    vault.override = None
    assert await source.get(PASSWORD) == "hunter2"


async def test_an_outage_shorter_than_the_retries_is_transparent(vault: FakeVault, server: ScriptedServer):
    answers = iter([Answer(503), Answer(503)])
    real = vault.answer
    with ScriptedServer(lambda request: next(answers, None) or real(request)) as flaky:
        assert await to(flaky, {"VAULT_TOKEN": "hvs.root"}).get(PASSWORD) == "hunter2"


async def test_an_unreachable_vault_is_unavailable_with_the_cause():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    source = VaultSecrets({"VAULT_ADDR": address, "VAULT_TOKEN": "hvs.root"})

    assert isinstance(await refusal(source), NewConnectionError)


async def test_a_hanging_vault_times_out(vault: FakeVault, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vault_module, "_TIMEOUT", urllib3.Timeout(connect=1, read=0.05))
    release = threading.Event()

    def answer(request: ReceivedRequest) -> Answer:
        release.wait()
        return vault.answer(request)

    with ScriptedServer(answer) as server:
        try:
            assert isinstance(await refusal(to(server, {"VAULT_TOKEN": "hvs.root"})), ReadTimeoutError)
            assert len(server.requests) == 3
        finally:
            release.set()


async def test_a_redirect_is_not_followed(vault: FakeVault, server: ScriptedServer):
    with ScriptedServer(lambda request: Answer(307, b"", {"Location": server.url + request.path})) as standby:
        assert str(await refusal(to(standby, {"VAULT_TOKEN": "hvs.root"}))) == "reading kv/cdv/db: status 307"
    assert vault.requests == []


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"{}", b'{"data":null}', b'{"data":{"data":null}}', b'{"data":{"data":["hunter2"]}}', b"\xff"],
)
async def test_an_invalid_response_is_refused(vault: FakeVault, server: ScriptedServer, body: bytes):
    vault.override = Answer(200, body)

    error = await refusal(to(server, {"VAULT_TOKEN": "hvs.root"}))

    assert str(error) == "reading kv/cdv/db: the response is not one of Vault's"
    assert "hunter2" not in loggable_text(error)


async def test_an_endless_response_is_cut_off():
    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 65536

    with ScriptedServer(lambda _: Answer(200, endless(), {"Connection": "close"})) as server:
        assert (
            str(await refusal(to(server, {"VAULT_TOKEN": "hvs.root"}))) == "reading kv/cdv/db: more than 1048576 bytes"
        )
        assert server.hung_up.wait(10)


async def test_a_vault_with_an_untrusted_certificate_is_sent_no_credentials(vault: FakeVault, tmp_path: Path):
    with ScriptedServer(vault.answer, tls_server_context(tmp_path / "ca.pem")) as server:
        assert isinstance(await refusal(to(server, APPROLE)), SSLError)
    assert vault.requests == []


async def test_a_certificate_signed_by_the_configured_ca_is_accepted(vault: FakeVault, tmp_path: Path):
    with ScriptedServer(vault.answer, tls_server_context(tmp_path / "ca.pem")) as server:
        assert await to(server, {**APPROLE, "VAULT_CACERT": str(tmp_path / "ca.pem")}).get(PASSWORD) == "hunter2"


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "", "VAULT_TOKEN": "t"}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "vault:8200", "VAULT_TOKEN": "t"}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "https://vault:8200"}, "VAULT_TOKEN"),
        ({"VAULT_ADDR": "https://vault:8200", "VAULT_TOKEN": ""}, "VAULT_TOKEN"),
        ({"VAULT_ADDR": "https://vault:8200", "VAULT_TOKEN": "t", "VAULT_CACERT": "/nonexistent"}, "VAULT_CACERT"),
    ],
)
def test_a_missing_or_invalid_variable_is_named(environ: dict[str, str], variable: str):
    with pytest.raises(InvalidField) as caught:
        VaultSecrets(environ)

    assert caught.value.field == variable


@pytest.mark.parametrize("down", [None, Answer(503), Answer(200, b"{"), Answer(403)])
async def test_no_credential_or_secret_is_logged_or_shown_in_errors(
    vault: FakeVault, server: ScriptedServer, down: Answer | None, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(0)
    shown: list[str] = []
    sink = logger.add(shown.append, level=0, diagnose=False)
    try:
        for environ in (APPROLE, {"VAULT_TOKEN": "hvs.root"}):
            source = to(server, environ)
            await source.get(PASSWORD)
            vault.override = down
            for reference in (PASSWORD, "vault:kv/cdv/db#absent"):
                try:
                    await source.get(reference)
                except Unavailable as error:
                    shown.append(loggable_text(error))
                    logger.opt(exception=error).error("failed")
            vault.override = None
            shown.append(repr(source))
    finally:
        logger.remove(sink)
    everything = "".join(shown) + caplog.text
    assert "failed" in everything

    for secret in ("hunter2", "hvs.", "secret-id-1234", "role-1234"):
        assert secret not in everything


async def test_a_vault_whose_body_trickles_in_is_disconnected(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vault_module, "_BODY_SECONDS", 0.1)
    with trickling_body() as server:
        assert str(await refusal(to(server, {"VAULT_TOKEN": "hvs.root"}))) == "reading kv/cdv/db: too slow"
        assert await asyncio.to_thread(server.hung_up.wait, 10)
