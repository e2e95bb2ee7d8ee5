"""The prefix of a setting's value selects its source, which is set up when it is first needed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cdv_adapters.secrets.references import SecretReferences
from cdv_core.errors import InvalidField, Unavailable
from tests.adapters.kms import KmsServer
from tests.fakes.s3 import Answer
from tests.fakes.s3 import ScriptedS3 as ScriptedServer
from tests.fakes.vault import FakeVault


@pytest.fixture(scope="module")
def kms() -> Iterator[KmsServer]:
    with KmsServer() as server:
        yield server


@pytest.mark.parametrize("value", ["hunter2", "", "postgresql://u:p@h/db", "vaults:x", "File:/x", "https://h"])
async def test_a_value_without_a_known_prefix_is_the_secret_itself(value: str):
    assert await SecretReferences("dev").get(value) == value


async def test_each_reference_is_read_from_its_source(tmp_path: Path, kms: KmsServer, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "secret").write_text("from a file\n")
    vault = FakeVault(secrets={("", "kv", "cdv"): {"password": "from Vault"}})
    kms.point_to(monkeypatch, kms.url)
    references = SecretReferences("staging")
    with ScriptedServer(vault.answer) as server:
        monkeypatch.setenv("VAULT_ADDR", server.url)
        monkeypatch.setenv("VAULT_TOKEN", "hvs.root")

        assert await references.get(f"file:{tmp_path}/secret") == "from a file"
        assert await references.get("vault:kv/cdv#password") == "from Vault"
        assert await references.get(kms.encrypted("from KMS", "staging")) == "from KMS"


async def test_a_ciphertext_of_another_environment_is_unavailable(kms: KmsServer, monkeypatch: pytest.MonkeyPatch):
    kms.point_to(monkeypatch, kms.url)

    with pytest.raises(Unavailable):
        await SecretReferences("prod").get(kms.encrypted("from KMS", "staging"))


async def test_secrets_already_read_survive_an_outage_of_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "secret").write_text("from a file\n")
    vault = FakeVault(secrets={("", "kv", "cdv"): {"password": "from Vault"}})
    references = SecretReferences("staging")
    with ScriptedServer(vault.answer) as server:
        monkeypatch.setenv("VAULT_ADDR", server.url)
        monkeypatch.setenv("VAULT_TOKEN", "hvs.root")
        read = {f"file:{tmp_path}/secret": "from a file", "vault:kv/cdv#password": "from Vault"}
        for reference, secret in read.items():
            assert await references.get(reference) == secret

        (tmp_path / "secret").unlink()
        vault.override = Answer(403)
        for reference, secret in read.items():
            assert await references.get(reference) == secret


async def test_an_unconfigured_source_names_the_missing_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("VAULT_ADDR", raising=False)
    references = SecretReferences("staging")

    with pytest.raises(InvalidField, match="VAULT_ADDR"):
        await references.get("vault:kv/cdv#password")
    assert await references.get("plain") == "plain"
