"""The real Vault and OpenBao in containers: our client matches their API."""

from collections.abc import Iterator
from typing import Any

import pytest
import urllib3

from cdv_adapters.secrets.vault import VaultRefused, VaultSecrets
from cdv_core.errors import Unavailable
from tests.servers.container import Container, docker_offers

ROOT = "root-token-of-a-test"
IMAGES = {"hashicorp/vault:1.20": "VAULT", "openbao/openbao:2": "BAO"}


class RealVault:
    """A server in development mode: unsealed, in memory, with a KV v2 engine at `secret`."""

    def __init__(self, address: str) -> None:
        self.address = address
        waiting = urllib3.Retry(total=60, backoff_factor=0.1, backoff_max=1, status_forcelist=[501, 503])
        self._pool = urllib3.PoolManager(retries=waiting)
        self.ask("GET", "sys/health")

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        response = self._pool.request(method, f"{self.address}/v1/{path}", json=body, headers={"X-Vault-Token": ROOT})
        assert response.status < 300, (path, response.status, response.data)
        answer: dict[str, Any] = response.json() if response.data else {}
        return answer

    def close(self) -> None:
        self._pool.clear()


@pytest.fixture(scope="module", params=IMAGES)
def vault(request: pytest.FixtureRequest) -> Iterator[RealVault]:
    image = request.param
    if not docker_offers(image):
        pytest.skip(f"no Docker engine that has {image}")
    prefix = IMAGES[image]
    variables = {
        f"{prefix}_DEV_ROOT_TOKEN_ID": ROOT,
        f"{prefix}_DEV_LISTEN_ADDRESS": "0.0.0.0:8200",
        "SKIP_SETCAP": "1",
    }
    container = Container(image, 8200, variables=variables)
    container.start()
    try:
        vault = RealVault(f"http://{container.address}:{container.port}")
        vault.ask("POST", "secret/data/cdv/db", {"data": {"password": "hunter2"}})
        yield vault
        vault.close()
    finally:
        container.close()


async def test_a_token_reads_the_latest_version(vault: RealVault):
    source = VaultSecrets({"VAULT_ADDR": vault.address, "VAULT_TOKEN": ROOT})
    assert await source.get("vault:secret/cdv/db#password") == "hunter2"

    vault.ask("POST", "secret/data/cdv/db", {"data": {"password": "hunter3"}})
    assert await source.get("vault:secret/cdv/db#password") == "hunter3"
    vault.ask("POST", "secret/data/cdv/db", {"data": {"password": "hunter2"}})


async def test_an_approle_reads_only_what_its_policy_allows(vault: RealVault):
    vault.ask("POST", "sys/auth/approle", {"type": "approle"})
    policy = 'path "secret/data/cdv/*" { capabilities = ["read"] }'
    vault.ask("PUT", "sys/policies/acl/cdv", {"policy": policy})
    vault.ask("POST", "auth/approle/role/cdv", {"token_policies": "cdv"})
    role_id = vault.ask("GET", "auth/approle/role/cdv/role-id")["data"]["role_id"]
    secret_id = vault.ask("POST", "auth/approle/role/cdv/secret-id", {})["data"]["secret_id"]
    vault.ask("POST", "secret/data/other", {"data": {"password": "not ours"}})
    source = VaultSecrets({"VAULT_ADDR": vault.address, "VAULT_ROLE_ID": role_id, "VAULT_SECRET_ID": secret_id})

    assert await source.get("vault:secret/cdv/db#password") == "hunter2"
    with pytest.raises(Unavailable) as caught:
        await source.get("vault:secret/other#password")
    assert isinstance(caught.value.__cause__, VaultRefused)
    assert caught.value.__cause__.status == 403


async def test_a_deleted_secret_is_not_found(vault: RealVault):
    vault.ask("POST", "secret/data/gone", {"data": {"password": "x"}})
    vault.ask("DELETE", "secret/data/gone")

    with pytest.raises(Unavailable) as caught:
        await VaultSecrets({"VAULT_ADDR": vault.address, "VAULT_TOKEN": ROOT}).get("vault:secret/gone#password")
    assert isinstance(caught.value.__cause__, VaultRefused)
    assert caught.value.__cause__.status == 404
