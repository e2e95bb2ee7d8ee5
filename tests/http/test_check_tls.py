"""`cdv check` names the setting for the trusted CA when a dependency's certificate is signed by an unknown CA."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import trustme

from tests.adapters.certificates import tls_server_context
from tests.core.catalogues import entry, index_bytes, index_of
from tests.fakes.s3 import Answer, ReceivedRequest, ScriptedS3
from tests.http.running import CDV, environment
from tests.servers import NatsServer, NoServer


@pytest.fixture
def printed(tmp_path: Path) -> list[str]:
    """The output of `cdv check` when all configured dependencies have a certificate of an unknown CA."""
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "nats.pem")
    issued.private_key_pem.write_to_path(tmp_path / "nats.key")
    try:
        nats = NatsServer.from_wheel(durable=False, tls=(tmp_path / "nats.pem", tmp_path / "nats.key"))
    except NoServer as error:
        pytest.skip(str(error))
    with ScriptedS3(lambda _: Answer(), tls_server_context(tmp_path / "unused.pem")) as server, nats:
        settings = {
            "CDV_S3_ENDPOINT": server.url,
            "CDV_S3_BUCKET": "media",
            "CDV_S3_ACCESS_KEY": "access",
            "CDV_S3_SECRET_KEY": "secret",
            "CDV_JWT_ISSUER": server.url,
            "CDV_SPECS_URL": server.url,
            "CDV_NATS_URL": nats.url,
        }
        checked = subprocess.run(
            [CDV, "check"],
            env=environment(tmp_path / "data", **settings),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert checked.returncode == 1, checked.stderr
    assert "Traceback" not in checked.stderr
    assert server.requests == []
    return checked.stdout.splitlines()


def test_check_names_the_trusted_ca_setting_of_each_dependency_with_an_unknown_ca(printed: list[str]) -> None:
    failures = {line.split()[1]: line for line in printed if line.startswith("FAIL")}
    assert set(failures) == {"object_store", "issuer", "events", "schemas"}
    for name, setting in {
        "object_store": "CDV_S3_CA",
        "issuer": "CDV_JWKS_CA",
        "events": "CDV_NATS_CA",
        "schemas": "SSL_CERT_FILE",
    }.items():
        assert f"set the trusted CA with {setting}" in failures[name]


def test_check_accepts_a_catalogue_signed_by_a_private_ca_in_ssl_cert_file(tmp_path: Path) -> None:
    """In a separate process, because SSL_CERT_FILE holds for a whole process."""
    listed = entry("com.registryaccord.profile", ["1.0.0"])
    files = {"SPEC_INDEX.json": index_bytes(listed), **index_of(listed)[1]}

    def publish(request: ReceivedRequest) -> Answer:
        body = files.get(request.path.lstrip("/"))
        return Answer(404) if body is None else Answer(200, body)

    with ScriptedS3(publish, tls_server_context(tmp_path / "ca.pem")) as server:
        checked = subprocess.run(
            [CDV, "check"],
            env=environment(tmp_path / "data", CDV_SPECS_URL=server.url, SSL_CERT_FILE=str(tmp_path / "ca.pem")),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ok   schemas" in checked.stdout
